"""The one place where callers' arrays are checked: pixels of any producer in, output buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import DeviceError
from .device import DLPACK_CPU, DLPACK_PINNED

__all__ = ["as_outputs", "as_pixels"]

_DLPACK_HOST = (DLPACK_CPU, DLPACK_PINNED)
_FLOAT32, _UINT8 = np.dtype(np.float32), np.dtype(np.uint8)  # equal to those of native byte order alone


def as_pixels(pixels: Any, size: int, name: str = "pixels", device: str = "the CPU") -> np.ndarray:
    """A C-contiguous numpy array over the caller's memory where that is possible, else a copy.

    Args:
        pixels: uint8 [N, size, size, 3] (RGB) or float32 [N, 3, size, size] (normalised); numpy, torch or any producer
            of ``__dlpack__`` on the CPU; any strides.
        name, device: of the argument and of the network, for messages.

    Raises:
        TypeError: not an array, or another dtype or byte order.
        ValueError: another shape.
        DeviceError: memory of another device.
    """
    array = pixels if type(pixels) is np.ndarray else _to_numpy(pixels, size, name, device)
    dtype, shape = array.dtype, array.shape
    if dtype == _FLOAT32:
        expected = (3, size, size)
    elif dtype == _UINT8:
        expected = (size, size, 3)
    else:
        raise TypeError(f"{name}: expected {_wanted(size)}, got {dtype!r} {list(shape)}")
    if shape[1:] != expected:
        if shape == expected:
            raise ValueError(f"{name}: got a single image {list(shape)}; add an axis: {name}[None]")
        sides = ", ".join(map(str, expected))
        raise ValueError(f"{name}: expected {dtype} [N, {sides}], got {list(shape)}")
    flags = array.flags
    if flags.c_contiguous and flags.aligned:
        return array
    return np.require(array, requirements=("C_CONTIGUOUS", "ALIGNED"))


def _wanted(size: int) -> str:
    return f"uint8 [N, {size}, {size}, 3] or float32 [N, 3, {size}, {size}] in native byte order"


def _to_numpy(pixels: Any, size: int, name: str, device: str) -> np.ndarray:
    wanted = _wanted(size)
    if isinstance(pixels, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected {wanted}, got a masked array, whose mask would be ignored")
    if isinstance(pixels, np.ndarray):
        return pixels
    if hasattr(pixels, "__dlpack_device__"):
        if getattr(pixels, "requires_grad", False):
            pixels = pixels.detach()
        try:
            kind, index = pixels.__dlpack_device__()
            if kind in _DLPACK_HOST:
                return np.from_dlpack(pixels)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"{name}: expected {wanted}, got what numpy cannot read: {error}") from error
        raise DeviceError(f"{name}: on another device (DLPack type {int(kind)}, index {index}); this runs on {device}")
    if hasattr(pixels, "__cuda_array_interface__"):
        raise DeviceError(f"{name}: in GPU memory; this runs on {device}")
    raise TypeError(f"{name}: expected an array (numpy, torch or __dlpack__), got {type(pixels).__name__}")


def as_outputs(
    out: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], pixels: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Check the caller's output buffers: one writable C-contiguous float32 array per result, none overlapping.

    Args:
        pixels: where they are on the host.
    """
    if not isinstance(out, Mapping):
        raise TypeError(f"out: expected a dict of arrays, got {type(out).__name__}")
    if out.keys() != shapes.keys():
        raise ValueError(f"out: expected the keys {sorted(shapes)}, got {sorted(map(str, out))}")
    arrays: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        array = out[name]
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not array.dtype.isnative:
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"out[{name!r}]: expected a float32 numpy array, got {got}")
        if array.shape != shape:
            raise ValueError(f"out[{name!r}]: expected shape {list(shape)}, got {list(array.shape)}")
        if not (array.flags.c_contiguous and array.flags.aligned and array.flags.writeable):
            raise ValueError(f"out[{name!r}]: expected a writable, aligned, C-contiguous array")
        if any(
            np.may_share_memory(array, other) for other in (*(() if pixels is None else (pixels,)), *arrays.values())
        ):
            raise ValueError(f"out[{name!r}]: overlaps the pixels or another output")
        arrays[name] = array
    return arrays
