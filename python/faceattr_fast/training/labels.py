"""Labels of other people's data sets in this package's order, and soft targets made of them.

A target is a row of class weights; a row of zeros says that the label is unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from ..spec import AGE_LABELS, EMOTION_LABELS, ETHNICITY_LABELS, GENDER_LABELS, years_of_label

__all__ = [
    "AGE_SPREAD", "TRAINED_ETHNICITIES", "UNKNOWN", "age_bin", "age_centres", "age_range_targets", "age_targets",
    "emotion_index", "ferplus_label", "ferplus_targets", "hard_targets", "utkface_ethnicity", "utkface_gender",
]  # fmt: skip

UNKNOWN = -1
# Of age targets: at 40 years σ is 3.7, and somewhat more than half of the target lies in the right bin of six years.
AGE_SPREAD = 0.08

# FER2013, FER+ and LFW's emotion list name the seven by noun; the original FER2013 labels mix nouns and adjectives.
_EMOTION_OF = {
    "happiness": "happy", "sadness": "sad", "anger": "angry", "surprise": "surprised", "disgust": "disgusted",
    "fear": "scared", **{name: name for name in EMOTION_LABELS},
}  # fmt: skip
_ETHNICITY_OF_RACE = {0: "white", 1: "black", 2: "east-asian", 3: "south-asian"}
TRAINED_ETHNICITIES = tuple(label in _ETHNICITY_OF_RACE.values() for label in ETHNICITY_LABELS)


_FIRST_YEARS = np.array([int(re.split(r"[-+]", label)[0]) for label in AGE_LABELS])


def age_bin(years: int) -> int:
    """Index of the age label that holds this many whole years."""
    if years < 0:
        raise ValueError(f"years must not be negative, got {years}")
    return int(np.searchsorted(_FIRST_YEARS, years, side="right") - 1)


def age_centres(labels: Sequence[str] = AGE_LABELS) -> np.ndarray:
    """Years that stand for each age label, float64: the middle of its bounds; '60+' stands for 70."""
    return np.array([years_of_label(label) for label in labels], np.float64)


def age_targets(years: np.ndarray, spread: float = AGE_SPREAD) -> np.ndarray:
    """[N, 14] float32: a bell about each age (σ = 0.5 + ``spread`` * years) shared out to the bins.

    Neighbouring bins are nearly right and count so. Ages below 0 are unknown.

    Raises:
        ValueError: a negative spread.
    """
    if not 0 <= spread < math.inf:
        raise ValueError(f"age_spread: expected a number of at least 0, got {spread}")
    edges = np.append(_FIRST_YEARS[1:] - 0.5, np.inf)
    targets = np.zeros((len(years), len(AGE_LABELS)), np.float32)
    for row, age in zip(targets, years, strict=True):
        if age >= 0:
            scale = math.sqrt(2) * (0.5 + spread * float(age))
            below = [0.5 * (1 + math.erf((edge - age) / scale)) for edge in edges]
            row[:] = np.diff(below, prepend=0.0)
    return targets


def age_range_targets(first: int, last: int) -> np.ndarray:
    """[14] float64: the share of the years ``first`` to ``last`` that each age label holds."""
    bins = [age_bin(years) for years in range(first, last + 1)]
    return np.bincount(bins, minlength=len(AGE_LABELS)) / len(bins)


def utkface_gender(code: int) -> int:
    """UTKFace writes 0 for male and 1 for female: the reverse of this package."""
    return {0: GENDER_LABELS.index("male"), 1: GENDER_LABELS.index("female")}.get(code, UNKNOWN)


def utkface_ethnicity(code: int) -> int:
    """White, Black, Asian, Indian as white, black, east-asian, south-asian; Others is unknown."""
    label = _ETHNICITY_OF_RACE.get(code)
    return UNKNOWN if label is None else ETHNICITY_LABELS.index(label)


def emotion_index(name: str) -> int:
    """Index of an emotion by any of the names in use (happiness, happy, …); contempt and others are unknown."""
    label = _EMOTION_OF.get(name)
    return UNKNOWN if label is None else EMOTION_LABELS.index(label)


def _emotion_votes(votes: np.ndarray, columns: Sequence[str]) -> np.ndarray:
    counts = np.zeros((len(votes), len(EMOTION_LABELS)), np.float32)
    for column, name in enumerate(columns):
        if (index := emotion_index(name)) != UNKNOWN:
            counts[:, index] = votes[:, column]
    return counts


def ferplus_label(votes: np.ndarray, columns: Sequence[str]) -> np.ndarray:
    """[N] labels by the most votes of [N, columns]; contempt, unknown and not-a-face do not count, ties are unknown."""
    counts = _emotion_votes(votes, columns)
    best = counts.max(1, keepdims=True)
    return np.where((counts == best).sum(1) == 1, counts.argmax(1), UNKNOWN)


def ferplus_targets(votes: np.ndarray, columns: Sequence[str]) -> np.ndarray:
    """[N, 7] float32: shares of the votes over the seven emotions; without any, unknown."""
    counts = _emotion_votes(votes, columns)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def hard_targets(
    labels: np.ndarray, classes: int, smoothing: float = 0.0, known: Sequence[bool] | None = None
) -> np.ndarray:
    """[N, classes] float32, one-hot but for ``smoothing``, which is spread over the classes that are ``known``."""
    labels = np.asarray(labels)
    spread = np.ones(classes, np.float32) if known is None else np.asarray(known, np.float32)
    targets = np.zeros((len(labels), classes), np.float32)
    rows = np.flatnonzero(labels != UNKNOWN)
    targets[rows] = smoothing * spread / spread.sum()
    targets[rows, labels[rows]] += 1 - smoothing
    return targets
