"""A CSV file of pictures and labels, as FairFace has it: a row a picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..tables import DataError, rows_of
from .record import Record, Source, landmarks_of, picture_file
from .values import find_columns, read_values

__all__ = ["Table"]


class Table(Source):
    """A CSV file with a header.

    Columns are found by the names in common use (``file`` or ``path``, ``subject``, ``split``, ``age``, ``gender``,
    ``race`` or ``ethnicity``, ``emotion``, ``birth`` and ``captured``), and landmarks as ``eyeA_x, eyeA_y, eyeB_x, …``;
    ages are years or ranges of them.

    Args:
        path: of the file.
        images: folder that the names of pictures are relative to; None for that of the file.
        columns: name → column, where a column has another name or holds another label.
        classes: label → its classes, for labels beside the package's own.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: no column of pictures, or one that is given is not there.
    """

    def __init__(
        self,
        path: Path,
        images: Path | None = None,
        columns: Mapping[str, str] | None = None,
        classes: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.path, self.images = path.stem, path, images or path.parent
        self.classes = dict(classes or {})
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
        self.columns = find_columns(header, columns or {}, str(path))
        if "file" not in self.columns:
            raise DataError(f"{path}: expected a column file, path, image or filename, got {header}")

    def settings(self) -> dict[str, Any]:
        return {"columns": self.columns, "classes": {head: list(names) for head, names in self.classes.items()}}

    def records(self) -> Iterator[Record]:
        for line, row in rows_of(self.path, self.columns.values()):
            where = f"{self.path}, line {line}"
            name = row[self.columns["file"]]
            if not name:
                raise DataError(f"{where}: {self.columns['file']}: expected the name of a picture, got ''")
            yield Record(
                name,
                picture_file(self.images / name),
                landmarks=landmarks_of(row, where),
                **vars(read_values(row, self.columns, self.classes, where)),
            )
