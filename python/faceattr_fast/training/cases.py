"""Faces with what is known about them and what a network says of them: what every measurement starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..forward import FastForward
from ..photo import FaceAnalyzer, fit_square, load_image
from ..photo.detectors import NoDetector
from ..photo.results import probabilities
from ..spec import HeadSpec, NetworkSpec
from .augment import render
from .datasets import FaceSet
from .labels import UNKNOWN
from .packed import SPLITS, PackedFaces
from .tables import class_index, rows_of, whole_number

__all__ = ["Cases", "examine", "examine_packed", "examine_pictures", "known_heads", "predict"]

Step = Callable[[int], None]

_BATCH = 64


@dataclass(frozen=True)
class Cases:
    """n faces.

    Args:
        name: of the set.
        files: [n] names of the pictures.
        probabilities: head → float64 [n, classes], as :func:`faceattr_fast.photo.probabilities` makes them.
        labels: head → int [n], index of the class among the head's own, -1 where unknown.
        several: head → bool [n, classes] for heads of which a face may have several labels at once.
        embedding: float32 [n, E], or None.
        identity: logits of the identity layer, float32 [n, identities], or None.
        years: int [n], -1 where unknown.
        people: [n] names, "" where unknown.
        left_out: head → class → faces whose label is a class that the network does not have or was not trained on.
        outside: names of further pictures of the set, which are not among these.
        info: what the set says about itself.
    """

    name: str
    files: list[str]
    probabilities: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    several: dict[str, np.ndarray]
    embedding: np.ndarray | None
    identity: np.ndarray | None
    years: np.ndarray
    people: np.ndarray
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def positives(self, head: HeadSpec) -> tuple[np.ndarray, np.ndarray]:
        """Which faces are known, [n] booleans, and all labels of each, bool [n, classes]."""
        labels = self.labels[head.name]
        table = labels[:, None] == np.arange(head.classes)
        if head.name in self.several:
            table = table | self.several[head.name]
        return table.any(1), table


def predict(
    fast: FastForward, faces: FaceSet, indices: np.ndarray, batch: int = _BATCH, step: Step | None = None
) -> dict[str, np.ndarray]:
    """Outputs for pictures of a set at the network's input size, without jitter: float32 [n, …] per output.

    ``step`` is called with the number of faces done so far.
    """
    shapes = {name: rows.shape[1:] for name, rows in fast(render(faces, indices[:1], fast.spec.pixels.size)).items()}
    outputs = {name: np.empty((len(indices), *shape), np.float32) for name, shape in shapes.items()}
    for start in range(0, len(indices), batch):
        part = slice(start, min(start + batch, len(indices)))
        for name, rows in fast(render(faces, indices[part], fast.spec.pixels.size)).items():
            outputs[name][part] = rows
        if step is not None:
            step(part.stop)
    return outputs


def examine(
    fast: FastForward,
    faces: FaceSet,
    indices: np.ndarray,
    classes: Mapping[str, Sequence[str]],
    targets: Mapping[str, np.ndarray] | None = None,
    step: Step | None = None,
) -> Cases:
    """Run faces of a set through the network.

    Args:
        fast: its outputs decide what can be measured.
        faces: the set.
        indices: which of its faces, at least one.
        classes: label → names of its classes, in the order of the set's labels.
        targets: label → float [N, classes]; a row with more than one whole label names several at once.
        step: called with the number of faces done so far.

    Raises:
        ValueError: the classes of a label have no name in common with those of the head.
    """
    outputs = predict(fast, faces, indices, step=step)
    labels: dict[str, np.ndarray] = {}
    several: dict[str, np.ndarray] = {}
    left_out: dict[str, dict[str, int]] = {}
    for head in _measurable(fast, faces.labels):
        names = classes[head.name]
        truth = faces.labels[head.name][indices]
        labels[head.name], lost = _in_head_order(head, names, truth, faces.name)
        if lost:
            left_out[head.name] = lost
        rows = None if targets is None else targets.get(head.name)
        if rows is not None and (rows[indices] >= 1).sum(1).max(initial=0) > 1:
            place = _places(head, names)
            several[head.name] = np.zeros((len(indices), head.classes), bool)
            several[head.name][:, place[place != UNKNOWN]] = rows[indices][:, place != UNKNOWN] >= 1
    unknown = np.full(len(indices), UNKNOWN)
    return Cases(
        faces.name,
        [faces.names[i] for i in indices],
        {name: probabilities(fast.spec.head(name), outputs[name]) for name in labels},
        labels,
        several,
        outputs.get("embedding"),
        outputs.get("identity"),
        unknown if faces.years is None else np.asarray(faces.years)[indices],
        np.full(len(indices), "") if faces.people is None else faces.people[indices],
        left_out,
        [faces.names[i] for i in np.setdiff1d(np.arange(len(faces)), indices)],
    )


def examine_packed(fast: FastForward, packed: PackedFaces, split: str, step: Step | None = None) -> Cases:
    """Run one split of a packed set ("all": every face) through the network.

    Raises:
        ValueError: the set has no face in this split; classes do not fit.
    """
    chosen = np.ones(len(packed), bool) if split == "all" else packed.split == split
    if not chosen.any():
        counts = ", ".join(f"{int((packed.split == name).sum())} {name}" for name in SPLITS)
        raise ValueError(f"{packed.folder} has no face in the split {split!r}: {counts}")
    index = np.flatnonzero(chosen)
    cases = examine(fast, packed.face_set(), index, packed.info["classes"], packed.targets, step)
    kept: dict[str, Any] = {key: packed.info[key] for key in ("version", "split", "terms") if key in packed.info}
    return replace(cases, info=kept)


def examine_pictures(fast: FastForward, table: str | PathLike[str], step: Step | None = None) -> Cases:
    """Run pictures of faces through ``FaceAnalyzer.predict_crops``.

    Args:
        fast: the network.
        table: CSV with ``file``, relative to the table's folder, and any of ``subject``, ``years`` and the names of
            heads, whose cells are names of classes or empty.
        step: called with the number of faces done so far.

    Raises:
        FileNotFoundError: there is no such table, or pictures are missing.
        ImageError: a picture is damaged.
        ValueError: a cell is wrong; the message names the line.
    """
    table = Path(table)
    rows = list(rows_of(table, ("file",)))
    if not rows:
        raise ValueError(f"{table}: no pictures")
    if missing := [row["file"] for _, row in rows if not (table.parent / row["file"]).is_file()]:
        raise FileNotFoundError(f"{table}: {len(missing)} pictures are missing: {', '.join(missing[:5])}")
    heads = _measurable(fast, rows[0][1])
    labels = {head.name: np.full(len(rows), UNKNOWN) for head in heads}
    years = np.full(len(rows), UNKNOWN)
    for i, (line, row) in enumerate(rows):
        where = f"{table}, line {line}"
        for head in heads:
            order = {name: j for j, name in enumerate(head.class_labels)}
            labels[head.name][i] = class_index(row[head.name], order, head.name, where)
        if row.get("years"):
            years[i] = whole_number(row["years"], "years", where)
    analyzer = FaceAnalyzer(fast, NoDetector(), sensitive=True)
    size = analyzer.template.size
    faces = []
    for start in range(0, len(rows), _BATCH):
        part = [fit_square(load_image(table.parent / row["file"]), size) for _, row in rows[start : start + _BATCH]]
        faces += analyzer.predict_crops(part)
        if step is not None:
            step(len(faces))
    left_out: dict[str, dict[str, int]] = {}
    for head in heads:
        labels[head.name], lost = _in_head_order(head, head.class_labels, labels[head.name], str(table))
        if lost:
            left_out[head.name] = lost
    embeddings = [face.embedding for face in faces if face.embedding is not None]
    return Cases(
        table.stem,
        [row["file"] for _, row in rows],
        {h.name: np.array([list(face.attributes[h.name].probabilities.values()) for face in faces]) for h in heads},
        labels,
        {},
        np.stack(embeddings) if embeddings else None,
        None,
        years,
        np.array([row.get("subject", "") for _, row in rows]),
        left_out,
    )


def known_heads(spec: NetworkSpec, labels: Mapping[str, Any]) -> list[str]:
    """Names of the heads for which there are labels."""
    return [head.name for head in spec.heads if head.name in labels]


def _measurable(fast: FastForward, labels: Mapping[str, Any]) -> list[HeadSpec]:
    return [fast.spec.head(name) for name in known_heads(fast.spec, labels) if name in fast.heads]


def _places(head: HeadSpec, names: Sequence[str]) -> np.ndarray:
    """int [classes of the set]: which class of the head each is, -1 where it has none that was trained."""
    trained = head.trained or (True,) * head.classes
    order = {name: i for i, name in enumerate(head.class_labels) if trained[i]}
    return np.array([order.get(name, UNKNOWN) for name in names])


def _in_head_order(
    head: HeadSpec, names: Sequence[str], truth: np.ndarray, where: str
) -> tuple[np.ndarray, dict[str, int]]:
    """Labels as indices of the head's classes, and how many faces have a label that it does not know, by class."""
    place = _places(head, names)
    if (place == UNKNOWN).all():
        trained = head.trained or (True,) * head.classes
        known = ", ".join(name for name, is_trained in zip(head.class_labels, trained, strict=True) if is_trained)
        raise ValueError(
            f"{where}: the classes of {head.name!r} are {', '.join(names)}; none of them is among those that the "
            f"network was trained on: {known or 'none'}"
        )
    lost = {name: int((truth == i).sum()) for i, name in enumerate(names) if place[i] == UNKNOWN}
    return np.where(truth == UNKNOWN, UNKNOWN, place[truth]), {name: count for name, count in lost.items() if count}
