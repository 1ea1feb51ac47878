"""Calls of a network on CUDA: where pixels and results lie decides what is copied, and whether anybody waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .arrays import as_outputs, as_pixels
from .device import CudaDevice, DeviceArray, stream_handle
from .device_arrays import DeviceView, contiguous, is_on_device, output_views, pixel_view
from .network import Facts, Shapes, batch_shapes

__all__ = ["CudaNetwork"]


class CudaNetwork:
    """As :class:`.network.Network`.

    Args:
        engine: the plan's, of ``device.module``.
        device: where it runs.
        size: side of the images.
        shapes: of each result of one image, in the order of the plan's outputs.
    """

    def __init__(self, engine: Any, device: CudaDevice, size: int, shapes: Shapes) -> None:
        self._engine, self._device, self._size, self._shapes = engine, device, size, shapes

    def __call__(self, pixels: Any, out: Mapping[str, Any] | None, stream: Any) -> Mapping[str, Any]:
        """Pixels and ``out`` on the host or the device.

        Pixels of the host without ``out`` give numpy arrays, those of the device :class:`DeviceArray`. Results on the
        device are not waited for.
        """
        handle = stream_handle(stream)
        if is_on_device(pixels):
            view, handle = pixel_view(pixels, self._size, self._device, handle)
            shapes = batch_shapes(self._shapes, view.shape[0])
            if out is None:
                return self._new(view, shapes, handle)
            if _on_host(out, shapes):
                arrays = as_outputs(out, shapes)
                for name, result in self._new(view, shapes, handle).items():
                    result._memory.read(result._offset, arrays[name])
                return arrays
            return self._into(view, out, shapes, handle)
        array = as_pixels(pixels, self._size, device=str(self._device))
        shapes = batch_shapes(self._shapes, len(array))
        if out is None:
            arrays = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        elif _on_host(out, shapes):
            arrays = as_outputs(out, shapes, array)
        else:
            handle = handle or 0
            return self._into(self._uploaded(array, handle), out, shapes, handle)
        self._engine.run_host(array, list(arrays.values()))
        return arrays

    def profile(self, pixels: Any) -> tuple[list[float], int]:
        """Seconds of each phase, summed over the images, and how many they are; all at once, after a run to warm up."""
        if is_on_device(pixels):
            view, stream = pixel_view(pixels, self._size, self._device, None)
        else:
            stream = 0
            view = self._uploaded(as_pixels(pixels, self._size, device=str(self._device)), stream)
        view = contiguous(view, self._engine, stream)
        images = view.shape[0]
        if images == 0:
            raise ValueError("pixels: profiling needs at least one image")
        memory, offsets = self._engine.run_into(view.pointer, view.dtype == "u1", images, stream)
        outputs = [memory.pointer + offset for offset in offsets]
        return self._engine.profile(view.pointer, view.dtype == "u1", images, outputs, stream), images

    def facts(self, images: int) -> Facts:
        engine, memory = self._engine, self._engine.workspace_bytes(min(images, self._engine.max_images))
        kernels = engine.kernels(min(images, engine.max_images))
        isa = f"{engine.device_name}, {engine.architecture}"
        return Facts(kernels, isa, engine.weight_bytes, memory, len(kernels), 1)

    def to_host(self, pixels: Any) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
        """Waits."""
        if is_on_device(pixels):
            return self._download(pixels), self._upload
        return as_pixels(pixels, self._size, device=str(self._device)), lambda array: array

    def _download(self, pixels: Any) -> np.ndarray:
        view, stream = pixel_view(pixels, self._size, self._device, None)
        array = np.empty(view.shape, np.dtype(view.dtype))
        strides = view.strides or tuple(n // array.itemsize for n in array.strides)
        self._engine.make_contiguous(view.pointer, view.item_bytes, view.shape, strides, stream).read(0, array)
        return array

    def _upload(self, array: np.ndarray) -> DeviceArray:
        """A float32 array of the host on the device, in the order of the default stream."""
        memory = self._engine.upload(np.ascontiguousarray(array, np.float32), 0)
        return DeviceArray(memory, 0, array.shape, self._device.module.emulated)

    def _uploaded(self, array: np.ndarray, stream: int) -> DeviceView:
        memory = self._engine.upload(array, stream)
        return DeviceView(memory.pointer, array.dtype.str[1:], array.shape, None, False, memory)

    def _new(self, view: DeviceView, shapes: Shapes, stream: int) -> dict[str, DeviceArray]:
        view = contiguous(view, self._engine, stream)
        memory, offsets = self._engine.run_into(view.pointer, view.dtype == "u1", view.shape[0], stream)
        emulated = self._device.module.emulated
        return {
            name: DeviceArray(memory, offset, shape, emulated)
            for (name, shape), offset in zip(shapes.items(), offsets, strict=True)
        }

    def _into(self, view: DeviceView, out: Mapping[str, Any], shapes: Shapes, stream: int) -> Mapping[str, Any]:
        views = output_views(out, shapes, self._device, stream, view)
        view = contiguous(view, self._engine, stream)
        self._engine.run(view.pointer, view.dtype == "u1", view.shape[0], [v.pointer for v in views], stream)
        for v in views:
            if isinstance(v.owner, DeviceArray):
                v.owner._memory.mark_ready(stream)
        return {name: out[name] for name in shapes}


def _on_host(out: Any, shapes: Shapes) -> bool:
    """Whether output buffers are on the host; what is no dict of these names is told so later, by their check."""
    if not isinstance(out, Mapping) or out.keys() != shapes.keys():
        return True
    device = [name for name in shapes if is_on_device(out[name])]
    if device and len(device) < len(shapes):
        raise ValueError(f"out: expected arrays of one device, got {', '.join(device)} on the GPU and others not")
    return not device
