"""One contender in a process of its own: ``python -m faceattr_fast.bench.worker``, driven over its pipes.

Each message is one line of JSON. First comes the job, answered by ``ready`` or ``failed``; then turns, answered by the
seconds per image of every timed call. The end of standard input ends the process.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from .contenders import CONTENDERS, Prepared
from .inputs import Inputs


def main() -> None:
    # Runtimes print. The pipe is ours alone: it moves to another descriptor, and prints go to standard error.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=pipe, flush=True)

    job = json.loads(sys.stdin.readline())
    try:
        prepared = {batch: _prepare(job, batch) for batch in job["batches"]}
    except Exception as error:  # any runtime, any failure: this contender's alone
        answer({"failed": f"{type(error).__name__}: {error}"})
        return
    settings = {batch: ready.settings for batch, ready in prepared.items()}
    answer({"ready": True, "version": _version(CONTENDERS[job["contender"]].packages[0]), "settings": settings})
    for line in sys.stdin:
        turn = json.loads(line)
        answer({"seconds_per_image": time_calls(prepared[turn["batch"]], turn["seconds"])})


def time_calls(prepared: Prepared, seconds: float) -> list[float]:
    """Seconds per image of each call until ``seconds`` are over, one call at least; the first one is not counted."""
    prepared.call()  # wakes threads and brings weights back into the caches
    samples: list[float] = []
    gc.collect()
    gc.disable()
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        started = time.perf_counter()
        prepared.call()
        samples.append((time.perf_counter() - started) / prepared.images)
    gc.enable()
    return samples


def _prepare(job: dict[str, Any], batch: int) -> Prepared:
    """Ready and warm; its results lie where the parent checks them."""
    prepared = CONTENDERS[job["contender"]].prepare(Inputs(Path(job["folder"]), job["dtype"]), job["threads"], batch)
    for _ in range(2):
        prepared.call()
    outputs = {name: np.asarray(value) for name, value in prepared.outputs().items()}
    np.savez(Path(job["folder"], f"{job['contender']}-batch{batch}.npz"), **outputs)  # type: ignore[arg-type]
    return prepared


def _version(distribution: str) -> str:
    return __version__ if distribution == "faceattr_fast" else version(distribution)


if __name__ == "__main__":
    main()
