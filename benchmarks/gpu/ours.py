"""Step: how fast this package is, by batch and format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from faceattr_fast import FastForward

from .correctness import captured
from .network import LIMITS, head_errors, load, pool, reference, require_inputs, torch_cuda
from .record import clocks
from .store import Folder, Step
from .timing import time_device, time_host

__all__ = ["BATCHES", "FEW", "input_sets", "is_right", "measure", "run"]

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
FEW = (1, 64, 1024)  # of what takes long, or matters less
PEER_LIMIT = 1e-2  # a peer may add in float16
_SECONDS = 0.35  # of a row; some 90 rows fit into the step's limit


def run(folder: Folder, step: Step) -> None:
    torch = torch_cuda()
    require_inputs(folder)
    step.set(clocks_before=clocks())
    for dtype in ("float16", "int8", "bfloat16"):
        _format(torch, folder, step, load(folder, dtype))
    step.set(clocks_after=clocks())


def _format(torch: Any, folder: Folder, step: Step, fast: FastForward) -> None:
    plan, row = fast.describe(), {"contender": "faceattr_fast", "form": "rewritten", "dtype": fast.dtype}
    step.set(**{
        f"plan_{fast.dtype}": {
            "multiply_adds_as_given": plan.multiply_adds_as_given, "multiply_adds": plan.multiply_adds, "isa": fast.isa
        }
    })  # fmt: skip
    for batch in BATCHES if fast.dtype != "bfloat16" else FEW:
        out = {name: torch.empty(value.shape, device="cuda") for name, value in reference(folder, batch).items()}
        calls = [partial(fast, pixels, out) for pixels in input_sets(torch, folder, batch)]
        measure(torch, folder, step, {**row, "batch": batch}, calls, lambda out=out: out)
    for batch in FEW:
        times = time_host(partial(fast, pool(folder, "uint8", batch)), _SECONDS)
        step.add("rows", {**row, "batch": batch, "how": "host arrays", "clock": "host", "seconds": times})


def input_sets(torch: Any, folder: Folder, batch: int) -> list[Any]:
    """Four batches of uint8 pixels on the device, to be read in turn: what one call has read is no help to the next one
    where a batch is larger than a quarter of the cache."""
    pixels = torch.from_numpy(pool(folder, "uint8", batch)).cuda()
    return [pixels.roll(i, 0) if i else pixels for i in range(4)]


def measure(
    torch: Any,
    folder: Folder,
    step: Step,
    row: dict[str, Any],
    calls: list[Callable[[], Any]],
    out: Callable[[], Mapping[str, Any]],
) -> None:
    """Add what a contender takes: called as it is, and as graphs of CUDA that the caller captured; for one image also
    with a cache that holds nothing, and until the host knows that it is over. What is wrong is left out.

    Args:
        row: who it is; format and batch.
        calls: one per input set, the first of which is the pool in order.
        out: where the first call has left its results: tensors by head.
    """
    batch = row["batch"]
    for how, make in (("call", lambda call: call), ("graph", partial(captured, torch))):
        made = [make(call) for call in calls]
        made[0]()
        torch.cuda.synchronize()
        common = {**row, "how": how}
        if not is_right(folder, step, common, {name: value.float().cpu().numpy() for name, value in out().items()}):
            continue
        turn = _taking_turns(made)
        times = {
            "device": time_device(turn, _SECONDS),
            "device, back to back": time_device(turn, _SECONDS, one=False),
        }
        if batch == 1:
            times["device, cache flushed"] = time_device(turn, _SECONDS, flushed=True)
            times["host"] = time_host(lambda turn=turn: (turn(), torch.cuda.synchronize()), _SECONDS)
        for clock, seconds in times.items():
            step.add("rows", {**common, "clock": clock, "seconds": seconds})


def is_right(folder: Folder, step: Step, row: dict[str, Any], results: Mapping[str, np.ndarray]) -> bool:
    """Add error and head to ``row``; list it among what was left out, if the error is too large."""
    error, head = head_errors(folder, results, reference(folder, row["batch"]))
    limit = max(LIMITS[row["dtype"]], PEER_LIMIT)
    row |= {"error": error if np.isfinite(error) else "not finite", "head": head}
    if error <= limit:
        return True
    step.add("left_out", {**row, "limit": limit})
    return False


def _taking_turns(calls: list[Callable[[], Any]]) -> Callable[[], None]:
    count = 0

    def call() -> None:
        nonlocal count
        calls[count % len(calls)]()
        count += 1

    return call
