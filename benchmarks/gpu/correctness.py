"""Step: results on fresh inputs, whatever the batch, format, stream and company."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from faceattr_fast import FastForward

from .network import LIMITS, POOL, head_errors, load, pool, reference, require_inputs, torch_cuda
from .store import FailedError, Folder, SkippedError, Step, is_emulated

__all__ = ["run"]

# Around tiles, the engine's graphs (up to 64) and its parts of host arrays (128), and one large batch.
BATCHES = (1, 2, 3, 8, 33, 64, 131, 133, 1024)
FEW = (1, 3, 133)  # of float32 pixels and of the slow float32 kernels
EMULATED = (1, 2)

# int8: maps are equal, bit for bit; float32 sums behind them are added in another order.
CPU_LIMIT = 2e-6

Results = dict[str, np.ndarray]


def run(folder: Folder, step: Step) -> None:
    require_inputs(folder)
    step.set(seed=folder.seed)
    for dtype in ("float16", "int8", "bfloat16", "float32"):
        fast = load(folder, dtype)
        check = _Check(folder, step, fast)
        batches = EMULATED if is_emulated() else FEW if dtype == "float32" else BATCHES
        for batch in batches:
            check.host(batch, "uint8")
        for batch in [batch for batch in (EMULATED if is_emulated() else FEW) if batch in batches]:
            check.host(batch, "float32")
        check.two_threads(3 if is_emulated() else 33)
        if dtype == "int8":
            check.against_cpu(2 if is_emulated() else 33)
        try:
            torch = torch_cuda()
        except SkippedError as error:
            step.set(device_arrays=f"not checked: {error}")
        else:
            for batch in (1, 33, 133):
                check.device(torch, batch)
    wrong = [row for row in step.data["checks"] if not row["passed"]]
    if wrong:
        raise FailedError(f"{len(wrong)} of {len(step.data['checks'])} checks; the first is {wrong[0]}")


class _Check:
    """Of one format."""

    def __init__(self, folder: Folder, step: Step, fast: FastForward) -> None:
        self._folder, self._step, self._fast = folder, step, fast

    def host(self, batch: int, form: str) -> None:
        """Arrays of the host, into outputs that are NaN before, three times."""
        pixels, expected = pool(self._folder, form, batch), reference(self._folder, batch)
        runs = []
        for _ in range(3):
            out = {name: np.full(value.shape, np.nan, np.float32) for name, value in expected.items()}
            self._fast(pixels, out=out)
            runs.append(out)
        self._error("host arrays", batch, form, runs[0], expected)
        self._bits("three runs", batch, form, runs)
        if batch == 1024:  # in parts of one size: a picture that comes again gives the same bits
            again = np.arange(POOL, batch)
            self._bits(
                "place in the batch",
                batch,
                form,
                [{name: value[order] for name, value in runs[0].items()} for order in (again - POOL, again)],
            )

    def two_threads(self, batch: int) -> None:
        """Two callers at once get what each would alone."""
        halves = [pool(self._folder, "uint8", 2 * batch)[i * batch :][:batch].copy() for i in range(2)]
        alone = [dict(self._fast(half)) for half in halves]
        with ThreadPoolExecutor(2) as threads:
            for found, expected in zip(
                threads.map(lambda i: dict(self._fast(halves[i % 2])), range(8)), 4 * alone, strict=True
            ):
                self._bits("two threads", batch, "uint8", [found, expected])

    def against_cpu(self, batch: int) -> None:
        """The same integers as the CPU engine."""
        cpu = load(self._folder, "int8", "cpu")
        pixels = pool(self._folder, "uint8", batch)
        found, expected = self._fast(pixels), {name: value.astype(np.float64) for name, value in cpu(pixels).items()}
        self._error("the CPU engine", batch, "uint8", found, expected, CPU_LIMIT)
        for branch in self._fast.spec.branches[1:-2]:  # maps; what comes later is made of float32 sums
            maps = [dict(fast.features(pixels[:2], branch)) for fast in (self._fast, cpu)]
            self._bits(f"maps of {branch} as on the CPU", 2, "uint8", maps)

    def device(self, torch: Any, batch: int) -> None:
        """Arrays of the device: strided pixels, outputs of NaN, odd streams, two at once, the caller's graph."""
        expected = reference(self._folder, batch)
        pixels = torch.from_numpy(pool(self._folder, "uint8", batch)).cuda()
        shapes = {name: value.shape for name, value in expected.items()}

        def poisoned() -> dict[str, Any]:
            return {name: torch.full(shape, float("nan"), device="cuda") for name, shape in shapes.items()}

        def host(out: Mapping[str, Any]) -> Results:
            torch.cuda.synchronize()
            return {name: torch.as_tensor(value).cpu().numpy() for name, value in out.items()}

        first = host(self._fast(pixels, out=poisoned()))
        self._error("device arrays", batch, "uint8", first, expected)
        wide = torch.empty((2 * batch, *pixels.shape[1:]), dtype=torch.uint8, device="cuda")
        wide[::2] = pixels
        self._bits("strided pixels", batch, "uint8", [first, host(self._fast(wide[::2], out=poisoned()))])

        streams = [torch.cuda.Stream(), torch.cuda.Stream(priority=-1)]
        for stream in (*streams, torch.cuda.default_stream()):
            with torch.cuda.stream(stream):
                out = poisoned()
                self._fast(pixels, out=out)
            self._bits("another stream", batch, "uint8", [first, host(out)])
        outs: list[dict[str, Any]] = []
        torch.cuda.synchronize()
        for i in range(8):  # the device works on both at once
            with torch.cuda.stream(streams[i % 2]):
                outs.append(poisoned())
                self._fast(pixels, out=outs[-1])
        self._bits("two streams at once", batch, "uint8", [first, *map(host, outs)])

        out = poisoned()
        call = captured(torch, lambda: self._fast(pixels, out=out))
        for value in out.values():
            value.fill_(float("nan"))
        call()
        self._bits("the caller's graph", batch, "uint8", [first, host(out)])

    def _error(self, what: str, batch: int, form: str, found: Mapping[str, np.ndarray], expected: Results,
               limit: float | None = None) -> None:  # fmt: skip
        limit = LIMITS[self._fast.dtype] if limit is None else limit
        error, head = head_errors(self._folder, found, expected)
        finite = np.isfinite(error)
        self._row(what, batch, form, error <= limit, error=error if finite else "not finite", head=head, limit=limit)

    def _bits(self, what: str, batch: int, form: str, runs: list[Any]) -> None:
        """All the same, and numbers."""
        differing = sorted({
            name for run in runs for name in runs[0]
            if run[name].tobytes() != runs[0][name].tobytes() or not np.isfinite(run[name]).all()
        })  # fmt: skip
        self._row(f"{what}: bits", batch, form, not differing, differing=differing)

    def _row(self, what: str, batch: int, form: str, passed: bool, **more: Any) -> None:
        self._step.add("checks", {"check": what, "dtype": self._fast.dtype, "batch": batch, "pixels": form,
                                  "passed": bool(passed), **more})  # fmt: skip


def captured(torch: Any, call: Callable[[], object]) -> Callable[[], None]:
    """``call`` as a graph of CUDA: gives it to the current stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Callable[[], None] = graph.replay
    return replay
