"""The network on the device, its inputs, and how far results are from float64."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from faceattr_fast import DeviceError, FastForward
from faceattr_fast.bench.inputs import Inputs

from .store import Folder, SkippedError

__all__ = ["LIMITS", "POOL", "head_errors", "load", "pool", "reference", "require_inputs", "torch_cuda"]

#: Of the worst head against float64: docs/numerics.md's bounds of random networks.
LIMITS = {"float16": 2e-3, "bfloat16": 2e-2, "int8": 1e-1, "float32": 1e-5}


#: Different pictures; larger batches repeat them. A prime: no repetition falls together with a tile's.
POOL = 131


def torch_cuda() -> Any:
    """torch, where it sees a GPU.

    Raises:
        SkippedError: it does not, or is not there.
    """
    if find_spec("torch") is None:
        raise SkippedError("torch is not installed")
    import torch

    if not torch.cuda.is_available():
        raise SkippedError("torch sees no GPU")
    return torch


def require_inputs(folder: Folder) -> Inputs:
    """Those of the step ``inputs``."""
    if not (folder.inputs / "reference.npz").is_file():
        raise SkippedError("the step inputs has left nothing")
    return Inputs(folder.inputs, "cuda")


def load(folder: Folder, dtype: str, device: str = "cuda") -> FastForward:
    """The network of this run.

    Raises:
        SkippedError: there is no such device.
    """
    try:
        return FastForward.load(require_inputs(folder).weights(dtype), device=device, dtype=dtype)
    except DeviceError as error:
        raise SkippedError(str(error)) from error


def pool(folder: Folder, form: str, images: int) -> np.ndarray:
    """``images`` pictures, ``uint8`` or ``float32``, of which those of the pool repeat in order."""
    return np.ascontiguousarray(require_inputs(folder).test(form)[np.arange(images) % POOL])


def reference(folder: Folder, images: int) -> dict[str, np.ndarray]:
    """Float64 results of ``pool(folder, …, images)``, by head."""
    with np.load(folder.inputs / "reference.npz") as file:
        return {name: file[name][np.arange(images) % POOL] for name in file.files}


def head_errors(
    folder: Folder, found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> tuple[float, str]:
    """The largest error of a head, and which one; infinite where one is not a number.

    An error is ‖found − expected‖₂ by what ‖expected‖₂ is for as many pictures of the pool on average: the results of
    one picture may happen to be small.
    """
    worst = (0.0, "")
    for name, everything in reference(folder, POOL).items():
        value = expected[name]
        norm = np.linalg.norm(everything) * np.sqrt(len(value) / POOL)
        error = np.linalg.norm(found[name].astype(np.float64) - value) / norm
        worst = max(worst, (float(error) if np.isfinite(error) else np.inf, name))
    return worst
