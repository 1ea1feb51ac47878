"""The run itself: worker processes, shuffled turns, the record."""

from __future__ import annotations

import datetime
import hashlib
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..forward import FastForward
from .contenders import CONTENDERS, PEERS, Contender
from .inputs import Inputs, write_inputs
from .machine import PROVIDERS, describe_machine, installed
from .process import Worker, WorkerError, machine_cpu_seconds
from .report import make_rows, worst_error

__all__ = ["Settings", "run_benchmark"]

# Worst head error against float64 above which a result is wrong, not rounded: float32 runtimes stay below 1e-5 on any
# sane weights. Other formats of ours round more; what they may lose is for the accuracy tests to say.
_TOLERANCE = {"float32": 1e-4}
_NARROW_TOLERANCE = 0.1

_TURN_SECONDS = 0.4
# The thread pools of the contender before spin for some milliseconds after its last call.
_PAUSE_SECONDS = 0.05

Report = Callable[[int, str], None]
"""Told the rounds that are over, of ``len(threads) * rounds``, and what happens."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        batches, threads: every pair of them.
        dtype: of ``faceattr_fast``; peers run float32.
        peers: groups of contenders, see ``PEERS``.
        seconds: timed per contender, batch and threads.
        seed: of the pixels and of the order of turns.
    """

    batches: tuple[int, ...] = (1, 32)
    threads: tuple[int, ...] = (1,)
    dtype: str = "float32"
    peers: tuple[str, ...] = ("onnxruntime", "openvino", "torch")
    seconds: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batches", "threads"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) != len(values):
                raise ValueError(f"{name} must be different positive integers, got {values}")
        for peer in self.peers:
            if peer not in PEERS:
                raise ValueError(f"unknown peer {peer!r}: there are {', '.join(PEERS)}")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds must be positive, got {self.seconds}")

    @property
    def rounds(self) -> int:
        """Turns of each contender: several even in a short run, so that none has all of a bad moment."""
        return max(3, round(self.seconds / _TURN_SECONDS))


@dataclass
class _Measurement:
    """One contender at one batch size and number of threads; ``turns`` hold every sample, in order."""

    contender: str
    group: str
    peer: bool
    threads: int
    batch: int
    version: str
    settings: str
    worst_error: float
    turns: list[dict[str, Any]] = field(default_factory=list)


def run_benchmark(weights: Path, settings: Settings, report: Report = lambda rounds, line: None) -> dict[str, Any]:
    """Measure ``faceattr_fast`` and its peers.

    Args:
        weights: weights file; its values do not matter for the speed.
        settings: what is measured.
        report: called whenever something happens.

    Returns:
        The record, plain data for JSON: machine, versions, settings, every sample, rows; ``left_out`` says by
        contender why it was not timed: not installed, failed, or results that are wrong.
    """
    fast = FastForward.load(weights, dtype=settings.dtype, threads=1)
    description = fast.describe()
    left_out: dict[str, str] = {}
    contenders = _present(settings, left_out)
    measurements: list[_Measurement] = []
    with tempfile.TemporaryDirectory(prefix="faceattr-bench-") as folder:
        inputs = Inputs(Path(folder), settings.dtype)
        report(0, "writing pixels and models, computing float64 results")
        onnx = any(contender.needs_onnx for contender in contenders.values())
        reference = write_inputs(inputs, weights, settings.batches, onnx, settings.seed)
        for i, threads in enumerate(settings.threads):
            run = _Run(inputs, contenders, threads, settings, reference, left_out, report, i * settings.rounds)
            measurements += run.measure()
    measured = [asdict(measurement) for measurement in measurements]
    packages = {contender.packages[0] for contender in contenders.values()} - {"faceattr_fast"} | {"numpy"}
    return {
        "format": 1,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine() | {"isa_used": fast.isa},
        "versions": {"faceattr_fast": __version__} | {name: installed((name,)) for name in sorted(packages)},
        "settings": asdict(settings),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "plan": description.hash,
        "multiply_adds_as_given": description.multiply_adds_as_given,
        "products_executed": description.products,
        "left_out": left_out,
        "rows": [asdict(row) for row in make_rows(measured, description.multiply_adds_as_given)],
        "measurements": measured,
    }


def _present(settings: Settings, left_out: dict[str, str]) -> dict[str, Contender]:
    """Those that take part: ours, and the peers asked for whose packages are installed."""
    chosen = {name: c for name, c in CONTENDERS.items() if c.group not in PEERS or c.group in settings.peers}
    for name, contender in list(chosen.items()):
        missing = [p for p in contender.packages if p != "faceattr_fast" and installed(PROVIDERS.get(p, (p,))) is None]
        if missing:
            left_out[name] = f"{', '.join(missing)} not installed: pip install 'faceattr_fast[bench]'"
            del chosen[name]
        elif contender.batched_only and max(settings.batches) == 1:
            del chosen[name]
    return chosen


class _Run:
    """All batch sizes at one number of threads."""

    def __init__(
        self,
        inputs: Inputs,
        contenders: dict[str, Contender],
        threads: int,
        settings: Settings,
        reference: dict[str, np.ndarray],
        left_out: dict[str, str],
        report: Report,
        rounds_before: int,
    ) -> None:
        self._inputs, self._contenders, self._threads, self._settings = inputs, contenders, threads, settings
        self._reference, self._left_out = reference, left_out
        self._report, self._rounds = report, rounds_before
        self._workers: dict[str, Worker] = {}
        self._measurements: dict[tuple[str, int], _Measurement] = {}

    def measure(self) -> list[_Measurement]:
        try:
            for name in self._contenders:
                self._report(self._rounds, f"{self._threads} threads: preparing {name}")
                self._admit(name)
            self._take_turns()
        finally:
            for worker in self._workers.values():
                worker.stop()
        return list(self._measurements.values())

    def _admit(self, name: str) -> None:
        """Start a contender and check its results at every batch size."""
        contender = self._contenders[name]
        batches = [batch for batch in self._settings.batches if batch > 1 or not contender.batched_only]
        worker = self._workers[name] = Worker(name, self._inputs, self._threads, batches)
        try:
            ready = worker.start()
            for batch in batches:
                self._measurements[name, batch] = _Measurement(
                    contender=name,
                    group=contender.group,
                    peer=contender.group in PEERS,
                    threads=self._threads,
                    batch=batch,
                    version=ready["version"],
                    settings=ready["settings"][str(batch)],
                    worst_error=self._check(name, batch),
                )
        except WorkerError as error:
            self._leave_out(name, error)

    def _check(self, name: str, batch: int) -> float:
        """The worst head error; WorkerError if the results are wrong: what is wrong is not timed."""
        with np.load(self._inputs.folder / f"{name}-batch{batch}.npz") as outputs:
            error = worst_error(outputs, {head: value[:batch] for head, value in self._reference.items()})
        peer = self._contenders[name].group in PEERS
        limit = _TOLERANCE.get("float32" if peer else self._inputs.dtype, _NARROW_TOLERANCE)
        if error > limit:
            raise WorkerError(f"wrong results at batch {batch}: worst head error {error:.1e}, limit {limit:.0e}")
        return error

    def _take_turns(self) -> None:
        shuffle = random.Random(self._settings.seed).shuffle
        seconds = self._settings.seconds / self._settings.rounds
        for number in range(1, self._settings.rounds + 1):
            for batch in self._settings.batches:
                turns = [name for name, size in self._measurements if size == batch]
                shuffle(turns)
                for name in turns:
                    time.sleep(_PAUSE_SECONDS)
                    try:
                        turn = self._turn(name, batch, seconds)
                    except WorkerError as error:
                        self._leave_out(name, error)
                    else:
                        self._measurements[name, batch].turns.append({"round": number, **turn})
            self._rounds += 1
            self._report(self._rounds, "")

    def _turn(self, name: str, batch: int, seconds: float) -> dict[str, Any]:
        """Every sample, and how many CPUs were taken meanwhile: by contenders that wait, which should be none, and by
        programs that have nothing to do with this run."""
        others = [worker for other, worker in self._workers.items() if other != name]

        def used() -> np.ndarray:
            waiting, own = sum(worker.cpu_seconds() for worker in others), self._workers[name].cpu_seconds()
            return np.array([time.perf_counter(), waiting, machine_cpu_seconds() - waiting - own])

        before = used()
        samples = self._workers[name].turn(batch, seconds)
        elapsed, waiting, foreign = (used() - before).tolist()
        return {
            "seconds_per_image": samples,
            "cpus_of_waiting": round(waiting / elapsed, 3),
            "cpus_of_others": round(max(0.0, foreign) / elapsed, 3),
        }

    def _leave_out(self, name: str, error: WorkerError) -> None:
        self._left_out[name] = str(error)
        self._workers.pop(name).stop()
        self._measurements = {key: value for key, value in self._measurements.items() if key[0] != name}
