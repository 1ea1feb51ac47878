"""How much memory a phase has to touch: the denominator of a roofline."""

from __future__ import annotations

import math

import numpy as np

from ..plan import (
    WINOGRAD_POINTS,
    LinearHead,
    Phase,
    Plan,
    QuantizedConv,
    QuantizedStem,
    SegmentedConv,
    ShiftedMeans,
    Stem,
)

__all__ = ["phase_bytes"]

_FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 4}  # of what is not integers


def phase_bytes(plan: Plan, phase: Phase, dtype: str) -> int:
    """Per image: every input, weight and result once. No kernel can do with less where no cache holds any of it.

    Caches hold much of it. Pixels count as float32; Winograd's intermediate tiles are not counted.
    """
    width = _FLOAT_BYTES[dtype]

    def tensor(name: str, channels: int, positions: int) -> int:
        return channels * positions * (1 if plan.tensors[name].integers else width)

    def whole(name: str) -> int:
        shape = plan.tensors[name]
        return tensor(name, shape.channels, shape.height * shape.width)

    def weights(array: np.ndarray) -> int:
        return array.size * (1 if array.dtype == np.int8 else width)

    total = whole(phase.dst)
    match phase:
        case Stem() | QuantizedStem():
            total += 4 * 3 * plan.spec.pixels.size**2 + weights(phase.weight)
        case SegmentedConv() | QuantizedConv():
            reads = {(s.src, s.start, s.count, _positions(plan, s.src, s.kernel, s.stride)) for s in phase.segments}
            total += sum(tensor(src, count, positions) for src, _, count, positions in reads)
            total += whole(phase.residual) if phase.residual else 0
            if isinstance(phase, QuantizedConv):
                total += sum(weights(s.weight) for s in phase.segments)
                total += whole(phase.copy) if phase.copy else 0
            else:
                transformed, direct = phase.split()
                total += sum(weights(s.weight) for s in direct)
                total += sum(weights(s.weight) * WINOGRAD_POINTS // s.kernel**2 for s in transformed)
        case ShiftedMeans():
            total += tensor(phase.src, phase.count, _positions(plan, phase.src, phase.kernel, phase.stride))
        case LinearHead():
            total += sum(tensor(src, weight.shape[1], 1) + weights(weight) for src, weight in phase.inputs)
    return int(total)


def _positions(plan: Plan, src: str, kernel: int, stride: int) -> int:
    """How many positions of ``src`` are read: a strided 1x1 skips some, a 3x3 at stride 2 meets them all."""
    shape = plan.tensors[src]
    step = stride if kernel == 1 else 1
    return math.ceil(shape.height / step) * math.ceil(shape.width / step)
