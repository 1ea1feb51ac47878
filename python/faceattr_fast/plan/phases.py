"""The intermediate form between the network and its backends: a list of phases over named tensors.

A backend runs the phases in order; everything before it (folding, rewriting, lowering) is done once, in float64.
Activations are described per image, in NHWC; the batch is implicit. A vector is a tensor of height and width 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

import numpy as np

from ..spec import NetworkSpec

__all__ = [
    "Integers",
    "LinearHead",
    "Output",
    "Phase",
    "Plan",
    "Quantize",
    "QuantizedConv",
    "QuantizedStem",
    "Segment",
    "SegmentedConv",
    "ShiftedMeans",
    "Stem",
    "TensorShape",
]

Array = np.ndarray
Algorithm = Literal["direct", "winograd2x2", "winograd4x4", "winograd5x5", "polyphase4x4"]
IntegerAlgorithm = Literal["direct", "winograd2x2", "winograd4x4"]
StemAlgorithm = Literal["direct", "polyphase4x4"]
FloatFormat = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Tiles:
    """How an algorithm transforms convolutions of one ``stride``: tiles of ``side`` x ``side`` outputs, ``points``
    products for each tile and channel (polyphase4x4 computes the centre tap of a 3x3 directly, 16 more).
    """

    side: int
    stride: int
    points: int

    def count(self, shape: TensorShape) -> int:
        """Tiles that cover a tensor."""
        return -(-shape.height // self.side) * -(-shape.width // self.side)


TILES: dict[Algorithm, Tiles] = {
    "winograd2x2": Tiles(2, 1, 16),
    "winograd4x4": Tiles(4, 1, 36),
    "winograd5x5": Tiles(5, 1, 49),
    "polyphase4x4": Tiles(4, 2, 65),
}
# Of a stem, polyphase4x4: products for each tile and output channel, those of three input channels; a tile makes 2x2
# pooled outputs.
STEM_PRODUCTS = 507
STEM_TILES = Tiles(2, 4, STEM_PRODUCTS)


@dataclass(frozen=True)
class Integers:
    """``value = scale[c] · integer``, integers of ``low`` … ``low`` + 255; ``scale`` holds float32 values."""

    scale: tuple[float, ...]
    low: Literal[0, -128]


@dataclass(frozen=True)
class TensorShape:
    """One activation of one image: ``height`` x ``width`` positions of ``channels`` values.

    Values are ``integers``, or where there are none, floats of the format ``floats``.
    """

    height: int
    width: int
    channels: int
    integers: Integers | None = None
    floats: FloatFormat = "float32"


@dataclass(frozen=True)
class Stem:
    """``dst = maxpool2x2(relu(weight ∗ x + bias))`` of the normalised pixels x: 7x7, stride 2, padding 3 (zeros).

    ``algorithm`` is how a backend computes it; see :mod:`.algorithms`.
    """

    dst: str
    weight: Array  # [oc, 3, 7, 7] float64
    bias: Array  # [oc]
    algorithm: StemAlgorithm = "direct"


@dataclass(frozen=True)
class Segment:
    """One term ``weight ∗ src[..., start:start + count]``: 1x1, or 3x3 with padding 1, at ``stride``."""

    src: str
    weight: Array  # [oc, count, kernel, kernel] float64; int8 in a QuantizedConv
    stride: int = 1
    start: int = 0

    @property
    def count(self) -> int:
        return int(self.weight.shape[1])

    @property
    def kernel(self) -> int:
        return int(self.weight.shape[2])


def _split(segments: tuple[Segment, ...], algorithm: Algorithm) -> tuple[list[Segment], list[Segment]]:
    """The segments that ``algorithm`` transforms, and the others."""
    stride = TILES[algorithm].stride if algorithm in TILES else None
    transformed = [segment for segment in segments if segment.kernel == 3 and segment.stride == stride]
    return transformed, [segment for segment in segments if segment.kernel != 3 or segment.stride != stride]


@dataclass(frozen=True)
class SegmentedConv:
    """``dst = act(Σ_s weight_s ∗ src_s + bias + residual)``; act is ReLU or the identity.

    ``algorithm`` is how a backend computes the 3x3 segments at stride 1 or 2; see :mod:`.algorithms`. Where sources are
    stored as bfloat16 or float16, weights are rounded to it and sums stay float32; with bfloat16, ``copy`` may hold
    ``dst`` as such.
    """

    dst: str
    segments: tuple[Segment, ...]
    bias: Array | None  # [oc], None: no bias
    relu: bool
    residual: str | None = None  # a tensor of dst's shape
    algorithm: Algorithm = "direct"
    copy: str | None = None  # a tensor of bfloat16 of dst's shape

    def split(self) -> tuple[list[Segment], list[Segment]]:
        """The segments that ``algorithm`` transforms, and what is computed directly: the others, and with
        ``polyphase4x4`` the centre taps of the former.
        """
        transformed, direct = _split(self.segments, self.algorithm)
        if self.algorithm == "polyphase4x4":
            direct += [replace(segment, weight=segment.weight[:, :, 1:2, 1:2]) for segment in transformed]
        return transformed, direct


@dataclass(frozen=True)
class QuantizedStem:
    """:class:`Stem` in integers: ``dst = maxpool2x2(clamp(rint((weight ∗ q + bias) · multiplier)))``.

    q are the integers ``rint(2 · (pixel - mean))``: exact for pixels of 8 bits where the mean is a multiple of one
    half, and zero in the padding. ``dst`` holds integers.
    """

    dst: str
    weight: Array  # [oc, 3, 7, 7] int8
    bias: Array  # [oc] int32
    multiplier: Array  # [oc] float32


@dataclass(frozen=True)
class QuantizedConv:
    """:class:`SegmentedConv` of integers: ``sum = Σ_s weight_s ∗ src_s + bias``, exact in 32 bits.

    Then in float32, each step rounded to nearest even: where ``dst`` holds integers,
    ``dst = clamp(rint(sum · multiplier))``; where it holds floats, ``dst = act(sum · multiplier + residual)`` and
    ``copy``, if there is one, holds the integers ``clamp(rint(dst · inverse))``.
    """

    dst: str
    segments: tuple[Segment, ...]
    bias: Array  # [oc] int32
    multiplier: Array  # [oc] float32
    relu: bool
    residual: str | None = None  # a tensor of floats of dst's shape
    copy: str | None = None  # a tensor of integers of dst's shape
    inverse: Array | None = None  # [oc] float32
    algorithm: IntegerAlgorithm = "direct"  # of 3x3 segments at stride 1; it has no effect on the integers

    def split(self) -> tuple[list[Segment], list[Segment]]:
        """The segments that ``algorithm`` transforms, and those that are computed directly."""
        return _split(self.segments, self.algorithm)


@dataclass(frozen=True)
class Quantize:
    """``dst = clamp(rint(src · inverse))``: a map of floats as integers; each step in float32, to nearest even."""

    dst: str
    src: str
    inverse: Array  # [channels] float32


@dataclass(frozen=True)
class ShiftedMeans:
    """The means over output positions of what each tap of a convolution reads.

    ``dst[(ky * kernel + kx) * count + c]`` is the mean over (oy, ox) of
    ``src[oy * stride + ky - pad, ox * stride + kx - pad, start + c]``, zero outside, with pad = kernel // 2 and
    ceil(size / stride) output positions per side. So ``mean(W ∗ src) = W · dst``; kernel 1 is the plain strided mean.
    """

    dst: str
    src: str
    kernel: int
    stride: int
    start: int
    count: int


@dataclass(frozen=True)
class LinearHead:
    """``dst = Σ_i weight_i · src_i[:count_i] + bias`` of vectors: pooled features or an earlier LinearHead.

    ``count_i``, the columns of ``weight_i``, is less than the vector's channels where that is a fused LinearHead.
    With a ``scale``, weights are float16 numbers times it, and are stored so; sums are float32 either way.
    """

    dst: str
    inputs: tuple[tuple[str, Array], ...]  # (vector, [oc, count] float64)
    bias: Array  # [oc]
    scale: Array | None = None  # [oc] powers of two


Phase = Stem | SegmentedConv | QuantizedStem | QuantizedConv | Quantize | ShiftedMeans | LinearHead


@dataclass(frozen=True)
class Output:
    """Channels ``start`` to ``start + count`` of a tensor are a result of the network."""

    tensor: str
    start: int
    count: int


@dataclass(frozen=True)
class Plan:
    """What a backend runs.

    Args:
        spec: the network that this computes.
        tensors: shape of every tensor, by name.
        phases: in order; each reads what earlier ones wrote, ``Stem`` reads the pixels.
        outputs: results by name (embedding, heads, or tapped values).
        rewritten: whether the exact rewrite was applied.
        parts: what fused tensors consist of: (value, channels), by name.
    """

    spec: NetworkSpec
    tensors: Mapping[str, TensorShape]
    phases: tuple[Phase, ...]
    outputs: Mapping[str, Output]
    rewritten: bool
    parts: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)

    def multiply_adds(self) -> int:
        """Of the phases as they are defined, per image; compare with ``spec.count()`` for the network as given."""
        return sum(self.phase_multiply_adds(phase) for phase in self.phases)

    def products(self) -> int:
        """Multiplications that the phases' algorithms leave, per image."""
        return sum(self.phase_products(phase) for phase in self.phases)

    def phase_multiply_adds(self, phase: Phase) -> int:
        """Per image. A Stem convolves at twice its pooled resolution; a ShiftedMeans only adds, a Quantize converts."""
        shape = self.tensors[phase.dst]
        positions = shape.height * shape.width
        match phase:
            case Stem() | QuantizedStem():
                return int(phase.weight.size) * positions * 4
            case SegmentedConv() | QuantizedConv():
                return sum(int(segment.weight.size) for segment in phase.segments) * positions
            case LinearHead():
                return sum(int(weight.size) for _, weight in phase.inputs)
            case ShiftedMeans() | Quantize():
                return 0

    def phase_products(self, phase: Phase) -> int:
        """Per image; fewer than its multiply-adds where an algorithm transforms tiles, which takes mostly additions."""
        shape = self.tensors[phase.dst]
        if isinstance(phase, Stem) and phase.algorithm != "direct":
            return STEM_TILES.points * STEM_TILES.count(shape) * len(phase.weight)
        if not isinstance(phase, (SegmentedConv, QuantizedConv)):
            return self.phase_multiply_adds(phase)
        transformed, direct = phase.split()
        tiles = TILES.get(phase.algorithm)
        points = tiles.points * tiles.count(shape) if tiles else 0
        return sum(int(s.weight.size) for s in direct) * shape.height * shape.width + sum(
            len(s.weight) * s.count * points for s in transformed
        )

    def phase_format(self, phase: Phase) -> str:
        """The number format in which a phase computes: of its products where it has any, of its result elsewhere."""
        match phase:
            case QuantizedStem() | QuantizedConv() | Quantize():
                return "int8"
            case Stem(algorithm="direct"):
                read = phase.dst
            case SegmentedConv():
                read = phase.segments[0].src
            case _:
                return "float32"
        return self.tensors[read].floats

    def without_weights(self) -> Plan:
        """The same plan for describing: its arrays keep their shapes and nothing else; it has no hash."""

        def strip(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return np.broadcast_to(np.zeros((), value.dtype), value.shape)  # strides 0: one number in all
            if isinstance(value, tuple):
                return tuple(strip(item) for item in value)
            if is_dataclass(value) and not isinstance(value, type):
                return replace(value, **{f.name: strip(getattr(value, f.name)) for f in fields(value)})
            return value

        return replace(self, phases=strip(self.phases))

    def hash(self) -> str:
        """SHA-256 over structure and weights, hex: equal plans compute equal results on equal hardware."""
        import hashlib  # only here: it loads OpenSSL, which takes as much memory as this package's code

        digest = hashlib.sha256()
        for part in (self.spec.to_json(), sorted(self.tensors.items()), self.phases, sorted(self.outputs.items())):
            _update(digest, part)
        return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        assert value.size <= 1 or any(value.strides), "a plan without weights has no hash"
        digest.update(repr(value.shape).encode())
        digest.update(np.ascontiguousarray(value).data)
    elif is_dataclass(value):
        digest.update(type(value).__name__.encode())
        for f in fields(value):
            _update(digest, getattr(value, f.name))
    elif isinstance(value, (tuple, list)):
        digest.update(f"({len(value)}".encode())
        for item in value:
            _update(digest, item)
    else:
        digest.update(repr(value).encode())
