"""From a :class:`~faceattr_fast.plan.Plan` to the C++ engine: weights rounded to float32, names turned to indices."""

from __future__ import annotations

import numpy as np

from . import _core
from .algorithms import transform_weight
from .errors import WeightsError
from .plan import LinearHead, Plan, SegmentedConv, ShiftedMeans, Stem

__all__ = ["compile_plan"]


def compile_plan(plan: Plan, threads: int, isa: str) -> _core.Engine:
    """Pack ``plan`` for the instruction set ``isa``; empty: for all that this machine has.

    Raises:
        DeviceError: the instruction set is unknown or not there.
    """
    pixels = plan.spec.pixels
    core = _core.Plan(pixels.size, pixels.mean, pixels.scale)
    index = {name: core.tensor(t.height, t.width, t.channels) for name, t in plan.tensors.items()}
    for phase in plan.phases:
        dst = index[phase.dst]
        match phase:
            case Stem():
                core.stem(dst, _f32(phase.weight.transpose(0, 2, 3, 1)), _f32(phase.bias))
            case SegmentedConv():
                transformed, direct = phase.split()
                channels = plan.tensors[phase.dst].channels
                rows = [s.weight.transpose(0, 2, 3, 1).reshape(channels, -1) for s in direct]
                weight = _f32(np.concatenate([np.empty((channels, 0)), *rows], axis=1))
                segments = [(index[s.src], s.start, s.count, s.kernel, s.stride) for s in direct]
                bias = _f32(np.zeros(channels) if phase.bias is None else phase.bias)
                residual = -1 if phase.residual is None else index[phase.residual]
                if transformed:
                    filters = [transform_weight(s.weight, phase.algorithm) for s in transformed]
                    points, stride = _f32(np.concatenate(filters, axis=2)), transformed[0].stride
                    sources = [(index[s.src], s.start, s.count) for s in transformed]
                    core.winograd_conv(dst, sources, stride, points, segments, weight, bias, phase.relu, residual)
                else:
                    core.segmented_conv(dst, segments, weight, bias, phase.relu, residual)
            case ShiftedMeans():
                core.shifted_means(dst, index[phase.src], phase.kernel, phase.stride, phase.start, phase.count)
            case LinearHead():
                weight = np.concatenate([weight for _, weight in phase.inputs], axis=1)
                core.linear_head(
                    dst, [(index[src], w.shape[1]) for src, w in phase.inputs], _f32(weight), _f32(phase.bias)
                )
    for output in plan.outputs.values():
        core.output(index[output.tensor], output.start, output.count)
    return _core.Engine(core, isa, threads)


def _f32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(rounded).all():
        raise WeightsError("weights exceed the range of float32 once batch norm is folded in")
    return rounded
