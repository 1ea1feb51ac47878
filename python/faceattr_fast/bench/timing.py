"""The worker's end of its pipes, and its clock. Imports nothing of this package: ``benchmarks/ab.py`` runs it beside
versions of the package that know nothing of it.

Each message is one line of JSON. First comes the job, answered by ``ready``, ``unsupported`` or ``failed``; then one
turn per line, each answered. The end of standard input ends the process.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["serve", "time_calls"]

Message = dict[str, Any]
Turn = Callable[[Message], Message]


def serve(prepare: Callable[[Message], tuple[Message, Turn]], unsupported: tuple[type[Exception], ...] = ()) -> None:
    """Answer until the parent closes the pipe.

    Args:
        prepare: job → (answer, what answers the turns).
        unsupported: what it raises where the job is not for this contender or machine, which is no failure.
    """
    # Runtimes print. The pipe is ours alone: it moves to another descriptor, and prints go to standard error.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: Message) -> None:
        print(json.dumps(message), file=pipe, flush=True)

    try:
        ready, turn = prepare(json.loads(sys.stdin.readline()))
    except unsupported as error:
        answer({"unsupported": str(error)})
        return
    except Exception as error:  # any runtime, any failure: this contender's alone
        answer({"failed": f"{type(error).__name__}: {error}"})
        return
    answer({"ready": True, **ready})
    for line in sys.stdin:
        answer(turn(json.loads(line)))


def time_calls(call: Callable[[], object], images: int, seconds: float) -> list[float]:
    """Seconds per image of each call until ``seconds`` are over, one call at least; the first one is not counted.

    Args:
        images: per call.
    """
    call()  # wakes threads and brings weights back into the caches
    samples: list[float] = []
    gc.collect()
    gc.disable()
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        samples.append((time.perf_counter() - started) / images)
    gc.enable()
    return samples
