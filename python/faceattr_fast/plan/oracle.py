"""A plan run by numpy: what every backend is compared with. Slow, plain, and nothing shared with them.

Phases of floats of any format run in float64. Those of integers are what every backend computes, number for
number: sums are exact, and the few steps in float32 are done in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from .phases import (
    LinearHead,
    Phase,
    Plan,
    Quantize,
    QuantizedConv,
    QuantizedStem,
    SegmentedConv,
    ShiftedMeans,
    Stem,
    TensorShape,
)

__all__ = ["run_phase", "run_plan"]

Array = np.ndarray


def run_plan(plan: Plan, x: Array) -> dict[str, Array]:
    """Run ``plan`` on normalised pixels. A quantised plan takes them as the engine does: rounded to float32.

    Args:
        plan: any plan.
        x: [N, 3, S, S], ``(pixel - mean) / scale``.

    Returns:
        By name, float64: [N, count] of a vector, [N, height, width, count] of a tapped activation.
    """
    size = plan.spec.pixels.size
    if x.ndim != 4 or x.shape[1:] != (3, size, size):
        raise ValueError(f"x must be [N, 3, {size}, {size}], got {x.shape}")
    pixels = np.asarray(x, np.float64)
    tensors: dict[str, Array] = {}
    for phase in plan.phases:
        tensors |= run_phase(plan, phase, tensors, pixels)
    results = {name: _real(o.tensor, tensors, plan) for name, o in plan.outputs.items()}
    return {name: results[name][..., o.start : o.start + o.count] for name, o in plan.outputs.items()}


def run_phase(plan: Plan, phase: Phase, tensors: Mapping[str, Array], pixels: Array) -> dict[str, Array]:
    """What one phase writes, by tensor, as it is stored: float64, or integers as float64.

    Args:
        tensors: what it reads, in the same form; ``pixels`` as :func:`run_plan` takes them, float64.
    """
    match phase:
        case Stem():
            return {phase.dst: _stem(phase, pixels)}
        case SegmentedConv():
            value = _conv(phase, tensors)
            return {phase.dst: value} | ({} if phase.copy is None else {phase.copy: value})
        case QuantizedStem():
            return {phase.dst: _quantized_stem(phase, pixels, plan)}
        case QuantizedConv():
            return _quantized_conv(phase, tensors, plan.tensors)
        case Quantize():
            value = tensors[phase.src].astype(np.float32) * phase.inverse
            return {phase.dst: _integers(value, plan.tensors[phase.dst])}
        case ShiftedMeans():
            return {phase.dst: _means(phase, _real(phase.src, tensors, plan))}
        case LinearHead():
            return {phase.dst: _linear(phase, tensors)}


def _real(name: str, tensors: Mapping[str, Array], plan: Plan) -> Array:
    """The values that a tensor's integers stand for."""
    shape = plan.tensors.get(name)
    integers = None if shape is None else shape.integers
    return tensors[name] if integers is None else tensors[name] * np.array(integers.scale)


def _stem(phase: Stem, pixels: Array) -> Array:
    return _relu(_stem_sums(phase.weight, phase.bias, pixels))


def _stem_sums(weight: Array, bias: Array, pixels: Array) -> Array:
    """[N, 3, S, S] → [N, S/4, S/4, oc], without the ReLU."""
    padded = np.pad(pixels, ((0, 0), (0, 0), (3, 3), (3, 3)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(2, 3))[:, :, ::2, ::2]
    n, _, height, width = windows.shape[:4]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * height * width, 3 * 7 * 7)
    channels = len(weight)
    out: Array = columns @ weight.astype(np.float64).reshape(channels, -1).T + bias
    # The maximum over a 2x2 window commutes with everything that comes later, which is monotonic.
    pooled: Array = out.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
    return pooled


def _taps(src: Array, kernel: int, stride: int) -> Iterator[tuple[int, int, Array]]:
    """(ky, kx, what that tap reads: [N, height, width, C]) of a convolution with padding kernel // 2."""
    pad = kernel // 2
    padded = np.pad(src, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    bottom, right = src.shape[1], src.shape[2]
    for ky in range(kernel):
        for kx in range(kernel):
            yield ky, kx, padded[:, ky : ky + bottom : stride, kx : kx + right : stride]


def _conv(phase: SegmentedConv, tensors: Mapping[str, Array]) -> Array:
    terms: list[Array] = []
    for segment in phase.segments:
        src = tensors[segment.src][..., segment.start : segment.start + segment.count]
        for ky, kx, read in _taps(src, segment.kernel, segment.stride):
            terms.append(read @ segment.weight[:, :, ky, kx].T)
    if phase.residual is not None:
        terms.append(tensors[phase.residual])
    out = _total(terms, phase.bias)
    return _relu(out) if phase.relu else out


def _quantized_stem(phase: QuantizedStem, pixels: Array, plan: Plan) -> Array:
    doubled = np.array([2 * scale for scale in plan.spec.pixels.scale], np.float32)[:, None, None]
    integers = np.rint(np.clip(pixels.astype(np.float32) * doubled, -32767, 32767)).astype(np.float64)
    sums = _stem_sums(phase.weight, phase.bias, integers)
    return _integers(sums.astype(np.float32) * phase.multiplier, plan.tensors[phase.dst])


def _quantized_conv(
    phase: QuantizedConv, tensors: Mapping[str, Array], shapes: Mapping[str, TensorShape]
) -> dict[str, Array]:
    floats = tuple(replace(s, weight=s.weight.astype(np.float64)) for s in phase.segments)
    sums = _conv(SegmentedConv(phase.dst, floats, phase.bias.astype(np.float64), relu=False), tensors)
    value = sums.astype(np.float32) * phase.multiplier
    if shapes[phase.dst].integers is not None:
        return {phase.dst: _integers(value, shapes[phase.dst])}
    if phase.residual is not None:
        value = value + tensors[phase.residual].astype(np.float32)
    value = np.maximum(value, np.float32(0)) if phase.relu else value
    results = {phase.dst: value.astype(np.float64)}
    if phase.copy is not None:
        results[phase.copy] = _integers(value * phase.inverse, shapes[phase.copy])
    return results


def _integers(value: Array, shape: TensorShape) -> Array:
    assert value.dtype == np.float32
    assert shape.integers is not None
    integers: Array = np.clip(np.rint(value), shape.integers.low, shape.integers.low + 255).astype(np.float64)
    return integers


def _means(phase: ShiftedMeans, src: Array) -> Array:
    read = src[..., phase.start : phase.start + phase.count]
    return np.concatenate([tap.mean((1, 2)) for _, _, tap in _taps(read, phase.kernel, phase.stride)], axis=-1)


def _linear(phase: LinearHead, tensors: Mapping[str, Array]) -> Array:
    return _total([tensors[src][:, : weight.shape[1]] @ weight.T for src, weight in phase.inputs], phase.bias)


def _relu(x: Array) -> Array:
    positive: Array = np.maximum(x, 0.0)
    return positive


def _total(terms: list[Array], bias: Array | None) -> Array:
    out: Array = np.zeros_like(terms[0]) if bias is None else np.broadcast_to(bias, terms[0].shape).copy()
    for term in terms:
        out += term
    return out
