"""Adapters for folders of LFW, UTKFace and FER+: aligned crops, packed once, with labels and targets.

The crops are packed into memory-mapped arrays in a cache folder of the caller's choice, with a margin of photo around
the crop from which augmentation shifts and turns.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np

from ..photo.alignment import DEFAULT_TEMPLATE, CropTemplate, align
from ..spec import EMOTION_LABELS, ETHNICITY_LABELS, GENDER_LABELS
from .labels import (
    TRAINED_ETHNICITIES,
    UNKNOWN,
    age_bin,
    age_targets,
    emotion_index,
    ferplus_label,
    ferplus_targets,
    hard_targets,
    utkface_ethnicity,
    utkface_gender,
)
from .splits import difference_hash, duplicate_groups, split_groups

__all__ = ["FaceSet", "load_ferplus", "load_lfw", "load_utkface", "read_rows"]

MARGIN = 16  # pixels of photo kept around a 224 px crop

Report = Callable[[str], None]


@dataclass
class FaceSet:
    """Pictures of faces with what is known about each.

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
    extra: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def held_out(self) -> np.ndarray:
        """Indices of the pictures that training never sees."""
        return np.flatnonzero(~self.train)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _landmarks(path: Path) -> dict[str, np.ndarray]:
    columns = [f"{point}_{axis}" for point in ("eyeA", "eyeB", "nose", "mouthA", "mouthB") for axis in "xy"]
    return {
        row["file"]: np.array([float(row[column]) for column in columns]).reshape(5, 2)
        for row in read_rows(path)
        if row["eyeA_x"]  # empty: the detector found no face
    }


def _decode(path: Path) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("missing or damaged")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def pack_crops(
    folder: Path, landmarks: dict[str, np.ndarray], cache: Path, name: str, report: Report = print
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Align every picture of ``landmarks`` (file → [5, 2]) once; a damaged one is reported and skipped.

    Returns:
        Names of the pictures packed, their crops with margin, uint8 [N, 256, 256, 3], and the same halved; both
        memory-mapped from ``cache``.
    """
    import cv2

    template: CropTemplate = DEFAULT_TEMPLATE.padded(MARGIN)
    order = {file: points.tolist() for file, points in landmarks.items()}
    key = hashlib.sha256(json.dumps([template.to_dict(), order]).encode()).hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    paths = [cache / f"{name}-{key}.{ending}" for ending in ("json", "full.npy", "half.npy")]
    if not paths[0].exists():  # written last: its presence says that the others are complete
        report(f"{name}: aligning {len(order)} pictures")
        side = template.size
        full = np.lib.format.open_memmap(paths[1], "w+", np.uint8, (len(order), side, side, 3))
        half = np.lib.format.open_memmap(paths[2], "w+", np.uint8, (len(order), side // 2, side // 2, 3))
        packed: list[str] = []
        for file, points in landmarks.items():
            try:
                crop = align(_decode(folder / file), points, template)
            except ValueError as error:
                report(f"{name}: skipped {file}: {error}")
                continue
            full[len(packed)] = crop
            half[len(packed)] = cv2.resize(crop, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
            packed.append(file)
        full.flush()
        half.flush()
        partial = paths[0].with_suffix(".part")
        partial.write_text(json.dumps(packed))
        os.replace(partial, paths[0])
    names = json.loads(paths[0].read_text())
    return names, np.load(paths[1], mmap_mode="r")[: len(names)], np.load(paths[2], mmap_mode="r")[: len(names)]


def _balance(labels: np.ndarray, power: float) -> np.ndarray:
    """Weight of each item: its label's frequency to the minus ``power``, 1 on average; unknown counts as a label."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = counts[index] ** -power
    return weights / weights.mean()


def _spec_targets(labels: dict[str, np.ndarray], smoothing: float) -> dict[str, np.ndarray]:
    kinds = {"gender": (GENDER_LABELS, None), "ethnicity": (ETHNICITY_LABELS, TRAINED_ETHNICITIES)}
    return {
        head: hard_targets(labels[head], len(classes), smoothing, known)
        for head, (classes, known) in kinds.items()
        if head in labels
    }


def load_utkface(
    folder: str | PathLike[str], cache: str | PathLike[str], held_out: int = 1200, seed: int = 0, report: Report = print
) -> FaceSet:
    """UTKFace: age, gender and four ethnicities. It names no subjects; near-duplicates stay on one side.

    ``folder`` holds ``images/``, ``labels.csv`` (file, age, gender, race) and ``landmarks5.csv``.
    """
    folder = Path(folder)
    rows = {row["file"]: row for row in read_rows(folder / "labels.csv")}
    landmarks = {file: points for file, points in _landmarks(folder / "landmarks5.csv").items() if file in rows}
    names, full, half = pack_crops(folder / "images", landmarks, Path(cache), "utkface", report)
    years = np.array([int(rows[name]["age"]) for name in names])
    labels = {
        "gender": np.array([utkface_gender(int(rows[name]["gender"])) for name in names]),
        "ethnicity": np.array([utkface_ethnicity(int(rows[name]["race"])) for name in names]),
        "age": np.array([age_bin(age) for age in years]),
    }
    groups = duplicate_groups(difference_hash(half))
    held = split_groups(groups, held_out, seed)
    _, sizes = np.unique(groups, return_counts=True)
    report(f"utkface: {len(names)} faces, {held.sum()} held out, {(sizes > 1).sum()} groups of near-duplicates")
    return FaceSet(
        name="utkface",
        pictures=full,
        margin=MARGIN / DEFAULT_TEMPLATE.size,
        train=~held,
        labels=labels,
        targets={**_spec_targets(labels, 0.05), "age": age_targets(years)},
        weights=_balance(labels["ethnicity"], 0.3) * _balance(labels["age"], 0.2),
        names=names,
        years=years,
        extra={"duplicate groups": int((sizes > 1).sum())},
    )


def load_lfw(
    folder: str | PathLike[str],
    cache: str | PathLike[str],
    train_folds: tuple[int, ...] = (1, 2, 3, 4, 5),
    report: Report = print,
) -> FaceSet:
    """LFW: people, gender by first name, and emotions; split by fold, hence by person.

    ``folder`` holds ``images/PERSON/``, ``people.csv`` (fold, person), ``gender.csv``, ``emotion.csv`` and
    ``landmarks5.csv``.
    """
    folder = Path(folder)
    fold = {row["person"]: int(row["fold"]) for row in read_rows(folder / "people.csv")}
    gender = {row["person"]: row["gender"] for row in read_rows(folder / "gender.csv")}
    emotion = {row["image"]: row["emotion"] for row in read_rows(folder / "emotion.csv")}
    landmarks = {
        file: points for file, points in _landmarks(folder / "landmarks5.csv").items() if file.split("/")[0] in fold
    }
    names, full, _ = pack_crops(folder / "images", landmarks, Path(cache), "lfw", report)
    people = np.array([name.split("/")[0] for name in names])
    labels = {
        "gender": np.array(
            [GENDER_LABELS.index(gender[p]) if gender.get(p) in GENDER_LABELS else UNKNOWN for p in people]
        ),
        "emotion": np.array([emotion_index(emotion.get(name.split("/")[1], "")) for name in names]),
    }
    counts = Counter(people.tolist())
    train = np.array([fold[person] in train_folds for person in people])
    report(f"lfw: {len(names)} faces of {len(counts)} people, {(~train).sum()} faces held out")
    return FaceSet(
        name="lfw",
        pictures=full,
        margin=MARGIN / DEFAULT_TEMPLATE.size,
        train=train,
        labels=labels,
        # Names err about gender, and the emotions are nearly all neutral or happy: both count for less.
        targets={
            **_spec_targets(labels, 0.1),
            "emotion": 0.5 * hard_targets(labels["emotion"], len(EMOTION_LABELS), 0.1),
        },
        weights=np.array([counts[person] ** -0.5 for person in people.tolist()]),
        names=names,
        people=people,
    )


def load_ferplus(folder: str | PathLike[str], report: Report = print) -> FaceSet:
    """FER+: emotions by ten annotators' votes; the public test split is held out whole.

    ``folder`` holds ``ferplus_48x48.npz``. The pictures are tight grey crops and taken as they are; training pictures
    that nearly equal a test picture are left out.
    """
    with np.load(Path(folder) / "ferplus_48x48.npz") as data:
        pictures, votes, split, names = (data[key] for key in ("x", "votes", "split", "name"))
        columns = [str(column) for column in data["vote_columns"]]
    labels = ferplus_label(votes, columns)
    targets = ferplus_targets(votes, columns)
    test = split == 1
    groups = duplicate_groups(difference_hash(pictures), most=16)
    copies = ~test & np.isin(groups, groups[test])
    keep = (test | (targets.sum(1) > 0)) & ~copies
    ties = int((labels[test] == UNKNOWN).sum())
    report(
        f"ferplus: {keep.sum()} faces, {test.sum()} held out, {ties} of them without a single most voted emotion; "
        f"{copies.sum()} copies of test pictures left out of training"
    )
    pictures = np.repeat(pictures[keep][..., None], 3, axis=3)
    return FaceSet(
        name="ferplus",
        pictures=pictures,
        margin=0.0,
        train=~test[keep],
        labels={"emotion": labels[keep]},
        targets={"emotion": targets[keep]},
        weights=_balance(labels[keep], 0.25),
        names=names[keep].tolist(),
        zoom=(0.95, 1.25),  # faces fill less of these pictures than of aligned crops: cover both sizes
        extra={"test ties": ties, "copies": int(copies.sum())},
    )
