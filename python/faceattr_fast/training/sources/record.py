"""What every source of faces gives: one record a picture, in a fixed order, with the picture not yet read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...photo.image import load_image
from ..labels import UNKNOWN
from ..tables import DataError, rows_of

__all__ = ["ALIGNED_MARGIN", "Record", "Source", "landmarks_of", "picture_file"]

ALIGNED_MARGIN = 16  # pixels of photo kept around a 224 px crop

_POINTS = [f"{point}_{axis}" for point in ("eyeA", "eyeB", "nose", "mouthA", "mouthB") for axis in "xy"]


@dataclass(frozen=True)
class Record:
    """One picture of a source.

    Args:
        file: its name, unique in the source.
        load: reads it, uint8 [H, W, 3] RGB; raises OSError or ValueError where it is missing or damaged.
        subject: name of the person, "" where unknown.
        split: "train", "validation" or "test" where the source says so, else "".
        years: age, -1 where unknown.
        labels: name of a label → name of its class.
        targets: name of a label → class weights, where the source gives more than one class.
        landmarks: float [5, 2] in pixels: eyes, nose, mouth corners, left to right; None: they are to be found.
        reason: why the picture cannot be used, as the source itself knows; "" if it can.
    """

    file: str
    load: Callable[[], np.ndarray]
    subject: str = ""
    split: str = ""
    years: int = UNKNOWN
    labels: dict[str, str] = field(default_factory=dict)
    targets: dict[str, list[float]] = field(default_factory=dict)
    landmarks: np.ndarray | None = None
    reason: str = ""


class Source(ABC):
    """A data set on disk.

    Attributes:
        name: of the set that is made of it.
        kind: "aligned": photos, to be cut by landmarks; "tight": pictures of faces, taken as they are.
        side: of tight pictures in pixels.
        listed: whether going through the records is quick, since it reads no picture.
        duplicate_bits: of 256 bits of hash, in how many near-duplicates differ at most.
        classes: label → its classes, for labels beside the package's own. Those of others are collected.
        training: how to train on it, for :meth:`.packed.PackedFaces.face_set`.
        terms: under which its pictures may be used.
    """

    name: str
    kind: Literal["aligned", "tight"] = "aligned"
    side: int = 224
    listed: bool = True
    duplicate_bits: int = 26
    classes: dict[str, tuple[str, ...]]
    training: dict[str, Any]
    terms: str = "not stated: see the source"

    def __init__(self) -> None:
        self.classes = {}
        self.training = {}

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Every picture, always in the same order; raises DataError for a label that is wrong."""

    def settings(self) -> dict[str, Any]:
        """What of the source's options decides what is packed, as plain JSON types; its place on disk does not."""
        return {}


def picture_file(path: Path) -> Callable[[], np.ndarray]:
    """Reads a file when called."""
    return partial(load_image, path)


def landmarks_of(row: dict[str, str], where: str) -> np.ndarray | None:
    """[5, 2] of a row with the columns eyeA_x, eyeA_y, eyeB_x …; None where they are empty or there are none."""
    if not all(row.get(column) for column in _POINTS):
        return None
    try:
        return np.array([float(row[column]) for column in _POINTS]).reshape(5, 2)
    except ValueError as error:
        raise DataError(f"{where}: landmarks: {error}") from None


def landmark_rows(path: Path) -> Iterator[tuple[str, np.ndarray | None]]:
    """Files and their landmarks in a table's order; None where its detector found no face."""
    for line, row in rows_of(path, ("file", *_POINTS)):
        yield row["file"], landmarks_of(row, f"{path}, line {line}")
