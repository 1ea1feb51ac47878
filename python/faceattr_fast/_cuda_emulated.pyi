"""The engine of CUDA on an emulated device, for tests; where nvcc built the package, ``_core._cuda`` is the same on a
real one.
"""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from . import _core

emulated: bool

def devices() -> tuple[list[tuple[str, int, int]], str]:
    """Name and compute capability (major, minor) of each device; where there is none, why."""

def device_of(pointer: int) -> int:
    """The device that owns an address; -1: the host."""

def order_streams(device: int, stream: int, other: int) -> None:
    """What stream gets from now on comes after what other has now."""

def read_capsule(
    capsule: object,
) -> tuple[int, int, int, tuple[int, int, int], tuple[int, ...], tuple[int, ...] | None, bool]:
    """Of DLPack: (address, device type, device, (code, bits, lanes), shape, strides in items or None, read-only)."""

class Memory:
    """Memory of a device, written by work on a stream."""

    @property
    def pointer(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def device(self) -> int: ...
    @property
    def stream(self) -> int: ...
    def order_before(self, stream: int) -> None:
        """What stream gets from now on sees the contents."""

    def read(self, offset: int, dst: NDArray[Any]) -> None:
        """Copy to the host, and wait for it."""

    def mark_ready(self, stream: int) -> None:
        """What stream has been given by now writes the contents."""

    def dlpack(self, offset: int, shape: Sequence[int], device_type: int, versioned: bool) -> object:
        """A capsule of float32."""

class Engine:
    """A plan on a device, with its weights; callable from any thread."""

    def __init__(self, plan: _core.Plan, device: int, kernels: str) -> None:
        """kernels: 'v1', the portable ones; 'v2', those of Hopper; '', the best."""

    def run(self, pixels: int, u8: bool, images: int, outputs: Sequence[int], stream: int) -> None:
        """Addresses of the device; returns when the stream has the work."""

    def run_into(self, pixels: int, u8: bool, images: int, stream: int) -> tuple[Memory, list[int]]:
        """As run, into new memory: it, and the offset of each output."""

    def run_host(self, pixels: NDArray[Any], outputs: Sequence[NDArray[Any]]) -> None:
        """Arrays of the host; returns when the results are there."""

    def profile(self, pixels: int, u8: bool, images: int, outputs: Sequence[int], stream: int) -> list[float]:
        """As run; waits, and returns the seconds of each phase, summed over the images."""

    def upload(self, array: NDArray[Any], stream: int) -> Memory:
        """A copy on the device, in the order of the stream."""

    def make_contiguous(
        self, pointer: int, item_bytes: int, shape: Sequence[int], strides: Sequence[int], stream: int
    ) -> Memory:
        """A C-contiguous copy of four axes, strides in items."""

    def kernels(self, images: int) -> list[str]:
        """What each phase launches for a batch."""

    def workspace_bytes(self, images: int) -> int: ...
    @property
    def max_images(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def device_name(self) -> str: ...
    @property
    def architecture(self) -> str:
        """Compute capability, and which kernels are used."""
