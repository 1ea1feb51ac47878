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
are four times as many, counted as products too. FACEATTR_ALGORITHM (``direct``, ``winograd4x4``, ``polyphase4x4``,
``winograd2x2``) forces one wherever it can be applied, and a direct sum elsewhere. What ``faceattr tune`` measured on
this machine goes before the rule (:mod:`.tuning`). :meth:`FastForward.describe` shows what was chosen.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

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

__all__ = [
    "Choice",
    "Chooser",
    "candidates",
    "choose_algorithm",
    "choose_algorithms",
    "forced_algorithm",
    "plan_cost",
    "signature",
    "transform_weight",
    "transformed_filters",
    "with_algorithm",
]

Array = np.ndarray

AnyAlgorithm = Algorithm | IntegerAlgorithm
Convolution = SegmentedConv | QuantizedConv
Chooser = Literal["rule", "tuned", "forced"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
_INTEGER_CHANNELS = 1 << 10  # with more, sums of winograd2x2 could exceed 32 bits

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


def candidates(plan: Plan, phase: Phase) -> tuple[AnyAlgorithm, ...]:
    """The algorithms that can compute a phase of ``plan``, ``direct`` first; none where there is no choice."""
    match phase:
        case SegmentedConv():
            if any(plan.tensors[segment.src].bfloat16 for segment in phase.segments):
                return ("direct",)
            return ("direct", *(name for name in ALGORITHMS if replace(phase, algorithm=name).split()[0]))
        case QuantizedConv():
            transformed, _ = replace(phase, algorithm="winograd2x2").split()
            channels = sum(segment.count for segment in transformed)
            return ("direct", "winograd2x2") if 0 < channels <= _INTEGER_CHANNELS else ("direct",)
        case _:
            return ()


def signature(plan: Plan, conv: Convolution) -> str:
    """What the time of a convolution depends on: formats, shapes and strides. Neither names nor weights."""

    def text(channels: int, tensor: str) -> str:
        shape = plan.tensors[tensor]
        stored = "int8" if shape.integers else "bfloat16" if shape.bfloat16 else "float32"
        return f"{shape.height}x{shape.width}x{channels} {stored}"

    # How many channels the source has beside those that are read matters little, and depends on the heads asked for.
    reads = [f"{s.kernel}x{s.kernel}/{s.stride} of {text(s.count, s.src)}" for s in conv.segments]
    reads += ["residual"] if conv.residual else []
    writes = [text(plan.tensors[name].channels, name) for name in (conv.dst, conv.copy) if name]
    return f"{' + '.join(reads)} -> {' and '.join(writes)}{', relu' if conv.relu else ''}"


def choose_algorithms(plan: Plan, forced: AnyAlgorithm | None = None, tuned: Mapping[str, str] | None = None) -> Plan:
    """The plan with an algorithm for each convolution: the cheapest one by the rule, if nothing else is said.

    Args:
        plan: its number formats are chosen.
        forced: taken wherever it can be applied, a direct sum elsewhere.
        tuned: the algorithm of convolutions by their :func:`signature`; one that cannot be applied is passed over.
    """

    def choose(phase: Phase) -> Phase:
        choice = choose_algorithm(plan, phase, forced, tuned)
        return with_algorithm(phase, choice.algorithm) if choice else phase

    return replace(plan, phases=tuple(map(choose, plan.phases)), _hash=[])


class Choice(NamedTuple):
    """An algorithm and what chose it."""

    algorithm: AnyAlgorithm
    by: Chooser


def choose_algorithm(
    plan: Plan, phase: Phase, forced: AnyAlgorithm | None = None, tuned: Mapping[str, str] | None = None
) -> Choice | None:
    """For one phase; None where there is nothing to choose. Arguments as :func:`choose_algorithms` takes them."""
    if not isinstance(phase, (SegmentedConv, QuantizedConv)):
        return None
    names = candidates(plan, phase)
    if forced is not None:
        return Choice(forced if forced in names else "direct", "forced")
    measured = tuned.get(signature(plan, phase)) if tuned else None
    for name in names:
        if name == measured:
            return Choice(name, "tuned")
    return Choice(min(names, key=lambda name: _products(plan, with_algorithm(phase, name))), "rule")


def with_algorithm(phase: Phase, algorithm: AnyAlgorithm) -> Phase:
    """The phase, computed by one of its :func:`candidates`."""
    assert isinstance(phase, (SegmentedConv, QuantizedConv)), "other phases have no algorithms"
    return replace(phase, algorithm=algorithm)  # type: ignore[arg-type]  # a candidate is one of the phase's own


def _products(plan: Plan, phase: Phase) -> int:
    """The cost of a convolution, in products of its own kind."""
    match phase:
        case SegmentedConv():
            return _cost(plan, phase)
        case QuantizedConv():
            return _integer_cost(plan, phase)
        case _:
            return plan.phase_products(phase)


def _integer_cost(plan: Plan, phase: QuantizedConv) -> int:
    """In products of integers."""
    transformed, _ = phase.split()
    if not transformed:
        return plan.phase_products(phase)
    shape, channels = plan.tensors[phase.dst], sum(segment.count for segment in transformed)
    values = INTEGER_POINTS * integer_tile_count(shape) * (channels + shape.channels)
    return plan.phase_products(phase) + _TRANSFORM_COST * values


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
            transformed, direct = phase.split()
            weights = sum(int(segment.weight.size) for segment in direct)
            weights += INTEGER_POINTS * sum(len(segment.weight) * segment.count for segment in transformed)
            return integer_product * _integer_cost(plan, phase) + _WEIGHT_COST / 2 * weights
        case QuantizedStem():
            return integer_product * plan.phase_products(phase)
        case Quantize():
            shape = plan.tensors[phase.dst]
            return _CONVERSION_COST * shape.height * shape.width * shape.channels
        case _:
            return plan.phase_products(phase)
