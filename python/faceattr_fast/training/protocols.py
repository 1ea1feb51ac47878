"""The measures themselves, from answers and truth to figures: plain numpy, the same for every source of answers.

Shares come with Wilson's interval and means with a bootstrap interval, both of 95 %; they take the items as
independent, which several pictures of one person are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .labels import UNKNOWN

__all__ = [
    "FALSE_ACCEPTS", "accuracy_report", "best_threshold", "bootstrap_mean", "calibration", "choose_thresholds",
    "confusion", "false_positive_room", "first_of_each", "hold_out", "identification", "nearest_mean",
    "operating_point", "roc", "share", "verification", "wilson",
]  # fmt: skip

FALSE_ACCEPTS = (0.001, 0.01, 0.1)
"""Shares of strangers taken for one person at which the share of true accepts is reported."""

_Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations
_ROC_POINTS = 200
_CALIBRATION_BINS = 15


def share(hits: np.ndarray) -> float | None:
    """Share of True; None of nothing."""
    return float(np.mean(hits)) if len(hits) else None


def wilson(hits: int, n: int) -> list[float] | None:
    """[low, high] of a share by Wilson's score, which holds near 0 and 1 and for small numbers; None of nothing."""
    if n == 0:
        return None
    p, z2 = hits / n, _Z * _Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return [max(0.0, centre - half), min(1.0, centre + half)]


def bootstrap_mean(values: np.ndarray, draws: int = 1000) -> list[float] | None:
    """[low, high] of a mean, by drawing as many values again and again; None of nothing. Draws are always the same."""
    if len(values) == 0:
        return None
    rng = np.random.default_rng(0)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    return [float(edge) for edge in np.quantile(means, (0.025, 0.975))]


def confusion(truth: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """int [classes, classes]: rows are what is true, columns what was answered."""
    return np.bincount(truth * classes + answers, minlength=classes * classes).reshape(classes, classes)


def accuracy_report(scores: np.ndarray, labels: np.ndarray, class_labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy of the best class, over the faces whose label is known.

    Args:
        scores: float [n, classes].
        labels: int [n], -1 where unknown.
        class_labels: names of the classes.

    Returns:
        ``accuracy``, its ``interval``, ``n``, ``confusion`` (rows: truth), and per class ``n``, ``recall`` and how
        often it was ``predicted``.
    """
    known = labels != UNKNOWN
    best, truth = scores[known].argmax(1), labels[known]
    table = confusion(truth, best, len(class_labels))
    classes = {
        name: {"n": int(table[i].sum()), "recall": share(best[truth == i] == i), "predicted": int(table[:, i].sum())}
        for i, name in enumerate(class_labels)
    }
    return {
        "accuracy": share(best == truth),
        "interval": wilson(int(np.trace(table)), len(truth)),
        "n": int(known.sum()),
        "classes": classes,
        "confusion": table.tolist(),
    }


def calibration(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Is what is said with 80 % right in 80 %? ``error`` is the mean gap of 15 bins of equal width, by their faces.

    Args:
        confidence: float [n], 0..1, of the answer given.
        right: [n] booleans.
    """
    n = _CALIBRATION_BINS
    bins = np.minimum((confidence * n).astype(int), n - 1)
    curve = [
        {
            "from": i / n,
            "to": (i + 1) / n,
            "n": int((bins == i).sum()),
            "confidence": float(confidence[bins == i].mean()),
            "accuracy": float(right[bins == i].mean()),
        }
        for i in np.unique(bins).tolist()
    ]
    gaps = sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in curve)
    return {"error": gaps / len(right) if len(right) else None, "bins": curve}


# --- scores of two kinds: ROC, verification ---------------------------------------------------------------------------


def roc(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positive rate, true positive rate and threshold (``score >= threshold`` is positive) of each step.

    From nothing accepted (threshold infinite) to everything; one step per distinct score.

    Raises:
        ValueError: only one of the two kinds is there.
    """
    if positive.all() or not positive.any():
        raise ValueError(f"positive: expected items of both kinds, got {int(positive.sum())} of {len(positive)}")
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], positive[order]
    last = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)  # of each run of equal scores
    true, false = np.cumsum(hits)[last], np.cumsum(~hits)[last]
    return (
        np.concatenate([[0.0], false / false[-1]]),
        np.concatenate([[0.0], true / true[-1]]),
        np.concatenate([[np.inf], sorted_scores[last]]),
    )


def verification(cosines: np.ndarray, same: np.ndarray, split: np.ndarray) -> dict[str, Any]:
    """Same person or not, by cosine.

    ``accuracy`` judges each split by the threshold of all others, as LFW's protocol asks: the mean over the splits,
    with its standard error. ``threshold``, the one to ship, is that of all pairs; the accuracy is not measured with
    it, since it has seen every answer. ``true accept`` at a fixed share of false accepts is None where so small a
    share is less than one pair.

    Args:
        cosines: float [n].
        same: [n] booleans.
        split: [n], which part a pair belongs to.

    Raises:
        ValueError: fewer than two splits, or pairs of only one kind.
    """
    parts = list(dict.fromkeys(split.tolist()))
    if len(parts) < 2:
        raise ValueError(f"split: expected pairs in at least two splits, got {len(same)} pairs in {len(parts)}")
    rows = []
    for part in parts:
        mine = split == part
        threshold = best_threshold(cosines[~mine], same[~mine])
        right = (cosines[mine] >= threshold) == same[mine]
        rows.append({"split": str(part), "n": int(mine.sum()), "threshold": threshold, "accuracy": float(right.mean())})
    accuracies = np.array([row["accuracy"] for row in rows])
    false, true, thresholds = roc(cosines, same)
    strangers = int((~same).sum())
    accepts = []
    for wanted in FALSE_ACCEPTS:
        step = int(np.flatnonzero(false <= wanted)[-1])
        measurable = wanted * strangers >= 1
        accepts.append(
            {
                "false accept": wanted,
                "true accept": float(true[step]) if measurable else None,
                "threshold": float(thresholds[step]) if measurable else None,
            }
        )
    return {
        "accuracy": float(accuracies.mean()),
        "standard error": float(accuracies.std(ddof=1) / math.sqrt(len(parts))),
        "n": len(same),
        "splits": rows,
        "area under curve": _area(false, true),
        "true accept": accepts,
        "threshold": best_threshold(cosines, same),
        "roc": _thinned(false, true),
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


def _area(false: np.ndarray, true: np.ndarray) -> float:
    """Under a curve of straight lines."""
    return float((np.diff(false) * (true[1:] + true[:-1])).sum() / 2)


def _thinned(false: np.ndarray, true: np.ndarray) -> list[list[float]]:
    """At most 200 points of a curve, its ends among them: as many as a plot shows."""
    keep = np.unique(np.linspace(0, len(false) - 1, min(len(false), _ROC_POINTS)).round().astype(int))
    return [[float(false[i]), float(true[i])] for i in keep]


# --- identities -------------------------------------------------------------------------------------------------------


def first_of_each(people: np.ndarray, images: int) -> np.ndarray:
    """[n] booleans: at most ``images`` pictures of each person, drawn, always the same; none of faces without name."""
    return (_drawn_position(people)[0] < images) & (people != "")


def hold_out(people: np.ndarray, images: int) -> np.ndarray:
    """[n] booleans: ``images`` pictures of each person who has at least one more, drawn, always the same."""
    position, count = _drawn_position(people)
    return (position < images) & (count > images) & (people != "")


def _drawn_position(people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int [n] each: the picture's place in a random order of the person's pictures, and how many these are."""
    order = np.random.default_rng(0).permutation(len(people))
    order = order[np.argsort(people[order], kind="stable")]
    _, starts, counts = np.unique(people[order], return_index=True, return_counts=True)
    position, count = np.empty(len(people), int), np.empty(len(people), int)
    position[order] = np.arange(len(people)) - np.repeat(starts, counts)
    count[order] = np.repeat(counts, counts)
    return position, count


def nearest_mean(embedding: np.ndarray, people: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of the held-out faces with the mean direction of every person's other faces.

    Args:
        embedding: float [n, E].
        people: [n] names.
        held: [n] booleans; everyone held out has other faces.

    Returns:
        float [held, persons], and the index of each face's person.
    """
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    names = np.unique(people[held])
    gallery = ~held & np.isin(people, names)
    means = np.zeros((len(names), embedding.shape[1]))
    np.add.at(means, np.searchsorted(names, people[gallery]), unit[gallery])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return unit[held] @ means.T, np.searchsorted(names, people[held])


def identification(scores: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Share of faces whose person scores best, and is among the five best; a tie counts as lost.

    Args:
        scores: float [n, persons].
        truth: int [n].
    """
    own = scores[np.arange(len(truth)), truth][:, None]
    rank: np.ndarray = (scores >= own).sum(1)  # 1: the best
    rank[~np.isfinite(own[:, 0])] = scores.shape[1] + 1
    report: dict[str, Any] = {"n": len(truth), "persons": scores.shape[1]}
    for most in (1, 5):
        hits: np.ndarray = rank <= most
        report[f"top {most}"] = {"accuracy": share(hits), "interval": wilson(int(hits.sum()), len(hits))}
    return report


# --- several labels at once: operating points -------------------------------------------------------------------------


def operating_point(said: np.ndarray, positive: np.ndarray, class_labels: Sequence[str]) -> dict[str, Any]:
    """Rates over all (image, class) pairs.

    Args:
        said: bool [n, classes], which classes reach their threshold.
        positive: bool [n, classes], what is true.
        class_labels: names of the classes.

    Returns:
        ``true positive`` and ``false positive``, each a ``rate`` with its interval and number of pairs;
        ``unlabelled``: share of images with no class at its threshold; and the rates per class.
    """
    true, false = said & positive, said & ~positive

    def rate(hits: np.ndarray, of: np.ndarray) -> dict[str, Any]:
        return {"rate": share(hits[of]), "interval": wilson(int(hits.sum()), int(of.sum())), "n": int(of.sum())}

    missing = said.sum(1) == 0
    return {
        "n": len(said),
        "true positive": rate(true, positive),
        "false positive": rate(false, ~positive),
        "unlabelled": {"rate": share(missing), "interval": wilson(int(missing.sum()), len(missing)), "n": len(missing)},
        "classes": {
            name: {
                "true positive": rate(true[:, i], positive[:, i]),
                "false positive": rate(false[:, i], ~positive[:, i]),
            }
            for i, name in enumerate(class_labels)
        },
    }


def false_positive_room(negatives: int, target: float) -> int:
    """How many of so many negatives may be taken for positive."""
    return math.floor(target * negatives + 1e-9)  # 0.29 * 100 is less than 29


def choose_thresholds(
    probabilities: np.ndarray, positive: np.ndarray, target: float, class_labels: Sequence[str]
) -> np.ndarray:
    """Per class the lowest threshold at which the share of its negatives that reach it is at most ``target``.

    Args:
        probabilities: float [n, classes].
        positive: bool [n, classes], what is true.
        target: share of false positives, 0..1.
        class_labels: names of the classes.

    Returns:
        float64 [classes]. Where the best negative must not pass and nothing scores above it, the threshold is above
        it and the class is hardly ever answered.

    Raises:
        ValueError: a class has no negatives, or the target is no share.
    """
    if not 0 <= target < 1:
        raise ValueError(f"target: expected a rate from 0 to below 1, got {target}")
    thresholds = np.empty(probabilities.shape[1])
    for i, (scores, wanted) in enumerate(zip(probabilities.T, positive.T, strict=True)):
        negatives = np.sort(scores[~wanted])[::-1]
        if not len(negatives):
            raise ValueError(f"{class_labels[i]!r}: expected faces of other classes, got {len(scores)}, all of it")
        barred = negatives[false_positive_room(len(negatives), target)]  # the best one that must not pass
        above = scores[scores > barred]
        # Halfway to the next score, where there is most room for rounding on both sides.
        middle = (barred + (above.min() if len(above) else 1.0)) / 2
        thresholds[i] = middle if middle > barred else np.nextafter(barred, np.inf)
    return thresholds
