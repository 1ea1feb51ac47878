"""What the trainer and the measurements take: pictures of faces, and what is known about each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["FaceSet"]


@dataclass
class FaceSet:
    """Pictures of faces with what is known about each; :meth:`.packed.PackedFaces.face_set` makes one.

    Args:
        name: of the data set.
        pictures: uint8 [N, S, S, 3] RGB: the crop with ``margin`` around it.
        margin: width of the margin as a share of the crop's side.
        train: [N] booleans; False is held out.
        labels: int [N] per head, -1 where unknown; used to measure and to balance.
        targets: float32 [N, classes] per head, rows sum to a weight, 0 where unknown; used to train.
        weights: float [N], how often to draw a picture relative to the others.
        names: [N] file names.
        people: [N] names of people, "" where unknown; None where all are.
        years: int [N] ages in years, -1 where unknown; None where all are.
        groups: int [N]: faces of one number belong on one side of any further split; None where nobody knows.
        zoom: range of the scale by which augmentation enlarges a crop beside the common jitter.
    """

    name: str
    pictures: np.ndarray
    margin: float
    train: np.ndarray
    labels: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    weights: np.ndarray
    names: list[str]
    people: np.ndarray | None = None
    years: np.ndarray | None = None
    groups: np.ndarray | None = None
    zoom: tuple[float, float] = (1.0, 1.0)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def held_out(self) -> np.ndarray:
        """Indices of the pictures that training never sees."""
        return np.flatnonzero(~self.train)
