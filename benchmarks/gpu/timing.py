"""How long work takes on the device, by CUDA's events, and until the host has its results; needs torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

__all__ = ["spread", "time_device", "time_host"]

_REPEATS = 5
_WARM_UPS = 20
_FLUSH_BYTES = 256 << 20  # more than any second-level cache


def time_device(
    call: Callable[[], object], seconds: float = 1.0, *, flushed: bool = False, one: bool = True
) -> dict[str, Any]:
    """Seconds of one call, from event to event on torch's current stream.

    Five repeats of up to 200 calls each, as many as ``seconds`` allow, at least 6 of each.

    Args:
        call: gives work to the current stream; does not wait.
        flushed: the second-level cache is overwritten before each call.
        one: events around each call; else around all of a repeat, without pauses between calls.

    Returns:
        ``min``, ``median`` and ``max`` of the repeats' medians, ``calls`` per repeat.
    """
    import torch

    waste = torch.empty(_FLUSH_BYTES if flushed else 1, dtype=torch.uint8, device="cuda")
    for _ in range(_WARM_UPS):
        call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    calls = int(min(200, max(6, seconds / _REPEATS / (time.perf_counter() - started + (2e-4 if flushed else 0)))))
    medians = []
    for _ in range(_REPEATS):
        pairs = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(calls if one else 1)
        ]
        for begin, end in pairs:
            if flushed:
                waste.zero_()
            begin.record()
            for _ in range(1 if one else calls):
                call()
            end.record()
        torch.cuda.synchronize()
        medians.append(
            statistics.median(begin.elapsed_time(end) / (1e3 if one else 1e3 * calls) for begin, end in pairs)
        )
    return {**spread(medians), "calls": calls}


def time_host(call: Callable[[], object], seconds: float = 1.0) -> dict[str, Any]:
    """Seconds of one call by the host's clock; ``call`` returns when its results are there."""
    for _ in range(_WARM_UPS):
        call()
    medians, calls = [], 0
    for _ in range(_REPEATS):
        samples: list[float] = []
        end = time.perf_counter() + seconds / _REPEATS
        while len(samples) < 6 or (time.perf_counter() < end and len(samples) < 200):
            started = time.perf_counter()
            call()
            samples.append(time.perf_counter() - started)
        medians.append(statistics.median(samples))
        calls = len(samples)
    return {**spread(medians), "calls": calls}


def spread(medians: list[float]) -> dict[str, float]:
    return {"min": min(medians), "median": statistics.median(medians), "max": max(medians)}
