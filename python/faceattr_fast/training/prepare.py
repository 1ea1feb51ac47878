"""From a source of faces to a packed set: find, align and pack once, then split.

Pictures pass through one at a time, in the source's order; memory grows by some tens of bytes a face, for its hash and
its subject. What was packed when a run was killed is not packed again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

import numpy as np

from ..engine.threads import thread_count
from ..photo.alignment import DEFAULT_TEMPLATE, align, crop_box
from ..photo.detectors import Detector, find_detector
from ..photo.image import fit_square, load_image
from .divide import Division, divide
from .packed import SPLITS, PackedFaces
from .packing import Entry, PackedWriter
from .sources.record import ALIGNED_MARGIN, Record, Source
from .splits import difference_hash
from .tables import DataError

__all__ = ["PrepareOptions", "Survey", "prepare", "survey"]

VERSION = "1"

Report = Callable[[str], None]
Watch = Callable[[int, "int | None"], None]


@dataclass(frozen=True)
class PrepareOptions:
    """What to pack, and how to split it.

    Args:
        min_images: leave out people of whom fewer pictures could be used.
        exclude_people: names of people to leave out; capitals do not matter, nor does "_" for a blank.
        single_face: only pictures in which the detector finds one face.
        min_face: only faces whose box, by the root of its area, is at least this share of the picture's shorter side.
        detector: as for :func:`find_detector`; finds the face where the source gives no landmarks. Of several the
            largest is taken.
        crops: the pictures are cropped faces: take them as they are, and use no detector.
        split_by: "subject", "duplicates", "source" (as the source says), or "auto": the source's own split where it has
            one, else by subject where it names one, else by near-duplicates; or the split that every face belongs to.
        test: faces of the test split: a number, or a share below 1. The source's own split is not changed by it.
        validation: the same for the validation split.
        seed: of the order in which groups are given to splits.

    Raises:
        ValueError: a number out of range.
    """

    min_images: int = 1
    exclude_people: frozenset[str] = frozenset()
    single_face: bool = False
    min_face: float = 0.0
    detector: str | Detector = "auto"
    detector_model: str | PathLike[str] | None = None
    crops: bool = False
    split_by: Literal["auto", "subject", "duplicates", "source", "train", "validation", "test"] = "auto"
    test: float = 0.1
    validation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.min_images < 1:
            raise ValueError(f"min_images must be at least 1, got {self.min_images}")
        if not 0 <= self.min_face <= 1:
            raise ValueError(f"min_face must be a share from 0 to 1, got {self.min_face}")
        if self.crops and (self.single_face or self.min_face):
            raise ValueError("crops are taken as they are: single_face and min_face need whole pictures")
        if self.split_by not in (known := ("auto", "subject", "duplicates", "source", *SPLITS)):
            raise ValueError(f"split_by must be one of {known}, got {self.split_by!r}")
        for name in ("test", "validation"):
            size = getattr(self, name)
            if size < 0 or (size >= 1 and size != int(size)):
                raise ValueError(f"{name} must be a number of faces or a share below 1, got {size}")


@dataclass
class Survey:
    """What the records of a source say before a picture is read."""

    pictures: int = 0
    subjects: Counter[str] = field(default_factory=Counter)


def survey(source: Source) -> Survey:
    """Go through the records once: their number, the pictures of each person; DataError for a label that is wrong."""
    found = Survey()
    for record in source.records():
        found.pictures += 1
        if record.subject and not record.reason:
            found.subjects[record.subject] += 1
    return found


def prepare(
    source: Source,
    folder: str | PathLike[str],
    options: PrepareOptions | None = None,
    *,
    restart: bool = False,
    threads: int | None = None,
    report: Report = print,
    watch: Watch | None = None,
) -> PackedFaces:
    """Pack a source; a set that is there already is read, and one that was begun is continued.

    Args:
        source: see :mod:`.sources`.
        folder: of the set. It appears when the set is complete; until then FOLDER.part holds what there is.
        options: None for the defaults.
        restart: begin anew, even if FOLDER.part is there.
        threads: that decode and align; None for the CPUs of this process.
        report: takes a line about each picture that is damaged or missing, and about the whole at the end.
        watch: takes the number of pictures done and that of all (None: not known) after each.

    Raises:
        DataError: a wrong label; no face could be packed; what was begun is of another source or other options.
        FileExistsError: the folder is there and is another set.
        DetectorError: the detector is not available.
    """
    options = options or PrepareOptions()
    cutter = _Cutter(source, options)
    settings = json.loads(json.dumps(_settings(source, options, cutter)))
    if PackedWriter.complete(folder):
        packed = PackedFaces.open(folder)
        if packed.info.get("settings") != settings:
            raise FileExistsError(f"{folder} is a set of another source or other options: remove it or give another")
        report(f"{packed.info['name']}: {len(packed)} faces are packed already in {folder}")
        return packed
    total, rare = None, frozenset[str]()
    if source.listed:
        found = survey(source)
        total = found.pictures
        rare = frozenset(person for person, images in found.subjects.items() if images < options.min_images)

    def watched(done: int) -> None:
        if watch is not None:
            watch(done, total)

    with PackedWriter(folder, cutter.side, settings, restart) as writer:
        if writer.written:
            report(f"{source.name}: going on after {writer.written} pictures")
        _pack(source, writer, cutter, _Refusals(options, rare), threads, report, watched)
        division = divide(writer.entries(), source, options)
        if not division.kept.any():
            raise DataError(f"{source.name}: none of {writer.written} pictures gave a face: {dict(division.reasons)}")
        writer.finish(
            division.split, division.groups, division.classes,
            _info(source, options, cutter, division) | {"settings": settings}, division.dropped,
        )  # fmt: skip
    packed = PackedFaces.open(folder)
    _summarise(packed, division, report)
    return packed


@dataclass(frozen=True)
class _Refusals:
    """People who are left out before a picture is read."""

    options: PrepareOptions
    rare: frozenset[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_excluded", frozenset(map(_plain, self.options.exclude_people)))

    def reason(self, record: Record) -> str:
        if record.reason:
            return record.reason
        if record.subject and _plain(record.subject) in self._excluded:  # type: ignore[attr-defined]
            return f"excluded: {record.subject}"
        if record.subject in self.rare:
            return f"rare: fewer than {self.options.min_images} pictures of {record.subject}"
        return ""


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


class _UnusableError(Exception):
    """A picture without the face that was asked for; the message is the reason."""


class _Cutter:
    """From a picture to its crop."""

    def __init__(self, source: Source, options: PrepareOptions) -> None:
        self.options = options
        self.tight = options.crops or source.kind == "tight"
        if self.tight and (options.single_face or options.min_face):
            raise ValueError(f"{source.name} is of cropped faces: single_face and min_face need whole pictures")
        self.margin = 0 if self.tight else ALIGNED_MARGIN
        self.template = DEFAULT_TEMPLATE.padded(self.margin)
        self.side = source.side if self.tight else self.template.size
        self.detector = None if self.tight else find_detector(options.detector, options.detector_model)

    def __call__(self, record: Record) -> tuple[Entry, np.ndarray | None]:
        import cv2

        try:
            crop = self._cut(record)
        except _UnusableError as error:
            return Entry(record.file, str(error)), None
        except FileNotFoundError:
            return Entry(record.file, "missing: no such file"), None
        except (OSError, ValueError) as error:
            return Entry(record.file, f"damaged: {error}"), None
        half = self.side // 2
        seen = crop if self.tight else cv2.resize(crop, (half, half), interpolation=cv2.INTER_AREA)
        digest = difference_hash(seen[None])[0].tobytes().hex()
        facts = (record.subject, record.split, record.years, record.labels, record.targets)
        return Entry(record.file, "", *facts, digest), crop

    def _cut(self, record: Record) -> np.ndarray:
        image = load_image(record.load())
        if self.tight:
            return fit_square(image, self.side)
        if record.landmarks is not None and not (self.options.single_face or self.options.min_face):
            return align(image, record.landmarks, self.template)
        assert self.detector is not None
        found = self.detector.detect(image)
        if not found:
            raise _UnusableError("no face: none found")
        if self.options.single_face and len(found) > 1:
            raise _UnusableError(f"several faces: {len(found)}")
        face = max(found, key=lambda one: one.box[2] * one.box[3])
        share = math.sqrt(face.box[2] * face.box[3]) / min(image.shape[:2])
        if share < self.options.min_face:
            raise _UnusableError(f"small face: {share:.2f} of the picture")
        landmarks = face.landmarks if record.landmarks is None else record.landmarks
        return crop_box(image, face.box, self.template) if landmarks is None else align(image, landmarks, self.template)


def _pack(
    source: Source,
    writer: PackedWriter,
    cutter: _Cutter,
    refusals: _Refusals,
    threads: int | None,
    report: Report,
    watch: Callable[[int], None],
) -> None:
    records = source.records()
    done = 0
    for done, entry in enumerate(writer.entries(), 1):
        record = next(records, None)
        if record is None or record.file != entry.file:
            got = "no more pictures" if record is None else record.file
            raise DataError(f"{writer.part} was begun with {entry.file} as picture {done}, now there is {got}: restart")

    def outcome(record: Record) -> tuple[Entry, np.ndarray | None]:
        reason = refusals.reason(record)
        return (Entry(record.file, reason), None) if reason else cutter(record)

    for entry, crop in _in_order(outcome, records, threads):
        if crop is None:
            writer.skip(entry.file, entry.reason)
            if entry.reason.startswith(("damaged", "missing")):
                report(f"{source.name}: skipped {entry.file}: {entry.reason}")
        else:
            writer.add(entry, crop)
        done += 1
        watch(done)


def _in_order(
    function: Callable[[Record], tuple[Entry, np.ndarray | None]], records: Iterator[Record], threads: int | None
) -> Iterator[tuple[Entry, np.ndarray | None]]:
    """Results in the order of the records, computed by several threads a few records ahead."""
    workers = thread_count(threads)
    waiting: deque[Future[tuple[Entry, np.ndarray | None]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for record in records:
                waiting.append(pool.submit(function, record))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _settings(source: Source, options: PrepareOptions, cutter: _Cutter) -> dict[str, Any]:
    """All that decides what the set holds, but not where the source lies."""
    people = sorted(map(_plain, options.exclude_people))
    detector = "none" if cutter.detector is None else getattr(cutter.detector, "name", type(cutter.detector).__name__)
    return {
        "format": type(source).__name__.lower(),
        "source": source.settings(),
        "tight": cutter.tight,
        "crop": cutter.template.to_dict(),
        "detector": detector,
        "excluded": hashlib.sha256("\n".join(people).encode()).hexdigest() if people else None,
        **{
            name: getattr(options, name)
            for name in ("min_images", "single_face", "min_face", "split_by", "test", "validation", "seed")
        },
    }


def _info(source: Source, options: PrepareOptions, cutter: _Cutter, division: Division) -> dict[str, Any]:
    return {
        "name": source.name,
        "version": VERSION,
        "kind": "tight" if cutter.tight else "aligned",
        "crop": {"margin": cutter.margin, **DEFAULT_TEMPLATE.to_dict()},
        "split": division.how,
        "seed": options.seed,
        "duplicates": division.duplicates,
        "terms": source.terms,
        "training": source.training,
    }


def _summarise(packed: PackedFaces, division: Division, report: Report) -> None:
    counts, name = packed.info["counts"], packed.info["name"]
    splits = ", ".join(f"{counts[split]} {split}" for split in ("train", "validation", "test") if counts[split])
    people = f" of {counts['subjects']} people" if counts["subjects"] else ""
    report(f"{name}: {len(packed)} faces{people}: {splits}; split {division.how}")
    for note in division.notes:
        report(f"{name}: {note}")
    if skipped := packed.info["skipped"]:
        report(f"{name}: left out: " + ", ".join(f"{count} {reason}" for reason, count in skipped.items()))
