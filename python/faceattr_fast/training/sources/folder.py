"""A folder of pictures whose subfolders say who or what is on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...photo.image import is_picture
from ..tables import DataError
from .record import Record, Source, picture_file
from .values import read_values

__all__ = ["Folder"]


class Folder(Source):
    """Pictures in subfolders: ``SUBJECT/1.jpg``, ``happy/1.jpg``, ``train/happy/1.jpg``.

    Args:
        path: of the folder.
        levels: what each level of subfolders names: "subject", "split", "age" or a label; pictures below lie anywhere.
        classes: label → its classes, for labels beside the package's own.

    Raises:
        NotADirectoryError: there is no such folder.
    """

    def __init__(
        self, path: Path, levels: tuple[str, ...] = ("subject",), classes: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        super().__init__()
        if not path.is_dir():
            raise NotADirectoryError(f"{path} is no folder")
        self.name, self.path, self.levels, self.classes = path.resolve().name, path, levels, dict(classes or {})

    def settings(self) -> dict[str, Any]:
        return {"levels": list(self.levels), "classes": {head: list(names) for head, names in self.classes.items()}}

    def records(self) -> Iterator[Record]:
        columns = {level: level for level in self.levels}
        for path in _pictures(self.path):  # of one folder at a time: there may be millions in all
            relative = path.relative_to(self.path)
            names = relative.parts[:-1]
            if len(names) < len(self.levels):
                raise DataError(f"{path}: expected it in subfolders {'/'.join(self.levels)}, got {relative}")
            row = dict(zip(self.levels, names, strict=False))
            yield Record(
                relative.as_posix(), picture_file(path), **vars(read_values(row, columns, self.classes, str(path)))
            )


def _pictures(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_picture(name):
                yield Path(parent, name)
