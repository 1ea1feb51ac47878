"""Which values of a plan are stored in 16 bits or less, and the formats that need no more than that.

Convolutions read narrow values. Streams that blocks add to, that heads average or that are given out stay float32, so
that roundings do not pile up along the network; where a convolution reads such a stream, it is stored twice. float16
is fine enough for streams too: eight times finer than bfloat16. Beside narrow maps, weights of heads take 16 bits too.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from ..plan.phases import LinearHead, Phase, Plan, Segment, SegmentedConv, ShiftedMeans, Stem, TensorShape

__all__ = ["Storage", "halve_heads", "store_bfloat16", "store_float16", "without_stem_shortcuts"]


class Storage:
    """What each map of a plan in float32 becomes where convolutions read narrow values.

    Args:
        suffix: of the name of a map's narrow form, where it exists beside float32.
        chosen: maps that are stored in the narrow format; None: all. A convolution reads only such, or none of them.

    Attributes:
        relu: maps behind a ReLU.
        read: maps that are needed in the narrow format, because convolutions read them in it.
        floats: maps that exist in float32.
    """

    def __init__(self, plan: Plan, suffix: str, chosen: Collection[str] | None = None) -> None:
        self._chosen = plan.tensors.keys() if chosen is None else chosen
        convs = [p for p in plan.phases if isinstance(p, SegmentedConv)]
        means = {p.src for p in plan.phases if isinstance(p, ShiftedMeans)}
        kept = {output.tensor for output in plan.outputs.values()}
        self._added = {name for conv in convs if conv.residual for name in (conv.residual, conv.dst)}
        self.relu = {p.dst for p in plan.phases if isinstance(p, Stem) or (isinstance(p, SegmentedConv) and p.relu)}
        self.read = {s.src for conv in convs for s in conv.segments if s.src in self._chosen}
        self.floats = self._added | ((means | kept) - self.relu)
        for phase in plan.phases:
            if isinstance(phase, (Stem, SegmentedConv)) and not (phase.dst in self._chosen and self.computes(phase)):
                self.floats.add(phase.dst)
        self._suffix = suffix

    def computes(self, phase: Stem | SegmentedConv) -> bool:
        """Whether the phase computes in the narrow format: a convolution that reads it, a stem that writes it alone."""
        if isinstance(phase, Stem):
            return phase.dst in self._chosen and phase.dst not in self._added
        narrow = {s.src in self._chosen for s in phase.segments}
        if len(narrow) != 1:
            raise ValueError(f"convolution {phase.dst!r}: expected sources of one format")
        return narrow.pop()

    def narrow(self, tensor: str) -> str:
        """The name under which the narrow values of ``tensor`` are stored."""
        return f"{tensor}.{self._suffix}" if tensor in self.floats else tensor

    def copy(self, tensor: str) -> str | None:
        """The name of the narrow form beside the float32 values; None: there is one form only."""
        return self.narrow(tensor) if tensor in self.floats & self.read else None


def without_stem_shortcuts(plan: Plan) -> Plan:
    """The same network where blocks read the stem's output by a 1x1 convolution with the identity instead of adding it.

    A stem writes narrow values alone, and what is added is float32.
    """
    stems = {phase.dst for phase in plan.phases if isinstance(phase, Stem)}

    def convert(phase: Phase) -> Phase:
        if not isinstance(phase, SegmentedConv) or phase.residual not in stems:
            return phase
        identity = Segment(phase.residual, np.eye(plan.tensors[phase.dst].channels)[:, :, None, None])
        return replace(phase, segments=(*phase.segments, identity), residual=None)

    return replace(plan, phases=tuple(map(convert, plan.phases)))


def store_bfloat16(plan: Plan) -> Plan:
    """The plan with maps and weights of its convolutions in bfloat16, sums in float32; heads stay float32.

    The stem reads ``2 · (pixel - mean)``, whose integers up to 256 bfloat16 holds exactly.
    """
    plan = without_stem_shortcuts(plan)
    storage = Storage(plan, "bfloat16")
    tensors: dict[str, TensorShape] = dict(plan.tensors)

    def narrow(name: str, tensor: str) -> None:
        tensors[name] = replace(plan.tensors[tensor], floats="bfloat16")

    def convert(phase: Phase) -> Phase:
        match phase:
            case Stem():
                narrow(phase.dst, phase.dst)
                return phase
            case SegmentedConv():
                copy = storage.copy(phase.dst)
                if copy is not None or phase.dst not in storage.floats:
                    narrow(copy or phase.dst, phase.dst)
                segments = tuple(replace(s, src=storage.narrow(s.src)) for s in phase.segments)
                return replace(phase, segments=segments, copy=copy)
            case _:
                return phase

    phases = tuple(convert(phase) for phase in plan.phases)
    return replace(plan, phases=phases, tensors=tensors)


def store_float16(plan: Plan) -> Plan:
    """The plan with all maps, and weights of the convolutions, in float16, sums in float32; heads stay float32."""
    maps = {phase.dst for phase in plan.phases if isinstance(phase, (Stem, SegmentedConv))}
    tensors: dict[str, TensorShape] = {
        name: replace(shape, floats="float16") if name in maps else shape for name, shape in plan.tensors.items()
    }
    return replace(plan, tensors=tensors)


def halve_heads(plan: Plan) -> Plan:
    """The plan with the weights of its heads rounded to float16, in units of a power of two per output.

    A single image reads each weight once, so their bytes count. Rounding them moves results by about 2^-12 of what a
    head adds up: little beside what narrow maps do, but far more than float32 does, whose heads stay as they are.
    """

    def convert(phase: Phase) -> Phase:
        if not isinstance(phase, LinearHead):
            return phase
        rows = np.concatenate([weight for _, weight in phase.inputs], axis=1)
        # The largest weight of a row lies in 1 ... 2, so those down to 2^-14 of it keep all 11 bits and none overflows.
        exponent = np.frexp(np.abs(rows).max(1))[1] - 1
        scale = np.ldexp(1.0, np.maximum(exponent, -126))  # a float32
        unit = scale[:, None]
        inputs = tuple((src, (weight / unit).astype(np.float16) * unit) for src, weight in phase.inputs)
        return replace(phase, inputs=inputs, scale=scale)

    return replace(plan, phases=tuple(map(convert, plan.phases)))
