"""Horizontal fusion: phases that read the same become one wider phase, and read it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from .phases import LinearHead, Output, Phase, Segment, SegmentedConv, ShiftedMeans

__all__ = ["fuse"]

_Fusible = SegmentedConv | LinearHead
_Place = tuple[str, int]  # tensor, first channel


_Parts = dict[str, tuple[tuple[str, int], ...]]


def fuse(phases: Sequence[Phase], outputs: Mapping[str, Output]) -> tuple[list[Phase], dict[str, Output], _Parts]:
    """Convolutions with ReLU and no residual, and linear layers, that have the same inputs; channels are concatenated.

    A fused phase stands where its first part stood: all parts have the same inputs, and readers come later.

    Returns:
        The phases, where each output lies now, and the parts (value, channels) of every fused tensor by its name.
    """
    leader: dict[str, tuple[_Fusible, ...]] = {}  # by the name of its first part
    place: dict[str, _Place] = {}  # by the name of any part
    parts: _Parts = {}
    for group in _groups(phases):
        name, start = "+".join(part.dst for part in group), 0
        for part in group:
            place[part.dst] = (name, start)
            start += _channels(part)
        leader[group[0].dst] = group
        parts[name] = tuple((part.dst, _channels(part)) for part in group)

    fused: list[Phase] = []
    for phase in phases:
        if phase.dst in leader:
            phase = _concatenate(leader[phase.dst], place[phase.dst][0])
        elif phase.dst in place:
            continue
        fused.append(_relocate(phase, place))
    return fused, {name: _relocate_output(output, place) for name, output in outputs.items()}, parts


def _groups(phases: Sequence[Phase]) -> list[tuple[_Fusible, ...]]:
    """Of two parts and more."""
    read = {src for phase in phases if isinstance(phase, LinearHead) for src, _ in phase.inputs}
    groups: dict[object, list[_Fusible]] = {}
    for phase in phases:
        match phase:
            case SegmentedConv(relu=True, residual=None):
                key: object = tuple((s.src, s.start, s.count, s.kernel, s.stride) for s in phase.segments)
                groups.setdefault(key, []).append(phase)
            case LinearHead():
                group = groups.setdefault(tuple(src for src, _ in phase.inputs), [])
                # A linear layer reads the leading channels of a vector, so one part that is read on may come first.
                if phase.dst not in read:
                    group.append(phase)
                elif not any(part.dst in read for part in group):
                    group.insert(0, phase)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _channels(phase: _Fusible) -> int:
    return len(phase.bias) if isinstance(phase, LinearHead) else len(phase.segments[0].weight)


def _concatenate(parts: Sequence[_Fusible], dst: str) -> Phase:
    convs = [part for part in parts if isinstance(part, SegmentedConv)]
    linears = [part for part in parts if isinstance(part, LinearHead)]
    if linears:
        inputs = zip(*(part.inputs for part in linears), strict=True)
        return LinearHead(
            dst,
            tuple((same[0][0], np.concatenate([weight for _, weight in same])) for same in inputs),
            np.concatenate([part.bias for part in linears]),
        )
    segments = zip(*(part.segments for part in convs), strict=True)
    return replace(
        convs[0],
        dst=dst,
        segments=tuple(replace(same[0], weight=np.concatenate([s.weight for s in same])) for same in segments),
        bias=np.concatenate([part.bias for part in convs if part.bias is not None]),  # with a ReLU comes a bias
    )


def _relocate(phase: Phase, place: Mapping[str, _Place]) -> Phase:
    """Read every part where it lies now."""
    match phase:
        case SegmentedConv():
            return replace(phase, segments=tuple(_relocate_segment(segment, place) for segment in phase.segments))
        case ShiftedMeans():
            src, start = place.get(phase.src, (phase.src, 0))
            return replace(phase, src=src, start=phase.start + start)
        case LinearHead():
            return replace(phase, inputs=tuple((place.get(src, (src, 0))[0], weight) for src, weight in phase.inputs))
        case _:
            return phase


def _relocate_segment(segment: Segment, place: Mapping[str, _Place]) -> Segment:
    src, start = place.get(segment.src, (segment.src, 0))
    return replace(segment, src=src, start=segment.start + start)


def _relocate_output(output: Output, place: Mapping[str, _Place]) -> Output:
    tensor, start = place.get(output.tensor, (output.tensor, 0))
    return replace(output, tensor=tensor, start=output.start + start)
