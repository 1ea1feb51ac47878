"""The int8 scheme: integers of 8 bits for activations and weights, exact sums of 32 bits.

- Behind a ReLU, a value is stored as 0 … 255 times a scale; a residual stream as -128 … 127 times a scale, and where
  blocks add to it or heads average it, as float32 beside that.
- A convolution's weights are -127 … 127 with a scale per output channel. The scales of what it reads are folded into
  the weights first, so that segments with different sources share one sum.
- A sum becomes the next integer by one float32 multiplier per channel, rounded to nearest even. Biases are integers in
  units of the sum. No step depends on the order of a sum: every backend gives the same integers.
- The stem reads ``rint(2 · (pixel - mean))``, which is exact for pixels of 8 bits and zero in the padding. Heads are
  summed in float32, on means that are summed as integers.

Scales come from sample pixels (:func:`calibrate`): one range per value of the network, by the value's name. The
rewrite changes which values are formed, not what they are, so one set serves a network as given and rewritten, and any
choice of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np

from ..engine.backend import compile_plan
from ..errors import WeightsError
from ..plan.algorithms import choose_algorithms
from ..plan.phases import (
    Integers,
    Output,
    Phase,
    Plan,
    Quantize,
    QuantizedConv,
    QuantizedStem,
    Segment,
    SegmentedConv,
    Stem,
    TensorShape,
)
from ..plan.rewrite import build_plan
from ..spec import NetworkSpec
from .storage import Storage, without_stem_shortcuts

__all__ = ["calibrate", "quantize_plan"]

Array = np.ndarray

_WEIGHT_LIMIT = 127
# Of a bias in units of the sum: with 2^15 products of 255 · 127 at most, the sum stays below 2^31.
_BIAS_LIMIT = 2.0**29


def calibrate(
    spec: NetworkSpec,
    tensors: Mapping[str, Array],
    pixels: Array,
    threads: int,
    isa: str = "",
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """The range of every value of the network that int8 stores, by its name.

    Args:
        spec, tensors: the network.
        pixels: uint8 [N, S, S, 3] or float32 [N, 3, S, S], N ≥ 1: faces as they will come; some hundred are enough.
        threads, isa: of the float32 engine that runs them.
        progress: called with the number of images that are done.

    Returns:
        The magnitude at which each value is clipped: where the mean square of rounding and clipping is least.

    Raises:
        ValueError: no images.
    """
    if len(pixels) == 0:
        raise ValueError("calibration: expected at least one image, got none")
    plan = build_plan(spec, tensors, ["embedding", *(head.name for head in spec.heads)], rewrite=False)
    maps = {p.dst: p for p in plan.phases if isinstance(p, (Stem, SegmentedConv))}
    outputs = {name: Output(name, 0, plan.tensors[name].channels) for name in maps}
    plan = choose_algorithms(replace(plan, outputs=outputs))
    engine = compile_plan(plan, threads, isa)
    kept = max(256, _SAMPLES // len(pixels))
    samples: dict[str, list[Array]] = {name: [] for name in maps}
    rng = np.random.default_rng(0)
    shapes = [plan.tensors[name] for name in maps]
    for start in range(0, len(pixels), _CHUNK):
        part = pixels[start : start + _CHUNK]
        arrays = [np.empty((len(part), s.height, s.width, s.channels), np.float32) for s in shapes]
        engine.run(part, arrays)
        for name, array in zip(maps, arrays, strict=True):
            values = array.reshape(-1)
            if not np.isfinite(values).all():
                raise ValueError("calibration: expected finite pixels, got an image with a NaN or infinite one")
            samples[name].append(rng.choice(values, min(kept * len(part), values.size), replace=False))
            samples[name].append(np.array([values[np.abs(values).argmax()]]))
        progress(start + len(part))
    return {
        name: _best_range(np.concatenate(samples[name]), _levels(getattr(phase, "relu", True)))
        for name, phase in maps.items()
    }


_CHUNK = 4  # images at a time: every value of the paper's network as float32 takes 11 MB per image
_SAMPLES = 1 << 17  # values per value of the network, of all images


def _levels(relu: bool) -> int:
    return 255 if relu else 127


def _best_range(values: Array, levels: int) -> float:
    highest = float(np.abs(values).max())
    if highest == 0:
        return 1.0  # never anything but zero: any range will do
    ranges = highest * np.linspace(0.2, 1.0, 81)

    def error(limit: float) -> float:
        step = limit / levels
        return float(np.square(values - np.clip(np.rint(values / step), -levels, levels) * step).mean())

    return float(min(ranges, key=error))


def quantize_plan(plan: Plan, ranges: Mapping[str, float], chosen: Collection[str] | None = None) -> Plan:
    """The plan in integers, with the scales that ``ranges`` imply.

    Args:
        plan: of floats.
        ranges: from :func:`calibrate`.
        chosen: maps that are stored as integers; phases that read others stay as they are. None: all maps.

    Raises:
        WeightsError: a value has no range.
        ValueError: a convolution reads maps of both sorts.
    """
    if chosen is None:
        return _Quantizer(without_stem_shortcuts(plan), ranges, None).run()
    return _Quantizer(plan, ranges, chosen).run()


class _Quantizer:
    def __init__(self, plan: Plan, ranges: Mapping[str, float], chosen: Collection[str] | None) -> None:
        self.plan, self.ranges, self.storage = plan, ranges, Storage(plan, "int8", chosen)
        self.tensors: dict[str, TensorShape] = dict(plan.tensors)

    def run(self) -> Plan:
        phases = tuple(after for phase in self.plan.phases for after in self._phases(phase))
        return replace(self.plan, phases=phases, tensors=self.tensors)

    def _phases(self, phase: Phase) -> tuple[Phase, ...]:
        match phase:
            case Stem() | SegmentedConv() if not self.storage.computes(phase):
                return (phase, *self._conversion(phase.dst))
            case Stem():
                return (self._stem(phase),)
            case SegmentedConv():
                return (self._conv(phase),)
            case _:
                return (phase,)  # heads stay in float32; means read either kind of number

    def _conversion(self, tensor: str) -> tuple[Phase, ...]:
        """What makes the integers of a map of floats, where they are read."""
        copy = self.storage.copy(tensor)
        return () if copy is None else (Quantize(copy, tensor, self._inverse(tensor, copy)),)

    def _inverse(self, tensor: str, name: str) -> Array:
        """Store ``tensor`` as integers under ``name``; 1 / their scale."""
        inverse: Array = (1 / self._integers(tensor, name).astype(np.float64)).astype(np.float32)
        return inverse

    def _scale(self, tensor: str) -> Array:
        """[channels] float32, of a tensor's integers."""
        scales = []
        for part, channels in self.plan.parts.get(tensor, ((tensor, self.plan.tensors[tensor].channels),)):
            value = part.partition("[")[0]  # on a coarser grid it is the same value
            if value not in self.ranges:
                raise WeightsError(f"int8: no scale for {value!r}; make new ones with faceattr quantize")
            scales.append(np.full(channels, self.ranges[value] / _levels(tensor in self.storage.relu), np.float32))
        return np.concatenate(scales)

    def _integers(self, tensor: str, name: str) -> Array:
        """Store ``tensor`` as integers under ``name``; their scale."""
        scale = self._scale(tensor)
        low: Integers = Integers(tuple(scale.tolist()), 0 if tensor in self.storage.relu else -128)
        self.tensors[name] = replace(self.plan.tensors[tensor], integers=low)
        return scale

    def _stem(self, phase: Stem) -> QuantizedStem:
        doubled = 2 * np.array(self.plan.spec.pixels.scale)
        weight, bias, unit = _quantize_rows([phase.weight / doubled[:, None, None]], phase.bias)
        scale = self._integers(phase.dst, phase.dst)
        return QuantizedStem(phase.dst, weight[0], bias, (unit / scale).astype(np.float32))

    def _conv(self, phase: SegmentedConv) -> QuantizedConv:
        scaled = []
        for s in phase.segments:
            scale = self._scale(s.src).astype(np.float64)[s.start : s.start + s.count]
            scaled.append(s.weight * scale[:, None, None])
        channels = self.plan.tensors[phase.dst].channels
        weights, bias, unit = _quantize_rows(scaled, np.zeros(channels) if phase.bias is None else phase.bias)
        segments = tuple(
            Segment(self.storage.narrow(s.src), weight, s.stride, s.start)
            for s, weight in zip(phase.segments, weights, strict=True)
        )
        if phase.dst not in self.storage.floats:
            multiplier = unit / self._integers(phase.dst, phase.dst)
            return QuantizedConv(phase.dst, segments, bias, multiplier.astype(np.float32), phase.relu)
        copy = self.storage.copy(phase.dst)
        inverse = None if copy is None else self._inverse(phase.dst, copy)
        return QuantizedConv(
            phase.dst, segments, bias, unit.astype(np.float32), phase.relu, phase.residual, copy, inverse
        )


def _quantize_rows(weights: list[Array], bias: Array) -> tuple[list[Array], Array, Array]:
    """int8 weights [oc, …] with one unit per output channel for all of them, int32 biases, the units (float64)."""
    highest = np.max([np.abs(w).reshape(len(w), -1).max(1) for w in weights], axis=0)
    unit = np.maximum(highest / _WEIGHT_LIMIT, np.abs(bias) / _BIAS_LIMIT)
    unit[unit == 0] = 1.0
    rounded = [np.rint(w / unit.reshape(-1, *[1] * (w.ndim - 1))).astype(np.int8) for w in weights]
    return rounded, np.rint(bias / unit).astype(np.int32), unit
