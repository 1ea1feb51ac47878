"""Step: what this device can do at most, by kernels of our own and by torch's matrix products."""

from __future__ import annotations

import subprocess

from .build import program
from .network import torch_cuda
from .record import require_gpu
from .store import FailedError, Folder, SkippedError, Step

__all__ = ["run"]


def run(folder: Folder, step: Step) -> None:
    require_gpu()
    try:
        torch = torch_cuda()
    except SkippedError as error:
        step.set(products=f"not measured: {error}")
    else:
        _products(torch, step)
    done = subprocess.run([str(program(folder, "cuda_rates_device"))], capture_output=True, text=True)
    for line in done.stdout.splitlines():
        name, value, unit = line.split(" ")
        step.add("rates", {"name": name, "value": float(value), "unit": unit})
    if done.returncode != 0:
        raise FailedError(f"cuda_rates_device: {done.stderr[-1500:]}")


def _products(torch, step: Step, size: int = 8192) -> None:  # type: ignore[no-untyped-def]
    """Square matrix products: what the tensor cores reach in a library that is tuned for them."""
    from .timing import time_device

    for dtype in (torch.float16, torch.bfloat16):
        a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
        c = torch.empty_like(a)
        times = time_device(lambda a=a, b=b, c=c: torch.mm(a, b, out=c), seconds=1)
        name = f"torch_matmul_{str(dtype).removeprefix('torch.')}_{size}"
        step.add("rates", {"name": name, "value": 2e-12 * size**3 / times["median"], "unit": "TFLOP/s"})
