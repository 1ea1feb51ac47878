"""Which split each packed face belongs to, which faces belong together, and which are left out after all."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .labels import UNKNOWN
from .packed import SPLITS
from .packing import Entry
from .sources.record import Source
from .sources.values import KNOWN_CLASSES
from .splits import assign, duplicate_groups
from .tables import DataError

if TYPE_CHECKING:
    from .prepare import PrepareOptions

__all__ = ["Division", "divide"]

_HOW = {
    "subject": "by subject",
    "duplicates": "by near-duplicate groups",
    "source": "given by the source",
    **{split: f"all {split}" for split in SPLITS},
}


@dataclass
class Division:
    """Of all crops, in order.

    Args:
        split: [crops] of :data:`.packed.SPLITS`.
        groups: int [crops]: faces of one number are on one side.
        classes: label → its classes.
        how: the split came about.
        duplicates: groups of more than one near-duplicate; None where nobody looked for them.
        dropped: number of a crop → why it is left out.
        reasons: kind of reason → pictures left out before.
        notes: on what the user should know.
    """

    split: np.ndarray
    groups: np.ndarray
    classes: dict[str, tuple[str, ...]]
    how: str
    duplicates: int | None
    dropped: dict[int, str]
    reasons: Counter[str]
    notes: list[str]

    @property
    def kept(self) -> np.ndarray:
        """[crops] booleans."""
        return np.array([i not in self.dropped for i in range(len(self.split))], bool)


@dataclass
class _Known:
    """What the entries say, without their names."""

    hashes: bytearray = field(default_factory=bytearray)
    subjects: array[int] = field(default_factory=lambda: array("q"))
    given: array[int] = field(default_factory=lambda: array("b"))
    nothing: array[int] = field(default_factory=lambda: array("b"))
    people: dict[str, int] = field(default_factory=dict)
    classes: dict[str, set[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)


def divide(entries: Iterable[Entry], source: Source, options: PrepareOptions) -> Division:
    """Split what was packed.

    Raises:
        DataError: people are needed for what is asked, and the source names none; or splits, and it gives none.
    """
    known = _read(entries)
    subjects, given = np.array(known.subjects, np.int64), np.array(known.given, np.int64)
    count = len(subjects)
    named = subjects != UNKNOWN
    split_by = options.split_by
    if split_by == "auto":
        split_by = "source" if (given != UNKNOWN).any() else "subject" if named.any() else "duplicates"
    for wanted, there, what in (
        (split_by == "subject", named.any(), "names no people, so it cannot be split by subject"),
        (split_by == "source", (given != UNKNOWN).any(), "gives no split"),
        (options.min_images > 1, named.any(), "names no people, so min_images has no meaning"),
    ):
        if count and wanted and not there:
            raise DataError(f"{source.name} {what}")

    dropped: dict[int, str] = {}
    images = np.bincount(subjects[named], minlength=len(known.people))
    for i in np.flatnonzero(named).tolist():
        if (usable := images[subjects[i]]) < options.min_images:
            dropped[i] = f"rare: {usable} usable pictures of this person"

    groups, duplicates = _groups(known, subjects, split_by, source.duplicate_bits)
    notes: list[str] = []
    split = np.full(count, "train", "U10")
    if split_by == "source":
        split[given != UNKNOWN] = np.array(SPLITS)[given[given != UNKNOWN]]
        for i in np.flatnonzero((split == "train") & np.array(known.nothing, bool)).tolist():
            dropped[i] = "no label: nothing to train on"
        if named.any():
            notes += _astride(split, groups)
        else:
            dropped |= _copies(split, groups)
    _assign(split, groups, dropped, options, split_by)
    classes = {head: tuple(KNOWN_CLASSES.get(head) or source.classes.get(head) or sorted(names))
               for head, names in known.classes.items()}  # fmt: skip
    ordered = {head: classes[head] for head in (*KNOWN_CLASSES, *classes) if head in classes}
    return Division(split, groups, ordered, _HOW[split_by], duplicates, dropped, known.reasons, notes)


def _read(entries: Iterable[Entry]) -> _Known:
    known = _Known()
    for entry in entries:
        if entry.reason:
            known.reasons[entry.reason.partition(":")[0]] += 1
            continue
        known.hashes += bytes.fromhex(entry.hash)
        person = known.people.setdefault(entry.subject, len(known.people)) if entry.subject else UNKNOWN
        known.subjects.append(person)
        known.given.append(SPLITS.index(entry.split) if entry.split else UNKNOWN)
        known.nothing.append(not (entry.subject or entry.labels or entry.targets or entry.years != UNKNOWN))
        for head in (*entry.labels, *entry.targets):
            known.classes.setdefault(head, set()).update([entry.labels[head]] if head in entry.labels else [])
    return known


def _groups(known: _Known, subjects: np.ndarray, split_by: str, most: int) -> tuple[np.ndarray, int | None]:
    """People, and near-duplicates of faces of nobody known; or near-duplicates alone."""
    count = len(subjects)
    hashes = np.frombuffer(bytes(known.hashes), np.uint8).reshape(count, -1) if count else np.empty((0, 32), np.uint8)
    alone = np.flatnonzero(subjects == UNKNOWN) if split_by != "duplicates" else np.arange(count)
    groups = len(subjects) + subjects  # beyond every number of a picture
    if not len(alone):
        return groups, None
    groups[alone] = alone[duplicate_groups(hashes[alone], most)]
    return groups, int((np.unique(groups[alone], return_counts=True)[1] > 1).sum())


def _astride(split: np.ndarray, groups: np.ndarray) -> list[str]:
    pairs = np.unique(np.stack([groups, np.unique(split, return_inverse=True)[1]]), axis=1)
    astride = int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())
    return [f"{astride} people are in more than one split of the source"] if astride else []


def _copies(split: np.ndarray, groups: np.ndarray) -> dict[int, str]:
    """Faces that nearly equal one of a later split, which would measure what was learned by heart."""
    level = (split == "validation") + 2 * (split == "test")  # as in SPLITS
    _, member = np.unique(groups, return_inverse=True)
    highest = np.zeros(member.max(initial=-1) + 1, np.int64)
    np.maximum.at(highest, member, level)
    return {
        i: f"copy: nearly equals a picture of the {SPLITS[highest[member[i]]]} split"
        for i in np.flatnonzero(level < highest[member]).tolist()
    }


def _assign(
    split: np.ndarray, groups: np.ndarray, dropped: dict[int, str], options: PrepareOptions, split_by: str
) -> None:
    """Give faces to the splits that the source does not give, in place."""
    kept = np.array([i not in dropped for i in range(len(split))], bool)
    if split_by in SPLITS:
        split[:] = split_by
        return
    wanted = {"test": options.test, "validation": options.validation}
    open_to = np.flatnonzero(kept)
    if split_by == "source":
        wanted = {name: 0.0 if (split == name).any() or name == "test" else size for name, size in wanted.items()}
        open_to = np.flatnonzero(kept & (split == "train"))
    sizes = {name: int(size) if size >= 1 else round(size * len(open_to)) for name, size in wanted.items() if size > 0}
    if sizes:
        split[open_to] = assign(groups[open_to], sizes, "train", options.seed)
