"""Every kernel at the network's own shapes: each instruction set and algorithm of this machine, taking turns.

python benchmarks/kernels.py [--rounds 20] [--json FILE]

One thread. Per phase and kernel: the median time and what it executes per second, as a share of the fastest kernel of
the run, which is what this machine's multiply-adds can do at best.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from conftest import compiled, variants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    contenders = [compiled(*variant) for variant in variants()]
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    samples: dict[tuple[str, str], list[float]] = {}
    products: dict[str, int] = {}
    for _ in range(arguments.rounds):
        for fast in contenders:
            for phase in fast.profile(pixels).phases:
                key = (phase.name, phase.kernel)
                samples.setdefault(key, []).append(phase.seconds or 0.0)
                products["/".join(key)] = phase.products
    rows = [
        {
            "phase": phase,
            "kernel": kernel,
            "us": statistics.median(times) * 1e6,
            "gflops": 2 * products[f"{phase}/{kernel}"] / statistics.median(times) / 1e9,
        }
        for (phase, kernel), times in samples.items()
    ]
    best = max(row["gflops"] for row in rows)
    print(f"{'phase':32} {'kernel':32} {'us':>9} {'GFLOP/s':>8} {'of best':>8}")
    for row in sorted(rows, key=lambda row: (row["phase"], row["us"])):
        share = row["gflops"] / best
        print(f"{row['phase']:32} {row['kernel']:32} {row['us']:9.1f} {row['gflops']:8.1f} {share:8.0%}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
