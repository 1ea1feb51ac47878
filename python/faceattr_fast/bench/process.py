"""The parent's end of a worker process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .inputs import Inputs

__all__ = ["Worker", "WorkerError", "machine_cpu_seconds"]

# Compilers among the contenders take minutes on a busy machine.
_START_SECONDS, _TURN_SECONDS = 900.0, 300.0


class WorkerError(RuntimeError):
    """A contender failed, died, does not answer, or computes something else."""


class Worker:
    """One contender, waiting for its turns. Uses no CPU while it waits."""

    def __init__(self, contender: str, inputs: Inputs, threads: int, batches: Sequence[int]) -> None:
        self._job = {
            "contender": contender, "folder": str(inputs.folder), "dtype": inputs.dtype,
            "threads": threads, "batches": list(batches),
        }  # fmt: skip
        self._log = inputs.folder / f"{contender}-{threads}.log"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # the worker imports what this process would
            "OMP_NUM_THREADS": str(threads),  # else OpenMP pools have a thread for each CPU
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"{__package__}.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
            )  # fmt: skip

    def start(self) -> dict[str, Any]:
        """Prepare every batch size; its results are files when this returns."""
        return self._ask(self._job, _START_SECONDS)

    def turn(self, batch: int, seconds: float) -> list[float]:
        """Seconds per image of each call."""
        answer = self._ask({"batch": batch, "seconds": seconds}, seconds + _TURN_SECONDS)
        samples: list[float] = answer["seconds_per_image"]
        return samples

    def cpu_seconds(self) -> float:
        """CPU time used so far; 0 where the system does not say."""
        try:
            own = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(own[11]) + int(own[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process; safe to call more than once."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            print(json.dumps(message), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerError(self._death()) from None
        # One answer per question, so nothing of it can wait in the reader's buffer.
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise WorkerError(f"no answer within {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._death())
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise WorkerError(answer["failed"])
        return answer

    def _death(self) -> str:
        code = self._process.wait()
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"its process ended with code {code}" + (f": {lines[-1]}" if lines else "")


def machine_cpu_seconds() -> float:
    """CPU time that the whole machine has used so far; 0 where the system does not say."""
    try:
        ticks = [int(text) for text in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
    except (OSError, ValueError):
        return 0.0
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # less idle and waiting for input
