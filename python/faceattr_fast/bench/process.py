"""The parent's end of a worker process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..machine import machine_cpu_seconds
from .quantised import UnsupportedError

__all__ = ["Worker", "WorkerError", "measured_turn"]

# The thread pools of the contender before spin for some milliseconds after its last call.
_PAUSE_SECONDS = 0.05

# Compilers among the contenders take minutes on a busy machine.
_START_SECONDS, _TURN_SECONDS = 900.0, 300.0


class WorkerError(RuntimeError):
    """A contender failed, died, does not answer, or computes something else."""


class Worker:
    """A process that waits for its turns and uses no CPU meanwhile.

    Args:
        command: arguments of the Python interpreter.
        job: its first message.
        threads: of whatever it runs.
        log: file for what it prints.
        path: folders that it imports from; None: those of this process.
    """

    def __init__(
        self, command: Sequence[str], job: Mapping[str, Any], threads: int, log: Path, path: Sequence[str] | None = None
    ) -> None:
        self._log = log
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path if path is None else path)),
            "OMP_NUM_THREADS": str(threads),  # else the pools of OpenMP and OpenBLAS have a thread for each CPU
        }
        self._job = {**job, "threads": threads, "started": time.monotonic()}  # one clock for all processes
        with self._log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-P", *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True, env=environment,
            )  # fmt: skip

    def start(self) -> dict[str, Any]:
        """Its answer to the job: everything is ready for turns."""
        return self._ask(self._job, _START_SECONDS)

    def turn(self, **question: Any) -> dict[str, Any]:
        """One turn, as the question describes it, and its answer."""
        return self._ask(question, question.get("seconds", 0.0) + _TURN_SECONDS)

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
        if "unsupported" in answer:
            raise UnsupportedError(answer["unsupported"])
        return answer

    def _death(self) -> str:
        code = self._process.wait()
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"its process ended with code {code}" + (f": {lines[-1]}" if lines else "")


def measured_turn(worker: Worker, waiting: Iterable[Worker], **question: Any) -> dict[str, Any]:
    """A turn's answer, and how many CPUs were taken meanwhile: by workers that wait, which should be none, and by
    programs that have nothing to do with this run."""
    time.sleep(_PAUSE_SECONDS)
    others = [other for other in waiting if other is not worker]

    def used() -> tuple[float, float, float]:
        idle = sum(other.cpu_seconds() for other in others)
        return time.perf_counter(), idle, machine_cpu_seconds() - idle - worker.cpu_seconds()

    before = used()
    answer = worker.turn(**question)
    elapsed, idle, foreign = (after - start for after, start in zip(used(), before, strict=True))
    return {
        **answer,
        "cpus_of_waiting": round(idle / elapsed, 3),
        "cpus_of_others": round(max(0.0, foreign) / elapsed, 3),
    }
