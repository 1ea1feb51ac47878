"""FER+: small grey pictures of faces, and the emotions that ten annotators saw in each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ...spec import EMOTION_LABELS
from ..labels import UNKNOWN, ferplus_label, ferplus_targets
from ..tables import DataError, rows_of, whole_number
from .record import Record, Source

__all__ = ["FERPlus"]

_SIDE = 48
_SPLIT_OF_USAGE = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}


class FERPlus(Source):
    """FER+: shares of votes over seven emotions. The pictures are tight and taken as they are.

    Args:
        folder: with ``ferplus_48x48.npz`` (x, votes, vote_columns, split: 0 train, 1 test, name), or with FER2013's own
            ``fer2013.csv`` and FER+'s ``fer2013new.csv``.

    Raises:
        FileNotFoundError: neither is there.
    """

    name = "ferplus"
    kind = "tight"
    side = _SIDE
    duplicate_bits = 16
    terms = "labels MIT; pictures research only"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.npz = folder / "ferplus_48x48.npz"
        needed = [folder / "fer2013.csv", folder / "fer2013new.csv"]
        if not self.npz.exists() and (missing := [str(path) for path in needed if not path.exists()]):
            raise FileNotFoundError(f"expected {self.npz}, or FER2013's and FER+'s tables: no {', '.join(missing)}")
        # Faces fill less of these pictures than of aligned crops: cover both sizes.
        self.training = {"balance": {"emotion": 0.25}, "zoom": [0.95, 1.25]}

    def records(self) -> Iterator[Record]:
        for name, picture, split, columns, votes in self._npz() if self.npz.exists() else self._tables():
            label = int(ferplus_label(votes[None], columns)[0])
            target = ferplus_targets(votes[None], columns)[0]
            yield Record(
                name,
                partial(_coloured, picture),
                split=split,
                labels={} if label == UNKNOWN else {"emotion": EMOTION_LABELS[label]},
                targets={"emotion": target.tolist()} if target.any() else {},
            )

    def _npz(self) -> Iterator[tuple[str, np.ndarray, str, list[str], np.ndarray]]:
        try:
            with np.load(self.npz) as data:
                pictures, votes, split, names = (data[key] for key in ("x", "votes", "split", "name"))
                columns = [str(column) for column in data["vote_columns"]]
        except (KeyError, ValueError) as error:
            raise DataError(f"{self.npz}: expected x, votes, vote_columns, split and name: {error}") from error
        for i, name in enumerate(names.tolist()):
            yield name, pictures[i], "test" if split[i] == 1 else "train", columns, votes[i]

    def _tables(self) -> Iterator[tuple[str, np.ndarray, str, list[str], np.ndarray]]:
        paths = self.folder / "fer2013.csv", self.folder / "fer2013new.csv"
        rows = rows_of(paths[0], ("pixels", "Usage")), rows_of(paths[1], ("Usage", "Image name"))
        for (line, face), (other_line, row) in zip(*rows, strict=True):  # FER+ has its rows in FER2013's order
            where, other = f"{paths[0]}, line {line}", f"{paths[1]}, line {other_line}"
            if face["Usage"] != row["Usage"] or row["Usage"] not in _SPLIT_OF_USAGE:
                raise DataError(f"{other}: Usage: expected {face['Usage']!r} as in {where}, got {row['Usage']!r}")
            columns = [column for column in row if column not in ("Usage", "Image name")]
            votes = np.array([whole_number(row[column], column, other) for column in columns])
            try:
                picture = np.array(face["pixels"].split(), np.uint8).reshape(_SIDE, _SIDE)
            except (ValueError, OverflowError) as error:
                raise DataError(f"{where}: pixels: expected {_SIDE * _SIDE} of 0 to 255: {error}") from None
            name = row["Image name"] or f"line {line}"  # FER+ gives no name to what is no face
            yield name, picture, _SPLIT_OF_USAGE[row["Usage"]], columns, votes


def _coloured(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture[..., None], 3, axis=2)
