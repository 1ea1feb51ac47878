"""The format ``mixed``: int8 where that saves time and costs little, float32 elsewhere.

A convolution sums what it reads in one format, so the maps of a plan fall into classes: maps that one convolution reads
together, directly or by way of a third, are stored in one format. A class in int8 takes along all convolutions that
read it; what else they need is converted (:class:`.Quantize`).

- Calibration measures each class's error: that of the worst head with this class alone in int8
  (:func:`measure_errors`). It is kept by value: the square of a class's error is shared equally among its values, so
  that a class of other heads, with fewer values, finds its part.
- Loading chooses (:func:`choose_formats`): classes whose estimated time falls (:func:`.plan_cost`) go to
  int8, those with the least error² per time saved first, for as long as the sum of error² stays within a quarter of
  that of all classes. Roundings of different classes are independent, their squares add: half the error of int8.

Both depend on the network, the file and the instruction set alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..engine.backend import compile_plan
from ..errors import WeightsError
from ..plan.algorithms import choose_algorithms, plan_cost
from ..plan.phases import Algorithm, Plan, SegmentedConv
from ..plan.rewrite import build_plan
from ..spec import NetworkSpec
from .quantize import quantize_plan

__all__ = ["choose_formats", "map_classes", "measure_errors", "recorded_errors"]

Array = np.ndarray

_ERROR_SHARE = 1 / 4  # of the sum of error²
_IMAGES = 32  # of the calibration's, for which errors are measured
_MEANINGLESS = 1e9  # nothing that anyone measured
_FORMS = {True: "rewritten", False: "given"}  # the rewrite changes which maps there are


def map_classes(plan: Plan) -> list[tuple[str, ...]]:
    """The maps that convolutions of a plan of floats read, by class, in the order of the plan."""
    classes: list[list[str]] = []
    for phase in plan.phases:
        if isinstance(phase, SegmentedConv):
            read = list(dict.fromkeys(s.src for s in phase.segments))
            joined = [members for members in classes if not set(members).isdisjoint(read)]
            classes = [members for members in classes if members not in joined]
            classes.append(list(dict.fromkeys(name for members in (*joined, read) for name in members)))
    order = {name: i for i, name in enumerate(plan.tensors)}
    return sorted((tuple(sorted(m, key=order.__getitem__)) for m in classes), key=lambda m: order[m[0]])


def _values(plan: Plan, members: tuple[str, ...]) -> list[str]:
    """The values of the network that the maps of a class hold."""
    return [part for name in members for part, _ in plan.parts.get(name, ((name, 0),))]


def measure_errors(
    spec: NetworkSpec,
    tensors: Mapping[str, Array],
    ranges: Mapping[str, float],
    pixels: Array,
    threads: int,
    isa: str = "",
) -> dict[str, dict[str, float]]:
    """What int8 costs each value, as the module says: by form of the network, then by value.

    Args:
        spec, tensors: the network.
        ranges: from :func:`.quantize.calibrate`.
        pixels: the same as there; up to 32 of them are run once per class and form.
        threads, isa: of the engine.
    """
    sample = np.ascontiguousarray(pixels[:: math.ceil(len(pixels) / _IMAGES)])
    names = ["embedding", *(head.name for head in spec.heads)]

    def run(plan: Plan) -> list[Array]:
        arrays = [np.empty((len(sample), output.count), np.float32) for output in plan.outputs.values()]
        compile_plan(plan, threads, isa).run(sample, arrays)  # direct sums: packed sooner
        return arrays

    errors: dict[str, dict[str, float]] = {}
    for rewrite, form in _FORMS.items():
        plan = build_plan(spec, tensors, names, rewrite=rewrite)
        exact, shares = run(plan), errors.setdefault(form, {})
        for members in map_classes(plan):
            found = run(quantize_plan(plan, ranges, members))
            worst = max(_error(*pair) for pair in zip(found, exact, strict=True))
            values = _values(plan, members)
            shares |= dict.fromkeys(values, worst / math.sqrt(len(values)))
    return errors


def _error(found: Array, exact: Array) -> float:
    distance, length = float(np.linalg.norm(found - exact)), float(np.linalg.norm(exact))
    return distance / length if length else float(distance > 0)  # of nothing but zeros, all is lost or nothing


def recorded_errors(entry: Mapping[str, Any], plan: Plan) -> dict[str, float]:
    """The errors of the plan's form, from what calibration left in the metadata of a weights file.

    Raises:
        WeightsError: there are none, or they are no numbers that an error can be.
    """
    forms = entry.get("errors")
    errors = forms.get(_FORMS[plan.rewritten]) if isinstance(forms, dict) else None
    if not isinstance(errors, dict):
        raise WeightsError("mixed: these weights do not say what int8 costs; make new scales with faceattr quantize")
    for name, error in errors.items():
        number = isinstance(error, (int, float)) and not isinstance(error, bool)
        if not number or not 0 <= error < _MEANINGLESS:
            raise WeightsError(f"mixed: the error of {name!r} must be a number from 0 on, got {error!r}")
    return errors


class _Candidate(NamedTuple):
    square: float  # of its error
    saved: float  # of the estimated time
    members: tuple[str, ...]


def choose_formats(
    plan: Plan, ranges: Mapping[str, float], errors: Mapping[str, float], isa: str, forced: Algorithm | None = None
) -> Plan:
    """The plan with the chosen classes in integers.

    Args:
        plan: of floats.
        ranges, errors: from calibration; errors of the plan's form. A class with a value that has none stays float32.
        isa: as for :func:`.choose_algorithms`.
        forced: the algorithm that :func:`.choose_algorithms` will be told; of the estimate.

    Raises:
        WeightsError: a value has an error but no range.
    """

    def cost(*members: str) -> float:
        return plan_cost(choose_algorithms(quantize_plan(plan, ranges, members), forced, isa=isa), isa)

    floats = cost()
    measured = []
    for members in map_classes(plan):
        values = _values(plan, members)
        if all(value in errors for value in values):
            square = sum(errors[value] ** 2 for value in values)
            measured.append(_Candidate(square, floats - cost(*members), members))
    left = _ERROR_SHARE * sum(candidate.square for candidate in measured)
    chosen: list[str] = []
    faster = [candidate for candidate in measured if candidate.saved > 0]
    for candidate in sorted(faster, key=lambda c: (c.square / c.saved, c.members)):
        if candidate.square <= left:
            left -= candidate.square
            chosen += candidate.members
    return quantize_plan(plan, ranges, chosen)
