"""Pairs of faces for verification: LFW's ``pairs.txt`` and tables of the same content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from .tables import DataError, rows_of

__all__ = ["Pairs", "read_pairs"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures.

    Args:
        a, b: names of the pictures, without folder and suffix.
        same: [n] booleans: one person.
        split: [n] names of the part that a pair belongs to.
    """

    a: list[str]
    b: list[str]
    same: np.ndarray
    split: np.ndarray

    def __len__(self) -> int:
        return len(self.same)

    def rows(self, files: Sequence[str]) -> np.ndarray:
        """int [n, 2]: places of the pictures in ``files``, -1 where one is not there.

        Raises:
            DataError: two files have the name of one picture of a pair.
        """
        place: dict[str, int] = {}
        twice: set[str] = set()
        for i, file in enumerate(files):
            name = Path(file).stem
            if name in place:
                twice.add(name)
            place[name] = i
        if ambiguous := sorted(twice.intersection([*self.a, *self.b])):
            raise DataError(f"pairs: several faces have the name {ambiguous[0]!r}")
        return np.array([[place.get(name, -1) for name in pair] for pair in zip(self.a, self.b, strict=True)], int)


def read_pairs(path: str | PathLike[str]) -> Pairs:
    """Read LFW's ``pairs.txt``, or a CSV table (ending ``.csv``).

    ``pairs.txt`` starts with the number of splits and the number of pairs of either kind in each; then follow, split
    by split, ``PERSON IMAGE IMAGE`` for one person and ``PERSON IMAGE PERSON IMAGE`` for two. A table has ``fold,
    person_a, image_a, person_b, image_b, same`` or ``fold, file_a, file_b, same``, same being 0 or 1. The picture of
    person P with number 7 is ``P_0007``.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a line is wrong, by number.
    """
    path = Path(path)
    found = list(_of_table(path) if path.suffix.lower() == ".csv" else _of_text(path))
    if not found:
        raise DataError(f"{path}: no pairs")
    a, b, same, split = zip(*found, strict=True)
    return Pairs(list(a), list(b), np.array(same, bool), np.array(split))


def _of_table(path: Path) -> Iterator[tuple[str, str, bool, str]]:
    by_number: bool | None = None
    for line, row in rows_of(path, ("fold", "same")):
        where = f"{path}, line {line}"
        if by_number is None:
            by_number = "person_a" in row
            columns = ("person_a", "image_a", "person_b", "image_b") if by_number else ("file_a", "file_b")
            if missing := [column for column in columns if column not in row]:
                raise DataError(f"{path}: expected the columns {missing}, got {list(row)}")
        if row["same"] not in ("0", "1"):
            raise DataError(f"{where}: same: expected 0 or 1, got {row['same']!r}")
        if by_number:
            a, b = (_picture(row[f"person_{x}"], row[f"image_{x}"], where) for x in "ab")
        else:
            a, b = Path(row["file_a"]).stem, Path(row["file_b"]).stem
        yield a, b, row["same"] == "1", row["fold"]


def _of_text(path: Path) -> Iterator[tuple[str, str, bool, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    head = lines[0].split() if lines else []
    if len(head) not in (1, 2) or not all(part.isdecimal() and int(part) for part in head):
        got = repr(lines[0]) if lines else "an empty file"
        raise DataError(f"{path}, line 1: expected the numbers of splits and of pairs of a kind, got {got}")
    splits, each = (1, int(head[0])) if len(head) == 1 else (int(head[0]), int(head[1]))
    if len(lines) - 1 != 2 * splits * each:
        raise DataError(f"{path}: expected {splits} x 2 x {each} pairs after line 1, got {len(lines) - 1}")
    for i, line in enumerate(lines[1:]):
        same = i // each % 2 == 0
        where, parts = f"{path}, line {i + 2}", line.split()
        if len(parts) != (3 if same else 4):
            wanted = "PERSON IMAGE IMAGE" if same else "PERSON IMAGE PERSON IMAGE"
            raise DataError(f"{where}: expected {wanted}, got {line!r}")
        a = _picture(parts[0], parts[1], where)
        b = _picture(parts[0], parts[2], where) if same else _picture(parts[2], parts[3], where)
        yield a, b, same, str(1 + i // (2 * each))


def _picture(person: str, number: str, where: str) -> str:
    if not person or not number.isdecimal():
        raise DataError(f"{where}: expected a person and the number of an image, got {person!r} {number!r}")
    return f"{person}_{int(number):04d}"
