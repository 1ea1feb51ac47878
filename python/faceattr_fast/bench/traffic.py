"""How much memory a phase has to touch: the denominator of a roofline."""

from __future__ import annotations

import math

import numpy as np

from ..plan.algorithms import transformed_filters
from ..plan.phases import (
    LinearHead,
    Phase,
    Plan,
    Quantize,
    QuantizedConv,
    QuantizedStem,
    SegmentedConv,
    ShiftedMeans,
    Stem,
)

__all__ = ["phase_bytes"]


def phase_bytes(plan: Plan, phase: Phase) -> int:
    """Per image: every input, weight and result once. No kernel can do with less where no cache holds any of it.

    Caches hold much of it. Pixels count as float32; Winograd's intermediate tiles are not counted.
    """

    def tensor(name: str, channels: int, positions: int) -> int:
        shape = plan.tensors[name]
        return channels * positions * (1 if shape.integers else 4 if shape.floats == "float32" else 2)

    def whole(name: str) -> int:
        shape = plan.tensors[name]
        return tensor(name, shape.channels, shape.height * shape.width)

    def weights(array: np.ndarray, beside: str) -> int:
        """They are as narrow as the convolution's values."""
        return array.size * (1 if array.dtype == np.int8 else 4 if plan.tensors[beside].floats == "float32" else 2)

    total = whole(phase.dst)
    match phase:
        case Stem() | QuantizedStem():
            total += 4 * 3 * plan.spec.pixels.size**2 + weights(phase.weight, phase.dst)
        case SegmentedConv() | QuantizedConv():
            reads = {(s.src, s.start, s.count, _positions(plan, s.src, s.kernel, s.stride)) for s in phase.segments}
            total += sum(tensor(src, count, positions) for src, _, count, positions in reads)
            total += sum(whole(name) for name in (phase.residual, phase.copy) if name)
            transformed, direct = phase.split()
            total += sum(weights(s.weight, s.src) for s in direct)
            # Integers: transformed weights have 16 bits.
            filters = transformed_filters(phase.algorithm) * (2 if isinstance(phase, QuantizedConv) else 1)
            total += sum(weights(s.weight, s.src) * filters // s.kernel**2 for s in transformed)
        case Quantize():
            total += whole(phase.src)
        case ShiftedMeans():
            total += tensor(phase.src, phase.count, _positions(plan, phase.src, phase.kernel, phase.stride))
        case LinearHead():
            width = 4 if phase.scale is None else 2
            total += sum(tensor(src, weight.shape[1], 1) + width * weight.size for src, weight in phase.inputs)
    return int(total)


def _positions(plan: Plan, src: str, kernel: int, stride: int) -> int:
    """How many positions of ``src`` are read: a 3x3 at stride 2 meets them all, a 1x1 at stride 2 every fourth."""
    shape = plan.tensors[src]
    rows, columns = (min(side, kernel * math.ceil(side / stride)) for side in (shape.height, shape.width))
    return rows * columns
