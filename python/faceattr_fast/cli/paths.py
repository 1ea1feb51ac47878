"""From the paths of a command line to picture files: folders are searched, order is fixed, output names are unique."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..photo.image import is_picture
from .usage import UsageError

__all__ = ["Picture", "find_pictures"]


@dataclass(frozen=True)
class Picture:
    """A file, and a relative path that no other picture of the same search has."""

    path: Path
    name: Path


def find_pictures(paths: Sequence[Path]) -> list[Picture]:
    """Files as they are named, and the pictures in folders and their subfolders, sorted; hidden ones are left out.

    A file that is not there fails when it is read, like any other that cannot be.

    Raises:
        UsageError: none of the paths is there, or there is no picture at all.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if len(missing) == len(paths):
        raise UsageError(f"no such file or folder: {', '.join(missing)}")
    found = [
        (file, file.relative_to(path) if path.is_dir() else Path(path.name))
        for path in paths
        for file in (_in_folder(path) if path.is_dir() else [path])
    ]
    if not found:
        raise UsageError(f"no pictures in {', '.join(map(str, paths))}")
    return list(_with_unique_names(found))


def _in_folder(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if is_picture(name) and not _is_special(Path(parent, name))]
    return sorted(found)


def _is_special(path: Path) -> bool:
    """A pipe, socket or device: to open it could wait for ever. A broken link is reported later, as any bad file."""
    return path.exists() and not path.is_file()


def _with_unique_names(found: Iterable[tuple[Path, Path]]) -> Iterator[Picture]:
    taken: set[Path] = set()
    for path, name in found:
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = name.with_name(f"{name.stem}-{count}{name.suffix}")
        taken.add(unique)
        yield Picture(path, unique)
