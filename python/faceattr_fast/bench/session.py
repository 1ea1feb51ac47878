"""The run itself: worker processes, shuffled turns, the record."""

from __future__ import annotations

import datetime
import hashlib
import random
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..forward import FastForward
from ..weights import read_spec
from .contenders import CONTENDERS, PEERS
from .inputs import Crops, Inputs, synthetic_crops, write_inputs
from .machine import PROVIDERS, describe_machine, installed
from .process import Worker, WorkerError, measured_turn
from .quantised import UnsupportedError, write_int8_onnx, write_int8_weights
from .report import DTYPES, agreements, head_errors, make_rows
from .source import source_version

__all__ = ["Settings", "run_benchmark"]

# Worst head error against float64 above which a result is wrong, not rounded: float32 runtimes stay below 1e-5 on any
# sane weights. What a narrow format may lose is for the accuracy tests to say.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "int8": 1.5e-1}

_TURN_SECONDS = 0.4

Report = Callable[[int, str], None]
"""Told the rounds that are over, of ``len(threads) * rounds``, and what happens."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        batches, threads: every pair of them.
        dtypes: number formats, among ``DTYPES``; each for everyone who has it.
        peers: groups of contenders, see ``PEERS``.
        seconds: timed per contender, dtype, batch and threads.
        seed: of the crops and of the order of turns.
    """

    batches: tuple[int, ...] = (1, 32)
    threads: tuple[int, ...] = (1,)
    dtypes: tuple[str, ...] = ("float32",)
    peers: tuple[str, ...] = ("onnxruntime", "openvino", "torch")
    seconds: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batches", "threads"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) != len(values):
                raise ValueError(f"{name} must be different positive integers, got {values}")
        if not self.dtypes or len(set(self.dtypes)) != len(self.dtypes) or not set(self.dtypes) <= set(DTYPES):
            raise ValueError(f"dtypes must be different ones of {', '.join(DTYPES)}, got {self.dtypes}")
        for peer in self.peers:
            if peer not in PEERS:
                raise ValueError(f"unknown peer {peer!r}: there are {', '.join(PEERS)}")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds must be positive, got {self.seconds}")

    @property
    def rounds(self) -> int:
        """Turns of each contender: several even in a short run, so that none has all of a bad moment."""
        return max(3, round(self.seconds / _TURN_SECONDS))


class _Entry(NamedTuple):
    """A contender at one number format."""

    contender: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.contender} {self.dtype}"


@dataclass
class _Measurement:
    """An entry at one batch size and number of threads; ``turns`` hold every sample, in order."""

    contender: str
    group: str
    peer: bool
    dtype: str
    threads: int
    batch: int
    version: str
    settings: str
    errors: dict[str, float]
    agreement: dict[str, float]
    turns: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _Absent:
    """Who has no rows, and why: ``skipped`` do not exist here, ``left_out`` failed or compute something else."""

    skipped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, entry: _Entry, why: Exception) -> None:
        (self.skipped if isinstance(why, UnsupportedError) else self.left_out)[str(entry)] = str(why)

    def __contains__(self, entry: _Entry) -> bool:
        return str(entry) in self.skipped or str(entry) in self.left_out


def run_benchmark(
    weights: Path, settings: Settings, crops: Crops | None = None, report: Report = lambda rounds, line: None
) -> dict[str, Any]:
    """Measure ``faceattr_fast`` and its peers.

    Args:
        weights: weights file; its values do not matter for the speed.
        settings: what is measured.
        crops: what is classified; None: synthetic ones, which say little about the accuracy of narrow formats.
        report: called whenever something happens.

    Returns:
        The record, plain data for JSON: machine, versions, settings, every sample, rows. ``skipped`` says by contender
        and dtype who could not take part: not installed, or without that format here; ``left_out`` who failed, or has
        results that are wrong.
    """
    description = FastForward.load(weights, threads=1).describe()
    absent = _Absent()
    entries = list(_present(settings, absent))
    if crops is None:
        crops = synthetic_crops(read_spec(weights).pixels, settings.batches, settings.seed)
    measurements: list[_Measurement] = []
    with tempfile.TemporaryDirectory(prefix="faceattr-bench-") as folder:
        inputs = Inputs(Path(folder))
        report(0, "writing crops and models, computing float64 results")
        onnx = any(CONTENDERS[entry.contender].model == "onnx" for entry in entries)
        reference = write_inputs(inputs, weights, crops, settings.batches, onnx)
        _write_int8(inputs, entries, settings, absent)
        for i, threads in enumerate(settings.threads):
            run = _Run(inputs, entries, threads, settings, reference, absent, report, i * settings.rounds)
            measurements += run.measure()
    measured = [asdict(measurement) for measurement in measurements]
    packages = {CONTENDERS[entry.contender].packages[0] for entry in entries} - {"faceattr_fast"} | {"numpy"}
    source = source_version()
    return {
        "format": 2,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": source["commit"],
        "machine": describe_machine() | {"isa_used": description.isa},
        "versions": {"faceattr_fast": source["version"]} | {name: installed((name,)) for name in sorted(packages)},
        "settings": asdict(settings),
        "crops": crops.describe(),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "plan": description.hash,
        "multiply_adds_as_given": description.multiply_adds_as_given,
        "products_executed": description.products,
        "skipped": absent.skipped,
        "left_out": absent.left_out,
        "rows": [asdict(row) for row in make_rows(measured, description.multiply_adds_as_given)],
        "measurements": measured,
    }


def _present(settings: Settings, absent: _Absent) -> Iterable[_Entry]:
    """Those that take part: ours, and the peers asked for whose packages are installed."""
    for name, contender in CONTENDERS.items():
        if contender.group in PEERS and contender.group not in settings.peers:
            continue
        if contender.batched_only and max(settings.batches) == 1:
            continue
        for dtype in settings.dtypes:
            missing = [p for p in contender.needs(dtype) if not _installed(p)]
            if missing:
                what = f"{', '.join(missing)} not installed: pip install 'faceattr_fast[bench]'"
                absent.add(_Entry(name, dtype), UnsupportedError(what))
            else:
                yield _Entry(name, dtype)


def _installed(package: str) -> bool:
    return package == "faceattr_fast" or installed(PROVIDERS.get(package, (package,))) is not None


def _write_int8(inputs: Inputs, entries: Iterable[_Entry], settings: Settings, absent: _Absent) -> None:
    """The files that int8 entries read; who reads one that cannot be made is absent."""
    readers: dict[str, list[_Entry]] = {}
    for entry in entries:
        if entry.dtype == "int8":
            readers.setdefault(CONTENDERS[entry.contender].model, []).append(entry)
    for model, whose in readers.items():
        try:
            if model == "weights":
                write_int8_weights(inputs)
            elif model == "onnx":
                write_int8_onnx(inputs, settings.batches)
        except Exception as error:  # of a quantiser: theirs alone who need it
            for entry in whose:
                absent.add(entry, error)


class _Run:
    """All batch sizes and dtypes at one number of threads."""

    def __init__(
        self,
        inputs: Inputs,
        entries: Iterable[_Entry],
        threads: int,
        settings: Settings,
        reference: dict[str, np.ndarray],
        absent: _Absent,
        report: Report,
        rounds_before: int,
    ) -> None:
        self._inputs, self._entries, self._threads, self._settings = inputs, entries, threads, settings
        self._reference, self._absent = reference, absent
        self._report, self._rounds = report, rounds_before
        self._workers: dict[_Entry, Worker] = {}
        self._measurements: dict[tuple[_Entry, int], _Measurement] = {}

    def measure(self) -> list[_Measurement]:
        try:
            for entry in self._entries:
                if entry not in self._absent:
                    self._report(self._rounds, f"{self._threads} threads: preparing {entry}")
                    self._admit(entry)
            self._take_turns()
        finally:
            for worker in self._workers.values():
                worker.stop()
        return list(self._measurements.values())

    def _admit(self, entry: _Entry) -> None:
        """Start a contender and check its results at every batch size."""
        contender = CONTENDERS[entry.contender]
        batches = [batch for batch in self._settings.batches if batch > 1 or not contender.batched_only]
        name = f"{entry.contender}-{entry.dtype}-{self._threads}"
        job = {**entry._asdict(), "name": name, "folder": str(self._inputs.folder), "batches": batches}
        log = self._inputs.folder / f"{name}.log"
        worker = self._workers[entry] = Worker(["-m", f"{__package__}.worker"], job, self._threads, log)
        try:
            ready = worker.start()
            for batch in batches:
                self._measurements[entry, batch] = _Measurement(
                    contender=entry.contender,
                    group=contender.group,
                    peer=contender.group in PEERS,
                    dtype=entry.dtype,
                    threads=self._threads,
                    batch=batch,
                    version=ready["version"],
                    settings=ready["settings"][str(batch)],
                    **self._check(name, entry.dtype, batch),
                )
        except (WorkerError, UnsupportedError) as error:
            self._remove(entry, error)

    def _check(self, name: str, dtype: str, batch: int) -> dict[str, Any]:
        """Errors and agreement by head; WorkerError if the results are wrong: what is wrong is not timed."""
        with np.load(self._inputs.folder / f"{name}-batch{batch}.npz") as outputs:
            errors = head_errors(outputs, self._reference)
            worst = max(errors, key=errors.__getitem__)
            if errors[worst] > _TOLERANCE[dtype]:
                raise WorkerError(
                    f"wrong results at batch {batch}: error of {worst} {errors[worst]:.1e}, limit {_TOLERANCE[dtype]}"
                )
            return {"errors": errors, "agreement": agreements(outputs, self._reference)}

    def _take_turns(self) -> None:
        shuffle = random.Random(self._settings.seed).shuffle
        seconds = self._settings.seconds / self._settings.rounds
        for number in range(1, self._settings.rounds + 1):
            for batch in self._settings.batches:
                turns = [entry for entry, size in self._measurements if size == batch]
                shuffle(turns)
                for entry in turns:
                    self._turn(entry, batch, seconds, number)
            self._rounds += 1
            self._report(self._rounds, "")

    def _turn(self, entry: _Entry, batch: int, seconds: float, number: int) -> None:
        try:
            turn = measured_turn(self._workers[entry], self._workers.values(), batch=batch, seconds=seconds)
        except WorkerError as error:
            self._remove(entry, error)
        else:
            self._measurements[entry, batch].turns.append({"round": number, **turn})

    def _remove(self, entry: _Entry, error: Exception) -> None:
        self._absent.add(entry, error)
        self._workers.pop(entry).stop()
        self._measurements = {key: value for key, value in self._measurements.items() if key[0] != entry}
