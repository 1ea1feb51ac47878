"""Contenders at one number of threads: started, checked, and timed in shuffled turns."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from . import peaks, start
from .contenders import CONTENDERS, PEERS
from .inputs import Inputs
from .process import Worker, WorkerError, measured_turn
from .quantised import UnsupportedError
from .report import agreements, head_errors
from .settings import Settings

__all__ = ["TOLERANCE", "Absent", "Entry", "Measurement", "Report", "Run"]

# Worst head error against float64 above which a result is wrong, not rounded: float32 runtimes stay below 1e-5 on any
# sane weights. What a narrow format may lose is for the accuracy tests to say.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2, "int8": 1.5e-1, "mixed": 1.5e-1}

# Of a turn that times the phases, or what the machine does at best.
_EXTRA_SECONDS = 0.2

Report = Callable[[int, str], None]
"""Told the rounds that are over, of ``len(threads) * rounds``, and what happens."""


class Entry(NamedTuple):
    """A contender at one number format."""

    contender: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.contender} {self.dtype}"


_PEAKS = Entry("peaks", "float32")


@dataclass
class Measurement:
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
class Absent:
    """Who has no rows, and why: ``skipped`` do not exist here, ``left_out`` failed or compute something else."""

    skipped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, entry: Entry, why: Exception) -> None:
        (self.skipped if isinstance(why, UnsupportedError) else self.left_out)[str(entry)] = str(why)

    def __contains__(self, entry: Entry) -> bool:
        return str(entry) in self.skipped or str(entry) in self.left_out


class Run:
    """All batch sizes and dtypes at one number of threads."""

    def __init__(
        self,
        inputs: Inputs,
        entries: Iterable[Entry],
        threads: int,
        settings: Settings,
        reference: dict[str, np.ndarray],
        absent: Absent,
        report: Report,
        rounds_before: int,
    ) -> None:
        self._inputs, self._entries, self._threads, self._settings = inputs, entries, threads, settings
        self._reference, self._absent = reference, absent
        self._report, self._rounds = report, rounds_before
        self._workers: dict[Entry, Worker] = {}
        self._measurements: dict[tuple[Entry, int], Measurement] = {}
        self._starts: dict[Entry, dict[str, Any]] = {}
        self._profiles: dict[Entry, dict[str, Any]] = {}
        self._peaks: dict[str, Any] = {}

    def measure(self) -> dict[str, list[dict[str, Any]]]:
        """Plain data for the record, by its keys."""
        try:
            self._start_peaks()
            for entry in self._entries:
                if entry not in self._absent:
                    self._report(self._rounds, f"{self._threads} threads: preparing {entry}")
                    self._admit(entry)
            self._take_turns()
        finally:
            for worker in self._workers.values():
                worker.stop()
        return {
            "peaks": [self._peaks],
            "starts": list(self._starts.values()),
            "profiles": list(self._profiles.values()),
            "measurements": [asdict(measurement) for measurement in self._measurements.values()],
        }

    def _start_peaks(self) -> None:
        log = self._inputs.folder / f"peaks-{self._threads}.log"
        worker = self._workers[_PEAKS] = Worker(["-m", peaks.__name__], {}, self._threads, log)
        answer = worker.start()
        self._peaks = {
            "threads": self._threads,
            "blas": answer["blas"],
            "copy_bytes": answer["copy_bytes"],
            "turns": [],
        }

    def _admit(self, entry: Entry) -> None:
        """Start a contender and check its results at every batch size."""
        contender = CONTENDERS[entry.contender]
        batches = [batch for batch in self._settings.batches if batch > 1 or not contender.batched_only]
        name = f"{entry.contender}-{entry.dtype}-{self._threads}"
        inputs = {"folder": str(self._inputs.folder), "device": self._inputs.device}
        job = {**entry._asdict(), **inputs, "name": name, "batches": batches}
        log = self._inputs.folder / f"{name}.log"
        worker = self._workers[entry] = Worker([str(start.__file__)], job, self._threads, log)
        try:
            ready = worker.start()
            for batch in batches:
                self._measurements[entry, batch] = Measurement(
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
            setting = {**entry._asdict(), "threads": self._threads}
            self._starts[entry] = {**setting, "group": contender.group, **ready["start"]}
            if ready["plan"]:
                self._profiles[entry] = {**setting, "plan": ready["plan"], "turns": []}
        except (WorkerError, UnsupportedError) as error:
            self._remove(entry, error)

    def _check(self, name: str, dtype: str, batch: int) -> dict[str, Any]:
        """Errors and agreement by head; WorkerError if the results are wrong: what is wrong is not timed."""
        with np.load(self._inputs.folder / f"{name}-batch{batch}.npz") as outputs:
            errors = head_errors(outputs, self._reference)
            worst = max(errors, key=errors.__getitem__)
            if errors[worst] > TOLERANCE[dtype]:
                raise WorkerError(
                    f"wrong results at batch {batch}: error of {worst} {errors[worst]:.1e}, limit {TOLERANCE[dtype]}"
                )
            return {"errors": errors, "agreement": agreements(outputs, self._reference)}

    def _take_turns(self) -> None:
        shuffle = random.Random(self._settings.seed).shuffle
        seconds = self._settings.seconds / self._settings.rounds
        extra = min(seconds, _EXTRA_SECONDS)
        for number in range(1, self._settings.rounds + 1):
            for batch in self._settings.batches:
                turns = [key for key in self._measurements if key[1] == batch]
                shuffle(turns)
                for key in turns:
                    if key in self._measurements:  # it may have failed meanwhile
                        self._turn(key[0], self._measurements[key].turns, number, batch=batch, seconds=seconds)
            for entry, profile in list(self._profiles.items()):
                self._turn(entry, profile["turns"], number, profile=extra)
            self._turn(_PEAKS, self._peaks["turns"], number, seconds=extra)
            self._rounds += 1
            self._report(self._rounds, "")

    def _turn(self, entry: Entry, turns: list[dict[str, Any]], number: int, **question: Any) -> None:
        try:
            turns.append({"round": number, **measured_turn(self._workers[entry], self._workers.values(), **question)})
        except WorkerError as error:
            if entry is _PEAKS:
                raise
            self._remove(entry, error)

    def _remove(self, entry: Entry, error: Exception) -> None:
        self._absent.add(entry, error)
        self._workers.pop(entry).stop()
        self._starts.pop(entry, None)
        self._profiles.pop(entry, None)
        self._measurements = {key: value for key, value in self._measurements.items() if key[0] != entry}
