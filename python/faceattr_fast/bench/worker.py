"""One contender in a process of its own, which :mod:`.start` starts; driven over its pipes."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .contenders import CONTENDERS
from .inputs import Inputs, chunks_of
from .prepared import Prepared
from .quantised import UnsupportedError
from .source import source_version
from .start import resident_bytes
from .timing import Message, Turn, serve, time_calls


def main(package_bytes: int) -> None:
    """Serve one contender.

    Args:
        package_bytes: what importing this package made resident, the benchmark's own modules aside.
    """
    before = resident_bytes()
    serve(lambda job: prepare(job, {"bare": before - package_bytes, "before": before}), (UnsupportedError,))


def prepare(job: Message, resident: dict[str, int]) -> tuple[Message, Turn]:
    """Every batch size, ready and warm; the results lie where the parent checks them.

    ``start`` of the answer is about the first batch size, for which everything is loaded: seconds from the start of the
    process to the first result, and resident bytes, of which the ``bare`` ones are the interpreter's, numpy's and the
    benchmark's, and those ``before`` a runtime was imported include this package's.
    """
    contender, inputs = CONTENDERS[job["contender"]], Inputs(Path(job["folder"]), job["device"])
    prepared: dict[int, Prepared] = {}
    start: Message = {}
    for batch in job["batches"]:
        ready = prepared[batch] = contender.prepare(inputs, job["dtype"], job["threads"], batch)
        loaded = resident_bytes()
        ready.call()
        seconds = time.monotonic() - job["started"]
        ready.call()
        if not start:
            start = {"batch": batch, "seconds": seconds, **resident, "loaded": loaded, "ran": resident_bytes()}
        outputs: dict[str, Any] = run_test_crops(ready, inputs)
        np.savez(inputs.folder / f"{job['name']}-batch{batch}.npz", **outputs)
    first = prepared[job["batches"][0]]

    def turn(question: Message) -> Message:
        if "profile" in question:
            assert first.profile
            return {"phase_seconds": median_profile(first.profile, question["profile"])}
        ready = prepared[question["batch"]]
        return {"seconds_per_image": time_calls(ready.call, ready.images, question["seconds"])}

    runtime = contender.packages[0]
    answer = {
        "version": source_version()["version"] if runtime == "faceattr_fast" else version(runtime),
        "settings": {batch: ready.settings for batch, ready in prepared.items()},
        "start": start,
        "plan": first.plan() if first.plan else None,  # not before memory was looked at: others tell no plans
    }
    return answer, turn


def median_profile(profile: Callable[[], list[float]], seconds: float) -> list[float]:
    """By phase the median of all runs in ``seconds``, of one at least."""
    runs: list[list[float]] = []
    end = time.perf_counter() + seconds
    while not runs or time.perf_counter() < end:
        runs.append(profile())
    medians: list[float] = np.median(runs, axis=0).tolist()
    return medians


def run_test_crops(prepared: Prepared, inputs: Inputs) -> dict[str, np.ndarray]:
    """Results by head for all test crops, by the very call that is timed."""
    test = inputs.test(prepared.pixels.dtype.name)
    first = prepared.pixels.copy()
    parts: dict[str, list[np.ndarray]] = {}
    for chunk in chunks_of(test, len(first)):
        prepared.pixels[:] = chunk
        prepared.call()
        for name, value in prepared.outputs().items():
            parts.setdefault(name, []).append(np.array(value))
    prepared.pixels[:] = first
    return {name: np.concatenate(chunks)[: len(test)] for name, chunks in parts.items()}
