"""How each convolution of a plan is computed: directly, or its 3x3 segments by tiles of 4x4 outputs.

``winograd4x4``, for stride 1: F(4x4, 3x3) makes a tile from 36 products per channel where a direct 3x3 takes 144.
``polyphase4x4``, for stride 2: along one axis, output o is w0 x[2o-1] + w1 x[2o] + w2 x[2o+1]. The odd inputs are the
input of a two-tap filter at stride 1, of which F(4, 2) makes four outputs from five products; the even ones take one
product each. In two dimensions 9 · 9 = 81 products remain of 144, 16 of them those of the centre tap, which is computed
directly as a 1x1.

A map whose side is no multiple of four computes outputs that nobody reads: at 14x14 four tiles per side cover 16, and
36 · 16 products stand against 9 · 196, a third. Both round a little more than a direct sum; docs/numerics.md has the
errors.

The rule is a count of products: the smallest wins, with the transforms and the loading of the weights, of which there
are four times as many, counted as products too. FACEATTR_ALGORITHM (``direct``, ``winograd4x4``, ``polyphase4x4``)
forces one wherever it can be applied, and a direct sum elsewhere; :meth:`FastForward.describe` shows what was chosen.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import get_args

import numpy as np

from .errors import DeviceError
from .plan import (
    TRANSFORMED_POINTS,
    Algorithm,
    Phase,
    Plan,
    Quantize,
    QuantizedConv,
    QuantizedStem,
    SegmentedConv,
    tile_count,
)

__all__ = ["choose_algorithms", "forced_algorithm", "plan_cost", "transform_weight", "transformed_filters"]

Array = np.ndarray

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)

# Both transforms of a tile take about this many operations per point and channel, loads and stores included.
_TRANSFORM_COST = 6
# An image reads each weight once from the outer cache, at about 8 bytes per cycle: half a cycle, in which a core with
# two 8-wide multiply-adds could do 8 products.
_WEIGHT_COST = 8
# A value that becomes an integer: 4 bytes loaded, 2 stored, at the same rate.
_CONVERSION_COST = 12
# What a multiply-add of integers costs where one of float32 costs 1, by instruction set, best first: instructions per
# multiply-add. vpmaddwd does 16 of them (AVX-512: 32) where vfmadd does 8 (16); vpaddd, which adds the sums up, has
# ports of its own on AVX2, but takes vfmadd's on AVX-512; vpdpwssd does both at once. Without any of them pairs are
# taken apart first.
_INTEGER_PRODUCT_COST = {"avx512vnni": 1 / 2, "avx512bf16": 1.0, "avx512": 1.0, "avx2": 1 / 2, "scalar": 2.0}

# Of F(4x4, 3x3) for the points 0, ±1, ±2 and infinity (Lavin & Gray, 2015): a row per point along one axis.
_WINOGRAD = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
# F(4, 2) of the outer taps for the points 0, ±1, 2 and infinity, and the middle tap as it is. Row i of a point p_i is
# (1, p_i) / Π_j (p_i - p_j) over the other finite points: the filter as a polynomial at p_i, with the denominator of
# Lagrange's interpolation (tests/test_algorithms.py derives all three matrices).
_POLYPHASE = np.array(
    [
        [1 / 2, 0, 0],
        [-1 / 2, 0, -1 / 2],
        [-1 / 6, 0, 1 / 6],
        [1 / 6, 0, 1 / 3],
        [0, 0, 1],
        [0, 1, 0],
    ]
)


def transform_weight(weight: Array, algorithm: Algorithm) -> Array:
    """G w Gᵀ of every filter, float64: [oc, c, 3, 3] → [36, oc, c], or [35, oc, c] without the centre tap."""
    out, channels = weight.shape[:2]
    axis = _WINOGRAD if algorithm == "winograd4x4" else _POLYPHASE
    points: Array = np.kron(axis, axis) @ weight.reshape(out * channels, 9).T
    return points.reshape(36, out, channels)[: transformed_filters(algorithm)]


def transformed_filters(algorithm: Algorithm) -> int:
    """Transformed weights per channel of input and output; polyphase4x4 has a centre tap besides."""
    return {"direct": 0, "winograd4x4": 36, "polyphase4x4": 35}[algorithm]


def forced_algorithm() -> Algorithm | None:
    """FACEATTR_ALGORITHM; None where it is not set.

    Raises:
        DeviceError: it names no algorithm.
    """
    name = os.environ.get("FACEATTR_ALGORITHM")
    if not name:
        return None
    if name not in ALGORITHMS:
        raise DeviceError(f"unknown algorithm {name!r}: FACEATTR_ALGORITHM may be {' or '.join(ALGORITHMS)}")
    return name


def choose_algorithms(plan: Plan, forced: Algorithm | None = None) -> Plan:
    """The plan with an algorithm for each convolution: the cheapest one, or ``forced`` where it can be applied."""
    phases = [
        replace(phase, algorithm=_choose(plan, phase, forced)) if isinstance(phase, SegmentedConv) else phase
        for phase in plan.phases
    ]
    return replace(plan, phases=tuple(phases), _hash=[])


def _choose(plan: Plan, phase: SegmentedConv, forced: Algorithm | None) -> Algorithm:
    trials = [replace(phase, algorithm=algorithm) for algorithm in ALGORITHMS]
    applicable = [trial for trial in trials if trial.algorithm == "direct" or trial.split()[0]]
    if forced is not None:
        return forced if any(trial.algorithm == forced for trial in applicable) else "direct"
    return min(applicable, key=lambda trial: _cost(plan, trial)).algorithm


def _cost(plan: Plan, phase: SegmentedConv) -> int:
    shape = plan.tensors[phase.dst]
    transformed, direct = phase.split()
    channels = sum(segment.count for segment in transformed)
    weights = sum(int(segment.weight.size) for segment in direct)
    weights += transformed_filters(phase.algorithm) * channels * shape.channels
    values = TRANSFORMED_POINTS.get(phase.algorithm, 0) * tile_count(shape) * (shape.channels + channels)
    return plan.phase_products(phase) + _TRANSFORM_COST * values + _WEIGHT_COST * weights


def plan_cost(plan: Plan, isa: str) -> float:
    """The time of a plan of float32 and integers, estimated, in products of float32.

    Args:
        plan: with its algorithms chosen.
        isa: the instruction set, ``+`` between several.
    """
    levels = isa.split("+")  # an unknown one is the engine's to refuse
    product = next((cost for level, cost in _INTEGER_PRODUCT_COST.items() if level in levels), 1.0)
    return sum(_phase_cost(plan, phase, product) for phase in plan.phases)


def _phase_cost(plan: Plan, phase: Phase, integer_product: float) -> float:
    match phase:
        case SegmentedConv():
            return _cost(plan, phase)
        case QuantizedConv():  # whose weights take half the bytes
            weights = sum(int(segment.weight.size) for segment in phase.segments)
            return integer_product * plan.phase_products(phase) + _WEIGHT_COST / 2 * weights
        case QuantizedStem():
            return integer_product * plan.phase_products(phase)
        case Quantize():
            shape = plan.tensors[phase.dst]
            return _CONVERSION_COST * shape.height * shape.width * shape.channels
        case _:
            return plan.phase_products(phase)
