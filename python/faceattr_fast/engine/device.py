"""Devices: what their names mean, whether they are there, and arrays in their memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..errors import DeviceError

if TYPE_CHECKING:
    from .. import _cuda_emulated as cuda_module

    Memory = cuda_module.Memory

__all__ = [
    "GPU_ENVIRONMENT",
    "CudaDevice",
    "DeviceArray",
    "cuda_index",
    "driver_version",
    "find_cuda",
    "is_gpu_choice",
    "stream_handle",
]

GPU_ENVIRONMENT = "FACEATTR_GPU"
_CHOICES = ("off", "v1", "v2", "emulated")
_DRIVER = Path("/proc/driver/nvidia/version")

#: Of DLPack: memory of the host, of a CUDA device, of the host but in a GPU's reach, and of both.
DLPACK_CPU, DLPACK_CUDA, DLPACK_PINNED, DLPACK_MANAGED = 1, 2, 3, 13


@dataclass(frozen=True)
class CudaDevice:
    """One device of CUDA.

    Args:
        module: the extension module that knows it: CUDA's, or the emulator.
        index: among the devices that this process sees.
        kernels: ``v1`` or ``v2`` where one of them is forced, else empty.
        process: that found it.
    """

    module: Any
    index: int
    kernels: str
    process: int = field(default_factory=os.getpid)

    def require_own_process(self) -> None:
        """Raises DeviceError in a forked child: CUDA does not survive a fork."""
        if os.getpid() != self.process:
            raise DeviceError("CUDA does not survive a fork: load the network in the process that runs it")

    def __str__(self) -> str:
        return f"cuda:{self.index}"


def cuda_index(device: str) -> int | None:
    """The index that ``cuda`` (the same as ``cuda:0``) or ``cuda:N`` means; None for ``cpu``.

    Raises:
        TypeError, ValueError: it means nothing.
    """
    if not isinstance(device, str):
        raise TypeError(f"device: expected a string, got {type(device).__name__}")
    if device == "cpu":
        return None
    kind, colon, index = device.partition(":")
    if kind == "cuda" and (not colon or (index.isascii() and index.isdecimal())):
        return int(index or 0)
    raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:N', got {device!r}")


def find_cuda(index: int) -> CudaDevice:
    """A CUDA device, as FACEATTR_GPU allows it.

    Raises:
        DeviceError: it is not there; says what was found.
    """
    name = f"device 'cuda:{index}' is not available"
    choice = os.environ.get(GPU_ENVIRONMENT, "")
    if choice and not is_gpu_choice(choice):
        raise DeviceError(f"{GPU_ENVIRONMENT}={choice!r} means nothing: expected {', '.join(_CHOICES)}")
    if choice == "off":
        raise DeviceError(f"{name}: {GPU_ENVIRONMENT}=off")
    module = _emulator(name) if choice == "emulated" else getattr(_core, "_cuda", None)
    driver = driver_version() or "no NVIDIA driver is loaded"
    if module is None:
        raise DeviceError(f"{name}: this build has no CUDA backend ({driver}); use 'cpu'")
    devices, reason = module.devices()
    if not devices:
        raise DeviceError(f"{name}: {reason} ({driver}); use 'cpu'")
    if index >= len(devices):
        found = ", ".join(f"cuda:{i} {device[0]}" for i, device in enumerate(devices))
        raise DeviceError(f"{name}: there is {found}")
    return CudaDevice(module, index, choice if choice in ("v1", "v2") else "")


def is_gpu_choice(name: str) -> bool:
    """Whether FACEATTR_GPU may have this value."""
    return name in _CHOICES


def driver_version() -> str | None:
    """What the NVIDIA driver of this machine calls itself; None: none is loaded."""
    try:
        return " ".join(_DRIVER.read_text().splitlines()[0].removeprefix("NVRM version:").split())
    except (OSError, IndexError):
        return None


def _emulator(name: str) -> Any:
    try:
        return import_module("faceattr_fast._cuda_emulated")
    except ImportError as error:
        raise DeviceError(f"{name}: this build has no emulator ({error})") from error


def stream_handle(stream: Any) -> int | None:
    """The address of a caller's stream; None where none was given.

    Raises:
        TypeError, ValueError: neither an integer from 0 on nor an object with such a ``cuda_stream``.
    """
    if stream is None:
        return None
    handle = getattr(stream, "cuda_stream", stream)
    if isinstance(handle, bool) or not isinstance(handle, (int, np.integer)):
        raise TypeError(f"stream: expected an integer or an object with cuda_stream, got {type(stream).__name__}")
    if handle < 0:
        raise ValueError(f"stream: expected an address, got {handle}")
    return int(handle)


class DeviceArray:
    """A C-contiguous float32 array in GPU memory of its own: a result that stays where it was made.

    The work that writes it may still be under way. Whoever takes it by ``__dlpack__`` (``torch.from_dlpack``) or
    ``__cuda_array_interface__`` gets it in the order of streams, without waiting; :meth:`numpy` waits and copies.
    When it is deleted, later calls on the stream that wrote it reuse the memory: keep it until work on any other stream
    has read it.
    """

    __slots__ = ("_emulated", "_memory", "_offset", "shape")

    #: Of its items.
    dtype = np.dtype(np.float32)

    def __init__(self, memory: Memory, offset: int, shape: tuple[int, ...], emulated: bool) -> None:
        self._memory, self._offset, self._emulated = memory, offset, emulated
        self.shape = shape

    @property
    def device(self) -> str:
        """Such as ``cuda:0``."""
        return f"cuda:{self._memory.device}"

    @property
    def stream(self) -> int:
        """The stream whose work writes it."""
        return self._memory.stream

    @property
    def pointer(self) -> int:
        """Its address on the device."""
        return self._memory.pointer + self._offset

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def numpy(self) -> np.ndarray:
        """A copy on the host; waits for the work that writes the array."""
        array = np.empty(self.shape, self.dtype)
        self._memory.read(self._offset, array)
        return array

    def __dlpack_device__(self) -> tuple[int, int]:
        return (DLPACK_CPU, 0) if self._emulated else (DLPACK_CUDA, self._memory.device)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """As the protocol says: work that ``stream`` is given from now on sees the contents.

        Args:
            stream: an address; None or 1: the legacy default stream, 2: that of the thread, -1: no order is wanted.

        Raises:
            BufferError: another device or a copy is asked for.
            ValueError: stream 0, which the protocol leaves open.
        """
        device = self.__dlpack_device__()
        if copy or (dl_device is not None and tuple(dl_device) != device):
            raise BufferError(f"expected no copy and device {device}, got copy={copy}, dl_device={dl_device}")
        if stream == 0:
            raise ValueError("stream: 0 is ambiguous in DLPack: 1 is the legacy default stream, 2 that of the thread")
        if stream != -1:
            self._memory.order_before(1 if stream is None else stream)
        versioned = max_version is not None and max_version[0] >= 1
        return self._memory.dlpack(self._offset, self.shape, device[0], versioned)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self._emulated:
            raise AttributeError("the memory of an emulated device is the host's: take it by DLPack")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": self.stream or 1,  # 0 may not be said here
        }

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("a DeviceArray becomes a numpy array by .numpy(), which waits for the device")

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)} on {self.device})"
