"""Tables of text: rows of CSV files, and errors that name file, line, what was expected and what came."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from .labels import UNKNOWN

__all__ = ["DataError", "class_index", "rows_of", "whole_number"]


class DataError(ValueError):
    """A file of data is not what it should be; the message names file and row, what was expected and what came."""


def rows_of(path: Path, required: Iterable[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV file with a header, one at a time.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a required column is missing, a row has another number of columns, or the text is no UTF-8.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            found = reader.fieldnames or ()
            if missing := [column for column in required if column not in found]:
                raise DataError(f"{path}: expected the columns {missing}, got {list(found)}")
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path}, line {reader.line_num}: expected {len(found)} columns, got {row}")
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}, after line {reader.line_num}: {error}") from error


def class_index(name: str, classes: Mapping[str, int], head: str, where: str) -> int:
    """Index of a class by its name, -1 for an empty one; DataError for a name that is none of them."""
    if not name:
        return UNKNOWN
    try:
        return classes[name]
    except KeyError:
        raise DataError(f"{where}: {head}: expected one of {list(classes)} or nothing, got {name!r}") from None


def whole_number(text: str, column: str, where: str) -> int:
    """An integer of a CSV file; DataError for anything else."""
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{where}: {column}: expected a whole number, got {text!r}") from None
