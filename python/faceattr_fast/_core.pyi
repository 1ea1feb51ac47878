"""The C++ engine: runs a plan on the CPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Int8s = NDArray[np.int8]
_Int16s = NDArray[np.int16]
_UInt16s = NDArray[np.uint16]
_Int32s = NDArray[np.int32]

def detected_isa() -> str:
    """Instruction sets of this machine, such as 'avx2+avx512'."""

def isa_levels() -> list[str]:
    """Names that FACEATTR_ISA may have, lowest first."""

def trim_memory() -> None:
    """Give memory that was freed back to the system, where the allocator keeps it."""

class Plan:
    """A list of phases; each call appends one."""

    def __init__(self, pixels: int, mean: Sequence[float], scale: Sequence[float]) -> None: ...
    def tensor(self, height: int, width: int, channels: int, floats: str = "float32") -> int:
        """Of floats: float32, bfloat16 or float16. Returns the tensor's index."""

    def integer_tensor(self, height: int, width: int, scale: _Floats, low: int) -> int:
        """Of integers from low to low + 255, each times the scale of its channel. Returns the tensor's index."""

    def stem(self, dst: int, weight: _Floats, bias: _Floats) -> None:
        """weight: [oc, 7, 7, 3]."""

    def winograd_stem(self, dst: int, weight: _Floats, bias: _Floats) -> None:
        """The stem by polyphase tiles of 4x4; weight: [oc, 507]."""

    def segmented_conv(
        self,
        dst: int,
        segments: Sequence[tuple[int, int, int, int, int]],
        weight: _Floats,
        bias: _Floats,
        relu: bool,
        residual: int,
        copy: int = -1,
    ) -> None:
        """segments: (src, start, count, kernel, stride); weight: [oc, K], K over segments, ky, kx, channel; copy: a
        tensor of bfloat16 or -1."""

    def winograd_conv(
        self,
        dst: int,
        segments: Sequence[tuple[int, int, int]],
        stride: int,
        tile: int,
        weight: _Floats,
        direct_segments: Sequence[tuple[int, int, int, int, int]],
        direct_weight: _Floats,
        bias: _Floats,
        relu: bool,
        residual: int,
        copy: int = ...,
    ) -> None:
        """3x3 segments (src, start, count) by Winograd F(tile x tile) at stride 1, polyphase at 2; weight: [filters,
        oc, K]; copy as in segmented_conv."""

    def quantized_stem(self, dst: int, weight: _Int8s, bias: _Int32s, multiplier: _Floats) -> None:
        """weight: [oc, 7, 7, 3]."""

    def quantized_conv(
        self,
        dst: int,
        segments: Sequence[tuple[int, int, int, int, int]],
        weight: _Int8s,
        bias: _Int32s,
        multiplier: _Floats,
        relu: bool,
        residual: int,
        copy: int,
        inverse: _Floats,
        transformed: Sequence[tuple[int, int, int]],
        transformed_weight: _Int16s,
        tile: int = 2,
    ) -> None:
        """As segmented_conv; copy: a tensor of integers or -1, inverse: its factors; transformed: stride-1 3x3 segments
        (src, start, count) by Winograd F(tile x tile), 2 or 4, their weights [points, oc, K]."""

    def quantize(self, dst: int, src: int, inverse: _Floats) -> None:
        """dst: a tensor of integers of src's shape."""

    def shifted_means(self, dst: int, src: int, kernel: int, stride: int, start: int, count: int) -> None: ...
    def linear_head(self, dst: int, inputs: Sequence[tuple[int, int]], weight: _Floats, bias: _Floats) -> None:
        """inputs: (vector, first channels of it that are read)."""

    def half_linear_head(
        self, dst: int, inputs: Sequence[tuple[int, int]], weight: _UInt16s, scale: _Floats, bias: _Floats
    ) -> None:
        """As linear_head; weight: bits of float16 numbers, finite, in units of scale, a power of two per output."""

    def output(self, tensor: int, start: int, count: int) -> None: ...

class Engine:
    """A plan with packed weights, threads and memory; callable from any thread."""

    def __init__(self, plan: Plan, isa: str, threads: int) -> None:
        """Takes the phases out of the plan, which is of no use afterwards."""

    def run(self, pixels: NDArray[Any], outputs: Sequence[_Floats]) -> None: ...
    def run_plain(self, pixels: NDArray[Any]) -> list[_Floats] | None:
        """Results in new arrays; None where the pixels need a closer look, or a copy."""

    def profile(self, pixels: NDArray[Any], outputs: Sequence[_Floats], batched: bool = False) -> list[float]:
        """Seconds of each phase, summed over the images, all threads on one at a time; batched: over the calling
        thread's share, images dealt as run does."""

    @property
    def kernels(self) -> list[str]: ...
    @property
    def first_grouped(self) -> int:
        """Index of the first phase that a batch runs layer by layer over a group of images; past the last: none."""

    @property
    def group_images(self) -> int:
        """Images of such a group, at most."""

    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def arena_bytes(self) -> int: ...
