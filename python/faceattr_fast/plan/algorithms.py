"""How each convolution of a plan is computed: directly, or its 3x3 segments by tiles of outputs.

``winograd2x2``, ``winograd4x4``, ``winograd5x5``, for stride 1: F(4x4, 3x3) makes a tile from 36 products per channel
where a direct 3x3 takes 144; F(2x2) takes 16 of 36, F(5x5) 49 of 225. Integers have F(2x2) and F(4x4), which
are exact there.
``polyphase4x4``, for stride 2: along one axis, output o is w0 x[2o-1] + w1 x[2o] + w2 x[2o+1]. The odd inputs are the
input of a two-tap filter at stride 1, of which F(4, 2) makes four outputs from five products; the even ones take one
product each. In two dimensions 9 · 9 = 81 products remain of 144, 16 of them those of the centre tap, which is computed
directly as a 1x1.

Tiles that reach beyond a map compute outputs that nobody reads: at 14x14 four tiles of 4x4 per side cover 16, and
36 · 16 products stand against 9 · 196, a third; three of 5x5 cover 15, with 49 · 9 products. All but F(2x2) round more
than a direct sum; docs/numerics.md has the errors.

The stem, 7x7 at stride 2, has ``polyphase4x4`` too: even taps with even inputs and odd ones with odd, F(4x4, 4x4) and
its like with three taps. A tile of 16 outputs, of which the pool leaves four, takes 507 products per output channel
where a direct sum takes 2352. Its arithmetic is float32 whatever it writes.

In bfloat16 points and transformed weights are rounded to 8 bits. All forms but F(5x5) are applied there, by the same
count: those keep the errors of heads within about 1.3 times those of direct sums, F(5x5) would not.

The rule is a count of products: the smallest wins, with the transforms and the loading of the weights, of which there
are up to 49 / 9 times as many, counted as products too. What a product of integers costs depends on the instruction set
and on the algorithm: where bytes are multiplied four at a time, products of transformed values, which have 16 bits,
cost twice as much, and winograd2x2 seldom pays. FACEATTR_ALGORITHM (``direct`` or one of these) forces one wherever it
can be applied, and a direct sum elsewhere. What ``faceattr tune`` measured on this machine goes before the rule
(:mod:`~faceattr_fast.tuning`). :meth:`FastForward.describe` shows what was chosen.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Literal, NamedTuple, get_args

import numpy as np

from .. import _core
from ..errors import DeviceError
from .phases import (
    STEM_PRODUCTS,
    STEM_TILES,
    TILES,
    Algorithm,
    Phase,
    Plan,
    Quantize,
    QuantizedConv,
    QuantizedStem,
    SegmentedConv,
    Stem,
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
    "transform_integers",
    "transform_stem",
    "transform_weight",
    "transformed_filters",
    "with_algorithm",
]

Array = np.ndarray

Convolution = Stem | SegmentedConv | QuantizedConv
Chooser = Literal["rule", "tuned", "forced"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
# In bfloat16: docs/numerics.md has the errors.
_TOO_COARSE = ("winograd5x5",)
_INTEGER_CHANNELS = 1 << 10  # with more, sums of winograd2x2 could exceed 32 bits
# So could those of winograd4x4 where the magnitudes of an output's weights add up to more: 255 times this is < 2^25.
_INTEGER_WEIGHTS = 131_586

# Both transforms of a tile take about this many operations per point and channel, loads and stores included.
_TRANSFORM_COST = 6
# An image reads each weight once from the outer cache, at about 8 bytes per cycle: an eighth of a cycle per byte, in
# which a core with two 8-wide multiply-adds could do 2 products.
_BYTE_COST = 2


class _Costs(NamedTuple):
    """Of a number format: instructions per multiply-add where float32 takes 1, and bytes per value or weight."""

    direct: float  # of a map's values
    bytes: int
    transformed: float  # of those that an algorithm transforms, and of the stem's
    transformed_bytes: int


_FLOATS = _Costs(1, 4, 1, 4)
# By instruction set, best first. vpmaddwd does 16 multiply-adds (AVX-512: 32) where vfmadd does 8 (16); vpaddd, which
# adds the sums up, has ports of its own on AVX2, but takes vfmadd's on AVX-512; vpdpwssd does both at once, vpdpbusd
# for twice as many bytes. Without any of them pairs and fours are taken apart first.
_INTEGERS = {
    "avx512vnni": _Costs(1 / 4, 1, 1 / 2, 2),
    "avx512bf16": _Costs(1, 2, 1, 2),
    "avx512": _Costs(1, 2, 1, 2),
    "avx2": _Costs(1 / 2, 2, 1 / 2, 2),
    "scalar": _Costs(2, 1, 2, 2),
}


def _integer_costs(isa: str) -> _Costs:
    levels = (isa or _core.detected_isa()).split("+")  # an unknown one is the engine's to refuse
    return next((costs for level, costs in _INTEGERS.items() if level in levels), _INTEGERS["avx2"])


# The points of the transforms besides infinity; docs/numerics.md compares them with others.
_POINTS: dict[Algorithm, tuple[float, ...]] = {
    "winograd2x2": (0, 1, -1),
    "winograd4x4": (0, 11 / 16, -11 / 16, 3 / 2, -3 / 2),
    "winograd5x5": (1 / 4, -1 / 4, 7 / 8, -7 / 8, 7 / 4, -7 / 4),
    "polyphase4x4": (7 / 16, -7 / 16, 5 / 4, -5 / 4),
}
# G of F(2x2, 3x3) for the points 0, ±1 and infinity, twice; of F(4x4, 3x3) for ±2 besides, 24 times, but its last row
# 12 times, which keeps points of 127s below 2^15 (Lavin & Gray, 2015).
_INTEGERS_G: dict[Algorithm, Array] = {
    "winograd2x2": np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int16),
    "winograd4x4": np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 12]], np.int16),
}


def transform_weight(weight: Array, algorithm: Algorithm) -> Array:
    """G w Gᵀ of every filter, float64: [oc, c, 3, 3] → [filters, oc, c], :func:`transformed_filters` of them.

    Along an axis, each point has a filter, and polyphase4x4 the middle tap besides, as it is; the last of its filters
    in two dimensions, the centre tap, is left out.
    """
    out, channels = weight.shape[:2]
    if algorithm == "polyphase4x4":
        axis = np.zeros((6, 3))
        axis[:5, ::2], scale = _interpolation(_POINTS[algorithm], 2)
        axis[5, 1] = 1
        scale = np.append(scale, 1)
    else:
        axis, scale = _interpolation(_POINTS[algorithm], 3)
    filters: Array = np.kron(axis, axis) @ weight.reshape(out * channels, 9).T
    filters /= np.kron(scale, scale)[:, None]  # last, so that filters of integers that are zero are so exactly
    return filters.reshape(len(axis) ** 2, out, channels)[: transformed_filters(algorithm)]


def _interpolation(points: tuple[float, ...], taps: int) -> tuple[Array, Array]:
    """G along one axis, before each row is divided by its scale: for each point p, then infinity.

    A row is the powers 1, p, p² …, which make the filter as a polynomial at p; its scale is Π (p - q) over the other
    points q, the denominator of Lagrange's interpolation (tests/test_algorithms.py derives all matrices).
    """
    powers = [[p**tap for tap in range(taps)] for p in points]
    scales = [prod(p - q for q in points if q != p) for p in points]
    return np.array([*powers, [0.0] * (taps - 1) + [1.0]]), np.array([*scales, 1.0])


def transform_stem(weight: Array) -> Array:
    """Of every filter the factors of a tile's products, float64: [oc, 3, 7, 7] → [oc, 507].

    The seven points of F(5x5, 3x3) are those of F(4, 4) for the four even taps of an axis; the three odd ones have the
    six finite points. In the order of the points, each has its channels, of even and odd columns, of even and odd rows.
    """
    points = _POINTS["winograd5x5"]
    even, scale = _interpolation(points, 4)
    axes = even / scale[:, None], (_interpolation(points, 3)[0] / scale[:, None])[: len(points)]
    filters = [
        (axes[row] @ weight[:, :, row::2, column::2] @ axes[column].T) for row in range(2) for column in range(2)
    ]
    side = len(points) + 1
    products = [
        values[:, :, row, column]
        for row in range(side)
        for column in range(side)
        for values in filters
        if row < values.shape[2] and column < values.shape[3]
    ]
    result: Array = np.concatenate(products, axis=1)
    assert result.shape == (len(weight), STEM_PRODUCTS)
    return result


def transform_integers(weight: Array, algorithm: Algorithm) -> Array:
    """G w Gᵀ of every filter in integers, exact: int8 [oc, c, 3, 3] → int16 [points, oc, c]."""
    out, channels = weight.shape[:2]
    axis = _INTEGERS_G[algorithm]
    points: Array = np.kron(axis, axis) @ weight.reshape(out * channels, 9).T.astype(np.int16)
    return points.reshape(TILES[algorithm].points, out, channels)


def transformed_filters(algorithm: Algorithm) -> int:
    """Transformed weights per channel of input and output; polyphase4x4 has a centre tap besides."""
    if algorithm == "polyphase4x4":
        return 35
    return TILES[algorithm].points if algorithm in TILES else 0


def forced_algorithm() -> Algorithm | None:
    """FACEATTR_ALGORITHM; None where it is not set.

    Raises:
        DeviceError: it names no algorithm.
    """
    name = os.environ.get("FACEATTR_ALGORITHM")
    if not name:
        return None
    for algorithm in ALGORITHMS:
        if name == algorithm:
            return algorithm
    raise DeviceError(f"unknown algorithm {name!r}: FACEATTR_ALGORITHM may be {' or '.join(ALGORITHMS)}")


def candidates(plan: Plan, phase: Phase) -> tuple[Algorithm, ...]:
    """The algorithms that can compute a phase of ``plan``, ``direct`` first; none where there is no choice."""
    match phase:
        case Stem():
            return ("direct",) if plan.tensors[phase.dst].floats == "float16" else ("direct", "polyphase4x4")
        case SegmentedConv():
            bfloat16 = plan.tensors[phase.segments[0].src].floats == "bfloat16"
            names = [name for name in ALGORITHMS if name not in _TOO_COARSE] if bfloat16 else ALGORITHMS
            return ("direct", *(name for name in names if replace(phase, algorithm=name).split()[0]))
        case QuantizedConv():
            transformed, _ = replace(phase, algorithm="winograd2x2").split()
            if not transformed:
                return ("direct",)
            weights = sum(np.abs(s.weight.astype(np.int32)).sum((1, 2, 3)) for s in transformed)
            able: dict[Algorithm, bool] = {
                "winograd2x2": sum(segment.count for segment in transformed) <= _INTEGER_CHANNELS,
                "winograd4x4": bool(np.max(weights) <= _INTEGER_WEIGHTS),
            }
            return ("direct", *(name for name in able if able[name]))
        case _:
            return ()


def signature(plan: Plan, conv: Convolution) -> str:
    """What the time of a convolution depends on: formats, shapes and strides. Neither names nor weights."""

    def text(channels: int, tensor: str) -> str:
        shape = plan.tensors[tensor]
        stored = "int8" if shape.integers else shape.floats
        return f"{shape.height}x{shape.width}x{channels} {stored}"

    if isinstance(conv, Stem):
        return f"7x7/2 of pixels, pool -> {text(plan.tensors[conv.dst].channels, conv.dst)}"
    # How many channels the source has beside those that are read matters little, and depends on the heads asked for.
    reads = [f"{s.kernel}x{s.kernel}/{s.stride} of {text(s.count, s.src)}" for s in conv.segments]
    reads += ["residual"] if conv.residual else []
    writes = [text(plan.tensors[name].channels, name) for name in (conv.dst, conv.copy) if name]
    return f"{' + '.join(reads)} -> {' and '.join(writes)}{', relu' if conv.relu else ''}"


def choose_algorithms(
    plan: Plan, forced: Algorithm | None = None, tuned: Mapping[str, str] | None = None, isa: str = ""
) -> Plan:
    """The plan with an algorithm for each convolution: the cheapest one by the rule, if nothing else is said.

    Args:
        plan: its number formats are chosen.
        forced: taken wherever it can be applied, a direct sum elsewhere.
        tuned: the algorithm of convolutions by their :func:`signature`; one that cannot be applied is passed over.
        isa: the instruction set, ``+`` between several; empty: all that this machine has. The rule asks for it where
            maps are integers, and only there.
    """

    def choose(phase: Phase) -> Phase:
        choice = choose_algorithm(plan, phase, forced, tuned, isa)
        return with_algorithm(phase, choice.algorithm) if choice else phase

    return replace(plan, phases=tuple(map(choose, plan.phases)))


class Choice(NamedTuple):
    """An algorithm and what chose it."""

    algorithm: Algorithm
    by: Chooser


def choose_algorithm(
    plan: Plan, phase: Phase, forced: Algorithm | None = None, tuned: Mapping[str, str] | None = None, isa: str = ""
) -> Choice | None:
    """For one phase; None where there is nothing to choose. Arguments as :func:`choose_algorithms` takes them."""
    if not isinstance(phase, (Stem, SegmentedConv, QuantizedConv)):
        return None
    names = candidates(plan, phase)
    if forced is not None:
        return Choice(forced if forced in names else "direct", "forced")
    measured = tuned.get(signature(plan, phase)) if tuned else None
    for name in names:
        if name == measured:
            return Choice(name, "tuned")
    integers = _integer_costs(isa)
    return Choice(min(names, key=lambda name: _cost(plan, with_algorithm(phase, name), integers)), "rule")


def with_algorithm(phase: Phase, algorithm: Algorithm) -> Phase:
    """The phase, computed by one of its :func:`candidates`."""
    assert isinstance(phase, (Stem, SegmentedConv, QuantizedConv)), "other phases have no algorithms"
    return replace(phase, algorithm=algorithm)  # type: ignore[arg-type]  # a candidate is one of the phase's own


def plan_cost(plan: Plan, isa: str) -> float:
    """The time of a plan of float32 and integers, estimated, in products of float32.

    Args:
        plan: with its algorithms chosen.
        isa: the instruction set, as for :func:`choose_algorithms`.
    """
    integers = _integer_costs(isa)
    return sum(_cost(plan, phase, integers) for phase in plan.phases)


def _cost(plan: Plan, phase: Phase, integers: _Costs) -> float:
    match phase:
        case Stem():
            return _stem_cost(plan, phase)
        case SegmentedConv():
            return _convolution_cost(plan, phase, _FLOATS)
        case QuantizedConv():
            return _convolution_cost(plan, phase, integers)
        case QuantizedStem():
            return integers.transformed * plan.phase_products(phase)
        case Quantize():  # each value is loaded, and stored
            shape = plan.tensors[phase.dst]
            return _BYTE_COST * (_FLOATS.bytes + integers.bytes) * shape.height * shape.width * shape.channels
        case _:
            return plan.phase_products(phase)


def _stem_cost(plan: Plan, stem: Stem) -> float:
    if stem.algorithm == "direct":
        return plan.phase_products(stem)
    points = TILES["winograd5x5"].points
    channels = 4 * int(stem.weight.shape[1])  # of even and odd rows and columns
    operations = STEM_PRODUCTS * len(stem.weight) + _TRANSFORM_COST * points * (channels + len(stem.weight))
    return STEM_TILES.count(plan.tensors[stem.dst]) * operations


def _convolution_cost(plan: Plan, conv: SegmentedConv | QuantizedConv, costs: _Costs) -> float:
    shape = plan.tensors[conv.dst]
    transformed, direct = conv.split()
    weights = sum(int(segment.weight.size) for segment in direct)
    cost = weights * (costs.direct * shape.height * shape.width + costs.bytes * _BYTE_COST)
    if transformed:
        tiles, channels = TILES[conv.algorithm], sum(segment.count for segment in transformed)
        filters = transformed_filters(conv.algorithm) * channels * shape.channels
        points = tiles.points * tiles.count(shape)
        operations = channels * shape.channels + _TRANSFORM_COST * (channels + shape.channels)
        cost += costs.transformed * points * operations + costs.transformed_bytes * _BYTE_COST * filters
    return cost
