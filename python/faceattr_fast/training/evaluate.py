"""Measurements on faces that training never saw: attributes overall and by group, identities, verification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..photo.results import qualifies
from ..spec import HeadSpec, NetworkSpec, years_of_label
from . import protocols
from .cases import Cases
from .labels import UNKNOWN, age_centres
from .pairs import Pairs

__all__ = [
    "calibrated", "check_complete", "groups_of", "groups_report", "head_report", "identity_report", "measure",
    "operating_point", "verification_report",
]  # fmt: skip

HELD_OUT_IMAGES = 5
"""Pictures per person on which identities are measured."""

AGE_BANDS = ((0, 2), (3, 7), (8, 14), (15, 24), (25, 37), (38, 59), (60, 200), (0, 14), (15, 200))
"""Years, first and last, of the groups by age; the last two are children and all others."""


def measure(spec: NetworkSpec, cases: Cases, identities: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything that the labels of a set allow to measure.

    Args:
        spec: of the network.
        cases: faces with labels and answers.
        identities: whom the classes of the identity layer stand for.

    Returns:
        ``heads``: one :func:`head_report` each; ``groups``: accuracy and age error within each; ``identity`` where
        people are known.
    """
    heads = [spec.head(name) for name in cases.probabilities]
    report: dict[str, Any] = {"name": cases.name, "faces": len(cases), **cases.info, "heads": {}}
    for head in heads:
        report["heads"][head.name] = head_report(head, cases)
        if head.name in cases.left_out:
            report["heads"][head.name]["left out"] = cases.left_out[head.name]
    if heads:
        report["groups"] = groups_report(spec, cases, groups_of(spec, cases))
    if (cases.people != "").any() and (cases.embedding is not None or cases.identity is not None):
        report["identity"] = identity_report(cases, identities)
    return report


def head_report(head: HeadSpec, cases: Cases) -> dict[str, Any]:
    """One attribute: accuracy, confusion, calibration; for ages also the error in years; the operating point.

    The accuracy is that of the most probable class, whether or not it reaches its threshold. ``operating point`` is
    there for heads with thresholds, and for those whose classes stand on their own: rates over all (image, class)
    pairs, and ``answered``, the answers that :class:`faceattr_fast.FaceAnalyzer` gives instead of abstaining.
    """
    p, labels = cases.probabilities[head.name], cases.labels[head.name]
    report = protocols.accuracy_report(p, labels, head.class_labels)
    known = labels != UNKNOWN
    if head.kind == "sigmoid":  # each class on its own: every pair is an answer
        told, positive = cases.positives(head)
        pairs = np.ix_(told, trained_classes(head))
        report["calibration"] = protocols.calibration(p[pairs].ravel(), positive[pairs].ravel())
    else:
        right = p[known].argmax(1) == labels[known]
        report["calibration"] = protocols.calibration(p[known].max(1, initial=0), right)
    if _has_years(head):
        near = np.abs(p[known].argmax(1) - labels[known]) <= 1
        report["within one bin"] = protocols.share(near)
        error = age_errors(head, cases, np.ones(len(cases), bool))
        report["mean error in years"] = float(error.mean()) if len(error) else None
        report["interval of the error"] = protocols.bootstrap_mean(error)
        report["faces with years"] = len(error)
    if head.thresholds is not None or head.kind == "sigmoid":
        report["operating point"] = operating_point(head, cases)
    return report


def trained_classes(head: HeadSpec) -> np.ndarray:
    """Indices of the classes that had training data."""
    return np.arange(head.classes) if head.trained is None else np.flatnonzero(head.trained)


def operating_point(head: HeadSpec, cases: Cases) -> dict[str, Any]:
    """Rates of one head at its thresholds, over its trained classes and the faces whose label is known."""
    known, positive = cases.positives(head)
    p, positive, classes = cases.probabilities[head.name][known], positive[known], trained_classes(head)
    said = qualifies(head, p)
    report = protocols.operating_point(said[:, classes], positive[:, classes], [head.class_labels[i] for i in classes])
    if head.thresholds is not None:
        for i, row in zip(classes, report["classes"].values(), strict=True):
            row["threshold"] = head.thresholds[i]
    answered = said.any(1)
    best = np.where(said, p, -1.0).argmax(1)
    right = positive[np.arange(len(p)), best][answered]
    report["answered"] = {
        "accuracy": protocols.share(right),
        "interval": protocols.wilson(int(right.sum()), len(right)),
        "n": len(right),
    }
    return report


def calibrated(head: HeadSpec, cases: Cases, target: float) -> HeadSpec:
    """The head with thresholds that these faces choose, :func:`.protocols.choose_thresholds` per trained class.

    Raises:
        ValueError: there is no label of this head, or a class has no face of another class.
    """
    if head.name not in cases.probabilities:
        raise ValueError(f"{cases.name} has no labels of {head.name!r}")
    known, positive = cases.positives(head)
    classes = trained_classes(head)
    p = cases.probabilities[head.name][known]
    thresholds = np.ones(head.classes)  # classes without training data are never answered, whatever stands there
    thresholds[classes] = protocols.choose_thresholds(
        p[:, classes], positive[known][:, classes], target, [head.class_labels[i] for i in classes]
    )
    return replace(head, thresholds=tuple(thresholds.tolist()))


def _has_years(head: HeadSpec) -> bool:
    return head.name == "age" and head.kind == "softmax" and None not in map(years_of_label, head.class_labels)


def age_errors(head: HeadSpec, cases: Cases, members: np.ndarray) -> np.ndarray:
    """Absolute errors in years of the expected age over the bins' centres, of the members whose age is known."""
    chosen = members & (cases.years != UNKNOWN)
    expected = cases.probabilities[head.name][chosen] @ age_centres(head.class_labels)
    return np.abs(expected - cases.years[chosen])


def groups_of(spec: NetworkSpec, cases: Cases) -> dict[str, np.ndarray]:
    """Members, [n] booleans, of each gender, age band and ethnicity that the labels tell, by name.

    Bands are of years where the set knows them, else the bins of the age labels. Groups without a member are left out.
    """
    groups: dict[str, np.ndarray] = {}
    known = {head.name: head for head in spec.heads if head.name in cases.labels}
    if "gender" in known:
        groups |= _by_class(known["gender"], cases)
    if (cases.years != UNKNOWN).any():
        for low, high in AGE_BANDS:
            name = f"{low}-{high} years" if high < 200 else f"{low}+ years"
            groups[name] = (cases.years >= low) & (cases.years <= high)
    elif "age" in known:
        groups |= {f"{name} years": members for name, members in _by_class(known["age"], cases).items()}
    if "ethnicity" in known:
        groups |= _by_class(known["ethnicity"], cases)
        groups["other or unknown ethnicity"] = ~cases.positives(known["ethnicity"])[0]
    return {name: members for name, members in groups.items() if members.any()}


def _by_class(head: HeadSpec, cases: Cases) -> dict[str, np.ndarray]:
    _, table = cases.positives(head)
    return {head.class_labels[i]: table[:, i] for i in trained_classes(head)}


def groups_report(spec: NetworkSpec, cases: Cases, groups: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Accuracy of each head within each group, and the age error; ``intervals`` and ``counts`` of each.

    ``unlabelled``: share of the group's faces with no class at its threshold, for heads that have thresholds.
    """
    table: dict[str, dict[str, Any]] = {}
    for group, members in groups.items():
        row: dict[str, Any] = {"n": int(members.sum())}
        intervals: dict[str, Any] = {}
        counts: dict[str, int] = {}
        for name, p in cases.probabilities.items():
            truth = cases.labels[name]
            known = members & (truth != UNKNOWN)
            right = p[known].argmax(1) == truth[known]
            row[name] = protocols.share(right)
            intervals[name], counts[name] = protocols.wilson(int(right.sum()), len(right)), len(right)
        unlabelled = {
            name: protocols.share(qualifies(spec.head(name), p[members]).sum(1) == 0)
            for name, p in cases.probabilities.items()
            if spec.head(name).thresholds is not None
        }
        if "age" in cases.probabilities and _has_years(spec.head("age")):
            error = age_errors(spec.head("age"), cases, members)
            if len(error):
                row["mean error in years"] = float(error.mean())
                intervals["mean error in years"] = protocols.bootstrap_mean(error)
                counts["mean error in years"] = len(error)
        table[group] = row | {"intervals": intervals, "counts": counts, "unlabelled": unlabelled}
    return table


def identity_report(cases: Cases, identities: Sequence[str] | None = None) -> dict[str, Any]:
    """Who is it? Top 1 and top 5 on five held-out pictures per person, and by what ``method``.

    With the identity layer where there is one, its classes are known and some of them are here: all pictures here are
    held out, and at most five per person count. Otherwise by the nearest mean of embeddings: of everyone with more than
    five pictures here five are asked for, and the mean of the others is what is known of the person; nobody needs to
    have been trained on.

    Args:
        cases: with embedding, or with identity.
        identities: whom the classes of the identity layer stand for.
    """
    if cases.identity is not None and identities is not None:
        place = {person: i for i, person in enumerate(identities)}
        truth = np.array([place.get(person, UNKNOWN) for person in cases.people])
        kept = protocols.first_of_each(np.where(truth == UNKNOWN, "", cases.people), HELD_OUT_IMAGES)
        if kept.any():  # in sets that were split by people, nobody here is known to the layer
            report = protocols.identification(cases.identity[kept], truth[kept])
            return {"method": "identity layer", **report}
    if cases.embedding is None:
        return {
            "method": "none",
            "reason": "there is neither an embedding nor a name for each class of the identity layer",
        }
    held = protocols.hold_out(cases.people, HELD_OUT_IMAGES)
    if len(np.unique(cases.people[held])) < 2:
        return {"method": "none", "reason": f"fewer than two people have more than {HELD_OUT_IMAGES} pictures here"}
    return {
        "method": "nearest mean of embeddings",
        **protocols.identification(*protocols.nearest_mean(cases.embedding.astype(np.float64), cases.people, held)),
    }


def check_complete(pairs: Pairs, files: Sequence[str]) -> None:
    """Raises ValueError where a picture of the pairs is not among the files of any split."""
    rows = pairs.rows(files)
    missing = (rows == -1).any(1)
    if missing.any():
        names = sorted({name for pair, row in zip(zip(pairs.a, pairs.b, strict=True), rows, strict=True)
                        for name, i in zip(pair, row, strict=True) if i == -1})  # fmt: skip
        raise ValueError(
            f"pairs: {len(names)} pictures of {int(missing.sum())} of the {len(pairs)} pairs are in no set: "
            f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}; --allow-missing leaves these pairs out"
        )


def verification_report(sets: Sequence[Cases], pairs: Pairs, allow_missing: bool = False) -> dict[str, Any]:
    """The protocol of :func:`.protocols.verification` on the embeddings of one or more sets.

    Pairs with a face in another split of its set are left out: training may have seen it.

    Args:
        sets: with embeddings.
        pairs: by picture.
        allow_missing: leave out pairs of pictures that no set has, instead of raising.

    Raises:
        ValueError: pictures are missing, or what is left is not enough for the protocol.
    """
    sets = [cases for cases in sets if cases.embedding is not None]
    inside = [file for cases in sets for file in cases.files]
    files = inside + [file for cases in sets for file in cases.outside]
    if not allow_missing:
        check_complete(pairs, files)
    rows = pairs.rows(files)
    missing = (rows == -1).any(1)
    elsewhere = ~missing & (rows >= len(inside)).any(1)
    use = ~missing & ~elsewhere
    if not use.any():
        raise ValueError(f"pairs: of {len(pairs)} pairs none has both faces in the split that is measured")
    embedding = np.concatenate([cases.embedding for cases in sets if cases.embedding is not None]).astype(np.float64)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    cosines = np.einsum("ij,ij->i", unit[rows[use, 0]], unit[rows[use, 1]])
    return {
        **protocols.verification(cosines, pairs.same[use], pairs.split[use]),
        "left out": {"of another split": int(elsewhere.sum()), "missing": int(missing.sum())},
    }
