"""From samples to figures. Pure functions: nothing here measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = [
    "Row",
    "Summary",
    "best_of_groups",
    "format_rows",
    "make_rows",
    "relative_speeds",
    "summarise",
    "worst_error",
]

_COPIED = ("contender", "group", "peer", "threads", "batch", "worst_error", "settings")


@dataclass(frozen=True)
class Summary:
    """Seconds per image: the median and where 80 % of the samples lie."""

    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Row:
    """One contender at one batch size and number of threads.

    ``relative_speed``: how many times as fast as the fastest peer (medians); None without peers.
    ``gflops``: effective, 2 x the multiply-adds of the network as given, whatever is really executed.
    """

    contender: str
    group: str
    peer: bool
    threads: int
    batch: int
    seconds: Summary
    samples: int
    images_per_second: float
    gflops: float
    worst_error: float
    settings: str
    relative_speed: float | None = None


def summarise(samples: Sequence[float]) -> Summary:
    """Raises ValueError for no samples, or for one that is not a positive number."""
    values = np.asarray(samples, np.float64)
    if values.size == 0 or not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"expected positive seconds, at least one, got {samples!r}")
    p10, median, p90 = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    return Summary(median, p10, p90)


def worst_error(outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> float:
    """The largest ‖out − ref‖₂ / ‖ref‖₂ of a head, over the images of the reference; infinite where a head is missing.

    A contender that leaves out a head does less work than the others.
    """
    worst = 0.0
    for name, expected in reference.items():
        if name not in outputs or outputs[name].shape[1:] != expected.shape[1:] or len(outputs[name]) < len(expected):
            return float("inf")
        difference = outputs[name][: len(expected)].astype(np.float64) - expected
        error = float(np.linalg.norm(difference) / max(np.linalg.norm(expected), np.finfo(np.float64).tiny))
        worst = max(worst, error if error == error else float("inf"))
    return worst


def relative_speeds(medians: Mapping[str, float], peers: Iterable[str]) -> dict[str, float]:
    """Of each contender, how many times as fast as the fastest peer; empty without peers.

    Args:
        medians: seconds per image by name.
        peers: names of those that are compared with.
    """
    fastest = min((medians[name] for name in peers if name in medians), default=None)
    return {} if fastest is None else {name: fastest / seconds for name, seconds in medians.items()}


def best_of_groups(rows: Iterable[Row]) -> list[Row]:
    """Per group, threads and batch the row of the lowest median, in the order of first appearance."""
    best: dict[tuple[int, int, str], Row] = {}
    for row in rows:
        key = (row.threads, row.batch, row.group)
        if key not in best or row.seconds.median < best[key].seconds.median:
            best[key] = row
    return list(best.values())


def make_rows(measurements: Iterable[Mapping[str, Any]], multiply_adds: int) -> list[Row]:
    """Rows of a record's ``measurements``, with speeds relative to the fastest peer of the same threads and batch."""
    rows = [_row(measurement, multiply_adds) for measurement in measurements]
    for i, row in enumerate(rows):
        same = {r.contender: r for r in rows if (r.threads, r.batch) == (row.threads, row.batch)}
        speeds = relative_speeds(
            {name: r.seconds.median for name, r in same.items()}, [name for name, r in same.items() if r.peer]
        )
        if speeds:
            rows[i] = replace(row, relative_speed=speeds[row.contender])
    return rows


def _row(measurement: Mapping[str, Any], multiply_adds: int) -> Row:
    samples = [s for turn in measurement["turns"] for s in turn["seconds_per_image"]]
    seconds = summarise(samples)
    return Row(
        seconds=seconds,
        samples=len(samples),
        images_per_second=1 / seconds.median,
        gflops=2 * multiply_adds / seconds.median / 1e9,
        **{name: measurement[name] for name in _COPIED},
    )


def format_rows(rows: Sequence[Row]) -> str:
    """A table per number of threads and batch size; one line per group, its best setting."""
    lines: list[str] = []
    shown = best_of_groups(rows)
    for threads, batch in dict.fromkeys((row.threads, row.batch) for row in shown):
        if lines:
            lines.append("")
        title = f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
        lines.append(
            f"{title:24} {'ms/image':>9} {'p10 - p90':>17} {'img/s':>8} {'GFLOP/s':>8} {'speed':>6} {'error':>8}"
            "  settings"
        )
        for row in shown:
            if (row.threads, row.batch) != (threads, batch):
                continue
            spread = f"{row.seconds.p10 * 1e3:.3f} - {row.seconds.p90 * 1e3:.3f}"
            speed = "" if row.relative_speed is None else f"{row.relative_speed:.2f}x"
            lines.append(
                f"{row.group:24} {row.seconds.median * 1e3:9.3f} {spread:>17} {row.images_per_second:8.1f}"
                f" {row.gflops:8.1f} {speed:>6} {row.worst_error:8.1e}  {row.settings}"
            )
    if any(row.relative_speed is not None for row in shown):
        lines += ["", "speed: times the fastest peer's, medians; GFLOP/s: effective, on the network as given"]
    return "\n".join(lines)
