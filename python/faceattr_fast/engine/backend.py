"""From a :class:`.Plan` to a C++ engine: weights rounded to float32, names turned to indices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .. import _core
from ..errors import WeightsError
from ..plan.algorithms import transform_integers, transform_stem, transform_weight
from ..plan.phases import (
    TILES,
    Algorithm,
    LinearHead,
    Plan,
    Quantize,
    QuantizedConv,
    QuantizedStem,
    Segment,
    SegmentedConv,
    ShiftedMeans,
    Stem,
    TensorShape,
)
from .device import CudaDevice

__all__ = ["compile_for_cuda", "compile_plan"]


def compile_plan(plan: Plan, threads: int, isa: str) -> _core.Engine:
    """Pack ``plan`` for the instruction set ``isa``; empty: for all that this machine has.

    Raises:
        DeviceError: the instruction set is unknown or not there.
    """
    return _core.Engine(_lower(plan), isa, threads)


def compile_for_cuda(plan: Plan, device: CudaDevice) -> Any:
    """Pack ``plan`` for a GPU and upload its weights; an ``Engine`` of the device's module.

    Raises:
        DeviceError: the device is not usable, or has no room.
    """
    device.require_own_process()
    # Heads keep the values that float16 left them, in float32.
    phases = tuple(replace(p, scale=None) if isinstance(p, LinearHead) else p for p in plan.phases)
    plan = replace(plan, phases=phases)
    return device.module.Engine(_lower(plan), device.index, device.kernels)


def _lower(plan: Plan) -> _core.Plan:
    pixels = plan.spec.pixels
    core = _core.Plan(pixels.size, pixels.mean, pixels.scale)
    index = {name: _tensor(core, shape) for name, shape in plan.tensors.items()}
    for phase in plan.phases:
        dst = index[phase.dst]
        match phase:
            case Stem(algorithm="polyphase4x4"):
                core.winograd_stem(dst, _f32(transform_stem(phase.weight)), _f32(phase.bias))
            case Stem():
                weight = _f32(phase.weight.transpose(0, 2, 3, 1))
                _check_range(weight, plan.phase_format(phase))
                core.stem(dst, weight, _f32(phase.bias))
            case SegmentedConv():
                transformed, direct = phase.split()
                channels = plan.tensors[phase.dst].channels
                weight = _f32(np.concatenate([np.empty((channels, 0)), *map(_rows, direct)], axis=1))
                _check_range(weight, plan.phase_format(phase))
                segments = [(index[s.src], s.start, s.count, s.kernel, s.stride) for s in direct]
                bias = _f32(np.zeros(channels) if phase.bias is None else phase.bias)
                residual = -1 if phase.residual is None else index[phase.residual]
                copy = -1 if phase.copy is None else index[phase.copy]
                if transformed:
                    filters = [transform_weight(s.weight, phase.algorithm) for s in transformed]
                    points, tiles = _f32(np.concatenate(filters, axis=2)), TILES[phase.algorithm]
                    sources = [(index[s.src], s.start, s.count) for s in transformed]
                    core.winograd_conv(
                        dst, sources, tiles.stride, tiles.side, points, segments, weight, bias, phase.relu, residual,
                        copy,
                    )  # fmt: skip
                else:
                    core.segmented_conv(dst, segments, weight, bias, phase.relu, residual, copy)
            case QuantizedStem():
                weight = np.ascontiguousarray(phase.weight.transpose(0, 2, 3, 1))
                core.quantized_stem(dst, weight, phase.bias, phase.multiplier)
            case QuantizedConv():
                transformed, direct = phase.split()
                channels = plan.tensors[phase.dst].channels
                weight = np.concatenate([np.empty((channels, 0), np.int8), *map(_rows, direct)], axis=1)
                segments = [(index[s.src], s.start, s.count, s.kernel, s.stride) for s in direct]
                sources = [(index[s.src], s.start, s.count) for s in transformed]
                form: Algorithm = phase.algorithm if transformed else "winograd2x2"
                parts = [np.empty((TILES[form].points, channels, 0), np.int16)]
                points = np.concatenate([*parts, *(transform_integers(s.weight, form) for s in transformed)], axis=2)
                residual = -1 if phase.residual is None else index[phase.residual]
                copy = -1 if phase.copy is None else index[phase.copy]
                inverse = np.empty(0, np.float32) if phase.inverse is None else phase.inverse
                core.quantized_conv(
                    dst, segments, weight, phase.bias, phase.multiplier, phase.relu, residual, copy, inverse,
                    sources, points, TILES[form].side,
                )  # fmt: skip
            case Quantize():
                core.quantize(dst, index[phase.src], phase.inverse)
            case ShiftedMeans():
                core.shifted_means(dst, index[phase.src], phase.kernel, phase.stride, phase.start, phase.count)
            case LinearHead():
                weight = np.concatenate([weight for _, weight in phase.inputs], axis=1)
                inputs = [(index[src], w.shape[1]) for src, w in phase.inputs]
                if phase.scale is None:
                    core.linear_head(dst, inputs, _f32(weight), _f32(phase.bias))
                else:
                    half = (weight / phase.scale[:, None]).astype(np.float16).view(np.uint16)
                    core.half_linear_head(dst, inputs, half, _f32(phase.scale), _f32(phase.bias))
    for output in plan.outputs.values():
        core.output(index[output.tensor], output.start, output.count)
    return core


def _tensor(core: _core.Plan, shape: TensorShape) -> int:
    if shape.integers is None:
        return core.tensor(shape.height, shape.width, shape.channels, shape.floats)
    return core.integer_tensor(
        shape.height, shape.width, np.array(shape.integers.scale, np.float32), shape.integers.low
    )


def _rows(segment: Segment) -> np.ndarray:
    """[oc, K], K over ky, kx, channel."""
    return segment.weight.transpose(0, 2, 3, 1).reshape(len(segment.weight), -1)


def _f32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(rounded).all():
        raise WeightsError("weights exceed the range of float32 once batch norm is folded in")
    return rounded


def _check_range(weight: np.ndarray, dtype: str) -> None:
    """The other formats have the range of float32."""
    if dtype == "float16" and weight.size and np.abs(weight).max() > np.finfo(np.float16).max:
        raise WeightsError("weights exceed the range of float16 once batch norm is folded in: use bfloat16")
