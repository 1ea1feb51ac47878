"""Figures as text for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .report import DTYPES, Row, best_of_groups

__all__ = ["format_peaks", "format_rows", "format_starts", "own_bytes", "peak"]


def format_rows(rows: Sequence[Row]) -> str:
    """A table per number of threads and batch size; one line per group and dtype, its best setting."""
    lines: list[str] = []
    shown = sorted(best_of_groups(rows), key=lambda row: DTYPES.index(row.dtype))
    priced = any(row.cost_per_million is not None for row in rows)
    for threads, batch in dict.fromkeys((row.threads, row.batch) for row in rows):
        title = f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
        lines.append(
            f"{title:20} {'':8} {'ms/image':>9} {'p10 - p90':>17} {'img/s':>8} {'GFLOP/s':>8} {'speed':>6} {'error':>8}"
            f" {'top-1':>6}{' cost/M' if priced else ''}  settings"
        )
        for row in shown:
            if (row.threads, row.batch) != (threads, batch):
                continue
            spread = f"{row.seconds.p10 * 1e3:.3f} - {row.seconds.p90 * 1e3:.3f}"
            speed = "" if row.relative_speed is None else f"{row.relative_speed:.2f}x"
            agreement = "" if row.worst_agreement is None else f"{row.worst_agreement:.1%}"
            cost = "" if row.cost_per_million is None else f" {row.cost_per_million:6.3f}"
            lines.append(
                f"{row.group:20} {row.dtype:8} {row.seconds.median * 1e3:9.3f} {spread:>17}"
                f" {row.images_per_second:8.1f} {row.gflops:8.1f} {speed:>6} {row.worst_error:8.1e} {agreement:>6}"
                f"{cost}  {row.settings}"
            )
        lines.append("")
    if rows:
        lines += [
            "speed: times the fastest peer's at that dtype, medians; GFLOP/s: effective, on the network as given;",
            "error, top-1: of the worst head against float64",
        ]
    if priced:
        lines.append("cost/M: of a million images, in the currency of --price-per-core-hour")
    return "\n".join(lines)


def format_starts(record: Mapping[str, Any]) -> str:
    """Load time and memory of each contender."""
    lines = [f"{'start':20} {'':8} {'threads':>7} {'batch':>5} {'seconds':>8} {'MB loaded':>10} {'MB run':>8}"]
    for start in record["starts"]:
        loaded, ran = own_bytes(start, "loaded") / 1e6, own_bytes(start, "ran") / 1e6
        lines.append(
            f"{start['contender']:20} {start['dtype']:8} {start['threads']:7} {start['batch']:5}"
            f" {start['seconds']:8.2f} {loaded:10.1f} {ran:8.1f}"
        )
    note = "seconds: from the start of the process to the first result; MB: resident, beyond the interpreter and numpy"
    return "\n".join([*lines, "", note])


def own_bytes(start: Mapping[str, Any], when: str) -> int:
    """Resident bytes that are the contender's: this package's are ours, and nobody else's."""
    own: int = start[when] - start["bare" if start["group"].startswith("faceattr_fast") else "before"]
    return own


def format_peaks(record: Mapping[str, Any]) -> str:
    """What the machine did at best in this run."""
    return "\n".join(
        f"{peaks['threads']} thread{'s' if peaks['threads'] > 1 else ''}: float32 matrix product"
        f" {peak(peaks, 'sgemm_gflops'):.1f} GFLOP/s ({peaks['blas']}), copy {peak(peaks, 'copy_gb_per_s'):.1f} GB/s"
        for peaks in record["peaks"]
    )


def peak(peaks: Mapping[str, Any], name: str) -> float:
    """The median of the turns, each of which gave its best."""
    return float(statistics.median(turn[name] for turn in peaks["turns"]))
