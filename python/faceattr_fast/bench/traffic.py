"""How much memory a phase has to touch: the denominator of a roofline."""

from __future__ import annotations

from ..plan import WINOGRAD_POINTS, LinearHead, Phase, Plan, SegmentedConv, ShiftedMeans, Stem

__all__ = ["phase_bytes"]

_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


def phase_bytes(plan: Plan, phase: Phase, dtype: str) -> int:
    """Per image: every input, weight and result once, as wide as ``dtype``; no kernel can do with less from memory
    that holds none of it. Caches hold much of it, and Winograd's intermediate tiles are not counted."""
    size = plan.spec.pixels.size
    shape = plan.tensors[phase.dst]
    result = shape.height * shape.width * shape.channels
    match phase:
        case Stem():
            values = 3 * size * size + phase.weight.size
        case SegmentedConv():
            inputs = {
                (s.src, s.start, s.count): _read_positions(plan, s.src, s.kernel, s.stride) for s in phase.segments
            }
            transformed, direct = phase.split()
            values = sum(count * positions for (_, _, count), positions in inputs.items())
            values += sum(s.weight.size for s in direct)
            values += sum(len(s.weight) * s.count * WINOGRAD_POINTS for s in transformed)
            values += result if phase.residual else 0
        case ShiftedMeans():
            values = _read_positions(plan, phase.src, phase.kernel, phase.stride) * phase.count
        case LinearHead():
            values = sum(weight.shape[1] + weight.size for _, weight in phase.inputs)
    return int(values + result) * _ELEMENT_BYTES[dtype]


def _read_positions(plan: Plan, src: str, kernel: int, stride: int) -> int:
    """A strided 1x1 skips positions; a 3x3 at stride 2 meets them all."""
    shape = plan.tensors[src]
    step = stride if kernel == 1 else 1
    return -(-shape.height // step) * -(-shape.width // step)
