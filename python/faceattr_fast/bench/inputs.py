"""What all contenders share: pixels, weights, ONNX models; and the float64 results that each of them has to meet."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..weights import Weights, read_weights

if TYPE_CHECKING:
    from ..reference import FaceAttrNet

__all__ = ["Inputs", "attribute_net", "float64_reference", "write_inputs"]

_CHUNK = 4  # images at once in float64, which takes much memory


@dataclass(frozen=True)
class Inputs:
    """Files that every worker reads: one array of pixels in two forms, the weights, an ONNX model per batch size."""

    folder: Path
    dtype: str = "float32"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    def float32(self, batch: int) -> np.ndarray:
        """Normalised, [N, 3, S, S], C-contiguous."""
        return np.ascontiguousarray(np.load(self.folder / "float32.npy")[:batch])

    def uint8(self, batch: int) -> np.ndarray:
        """The same pixels, [N, S, S, 3]."""
        return np.ascontiguousarray(np.load(self.folder / "uint8.npy")[:batch])

    def onnx(self, batch: int) -> Path:
        return self.folder / f"batch{batch}.onnx"


def write_inputs(inputs: Inputs, weights: Path, batches: Sequence[int], onnx: bool, seed: int) -> dict[str, np.ndarray]:
    """Fill the folder of ``inputs`` for these batch sizes.

    Returns:
        By head, the float64 results of the largest batch; a smaller one is its beginning.
    """
    shutil.copyfile(weights, inputs.weights)
    read = read_weights(weights)
    pixels = read.spec.pixels
    uint8 = np.random.default_rng(seed).integers(0, 256, (max(batches), pixels.size, pixels.size, 3), np.uint8)
    mean, scale = np.asarray(pixels.mean, np.float32), np.asarray(pixels.scale, np.float32)
    float32 = np.ascontiguousarray(((uint8 - mean) / scale).transpose(0, 3, 1, 2))
    np.save(inputs.folder / "uint8.npy", uint8)
    np.save(inputs.folder / "float32.npy", float32)
    if onnx:
        from ..export import export_onnx

        net = attribute_net(read)
        for batch in set(batches):
            export_onnx(net, inputs.onnx(batch), batch=batch)
    chunks = [float64_reference(read, float32[i : i + _CHUNK]) for i in range(0, len(float32), _CHUNK)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def float64_reference(weights: Weights, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The network as given, in float64: by torch, which shares nothing with the engine; without torch by the oracle.

    Args:
        weights: any network.
        pixels: float32 [N, 3, S, S].
    """
    names = ["embedding", *(head.name for head in weights.spec.heads)]
    if find_spec("torch") is None:
        from ..oracle import run_plan
        from ..rewrite import build_plan

        return run_plan(build_plan(weights.spec, weights.tensors, names, rewrite=False), pixels)
    import torch

    with torch.inference_mode():
        outputs = attribute_net(weights).double()(torch.from_numpy(pixels).double())
    return {name: outputs[name].numpy() for name in names}


def attribute_net(weights: Weights) -> FaceAttrNet:
    """The torch module in evaluation mode, without the identity layer, which the others do not compute either."""
    from ..reference.model import module_of

    return module_of(weights, replace(weights.spec, identities=None))
