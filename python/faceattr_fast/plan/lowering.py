"""From choices to phases, with the weights composed in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..layers import strided
from .expansion import Choices, Expansion, Site
from .graph import Value
from .phases import LinearHead, Output, Phase, Segment, SegmentedConv, ShiftedMeans, Stem, TensorShape

__all__ = ["lower", "tensor_shapes"]

Array = np.ndarray


def lower(choices: Choices, outputs: Mapping[str, Value]) -> tuple[list[Phase], dict[str, Output]]:
    """Phases in order of depth, and where each of ``outputs`` lies."""
    sites = sorted(choices, key=lambda site: (site.value.depth, site.grid))  # stable: the trunk before heads
    read = [expansion.source.value for expansion in choices.values()]
    stems = dict.fromkeys(value for value in [*read, *outputs.values()] if value.kind == "stem")
    phases: list[Phase] = [_stem(value) for value in stems]
    vectors = _Vectors()
    heads = []
    for site in sites:
        if site.value.is_vector:
            heads += vectors.lower(site, choices[site])
        else:
            phases.append(_conv(site, choices[site]))
    phases = [p for phase in phases for p in (phase, *vectors.means_of(phase.dst))]
    located = {
        name: Output(vectors.tensor(value) if value.is_vector else value.name, 0, value.channels)
        for name, value in outputs.items()
    }
    return [*phases, *heads], located


def tensor_name(site: Site) -> str:
    return site.value.name if site.grid == 1 else f"{site.value.name}[::{site.grid}]"


class _Composed:
    """A site's definition with everything expanded that its expansion passes.

    ``taps`` are (mid, weight [oc, c, 3, 3], stride); ``matrix`` [oc, c], None for the identity, reads the source at
    ``stride`` in steps of the source's own grid.
    """

    def __init__(self, site: Site, expansion: Expansion) -> None:
        self.taps: list[tuple[Value, Array, int]] = []
        self.matrix: Array | None = None
        self.bias: Array | None = None
        stride = site.grid
        for value, parent in site.value.chain():
            if value.bias is not None:
                bias = value.bias if self.matrix is None else self.matrix @ value.bias
                self.bias = bias if self.bias is None else self.bias + bias
            stride *= value.stride
            if value.mid is not None and value.kernel is not None:
                self.taps.append((value.mid, _apply(self.matrix, value.kernel), stride))
            if value.matrix is not None:
                self.matrix = _apply(self.matrix, value.matrix)
            if parent is expansion.source.value:
                break
        self.stride = stride // expansion.source.grid


def _apply(matrix: Array | None, weight: Array) -> Array:
    """``matrix`` after a layer of ``weight`` [c, …]."""
    return weight if matrix is None else (matrix @ weight.reshape(len(weight), -1)).reshape(-1, *weight.shape[1:])


def _stem(value: Value) -> Stem:
    assert value.kernel is not None
    assert value.bias is not None
    return Stem(value.name, value.kernel, value.bias)


def _conv(site: Site, expansion: Expansion) -> SegmentedConv:
    composed, source = _Composed(site, expansion), tensor_name(expansion.source)
    segments = [Segment(mid.name, weight, stride) for mid, weight, stride in composed.taps]
    residual = source if composed.matrix is None and composed.stride == 1 else None
    if residual is None:
        matrix = np.eye(site.value.channels) if composed.matrix is None else composed.matrix
        segments.append(Segment(source, matrix[:, :, None, None], composed.stride))
    return SegmentedConv(tensor_name(site), tuple(segments), composed.bias, site.value.kind == "mid", residual)


class _Vectors:
    """Lowers pooled values and linear layers; equal means are computed once."""

    def __init__(self) -> None:
        self._means: dict[tuple[str, int, int], ShiftedMeans] = {}
        self._aliases: dict[Value, str] = {}

    def tensor(self, value: Value) -> str:
        return self._aliases.get(value, value.name)

    def means_of(self, tensor: str) -> list[ShiftedMeans]:
        return [means for means in self._means.values() if means.src == tensor]

    def lower(self, site: Site, expansion: Expansion) -> list[LinearHead]:
        composed, source = _Composed(site, expansion), expansion.source
        inputs = [
            (self._mean(mid.name, 3, stride, mid.channels), weight.transpose(0, 2, 3, 1).reshape(len(weight), -1))
            for mid, weight, stride in composed.taps
        ]
        if source.value.is_vector:
            last = self.tensor(source.value)
        else:
            last = self._mean(tensor_name(source), 1, composed.stride, source.value.channels)
        channels = site.value.channels
        if composed.matrix is None and composed.bias is None and not inputs:
            self._aliases[site.value] = last  # the mean of a formed value as it is
            return []
        inputs.append((last, np.eye(channels) if composed.matrix is None else composed.matrix))
        bias = np.zeros(channels) if composed.bias is None else composed.bias
        return [LinearHead(site.value.name, tuple(inputs), bias)]

    def _mean(self, src: str, kernel: int, stride: int, count: int) -> str:
        key = (src, kernel, stride)
        if key not in self._means:
            dst = f"{src}.mean{kernel}" + (f"/{stride}" if stride > 1 else "")
            self._means[key] = ShiftedMeans(dst, src, kernel, stride, start=0, count=count)
        return self._means[key].dst


def tensor_shapes(phases: Sequence[Phase], stem_side: int) -> dict[str, TensorShape]:
    """The shape of every tensor that ``phases`` write."""
    shapes: dict[str, TensorShape] = {}
    for phase in phases:
        match phase:
            case Stem():
                shapes[phase.dst] = TensorShape(stem_side, stem_side, len(phase.weight))
            case SegmentedConv():
                segment = phase.segments[0]
                src = shapes[segment.src]
                height, width = strided(src.height, segment.stride), strided(src.width, segment.stride)
                shapes[phase.dst] = TensorShape(height, width, len(segment.weight))
            case ShiftedMeans():
                shapes[phase.dst] = TensorShape(1, 1, phase.kernel**2 * phase.count)
            case LinearHead():
                shapes[phase.dst] = TensorShape(1, 1, len(phase.bias))
    return shapes
