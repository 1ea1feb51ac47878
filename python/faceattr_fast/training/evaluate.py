"""Measurements on faces that training never saw: accuracy overall and by group, age error, verification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..reference import FaceAttrNet
from ..spec import AGE_LABELS
from .augment import render
from .datasets import FaceSet
from .labels import UNKNOWN, expected_age
from .trainer import pixels_of

__all__ = ["accuracy_report", "groups_report", "predict", "verification"]


@torch.no_grad()
def predict(net: FaceAttrNet, faces: FaceSet, indices: np.ndarray, batch: int = 32) -> dict[str, np.ndarray]:
    """Outputs for pictures of a set at the network's input size, without jitter: float32 [n, …] per output."""
    net.eval()
    outputs: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(indices), batch):
        crops = render(faces, indices[start : start + batch], net.spec.pixels.size)
        for name, value in net(pixels_of(crops, net.spec)).items():
            outputs.setdefault(name, []).append(value.numpy())
    return {name: np.concatenate(values) for name, values in outputs.items()}


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def accuracy_report(logits: np.ndarray, labels: np.ndarray, class_labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy over the faces whose label is known, their number, and per class number, recall, predictions."""
    known = labels != UNKNOWN
    best, truth = logits[known].argmax(1), labels[known]
    classes = {
        name: {
            "n": int((truth == i).sum()),
            "recall": _share(best[truth == i] == i),
            "predicted": int((best == i).sum()),
        }
        for i, name in enumerate(class_labels)
    }
    return {"accuracy": _share(best == truth), "n": int(known.sum()), "classes": classes}


def age_report(logits: np.ndarray, labels: np.ndarray, years: np.ndarray) -> dict[str, Any]:
    """The same for ages, with the share within one bin and the mean error in years of the expected age."""
    report = accuracy_report(logits, labels, AGE_LABELS)
    known = labels != UNKNOWN
    report["within one bin"] = _share(np.abs(logits[known].argmax(1) - labels[known]) <= 1)
    report["mean error in years"] = float(np.abs(expected_age(softmax(logits[known])) - years[known]).mean())
    return report


def groups_report(
    outputs: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    groups: dict[str, np.ndarray],
    years: np.ndarray | None,
) -> dict[str, dict[str, Any]]:
    """Accuracy of each head within each group (name → [n] booleans), and the age error."""
    table: dict[str, dict[str, Any]] = {}
    for group, members in groups.items():
        row: dict[str, Any] = {"n": int(members.sum())}
        for head, truth in labels.items():
            known = members & (truth != UNKNOWN)
            row[head] = _share(outputs[head][known].argmax(1) == truth[known])
        if years is not None and members.any():
            error = expected_age(softmax(outputs["age"][members])) - years[members]
            row["mean error in years"] = float(np.abs(error).mean())
        table[group] = row
    return table


def verification(cosines: np.ndarray, same: np.ndarray, split: np.ndarray) -> dict[str, Any]:
    """Same person or not, by cosine.

    ``accuracy`` judges each split by the threshold of all others, as LFW's protocol asks. ``threshold``, the one to
    ship, is that of all pairs; the accuracy is not measured with it, since it has seen every answer.

    Args:
        cosines: float [n].
        same: [n] booleans.
        split: [n], which part a pair belongs to.

    Raises:
        ValueError: fewer than two splits.
    """
    parts = np.unique(split)
    if len(parts) < 2:
        raise ValueError(f"split: expected pairs in at least two splits, got {len(same)} pairs in {len(parts)}")
    right = np.zeros(len(same), bool)
    for part in parts:
        others = split != part
        right[~others] = (cosines[~others] >= best_threshold(cosines[others], same[others])) == same[~others]
    order = np.argsort(cosines)
    ranks = np.empty(len(same))
    ranks[order] = np.arange(1, len(same) + 1)
    positives_n, negatives_n = int(same.sum()), int((~same).sum())
    area = (ranks[same].sum() - positives_n * (positives_n + 1) / 2) / max(1, positives_n * negatives_n)
    return {
        "accuracy": _share(right),
        "n": len(same),
        "area under curve": float(area),
        "threshold": best_threshold(cosines, same),
    }


def best_threshold(cosines: np.ndarray, same: np.ndarray) -> float:
    """The cosine from which on to say "the same person", so that most of these pairs are right; at least one pair."""
    candidates = np.sort(cosines)
    positives, negatives = np.sort(cosines[same]), np.sort(cosines[~same])
    # Pairs that are right for every candidate at once: pairs at or above it are called the same.
    hits = len(positives) - np.searchsorted(positives, candidates) + np.searchsorted(negatives, candidates)
    best = int(hits.argmax())
    # Halfway to the pair below, where there is most room for rounding on both sides.
    return float(candidates[max(best - 1, 0) : best + 1].mean())


def _share(hits: np.ndarray) -> float | None:
    return float(np.mean(hits)) if len(hits) else None
