"""Packed sets: a folder of crops and what is known about each, written once and read without copying.

========================  =============================================================================================
file                      content
========================  =============================================================================================
``crops.npy``             uint8 [N, S, S, 3] RGB, to be memory-mapped
``faces.csv``             a row per crop: ``file, subject, split, group, years``, then a column per label
``targets.npz``           soft targets, float32 [N, classes] per label; a row of zeros: none; not in every set
``skipped.csv``           ``file, reason`` of each picture that is not in the set
``set.json``              name, kind of crop, classes, how it was split, counts, terms: :attr:`PackedFaces.info`
========================  =============================================================================================

A crop is ``aligned`` by the template, with a margin of photo around it from which augmentation shifts and turns, or
``tight``: a picture of a face that is taken as it is. Labels are names of classes; an empty one is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..spec import AGE_LABELS
from .datasets import FaceSet
from .labels import AGE_SPREAD, UNKNOWN, age_targets, hard_targets
from .tables import DataError, class_index, rows_of, whole_number

__all__ = ["FIXED_COLUMNS", "FORMAT", "SPLITS", "DataError", "PackedFaces"]

FORMAT = 1
SPLITS = ("train", "validation", "test")
FIXED_COLUMNS = ("file", "subject", "split", "group", "years")


@dataclass(frozen=True)
class PackedFaces:
    """A packed set. Crops stay on disk; everything else is in memory (about 200 bytes a face).

    Args:
        folder: where it is.
        crops: uint8 [N, S, S, 3] RGB, memory-mapped, read-only.
        files: [N] names in the source.
        subjects: [N] names of people, "" where unknown.
        split: [N] of "train", "validation" and "test".
        groups: int [N]: faces of one number belong on one side of any further split (one subject, or near-duplicates).
        years: int [N] ages, -1 where unknown.
        labels: int [N] per label, the index of its class in ``info["classes"]``, -1 where unknown.
        targets: float32 [N, classes] per label that has soft targets; rows of zeros have none. Rows of shares sum to 1;
            of several labels at once (multi-label) each is 1.
        info: what ``set.json`` says.
    """

    folder: Path
    crops: np.ndarray
    files: list[str]
    subjects: np.ndarray
    split: np.ndarray
    groups: np.ndarray
    years: np.ndarray
    labels: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    info: dict[str, Any]

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> PackedFaces:
        """Read a packed set and check that its files belong together.

        Raises:
            FileNotFoundError: there is no such folder, or a file of it is missing.
            DataError: a file is damaged, or is not what the others say.
        """
        folder = Path(folder)
        if not (folder / "set.json").is_file():
            raise FileNotFoundError(f"{folder} is no packed set: it has no set.json (faceattr prepare makes one)")
        info = _info(folder / "set.json")
        try:
            crops = np.load(folder / "crops.npy", mmap_mode="r")
        except ValueError as error:
            raise DataError(f"{folder / 'crops.npy'}: {error}") from error
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1] != crops.shape[2] or crops.shape[3] != 3:
            raise DataError(f"{folder / 'crops.npy'}: expected uint8 [N, S, S, 3], got {crops.dtype} {crops.shape}")
        columns = _read_faces(folder / "faces.csv", info["classes"])
        if len(columns["file"]) != len(crops):
            raise DataError(f"{folder / 'faces.csv'}: {len(columns['file'])} rows for {len(crops)} crops")
        return cls(
            folder,
            crops,
            columns["file"],
            np.array(columns["subject"]),
            np.array(columns["split"]),
            np.array(columns["group"], np.int64),
            np.array(columns["years"], np.int64),
            {head: np.array(columns[head], np.int64) for head in info["classes"] if head in columns},
            _read_targets(folder / "targets.npz", info["classes"], len(crops)),
            info,
        )

    def __len__(self) -> int:
        return len(self.crops)

    def classes(self, head: str) -> tuple[str, ...]:
        """Names of a label's classes; KeyError where the set has no such label."""
        return tuple(self.info["classes"][head])

    def face_set(
        self,
        train: Iterable[str] = ("train",),
        *,
        smoothing: float | None = None,
        trust: Mapping[str, float] | None = None,
        balance: Mapping[str, float] | None = None,
        zoom: tuple[float, float] | None = None,
        age_spread: float | None = None,
    ) -> FaceSet:
        """The set as the trainer takes it: targets of every label, and how often to draw each face.

        None takes what the set itself advises (``info["training"]``), else the plain default.

        Args:
            train: splits to train on; the others are held out.
            smoothing: of hard labels, over the classes that occur in training; default 0.05.
            trust: label → factor of its targets; default 1 each.
            balance: label, or "subject" → power p: a face is drawn in proportion to (how many share its label)^-p.
            zoom: range of scales by which augmentation enlarges; default (1, 1).
            age_spread: of ages in years, as :func:`.age_targets` takes it; default 0.08.

        Raises:
            ValueError: an unknown split or label.
        """
        advice: dict[str, Any] = self.info.get("training", {})
        smoothing = advice.get("smoothing", 0.05) if smoothing is None else smoothing
        known = {*self.info["classes"], "subject"}  # advice for the source as a whole: this set may lack some labels
        trust = {k: v for k, v in advice.get("trust", {}).items() if k in known} if trust is None else trust
        balance = {k: v for k, v in advice.get("balance", {}).items() if k in known} if balance is None else balance
        zoom = tuple(advice.get("zoom", (1.0, 1.0))) if zoom is None else zoom
        age_spread = advice.get("age_spread", AGE_SPREAD) if age_spread is None else age_spread
        train = tuple(train)
        if unknown := set(train) - set(SPLITS):
            raise ValueError(f"train: expected some of {SPLITS}, got {sorted(unknown)}")
        if unknown := (set(trust) | set(balance)) - known:
            raise ValueError(f"{self.folder} has the labels {sorted(self.info['classes'])}, not {sorted(unknown)}")
        training = np.isin(self.split, train)
        weights = np.ones(len(self))
        for name, power in balance.items():
            weights *= _balanced(self.subjects, power) if name == "subject" else _balanced(self.labels[name], power)
        crop = self.info["crop"]
        return FaceSet(
            name=self.info["name"],
            pictures=self.crops,
            margin=crop["margin"] / (self.crops.shape[1] - 2 * crop["margin"]),
            train=training,
            labels=self.labels,
            targets={
                head: np.float32(trust.get(head, 1.0)) * self._targets_of(head, training, smoothing, age_spread)
                for head in self.info["classes"]
            },
            weights=weights,
            names=self.files,
            people=self.subjects if (self.subjects != "").any() else None,
            years=self.years if (self.years != UNKNOWN).any() else None,
            groups=self.groups,
            zoom=(float(zoom[0]), float(zoom[1])),
        )

    def _targets_of(self, head: str, training: np.ndarray, smoothing: float, age_spread: float) -> np.ndarray:
        """The softest that is known of each face: the source's own targets, the age in years, the label."""
        classes = len(self.info["classes"][head])
        labels = self.labels[head]
        occurs = np.isin(np.arange(classes), labels[training])
        targets = hard_targets(labels, classes, smoothing, tuple(occurs) if occurs.any() else None)
        if head == "age" and self.classes(head) == AGE_LABELS:
            known = self.years != UNKNOWN
            targets[known] = age_targets(self.years[known], age_spread)
        if head in self.targets:
            given = self.targets[head].any(1)
            targets[given] = self.targets[head][given]
        return targets


def _balanced(labels: np.ndarray, power: float) -> np.ndarray:
    """Weight of each item: its label's frequency to the minus ``power``, 1 on average; unknown counts as a label."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = counts[index] ** -float(power)
    return weights / weights.mean()


def _info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        got = info.get("format") if isinstance(info, dict) else info
        raise DataError(f"{path}: expected a packed set of format {FORMAT}, got {got!r}")
    if missing := {"name", "crop", "classes", "split"} - info.keys():
        raise DataError(f"{path}: expected the entries {sorted(missing)}, they are not there")
    return info


def _read_faces(path: Path, classes: Mapping[str, list[str]]) -> dict[str, list[Any]]:
    order = {head: {name: i for i, name in enumerate(names)} for head, names in classes.items()}
    columns: dict[str, list[Any]] = {column: [] for column in (*FIXED_COLUMNS, *classes)}
    for line, row in rows_of(path, columns):
        where = f"{path}, line {line}"
        if row["split"] not in SPLITS:
            raise DataError(f"{where}: split: expected one of {list(SPLITS)}, got {row['split']!r}")
        columns["file"].append(row["file"])
        columns["subject"].append(row["subject"])
        columns["split"].append(row["split"])
        columns["group"].append(whole_number(row["group"], "group", where))
        columns["years"].append(whole_number(row["years"], "years", where) if row["years"] else UNKNOWN)
        for head, index in order.items():
            columns[head].append(class_index(row[head], index, head, where))
    return columns


def _read_targets(path: Path, classes: Mapping[str, list[str]], count: int) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    with np.load(path) as file:
        targets = {head: file[head] for head in file.files}
    for head, values in targets.items():
        expected = (count, len(classes.get(head, ())))
        if values.shape != expected or values.dtype != np.float32:
            raise DataError(f"{path}: {head}: expected float32 {expected}, got {values.dtype} {values.shape}")
    return targets
