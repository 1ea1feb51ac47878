"""A compiled plan that can be called: on the CPU here, on CUDA in :mod:`.cuda`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .. import _core
from ..plan.phases import LinearHead, Plan, ShiftedMeans
from .arrays import as_outputs, as_pixels

__all__ = ["CpuNetwork", "Facts", "Network", "batch_shapes", "output_shapes"]

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Facts:
    """What a network tells of itself; ``arena_bytes`` is the memory of activations."""

    kernels: list[str]
    isa: str
    weight_bytes: int
    arena_bytes: int
    first_grouped: int
    group_images: int


class Network(Protocol):
    """One plan on one device."""

    def __call__(self, pixels: Any, out: Mapping[str, Any] | None, stream: Any) -> Mapping[str, Any]:
        """Results by name; arguments as :meth:`FastForward.__call__` takes them."""

    def profile(self, pixels: Any) -> tuple[list[float], int]:
        """Seconds of each phase, summed over the images, and how many they are."""

    def facts(self, images: int) -> Facts:
        """For a batch of so many."""

    def to_host(self, pixels: Any) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
        """Pixels as a numpy array, and what takes a result to where the pixels were."""


class CpuNetwork:
    """As :class:`Network`.

    Args:
        engine: the plan's.
        size: side of the images.
        shapes: of each result of one image, in the order of the plan's outputs.
    """

    def __init__(self, engine: _core.Engine, size: int, shapes: Shapes) -> None:
        self._engine, self._size, self._shapes = engine, size, shapes

    def __call__(self, pixels: Any, out: Mapping[str, Any] | None, stream: Any) -> Mapping[str, Any]:
        if stream is not None:
            raise ValueError(f"stream: expected None on the CPU, got {stream!r}")
        # Python is slow after each forward pass, which has swept the caches: the usual case takes little of it.
        if out is None and type(pixels) is np.ndarray:
            results = self._engine.run_plain(pixels)
            if results is not None:
                return dict(zip(self._shapes, results, strict=True))
        array = as_pixels(pixels, self._size)
        shapes = batch_shapes(self._shapes, len(array))
        if out is None:
            arrays = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        else:
            arrays = as_outputs(out, shapes, array)
        self._engine.run(array, list(arrays.values()))
        return arrays

    def profile(self, pixels: Any) -> tuple[list[float], int]:
        """One run, all threads on one image at a time."""
        array = as_pixels(pixels, self._size)
        if len(array) == 0:
            raise ValueError("pixels: profiling needs at least one image")
        arrays = [np.empty(shape, np.float32) for shape in batch_shapes(self._shapes, len(array)).values()]
        self._engine.run(array[:1], [a[:1] for a in arrays])  # warm up: threads, memory
        return self._engine.profile(array, arrays), len(array)

    def facts(self, images: int) -> Facts:
        engine = self._engine
        return Facts(
            engine.kernels, engine.isa, engine.weight_bytes, engine.arena_bytes,
            engine.first_grouped, engine.group_images,
        )  # fmt: skip

    def to_host(self, pixels: Any) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
        return as_pixels(pixels, self._size), lambda array: array


def output_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Of each result of one image. Computed once: a forward pass of one image takes a few milliseconds."""
    shapes: dict[str, tuple[int, ...]] = {}
    vectors = {phase.dst for phase in plan.phases if isinstance(phase, (ShiftedMeans, LinearHead))}
    for name, output in plan.outputs.items():
        shape = plan.tensors[output.tensor]
        shapes[name] = (output.count,) if output.tensor in vectors else (shape.height, shape.width, output.count)
    return shapes


def batch_shapes(shapes: Shapes, images: int) -> dict[str, tuple[int, ...]]:
    """Of the results of ``images`` images."""
    return {name: (images, *shape) for name, shape in shapes.items()}
