"""How each convolution of a plan is computed: directly, or its 3x3 segments by tiles of 4x4 outputs.

``winograd4x4``, for stride 1: F(4x4, 3x3) makes a tile from 36 products per channel where a direct 3x3 takes 144.
``polyphase4x4``, for stride 2: along one axis, output o is w0 x[2o-1] + w1 x[2o] + w2 x[2o+1]. The odd inputs are the
input of a two-tap filter at stride 1, of which F(4, 2) makes four outputs from five products; the even ones take one
product each. In two dimensions 9 · 9 = 81 products remain of 144, 16 of them those of the centre tap, which is computed
directly as a 1x1.

``winograd2x2``, for stride 1 in integers: F(2x2, 3x3) makes a 2x2 tile from 16 products instead of 36. It is exact.

A map whose side is no multiple of four computes outputs that nobody reads: at 14x14 four tiles per side cover 16, and
36 · 16 products stand against 9 · 196, a third. Both round a little more than a direct sum; docs/numerics.md has the
errors.

The rule is a count of products: the smallest wins, with the transforms and the loading of the weights, of which there
are four times as many, counted as products too. What a product of integers costs depends on the instruction set and on
the algorithm: where bytes are multiplied four at a time, products of transformed values, which have 16 bits, cost twice
as much, and winograd2x2 seldom pays. FACEATTR_ALGORITHM (``direct``, ``winograd4x4``, ``polyphase4x4``,
``winograd2x2``) forces one wherever it can be applied, and a direct sum elsewhere; :meth:`FastForward.describe` shows
what was chosen.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import NamedTuple, get_args

import numpy as np

from .errors import DeviceError
from .plan import (
    INTEGER_POINTS,
    TRANSFORMED_POINTS,
    Algorithm,
    IntegerAlgorithm,
    Phase,
    Plan,
    Quantize,
    QuantizedConv,
    QuantizedStem,
    SegmentedConv,
    integer_tile_count,
    tile_count,
)

__all__ = ["choose_algorithms", "forced_algorithm", "plan_cost", "transform_weight", "transformed_filters"]

Array = np.ndarray

AnyAlgorithm = Algorithm | IntegerAlgorithm
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
_INTEGER_CHANNELS = 1 << 10  # with more, sums of winograd2x2 could exceed 32 bits

# Both transforms of a tile take about this many operations per point and channel, loads and stores included.
_TRANSFORM_COST = 6
# An image reads each weight once from the outer cache, at about 8 bytes per cycle: an eighth of a cycle per byte, in
# which a core with two 8-wide multiply-adds could do 2 products.
_BYTE_COST = 2
_WEIGHT_COST = 4 * _BYTE_COST


class _IntegerCosts(NamedTuple):
    """What a multiply-add of integers costs where one of float32 costs 1: instructions per multiply-add."""

    direct: float  # of a map's values
    pairs: float  # of integers of 16 bits: the stem's, and those that an algorithm transforms
    value_bytes: int  # of a map's values and their weights


# By instruction set, best first. vpmaddwd does 16 multiply-adds (AVX-512: 32) where vfmadd does 8 (16); vpaddd, which
# adds the sums up, has ports of its own on AVX2, but takes vfmadd's on AVX-512; vpdpwssd does both at once, vpdpbusd
# for twice as many bytes. Without any of them pairs and fours are taken apart first.
_INTEGER_COSTS = {
    "avx512vnni": _IntegerCosts(1 / 4, 1 / 2, 1),
    "avx512bf16": _IntegerCosts(1.0, 1.0, 2),
    "avx512": _IntegerCosts(1.0, 1.0, 2),
    "avx2": _IntegerCosts(1 / 2, 1 / 2, 2),
    "scalar": _IntegerCosts(2.0, 2.0, 1),
}


def _integer_costs(isa: str) -> _IntegerCosts:
    levels = isa.split("+")  # an unknown one is the engine's to refuse
    return next((costs for level, costs in _INTEGER_COSTS.items() if level in levels), _INTEGER_COSTS["avx2"])


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


# 2G of F(2x2, 3x3) for the points 0, ±1 and infinity (Lavin & Gray, 2015).
_INTEGER = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int16)


def transform_weight(weight: Array, algorithm: Algorithm) -> Array:
    """G w Gᵀ of every filter, float64: [oc, c, 3, 3] → [36, oc, c], or [35, oc, c] without the centre tap."""
    out, channels = weight.shape[:2]
    axis = _WINOGRAD if algorithm == "winograd4x4" else _POLYPHASE
    points: Array = np.kron(axis, axis) @ weight.reshape(out * channels, 9).T
    return points.reshape(36, out, channels)[: transformed_filters(algorithm)]


def transform_integers(weight: Array) -> Array:
    """(2G) w (2G)ᵀ of every filter, four times F(2x2)'s, exact: int8 [oc, c, 3, 3] → int16 [16, oc, c]."""
    out, channels = weight.shape[:2]
    points: Array = np.kron(_INTEGER, _INTEGER) @ weight.reshape(out * channels, 9).T.astype(np.int16)
    return points.reshape(INTEGER_POINTS, out, channels)


def transformed_filters(algorithm: Algorithm) -> int:
    """Transformed weights per channel of input and output; polyphase4x4 has a centre tap besides."""
    return {"direct": 0, "winograd4x4": 36, "polyphase4x4": 35}[algorithm]


def forced_algorithm() -> AnyAlgorithm | None:
    """FACEATTR_ALGORITHM; None where it is not set.

    Raises:
        DeviceError: it names no algorithm.
    """
    name = os.environ.get("FACEATTR_ALGORITHM")
    if not name:
        return None
    names: tuple[AnyAlgorithm, ...] = (*ALGORITHMS, "winograd2x2")
    for algorithm in names:
        if name == algorithm:
            return algorithm
    raise DeviceError(f"unknown algorithm {name!r}: FACEATTR_ALGORITHM may be {' or '.join(names)}")


def choose_algorithms(plan: Plan, forced: AnyAlgorithm | None = None, isa: str = "") -> Plan:
    """The plan with an algorithm for each convolution: the cheapest one, or ``forced`` where it can be applied.

    Args:
        plan: any but one of bfloat16.
        forced: from :func:`forced_algorithm`.
        isa: the instruction set, ``+`` between several; it has a say where maps are integers, and only there.
    """
    costs = _integer_costs(isa)

    def choose(phase: Phase) -> Phase:
        match phase:
            case SegmentedConv():
                return replace(phase, algorithm=_choose(plan, phase, forced))
            case QuantizedConv():
                return replace(phase, algorithm=_choose_integer(plan, phase, forced, costs))
            case _:
                return phase

    return replace(plan, phases=tuple(map(choose, plan.phases)), _hash=[])


def _choose_integer(
    plan: Plan, phase: QuantizedConv, forced: AnyAlgorithm | None, costs: _IntegerCosts
) -> IntegerAlgorithm:
    trial = replace(phase, algorithm="winograd2x2")
    transformed, _ = trial.split()
    channels = sum(segment.count for segment in transformed)
    if not 0 < channels <= _INTEGER_CHANNELS or forced not in (None, "winograd2x2"):
        return "direct"
    cheaper = _integer_cost(plan, trial, costs) < _integer_cost(plan, phase, costs)
    return "winograd2x2" if forced or cheaper else "direct"


def _integer_cost(plan: Plan, phase: QuantizedConv, costs: _IntegerCosts) -> float:
    shape = plan.tensors[phase.dst]
    transformed, direct = phase.split()
    channels = sum(segment.count for segment in transformed)
    weights = sum(int(segment.weight.size) for segment in direct)
    tiles, points = integer_tile_count(shape), INTEGER_POINTS * channels * shape.channels
    values = INTEGER_POINTS * tiles * (channels + shape.channels) if transformed else 0
    return (
        costs.direct * weights * shape.height * shape.width
        + costs.pairs * (points * tiles + _TRANSFORM_COST * values)
        + _BYTE_COST * (costs.value_bytes * weights + 2 * points)
    )


def _choose(plan: Plan, phase: SegmentedConv, forced: AnyAlgorithm | None) -> Algorithm:
    trials = [replace(phase, algorithm=algorithm) for algorithm in ALGORITHMS]
    applicable = [trial for trial in trials if trial.algorithm == "direct" or trial.split()[0]]
    if forced is not None:
        return next((trial.algorithm for trial in applicable if trial.algorithm == forced), "direct")
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
    costs = _integer_costs(isa)
    return sum(_phase_cost(plan, phase, costs) for phase in plan.phases)


def _phase_cost(plan: Plan, phase: Phase, costs: _IntegerCosts) -> float:
    match phase:
        case SegmentedConv():
            return _cost(plan, phase)
        case QuantizedConv():
            return _integer_cost(plan, phase, costs)
        case QuantizedStem():
            return costs.pairs * plan.phase_products(phase)
        case Quantize():  # each value is loaded, and stored
            shape = plan.tensors[phase.dst]
            return _BYTE_COST * (4 + costs.value_bytes) * shape.height * shape.width * shape.channels
        case _:
            return plan.phase_products(phase)
