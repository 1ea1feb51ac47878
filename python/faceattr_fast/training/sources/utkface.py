"""UTKFace: faces with age, gender and race in their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...spec import AGE_LABELS, ETHNICITY_LABELS, GENDER_LABELS
from ..labels import UNKNOWN, age_bin, utkface_ethnicity, utkface_gender
from ..tables import DataError, rows_of, whole_number
from .folder import Folder
from .record import Record, Source, landmark_rows, picture_file

__all__ = ["UTKFace"]

_LAST_CODES = {"age": 120, "gender": 1, "race": 4}


class UTKFace(Source):
    """UTKFace: age, gender and four ethnicities. It names no subjects.

    Args:
        folder: with ``images/`` (or the pictures themselves); labels are read from ``labels.csv`` (file, age, gender,
            race) where that is there, else from names such as ``31_0_2_20170104.jpg``. ``landmarks5.csv`` may be there.

    Raises:
        NotADirectoryError: there is no such folder.
    """

    name = "utkface"
    terms = "non-commercial research only"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is no folder")
        self.folder = folder
        self.images = folder / "images" if (folder / "images").is_dir() else folder
        self.training = {"smoothing": 0.05, "balance": {"ethnicity": 0.3, "age": 0.2}}

    def records(self) -> Iterator[Record]:
        table, labels = self.folder / "landmarks5.csv", self.folder / "labels.csv"
        codes = dict(_codes(labels)) if labels.exists() else None
        pictures: Iterator[tuple[str, np.ndarray | None]]
        if table.exists():
            pictures = landmark_rows(table)
        else:
            files = iter(codes) if codes else (record.file for record in Folder(self.images, ()).records())
            pictures = ((file, None) for file in files)
        for file, landmarks in pictures:
            load = picture_file(self.images / file)
            found = _codes_of_name(Path(file).name) if codes is None else codes.get(file)
            if found is None:  # a few of the names lack a part
                yield Record(file, load, reason="no label: not in labels.csv, or its name is not AGE_GENDER_RACE_…")
                continue
            years, gender, race = found
            names = {"age": AGE_LABELS[age_bin(years)]}
            if (index := utkface_gender(gender)) != UNKNOWN:
                names["gender"] = GENDER_LABELS[index]
            if (index := utkface_ethnicity(race)) != UNKNOWN:
                names["ethnicity"] = ETHNICITY_LABELS[index]
            no_face = "no face: none in landmarks5.csv" if table.exists() and landmarks is None else ""
            yield Record(file, load, years=years, labels=names, landmarks=landmarks, reason=no_face)


def _codes(path: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for line, row in rows_of(path, ("file", "age", "gender", "race")):
        where = f"{path}, line {line}"
        codes = [whole_number(row[column], column, where) for column in _LAST_CODES]
        for (column, last), code in zip(_LAST_CODES.items(), codes, strict=True):
            if not 0 <= code <= last:
                raise DataError(f"{where}: {column}: expected 0 to {last}, got {code}")
        yield row["file"], (codes[0], codes[1], codes[2])


def _codes_of_name(name: str) -> tuple[int, int, int] | None:
    parts = name.split("_")
    if len(parts) < 4 or not all(part.isdecimal() for part in parts[:3]):
        return None
    return int(parts[0]), int(parts[1]), int(parts[2])
