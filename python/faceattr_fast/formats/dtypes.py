"""The number formats that ``dtype`` gives a plan of floats, and what int8 needs in the metadata of a weights file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ..errors import WeightsError
from ..plan.phases import Algorithm, Plan
from ..weights import Weights
from .mixed import choose_formats, measure_errors, recorded_errors
from .quantize import calibrate, quantize_plan
from .storage import halve_heads, store_bfloat16, store_float16

__all__ = ["DTYPES", "INT8_KEY", "format_plan", "int8_ranges", "with_int8_ranges"]

#: Number formats by kind of device, the default first.
DTYPES = {
    "cpu": ("float32", "bfloat16", "int8", "mixed"),
    "cuda": ("float16", "bfloat16", "int8", "float32"),
}

INT8_KEY = "int8"  # of the metadata
_LEAST_RANGE = 1e-30  # beyond it, or its inverse, steps and their products leave the range of float32


def format_plan(plan: Plan, weights: Weights, dtype: str, isa: str, forced: Algorithm | None = None) -> Plan:
    """The plan in the format ``dtype``; algorithms are not chosen yet.

    Args:
        plan: of floats.
        weights: whose metadata has the scales for int8 and mixed.
        isa, forced: what :func:`.mixed.choose_formats` estimates times for.

    Raises:
        WeightsError: scales are missing or unusable.
    """
    match dtype:
        case "int8":
            plan = quantize_plan(plan, int8_ranges(weights))
        case "mixed":
            ranges, errors = int8_ranges(weights), recorded_errors(weights.metadata[INT8_KEY], plan)
            plan = choose_formats(plan, ranges, errors, isa, forced)
        case "bfloat16":
            plan = store_bfloat16(plan)
        case "float16":
            plan = store_float16(plan)
        case _:
            return plan
    return halve_heads(plan)


def with_int8_ranges(
    weights: Weights, pixels: np.ndarray, threads: int, isa: str = "", progress: Callable[[int], None] | None = None
) -> Weights:
    """The weights with what int8 and mixed need in their metadata; ``pixels`` as :meth:`FastForward.__call__` takes."""
    ranges = calibrate(weights.spec, weights.tensors, pixels, threads, isa, progress or (lambda done: None))
    errors = measure_errors(weights.spec, weights.tensors, ranges, pixels, threads, isa)
    entry = {"ranges": ranges, "images": len(pixels), "errors": errors}
    return replace(weights, metadata={**weights.metadata, INT8_KEY: entry})


def int8_ranges(weights: Weights) -> Mapping[str, float]:
    """The range of each value from the metadata of a weights file.

    Raises:
        WeightsError: there are none, or they are no positive numbers of a usable size.
    """
    entry = weights.metadata.get(INT8_KEY)
    ranges = entry.get("ranges") if isinstance(entry, dict) else None
    if not isinstance(ranges, dict):
        raise WeightsError(
            "int8: these weights have no scales; make them from sample pictures: faceattr quantize, or calibration="
        )
    for name, limit in ranges.items():
        number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if not number or not _LEAST_RANGE <= limit <= 1 / _LEAST_RANGE:
            raise WeightsError(f"int8: the range of {name!r} must be a positive number, got {limit!r}")
    return ranges
