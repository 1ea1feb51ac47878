"""What one head learns from packed sets: targets in the order of its classes, and which faces have any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from os import PathLike
from typing import Any, Literal

import numpy as np

from ..spec import HeadSpec
from .datasets import FaceSet
from .feature_cache import Source
from .labels import UNKNOWN
from .packed import SPLITS, PackedFaces

__all__ = ["Faces", "HeadData", "class_weights"]

# Less than half a face's worth of targets in all of training teaches a class nothing.
_LEAST_WEIGHT = 0.5


class Faces:
    """The faces of several packed sets, one set after the other.

    Args:
        packed: the sets; their names differ.
        smoothing: of hard labels; None: what each set advises.
        age_spread: of ages in years, as :func:`.age_targets` takes it; None: its default.

    Attributes:
        split: [N] of "train", "validation" and "test".
        groups: int [N], as in a packed set, but different from set to set.
        weights: float [N], how often to draw each face, as the sets advise.
    """

    def __init__(
        self, packed: Sequence[PackedFaces], smoothing: float | None = None, age_spread: float | None = None
    ) -> None:
        if not packed:
            raise ValueError("expected at least one packed set, got none")
        names = [faces.info["name"] for faces in packed]
        if len(set(names)) < len(names):
            raise ValueError(f"the sets must have different names, got {names}")
        self.packed = tuple(packed)
        self.softness: dict[str, Any] = {"smoothing": smoothing, "age_spread": age_spread}
        self.sets = tuple(faces.face_set(SPLITS[:1], **self.softness) for faces in packed)
        self.split = np.concatenate([faces.split for faces in packed])
        groups = [np.unique(faces.groups, return_inverse=True)[1] for faces in packed]
        starts = np.cumsum([0, *(int(group.max(initial=-1)) + 1 for group in groups)])
        self.groups = np.concatenate([group + start for group, start in zip(groups, starts[:-1], strict=True)])
        self.weights = np.concatenate([faces.weights for faces in self.sets])
        self._starts = np.cumsum([0, *(len(faces) for faces in packed)])

    @classmethod
    def open(
        cls,
        folders: Iterable[str | PathLike[str]],
        smoothing: float | None = None,
        age_spread: float | None = None,
    ) -> Faces:
        """Raises FileNotFoundError or ValueError for what is no packed set."""
        return cls([PackedFaces.open(folder) for folder in folders], smoothing, age_spread)

    def __len__(self) -> int:
        return len(self.split)

    def sources(self, wanted: np.ndarray) -> list[Source]:
        """Where to find the faces that are ``wanted``, [N] booleans; features of these are numbered in this order."""
        rows = [np.flatnonzero(wanted[a:b]) for a, b in pairwise(self._starts)]
        return [Source(p, s, r) for p, s, r in zip(self.packed, self.sets, rows, strict=True) if len(r)]

    def rows(self, wanted: np.ndarray) -> list[np.ndarray]:
        """Numbers of the faces that are ``wanted``, [N] booleans, of each set."""
        return [a + np.flatnonzero(wanted[a:b]) for a, b in pairwise(self._starts)]

    def place(self, number: int) -> tuple[FaceSet, int]:
        """The set of a face, and its number there."""
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.sets[which], number - int(self._starts[which])

    def check_crops(self, metadata: Mapping[str, Any]) -> None:
        """Raise ValueError unless aligned crops were cut as the weights that they are to train expect them.

        Args:
            metadata: of the weights.
        """
        crop = metadata.get("crop")
        expected: dict[str, Any] = crop if isinstance(crop, dict) else {}
        for packed in self.packed:
            found = packed.info["crop"]
            if differ := [name for name, value in expected.items() if name in found and found[name] != value]:
                raise ValueError(
                    f"{packed.folder} was aligned otherwise than the weights expect: {differ[0]} is "
                    f"{found[differ[0]]}, expected {expected[differ[0]]}"
                )

    def names(self, wanted: np.ndarray) -> list[str]:
        """Names of the sets that have such faces."""
        return [source.packed.info["name"] for source in self.sources(wanted)]


@dataclass(frozen=True)
class HeadData:
    """Targets of one head over all faces.

    Args:
        head: with labels, and ``trained`` by the faces of the training split.
        targets: float32 [N, classes]; rows of zeros have none.
        labels: int [N], the class that is right, -1 where unknown or where two are equally right.
    """

    head: HeadSpec
    targets: np.ndarray
    labels: np.ndarray

    @property
    def known(self) -> np.ndarray:
        known: np.ndarray = (self.targets != 0).any(axis=1)
        return known

    @classmethod
    def of(
        cls,
        faces: Faces,
        name: str,
        branch: str,
        *,
        labels: Sequence[str] | None = None,
        kind: Literal["softmax", "sigmoid"] = "softmax",
        train: np.ndarray | None = None,
    ) -> HeadData:
        """Collect the targets of the label ``name``.

        Args:
            faces: of all sets; those without this label have no targets.
            name: of the label, and of the head.
            branch: of the head.
            labels: classes in order; every class that a set has is among them. None: those of the first set.
            kind: of the head.
            train: [N] booleans, the faces that say which classes are trained; None: the training split.

        Raises:
            ValueError: no set has the label, a set has other classes, or fewer classes are trained than a head needs.
        """
        having = [packed for packed in faces.packed if name in packed.info["classes"]]
        if not having:
            found = sorted({label for packed in faces.packed for label in packed.info["classes"]})
            raise ValueError(f"head: none of the sets has the label {name!r}; they have {found}")
        order = tuple(labels) if labels is not None else having[0].classes(name)
        head = HeadSpec(name, len(order), branch, kind, order)
        targets = np.zeros((len(faces), len(order)), np.float32)
        truth = np.full(len(faces), UNKNOWN)
        start = 0
        for packed in faces.packed:
            rows = slice(start, start := start + len(packed))
            if name not in packed.info["classes"]:
                continue
            if missing := [label for label in packed.classes(name) if label not in order]:
                raise ValueError(
                    f"labels: {packed.folder} has {name} of the classes {missing}, not among {list(order)}"
                )
            columns = np.array([order.index(label) for label in packed.classes(name)])
            # Each class of a sigmoid head is a question of its own: nothing to spread over the others.
            soft: dict[str, Any] = (
                {**faces.softness, "smoothing": 0.0, "trust": {}} if kind == "sigmoid" else {**faces.softness}
            )
            targets[rows, columns] = packed.face_set(SPLITS[:1], **soft).targets[name]
            known = packed.labels[name]
            truth[rows] = np.where(known == UNKNOWN, UNKNOWN, columns[known])
        unlabelled = targets.any(1) & (truth == UNKNOWN)
        best = targets == targets.max(1, keepdims=True)
        truth[unlabelled] = np.where(best.sum(1) == 1, targets.argmax(1), UNKNOWN)[unlabelled]
        train = faces.split == "train" if train is None else train
        trained = targets[train].sum(0) >= _LEAST_WEIGHT
        if trained.sum() < (2 if kind == "softmax" else 1):
            names = [label for label, is_trained in zip(order, trained, strict=True) if is_trained]
            raise ValueError(f"head {name!r}: the faces to train on have of its classes only {names}")
        return cls(replace(head, trained=tuple(map(bool, trained))), targets, truth)

    def scores(self, logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How right the answers for these faces are, float64 [n]; NaN where nobody knows.

        softmax: 1 where the best trained class is the label, else 0. sigmoid: the share of the trained classes that
        are on the right side of one half.
        """
        trained = np.array(self.head.trained)
        if self.head.kind == "sigmoid":
            return ((logits > 0) == (self.targets[rows] > 0.5))[:, trained].mean(1)
        best = np.where(trained, logits, -np.inf).argmax(1)
        return np.where(self.labels[rows] == UNKNOWN, np.nan, best == self.labels[rows])


def class_weights(data: HeadData, train: np.ndarray, weights: Mapping[str, float] | str | None) -> np.ndarray:
    """float32 [classes]: factors of the loss of each class.

    Args:
        data: of the head.
        train: [N] booleans.
        weights: None: 1 each. "balanced": every trained class counts alike (softmax), or its yes as much as its no
            (sigmoid, where the factor is that of a yes). A mapping: by class, 1 where absent.

    Raises:
        ValueError: a class that the head has not, or a factor that is not positive.
    """
    head = data.head
    factors = np.ones(head.classes, np.float32)
    if weights is None:
        return factors
    if isinstance(weights, str):
        if weights != "balanced":
            raise ValueError(f"class_weights: expected None, 'balanced' or a mapping, got {weights!r}")
        counts, rows = data.targets[train].sum(0), data.known & train
        trained = np.array(head.trained)
        wanted = rows.sum() - counts if head.kind == "sigmoid" else np.full(head.classes, counts.sum() / trained.sum())
        factors[trained] = (wanted / np.maximum(counts, _LEAST_WEIGHT))[trained]
        return np.maximum(factors, 1e-3)
    for label, factor in weights.items():
        if label not in head.class_labels:
            raise ValueError(f"class_weights: {head.name} has the classes {list(head.class_labels)}, not {label!r}")
        if not 0 < factor < float("inf"):
            raise ValueError(f"class_weights: expected a positive number for {label!r}, got {factor!r}")
        factors[head.class_labels.index(label)] = factor
    return factors
