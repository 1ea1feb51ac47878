"""One contender in a process of its own: ``python -m faceattr_fast.bench.worker``, driven over its pipes."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .contenders import CONTENDERS
from .inputs import Inputs, chunks_of
from .prepared import Prepared
from .quantised import UnsupportedError
from .source import source_version
from .timing import Message, Turn, serve, time_calls


def prepare(job: Message) -> tuple[Message, Turn]:
    """Every batch size, ready and warm; the results lie where the parent checks them."""
    contender, inputs = CONTENDERS[job["contender"]], Inputs(Path(job["folder"]))
    prepared: dict[int, Prepared] = {}
    for batch in job["batches"]:
        ready = prepared[batch] = contender.prepare(inputs, job["dtype"], job["threads"], batch)
        for _ in range(2):
            ready.call()
        outputs: dict[str, Any] = run_test_crops(ready, inputs)
        np.savez(inputs.folder / f"{job['name']}-batch{batch}.npz", **outputs)

    def turn(question: Message) -> Message:
        ready = prepared[question["batch"]]
        return {"seconds_per_image": time_calls(ready.call, ready.images, question["seconds"])}

    runtime = contender.packages[0]
    answer = {
        "version": source_version()["version"] if runtime == "faceattr_fast" else version(runtime),
        "settings": {batch: ready.settings for batch, ready in prepared.items()},
    }
    return answer, turn


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


if __name__ == "__main__":
    serve(prepare, (UnsupportedError,))
