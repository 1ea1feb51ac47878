"""The whole network: all attribute heads and the embedding, per batch size, input form and number of threads."""

import subprocess
import sys

import numpy as np
import pytest


@pytest.mark.parametrize("form", ["uint8", "float32"])
@pytest.mark.parametrize("batch", [1, 8, 32])
def test_forward(benchmark, fast, pixels, batch, form):
    array = pixels[:batch]
    if form == "float32":
        array = np.ascontiguousarray((array.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5)
    description = fast.describe()
    benchmark.group = f"{form}, {fast.threads} threads"
    benchmark(fast, array)
    seconds = benchmark.stats.stats.median / batch
    benchmark.extra_info |= {
        "isa": fast.isa,
        "plan": description.hash,
        "images_per_second": 1 / seconds,
        "effective_gflops": 2 * description.multiply_adds_as_given / seconds / 1e9,
    }


def test_load(benchmark, paper_weights):
    """Folding, rewriting and packing: what a program waits for before its first image."""
    from faceattr_fast import FastForward

    benchmark.pedantic(FastForward, (paper_weights,), rounds=3)


def test_import(benchmark):
    """A fresh interpreter that imports the package: what a command waits for before anything else."""
    benchmark.pedantic(subprocess.run, ([sys.executable, "-c", "import faceattr_fast"],), {"check": True}, rounds=10)
