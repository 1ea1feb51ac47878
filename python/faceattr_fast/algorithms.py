"""How each convolution of a plan is computed: directly, or its stride-1 3x3 segments by Winograd's F(4x4, 3x3).

F(4x4) makes a 4x4 tile of outputs from 36 products per channel where a direct 3x3 takes 144. A map whose side is no
multiple of four computes outputs that nobody reads: at 14x14 four tiles per side cover 16, and 36 · 16 products stand
against 9 · 196, a third. It rounds a little more than a direct sum; docs/numerics.md has the errors.

The rule is a count: the smaller number of products wins, the transforms counted as products too. FACEATTR_ALGORITHM
(``direct``, ``winograd4x4``) forces one wherever it can be applied; :meth:`FastForward.describe` shows what was chosen.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import cast, get_args

import numpy as np

from .errors import DeviceError
from .plan import WINOGRAD_POINTS, Algorithm, Plan, SegmentedConv, winograd_tiles

__all__ = ["choose_algorithms", "forced_algorithm", "transform_weight"]

Array = np.ndarray

# Both transforms of a tile take about this many operations per point and channel, loads and stores included.
_TRANSFORM_COST = 6

# G of F(4x4, 3x3) for the points 0, ±1, ±2 and infinity (Lavin & Gray, 2015).
_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


def transform_weight(weight: Array) -> Array:
    """G w Gᵀ of every filter, float64: [oc, c, 3, 3] → [36, oc, c]."""
    out, channels = weight.shape[:2]
    points: Array = np.kron(_G, _G) @ weight.reshape(out * channels, 9).T
    return points.reshape(WINOGRAD_POINTS, out, channels)


def forced_algorithm() -> Algorithm | None:
    """FACEATTR_ALGORITHM; None where it is not set.

    Raises:
        DeviceError: it names no algorithm.
    """
    name = os.environ.get("FACEATTR_ALGORITHM")
    if not name:
        return None
    for algorithm in get_args(Algorithm):
        if name == algorithm:
            return cast(Algorithm, algorithm)
    raise DeviceError(f"unknown algorithm {name!r}: FACEATTR_ALGORITHM may be {' or '.join(get_args(Algorithm))}")


def choose_algorithms(plan: Plan, forced: Algorithm | None = None) -> Plan:
    """The plan with an algorithm for each convolution: the cheaper one, or ``forced`` where it can be applied."""
    phases = [
        replace(phase, algorithm=_choose(plan, phase, forced)) if isinstance(phase, SegmentedConv) else phase
        for phase in plan.phases
    ]
    return replace(plan, phases=tuple(phases), _hash=[])


def _choose(plan: Plan, phase: SegmentedConv, forced: Algorithm | None) -> Algorithm:
    trial = replace(phase, algorithm="winograd4x4")
    transformed, _ = trial.split()
    if not transformed or forced == "direct":
        return "direct"
    shape = plan.tensors[phase.dst]
    values = winograd_tiles(shape.height) * winograd_tiles(shape.width) * WINOGRAD_POINTS
    transforms = _TRANSFORM_COST * values * (shape.channels + sum(segment.count for segment in transformed))
    cheaper = plan.phase_products(trial) + transforms < plan.phase_multiply_adds(phase)
    return "winograd4x4" if forced or cheaper else "direct"
