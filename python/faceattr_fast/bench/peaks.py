"""What this machine does at best, as far as numpy reaches it: ``python -m faceattr_fast.bench.peaks``, in a process of
its own that takes turns with the contenders.

``sgemm_gflops``: a float32 matrix product of numpy's BLAS. That is what a very good kernel reaches, some percent below
what the multiply-add units could do. ``copy_gb_per_s``: bytes read plus bytes written by copying an array that no cache
holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .timing import Message, Turn, serve

__all__ = ["blas_name", "last_cache_bytes"]

# 2 x 1536³ = 7.2 GFLOP and three matrices of 9 MiB; packing, which grows with n², costs below 1 % of it.
_SIDE = 1536

_MIN_ARRAY, _MAX_ARRAY = 64 << 20, 1 << 30


def prepare(job: Message) -> tuple[Message, Turn]:
    """Matrices and arrays for ``job["threads"]`` threads; BLAS takes their number from the environment."""
    threads, side = job["threads"], job.get("side", _SIDE)
    a, b = (np.random.default_rng(i).standard_normal((side, side), np.float32) for i in range(2))
    product = np.empty_like(a)
    size = job.get("copy_bytes") or min(max(_MIN_ARRAY, 4 * last_cache_bytes()), _MAX_ARRAY)
    source = np.ones(size // 4, np.float32)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    pool = ThreadPoolExecutor(threads)

    def copy() -> None:
        list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))

    def turn(question: Message) -> Message:
        gemm = _rate(lambda: np.matmul(a, b, out=product), 2 * side**3, question["seconds"] / 2)
        return {"sgemm_gflops": gemm, "copy_gb_per_s": _rate(copy, 2 * source.nbytes, question["seconds"] / 2)}

    turn({"seconds": 0.0})
    return {"blas": blas_name(), "copy_bytes": source.nbytes}, turn


def _rate(call: Callable[[], object], amount: int, seconds: float) -> float:
    """The best of the calls in ``seconds``, 10⁹ per second: a peak is what happens undisturbed."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return amount / best / 1e9


def blas_name() -> str:
    """The BLAS that numpy was built with, and its version."""
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index, call-arg, unused-ignore]
        return f"{blas['name']} {blas['version']}"
    except (KeyError, TypeError):
        return "unknown"


def last_cache_bytes() -> int:
    """The largest cache that the first CPU sees; 0 where the system does not say."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text or 0))
    return max(sizes)


if __name__ == "__main__":
    serve(prepare)
