"""What all contenders share: crops, weights, ONNX models; and the float64 results that each of them has to meet."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..spec import PixelSpec
from ..weights import Weights, read_weights

if TYPE_CHECKING:
    from ..reference import FaceAttrNet

__all__ = ["Crops", "Inputs", "attribute_net", "float64_reference", "read_crops", "synthetic_crops", "write_inputs"]

# Crops on which errors and agreement are measured, and others on which int8 is calibrated.
_TEST, _CALIBRATION = 64, 64

_CHUNK = 4  # images at once in float64, which takes much memory


@dataclass(frozen=True)
class Crops:
    """Face crops, uint8 [N, S, S, 3]: those that are tested and timed, and others to calibrate int8 with."""

    test: np.ndarray
    calibration: np.ndarray
    source: str

    def describe(self) -> dict[str, Any]:
        """Plain data for a record."""
        digest = hashlib.sha256(self.test.tobytes() + self.calibration.tobytes()).hexdigest()
        return {
            "source": self.source, "test": len(self.test), "calibration": len(self.calibration), "sha256": digest
        }  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """Files that every worker reads, and the device that this package runs on."""

    folder: Path
    device: str = "cpu"

    def weights(self, dtype: str) -> Path:
        """Those for int8 and mixed hold scales."""
        return self.folder / f"weights-{'int8' if dtype in ('int8', 'mixed') else 'float32'}.safetensors"

    def onnx(self, dtype: str, batch: int | None) -> Path:
        """With the batch size built in; None: any."""
        return self.folder / f"{'int8' if dtype == 'int8' else 'float32'}-batch{batch or 'N'}.onnx"

    def test(self, form: str) -> np.ndarray:
        """The test crops: ``float32`` [N, 3, S, S], normalised, or ``uint8`` [N, S, S, 3]; the same pixels."""
        return np.load(self.folder / f"test-{form}.npy", mmap_mode="r")  # type: ignore[no-any-return]

    def batch(self, form: str, size: int) -> np.ndarray:
        """The first test crops, C-contiguous, writable."""
        return np.array(self.test(form)[:size])

    def calibration(self) -> np.ndarray:
        """The calibration crops, float32 [N, 3, S, S]."""
        return np.load(self.folder / "calibration.npy", mmap_mode="r")  # type: ignore[no-any-return]


def crops_needed(batches: Sequence[int]) -> tuple[int, int]:
    """How many test and calibration crops a run with these batch sizes takes."""
    return max(_TEST, *batches), _CALIBRATION


def synthetic_crops(pixels: PixelSpec, batches: Sequence[int], seed: int) -> Crops:
    """Random pictures whose spectrum falls with the frequency, as that of photos does.

    White noise would leave all activations of a layer alike, which is easier on narrow formats than any photo is.
    """
    rng = np.random.default_rng(seed)
    size = pixels.size
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf  # the mean is set below
    test, calibration = crops_needed(batches)
    crops = np.empty((test + calibration, size, size, 3), np.uint8)
    for crop in crops:
        for channel in range(3):
            noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) / frequency, (size, size))
            crop[..., channel] = np.clip(rng.uniform(96, 160) + 48 * noise / noise.std(), 0, 255)
    return Crops(crops[:test], crops[test:], f"synthetic, seed {seed}")


def read_crops(path: Path, pixels: PixelSpec, batches: Sequence[int], seed: int) -> Crops:
    """Face crops from a file or folder, in an order that the seed decides.

    Args:
        path: ``.npy`` file with uint8 [N, S, S, 3], or a folder of pictures, searched with its subfolders; they are
            crops already and are resized to S x S.

    Raises:
        ValueError: another shape or type, or too few crops.
        ImageError, OSError, ImportError: a picture cannot be read.
    """
    size = pixels.size
    test, calibration = crops_needed(batches)
    needed = test + calibration
    order = np.random.default_rng(seed)
    if path.is_dir():
        from ..photo.image import fit_square, is_picture, load_image

        files = sorted(file for file in path.rglob("*") if is_picture(file.name))
        _enough(path, len(files), needed)
        chosen = [files[i] for i in order.permutation(len(files))[:needed]]
        crops = np.stack([fit_square(load_image(file), size) for file in chosen])
    else:
        array = np.load(path, mmap_mode="r")
        if array.dtype != np.uint8 or array.shape[1:] != (size, size, 3):
            raise ValueError(f"{path}: expected uint8 [N, {size}, {size}, 3], got {array.dtype} {list(array.shape)}")
        _enough(path, len(array), needed)
        crops = array[order.permutation(len(array))[:needed]]
    return Crops(crops[:test], crops[test:], f"{path.name}, seed {seed}")


def _enough(path: Path, count: int, needed: int) -> None:
    if count < needed:
        raise ValueError(f"{path}: expected at least {needed} crops, got {count}")


def write_inputs(
    inputs: Inputs, weights: Path, crops: Crops, batches: Sequence[int], onnx: bool
) -> dict[str, np.ndarray]:
    """Fill the folder of ``inputs`` for these batch sizes; what int8 needs besides is :mod:`.quantised`'s.

    Returns:
        By head, the float64 results of the test crops.
    """
    shutil.copyfile(weights, inputs.weights("float32"))
    read = read_weights(weights)
    test = _normalised(crops.test, read.spec.pixels)
    np.save(inputs.folder / "test-uint8.npy", crops.test)
    np.save(inputs.folder / "test-float32.npy", test)
    np.save(inputs.folder / "calibration.npy", _normalised(crops.calibration, read.spec.pixels))
    if onnx:
        from ..export import export_onnx

        net = attribute_net(read)
        for batch in set(batches):
            export_onnx(net, inputs.onnx("float32", batch), batch=batch)
    chunks = [float64_reference(read, test[i : i + _CHUNK]) for i in range(0, len(test), _CHUNK)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _normalised(crops: np.ndarray, pixels: PixelSpec) -> np.ndarray:
    mean, scale = np.asarray(pixels.mean, np.float32), np.asarray(pixels.scale, np.float32)
    return np.ascontiguousarray(((crops - mean) / scale).transpose(0, 3, 1, 2))


def float64_reference(weights: Weights, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The network as given, in float64: by torch, which shares nothing with the engine; without torch by the oracle.

    Args:
        weights: any network.
        pixels: float32 [N, 3, S, S].
    """
    names = ["embedding", *(head.name for head in weights.spec.heads)]
    if find_spec("torch") is None:
        from ..plan.oracle import run_plan
        from ..plan.rewrite import build_plan

        return run_plan(build_plan(weights.spec, weights.tensors, names, rewrite=False), pixels)
    import torch

    with torch.inference_mode():
        outputs = attribute_net(weights).double()(torch.from_numpy(pixels).double())
    return {name: outputs[name].numpy() for name in names}


def attribute_net(weights: Weights) -> FaceAttrNet:
    """The torch module in evaluation mode, without the identity layer, which the others do not compute either."""
    from ..reference.model import module_of

    return module_of(weights, replace(weights.spec, identities=None))


def chunks_of(test: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """All test crops in batches of exactly ``size``; the last one is filled up from the beginning."""
    for start in range(0, len(test), size):
        yield test[np.arange(start, start + size) % len(test)]
