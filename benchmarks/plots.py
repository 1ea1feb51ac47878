"""Draw a record of ``faceattr bench --json``, next to it or in a folder:

<record>-times.png      time per image of every contender, median and spread
<record>-roofline.png   phases of faceattr_fast below what the machine did at best in the same run
<record>-phases.png     where the time of one image goes

python benchmarks/plots.py record.json [FOLDER]

Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from results import phase_medians

from faceattr_fast.bench import DTYPES, Row, rows_of
from faceattr_fast.bench.tables import peak

COLORS = dict(zip(DTYPES, ("tab:blue", "tab:green", "tab:purple", "tab:orange", "tab:red"), strict=True))


@dataclass(frozen=True)
class Point:
    """A phase in the roofline: operations executed per byte that has to move, 10⁹ of them per second, share of time."""

    phase: str
    intensity: float
    gflops: float
    share: float


def points(profile: dict[str, Any]) -> list[Point]:
    """Of every phase that multiplies."""
    seconds = phase_medians(profile)
    return [
        Point(
            phase["name"],
            2 * phase["products"] / phase["bytes"],
            2 * phase["products"] / time / 1e9,
            time / sum(seconds),
        )
        for phase, time in zip(profile["plan"]["phases"], seconds, strict=True)
        if phase["products"]
    ]


def draw_times(record: dict[str, Any]) -> Any:
    def setting(row: Row) -> tuple[int, int]:
        return row.threads, row.batch

    ordered = sorted(rows_of(record), key=lambda row: (*setting(row), DTYPES.index(row.dtype)))
    panels = [(key, list(rows)) for key, rows in groupby(ordered, setting)]
    height = sum(0.8 + 0.25 * len(rows) for _, rows in panels)
    figure, axes = _axes(len(panels), height, [2 + len(rows) for _, rows in panels])
    for ((threads, batch), rows), axis in zip(panels, axes, strict=True):
        names = [f"{row.contender} {row.dtype}" for row in rows]
        medians = [row.seconds.median * 1e3 for row in rows]
        spread = [
            [(row.seconds.median - row.seconds.p10) * 1e3 for row in rows],
            [(row.seconds.p90 - row.seconds.median) * 1e3 for row in rows],
        ]
        colors = ["tab:gray" if row.peer else COLORS[row.dtype] for row in rows]
        axis.barh(names, medians, xerr=spread, color=colors)
        axis.invert_yaxis()
        axis.set_title(f"batch {batch}, {_threads(threads)}", fontsize=10)
    axes[-1].set_xlabel("ms per image, median and 10th to 90th percentile")
    return figure


def draw_roofline(record: dict[str, Any]) -> Any:
    figure, axes = _axes(len(record["peaks"]), 5 * len(record["peaks"]))
    for peaks, axis in zip(record["peaks"], axes, strict=True):
        flops, copy = peak(peaks, "sgemm_gflops"), peak(peaks, "copy_gb_per_s")
        profiles = [profile for profile in record["profiles"] if profile["threads"] == peaks["threads"]]
        placed = {profile["dtype"]: points(profile) for profile in profiles}
        intensities = [point.intensity for all_ in placed.values() for point in all_] or [1.0]
        # Both roofs are seen: the ridge lies inside.
        span = [min([*intensities, flops / copy]) / 2, max([*intensities, flops / copy]) * 2]
        axis.plot(span, [copy * x for x in span], "k--", linewidth=1, label=f"copy, {copy:.1f} GB/s")
        axis.axhline(flops, color="k", linewidth=1, label=f"float32 product of {peaks['blas']}, {flops:.0f} GFLOP/s")
        for dtype, all_ in placed.items():
            axis.scatter(
                [point.intensity for point in all_],
                [point.gflops for point in all_],
                [20 + 2000 * point.share for point in all_],
                COLORS[dtype],
                alpha=0.5,
                label=f"phases in {dtype}; area: share of time",
            )
            for point in sorted(all_, key=lambda point: -point.share)[:6]:
                axis.annotate(point.phase, (point.intensity, point.gflops), fontsize=7)
        heights = [point.gflops for all_ in placed.values() for point in all_] or [flops]
        axis.set(xscale="log", yscale="log", xlim=span, ylim=(min(heights) / 2, 2 * max([*heights, flops])))
        axis.set_title(_threads(peaks["threads"]), fontsize=10)
        axis.set_ylabel("GFLOP/s executed")
        axis.legend(fontsize=7, loc="lower right", markerscale=0.4)
    axes[-1].set_xlabel("operations per byte: every input, weight and result once")
    return figure


def draw_phases(record: dict[str, Any]) -> Any:
    profiles = record["profiles"]
    lengths = [len(profile["plan"]["phases"]) for profile in profiles]
    figure, axes = _axes(len(profiles), sum(0.8 + 0.18 * length for length in lengths), [3 + n for n in lengths])
    for profile, axis in zip(profiles, axes, strict=True):
        phases, seconds = profile["plan"]["phases"], phase_medians(profile)
        names = [f"{phase['name']}  {phase['kernel']}" for phase in phases]
        axis.barh(names, [time * 1e6 for time in seconds], color=COLORS[profile["dtype"]])
        axis.invert_yaxis()
        axis.tick_params(axis="y", labelsize=7)
        total = f"{sum(seconds) * 1e3:.2f} ms in all phases"
        axis.set_title(f"{profile['dtype']}, {_threads(profile['threads'])}, one image: {total}", fontsize=10)
    axes[-1].set_xlabel("us, median")
    return figure


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _axes(count: int, height: float, ratios: Sequence[float] | None = None) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        count, 1, figsize=(8, 1 + height), squeeze=False, layout="tight", gridspec_kw={"height_ratios": ratios}
    )
    return figure, axes[:, 0]


def draw(record: dict[str, Any], stem: Path) -> list[Path]:
    """Write the pictures that the record has data for; the first ones had no phases."""
    drawings = {"times": draw_times}
    if record.get("profiles"):
        drawings |= {"roofline": draw_roofline, "phases": draw_phases}
    paths = []
    for name, drawing in drawings.items():
        paths.append(stem.with_name(f"{stem.name}-{name}.png"))
        drawing(record).savefig(paths[-1], dpi=120)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()
    folder = arguments.folder or arguments.record.parent
    for path in draw(json.loads(arguments.record.read_text()), folder / arguments.record.stem):
        print(path)


if __name__ == "__main__":
    main()
