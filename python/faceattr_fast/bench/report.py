"""From samples to figures. Pure functions: nothing here measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

DTYPES = ("float32", "bfloat16", "float16", "int8", "mixed")

__all__ = [
    "DTYPES",
    "Row",
    "Summary",
    "agreements",
    "best_of_groups",
    "head_errors",
    "make_rows",
    "relative_speeds",
    "rows_of",
    "summarise",
]

_COPIED = ("contender", "group", "peer", "dtype", "threads", "batch", "settings")


@dataclass(frozen=True)
class Summary:
    """Seconds per image: the median and where 80 % of the samples lie."""

    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Row:
    """One contender at one dtype, batch size and number of threads.

    ``relative_speed``: how many times as fast as the fastest peer of that dtype (medians); None without peers.
    ``gflops``: effective, 2 x the multiply-adds of the network as given, whatever is really executed.
    ``worst_error``: of a head, against float64. ``worst_agreement``: the head whose class with the largest logit is
    most often another than in float64, and how often it is the same; None without heads.
    ``cost_per_million``: of so many images, the row's threads being cores that cost what the settings say.
    """

    contender: str
    group: str
    peer: bool
    dtype: str
    threads: int
    batch: int
    seconds: Summary
    samples: int
    images_per_second: float
    gflops: float
    worst_error: float
    worst_agreement: float | None
    settings: str
    relative_speed: float | None = None
    cost_per_million: float | None = None


def summarise(samples: Sequence[float]) -> Summary:
    """Raises ValueError for no samples, or for one that is not a positive number."""
    values = np.asarray(samples, np.float64)
    if values.size == 0 or not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"expected positive seconds, at least one, got {samples!r}")
    p10, median, p90 = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    return Summary(median, p10, p90)


def head_errors(outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> dict[str, float]:
    """By head ‖out − ref‖₂ / ‖ref‖₂ over all images; infinite for a head that is missing, misshapen or not a number.

    A contender that leaves out a head does less work than the others.
    """
    errors = {}
    for name, expected in reference.items():
        errors[name] = float("inf")
        if name in outputs and outputs[name].shape == expected.shape:
            difference = np.linalg.norm(outputs[name].astype(np.float64) - expected)
            error = float(difference / max(np.linalg.norm(expected), np.finfo(np.float64).tiny))
            errors[name] = error if error == error else float("inf")
    return errors


def agreements(outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> dict[str, float]:
    """By head, the share of images whose largest logit is that of the reference; the embedding has no classes."""
    heads = [name for name in reference if name != "embedding"]
    return {name: float((outputs[name].argmax(1) == reference[name].argmax(1)).mean()) for name in heads}


def relative_speeds(medians: Mapping[str, float], peers: Iterable[str]) -> dict[str, float]:
    """Of each contender, how many times as fast as the fastest peer; empty without peers.

    Args:
        medians: seconds per image by name.
        peers: names of those that are compared with.
    """
    fastest = min((medians[name] for name in peers if name in medians), default=None)
    return {} if fastest is None else {name: fastest / seconds for name, seconds in medians.items()}


def best_of_groups(rows: Iterable[Row]) -> list[Row]:
    """Per group, dtype, threads and batch the row of the lowest median, in the order of first appearance."""
    best: dict[tuple[int, int, str, str], Row] = {}
    for row in rows:
        key = (row.threads, row.batch, row.dtype, row.group)
        if key not in best or row.seconds.median < best[key].seconds.median:
            best[key] = row
    return list(best.values())


def make_rows(
    measurements: Iterable[Mapping[str, Any]], multiply_adds: int, price_per_core_hour: float | None = None
) -> list[Row]:
    """Rows of a record's ``measurements``; speeds are relative to the fastest peer of that dtype, threads and batch."""

    def setting(row: Row) -> tuple[str, int, int]:
        return row.dtype, row.threads, row.batch

    rows = [_row(measurement, multiply_adds, price_per_core_hour) for measurement in measurements]
    for i, row in enumerate(rows):
        same = {r.contender: r for r in rows if setting(r) == setting(row)}
        speeds = relative_speeds(
            {name: r.seconds.median for name, r in same.items()}, [name for name, r in same.items() if r.peer]
        )
        if speeds:
            rows[i] = replace(row, relative_speed=speeds[row.contender])
    return rows


def _row(measurement: Mapping[str, Any], multiply_adds: int, price_per_core_hour: float | None) -> Row:
    samples = [s for turn in measurement["turns"] for s in turn["seconds_per_image"]]
    seconds = summarise(samples)
    core_hours = seconds.median * 1e6 / 3600 * measurement["threads"]
    return Row(
        seconds=seconds,
        samples=len(samples),
        images_per_second=1 / seconds.median,
        gflops=2 * multiply_adds / seconds.median / 1e9,
        worst_error=max(measurement["errors"].values()),
        worst_agreement=min(measurement["agreement"].values(), default=None),
        cost_per_million=None if price_per_core_hour is None else price_per_core_hour * core_hours,
        **{name: measurement[name] for name in _COPIED},
    )


def rows_of(record: Mapping[str, Any]) -> list[Row]:
    """The rows of a record, also of one in format 1, which knew float32 only and no agreement."""
    rows = []
    for row in record["rows"]:
        older = {"dtype": record["settings"]["dtype"], "worst_agreement": None} if record["format"] == 1 else {}
        rows.append(Row(**{**older, **row, "seconds": Summary(**row["seconds"])}))
    return rows
