"""Draw records of ``faceattr bench --json``: time per image of every contender, median and spread.

python benchmarks/plots.py record.json [record.png]

Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(record: dict[str, Any], target: Path) -> None:
    def setting(row: dict[str, Any]) -> tuple[int, int]:
        return row["threads"], row["batch"]

    panels = [(key, list(rows)) for key, rows in groupby(sorted(record["rows"], key=setting), setting)]
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 1 + 1.7 * len(panels)), squeeze=False, layout="tight")
    for ((threads, batch), rows), axis in zip(panels, axes[:, 0], strict=True):
        names = [row["contender"] for row in rows]
        medians = [row["seconds"]["median"] * 1e3 for row in rows]
        spread = [
            [row["seconds"]["median"] * 1e3 - row["seconds"]["p10"] * 1e3 for row in rows],
            [row["seconds"]["p90"] * 1e3 - row["seconds"]["median"] * 1e3 for row in rows],
        ]
        colors = ["tab:blue" if name.startswith("faceattr") else "tab:gray" for name in names]
        axis.barh(names, medians, xerr=spread, color=colors)
        axis.invert_yaxis()
        axis.set_title(f"batch {batch}, {threads} threads", fontsize=10)
    axes[-1, 0].set_xlabel("ms per image, median and 10th to 90th percentile")
    figure.savefig(target, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("target", type=Path, nargs="?")
    arguments = parser.parse_args()
    target = arguments.target or arguments.record.with_suffix(".png")
    draw(json.loads(arguments.record.read_text()), target)
    print(target)


if __name__ == "__main__":
    main()
