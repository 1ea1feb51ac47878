"""Callers' arrays in GPU memory: pixels in, output buffers; the counterpart of :mod:`.arrays`, with streams."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DeviceError
from .device import DLPACK_CUDA, DLPACK_MANAGED, CudaDevice, DeviceArray

__all__ = ["DeviceView", "is_on_device", "output_views", "pixel_view"]

_KINDS = {0: "i", 1: "u", 2: "f", 4: "bfloat", 5: "c", 6: "b"}  # of DLPack
_PIXEL_ALIGNMENT = 16  # bytes, of what kernels load at once


@dataclass(frozen=True)
class DeviceView:
    """Memory of a device, described; ``owner`` keeps it alive. ``strides`` in items, None where C-contiguous."""

    pointer: int
    dtype: str  # as in numpy.dtype.str, without byte order
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    read_only: bool
    owner: Any

    @property
    def item_bytes(self) -> int:
        return int(self.dtype[1:])

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.item_bytes


def is_on_device(array: Any) -> bool:
    """Whether an array is in GPU memory, by what it says of itself."""
    if isinstance(array, DeviceArray):
        return True
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__dlpack_device__"):
        return array.__dlpack_device__()[0] in (DLPACK_CUDA, DLPACK_MANAGED)
    return hasattr(array, "__cuda_array_interface__")


def pixel_view(pixels: Any, size: int, cuda: CudaDevice, stream: int | None) -> tuple[DeviceView, int]:
    """The caller's pixels, and the stream to work on: ``stream``, or where it is None, the one that the pixels are on.

    Raises:
        TypeError: another dtype.
        ValueError: another shape, or what the protocols do not allow.
        DeviceError: another device.
    """
    view, handle = _view(pixels, "pixels", cuda, stream)
    wanted = f"uint8 [N, {size}, {size}, 3] or float32 [N, 3, {size}, {size}] in native byte order"
    if view.dtype not in ("u1", "f4"):
        raise TypeError(f"pixels: expected {wanted}, got {view.dtype} {list(view.shape)}")
    expected = (size, size, 3) if view.dtype == "u1" else (3, size, size)
    if view.shape == expected:
        raise ValueError(f"pixels: got a single image {list(view.shape)}; add an axis: pixels[None]")
    if len(view.shape) != 4 or view.shape[1:] != expected:
        raise ValueError(f"pixels: expected {wanted}, got {view.dtype} {list(view.shape)}")
    return view, handle


def contiguous(view: DeviceView, engine: Any, stream: int) -> DeviceView:
    """The same pixels C-contiguous and aligned: as they are, or a copy that ``stream`` makes."""
    if view.strides is None and view.pointer % _PIXEL_ALIGNMENT == 0:
        return view
    strides = view.strides or tuple(int(np.prod(view.shape[axis + 1 :], dtype=np.int64)) for axis in range(4))
    memory = engine.make_contiguous(view.pointer, view.item_bytes, view.shape, strides, stream)
    return DeviceView(memory.pointer, view.dtype, view.shape, None, False, memory)


def output_views(
    out: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], cuda: CudaDevice, stream: int, pixels: DeviceView
) -> list[DeviceView]:
    """The caller's output buffers on the device, in the order of ``shapes``; ``stream`` comes after who used them."""
    views: list[DeviceView] = []
    for name, shape in shapes.items():
        label = f"out[{name!r}]"
        view, _ = _view(out[name], label, cuda, stream)
        if view.dtype != "f4":
            raise TypeError(f"{label}: expected float32, got {view.dtype}")
        if view.shape != shape:
            raise ValueError(f"{label}: expected shape {list(shape)}, got {list(view.shape)}")
        if view.strides is not None or view.read_only:
            raise ValueError(f"{label}: expected a writable, C-contiguous array")
        if any(_overlap(view, other) for other in (pixels, *views)):
            raise ValueError(f"{label}: overlaps the pixels or another output")
        views.append(view)
    return views


def _overlap(a: DeviceView, b: DeviceView) -> bool:
    if b.strides is not None:  # a view of unknown extent: its copy is what is read
        return False
    return a.pointer < b.pointer + b.bytes and b.pointer < a.pointer + a.bytes


def _view(array: Any, name: str, cuda: CudaDevice, stream: int | None) -> tuple[DeviceView, int]:
    if getattr(array, "requires_grad", False):
        array = array.detach()
    if isinstance(array, DeviceArray):
        view, handle = _own(array, stream)
    elif hasattr(array, "__dlpack_device__"):
        view, handle = _from_dlpack(array, name, cuda, stream)
    else:
        view, handle = _from_interface(array, name, cuda, stream)
    if view.bytes:
        device = cuda.module.device_of(view.pointer)
        if device != cuda.index:
            found = "on the host" if device < 0 else f"on cuda:{device}"
            raise DeviceError(f"{name}: {found}; this network runs on {cuda}")
        if view.pointer % view.item_bytes:
            raise ValueError(f"{name}: expected an address that is a multiple of {view.item_bytes}, got {view.pointer}")
    return view, handle


def _own(array: DeviceArray, stream: int | None) -> tuple[DeviceView, int]:
    handle = array.stream if stream is None else stream
    array._memory.order_before(handle)
    return DeviceView(array.pointer, "f4", array.shape, None, False, array), handle


def _from_dlpack(array: Any, name: str, cuda: CudaDevice, stream: int | None) -> tuple[DeviceView, int]:
    kind, index = array.__dlpack_device__()
    if kind not in (DLPACK_CUDA, DLPACK_MANAGED):
        raise DeviceError(f"{name}: on another device (DLPack type {int(kind)}, index {index}), expected {cuda}")
    if kind == DLPACK_CUDA and index != cuda.index:
        raise DeviceError(f"{name}: on cuda:{index}; this network runs on {cuda}")
    handle = _producer_stream(array, cuda.index) if stream is None else stream
    try:
        # The producer lets this stream wait for its own. DLPack calls the legacy default stream 1.
        capsule = array.__dlpack__(stream=handle or 1)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array that can be exported, got an error: {error}") from error
    pointer, _, _, (code, bits, lanes), shape, strides, read_only = cuda.module.read_capsule(capsule)
    dtype = f"{_KINDS.get(code, '?')}{bits // 8}" + (f"x{lanes}" if lanes != 1 else "")
    return DeviceView(pointer, dtype, shape, _significant(shape, strides), read_only, capsule), handle


def _producer_stream(array: Any, device: int) -> int:
    """The stream that a DLPack producer is working on, as far as it says so; else the default."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return int(torch.cuda.current_stream(device).cuda_stream)
    interface = getattr(array, "__cuda_array_interface__", None)
    return _interface_stream(interface) or 0 if isinstance(interface, dict) else 0


def _from_interface(array: Any, name: str, cuda: CudaDevice, stream: int | None) -> tuple[DeviceView, int]:
    interface = getattr(array, "__cuda_array_interface__", None)
    if not isinstance(interface, dict):
        raise TypeError(f"{name}: expected an array on {cuda}, got {type(array).__name__}")
    try:
        dtype = np.dtype(interface["typestr"])
        shape = tuple(int(n) for n in interface["shape"])
        pointer, read_only = interface["data"]
        byte_strides = interface.get("strides")
        mask = interface.get("mask")
        producer = _interface_stream(interface)
    except (KeyError, TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected a valid __cuda_array_interface__, got {interface!r}") from error
    if mask is not None:
        raise TypeError(f"{name}: got a masked array, whose mask would be ignored")
    if not dtype.isnative:
        raise TypeError(f"{name}: expected native byte order, got {dtype!r}")
    strides = None
    if byte_strides is not None:
        if any(n % dtype.itemsize for n in byte_strides):
            raise ValueError(f"{name}: expected strides of whole items, got {tuple(byte_strides)} bytes")
        strides = _significant(shape, tuple(int(n) // dtype.itemsize for n in byte_strides))
    handle = (producer or 0) if stream is None else stream
    if producer is not None and producer != handle:
        cuda.module.order_streams(cuda.index, handle, producer)
    return DeviceView(int(pointer or 0), dtype.str[1:], shape, strides, bool(read_only), array), handle


def _interface_stream(interface: Mapping[str, Any]) -> int | None:
    """None: the producer has nothing under way."""
    stream = interface.get("stream")
    if stream is None:
        return None
    if int(stream) <= 0:
        raise ValueError("stream 0 is ambiguous")
    return int(stream)


def _significant(shape: Sequence[int], strides: Sequence[int] | None) -> tuple[int, ...] | None:
    """None where the strides are those of a C-contiguous array."""
    if strides is None or 0 in shape:
        return None
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return tuple(strides)
        expected *= size
    return None
