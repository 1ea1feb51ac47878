"""Step: what ncu's counters say of three kernels, where this machine lets it read them."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from .network import require_inputs
from .record import require_gpu
from .store import ROOT, FailedError, Folder, SkippedError, Step

__all__ = ["METRICS", "counters", "run"]

METRICS = (
    "gpu__time_duration.sum",
    "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active",
    "l1tex__data_bank_conflicts_pipe_lsu.sum",
    "smsp__cycles_active.avg",
    "lts__t_bytes.sum",
    "dram__bytes.sum",
    "launch__registers_per_thread",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
)
# What the full name of a kernel has in it, portable or of Hopper, and how many of its launches are skipped: a call has
# one stem, at most one resident stage and some twenty convolutions; the first call is to warm up.
KERNELS = {"Conv": 25, "Stem": 1, "Resident": 1}
BATCH = 128  # more than what is replayed from graphs
CALLS = 3


def run(folder: Folder, step: Step) -> None:
    ncu = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    if not Path(ncu).is_file():
        raise SkippedError("no ncu")
    require_gpu()
    require_inputs(folder)
    script = str(ROOT / "benchmarks" / "gpu_workload.py")
    workload = [sys.executable, script, str(folder.path), "float16", str(BATCH), str(CALLS)]
    step.set(batch=BATCH)
    for pattern, skipped in KERNELS.items():
        for metrics in (("--metrics", ",".join(METRICS)), ("--section", "WarpStateStats", "--section", "Occupancy")):
            done = subprocess.run(
                [ncu, "--clock-control", "none", "--csv", "--page", "raw", "--target-processes", "all",
                 "--kernel-name-base", "demangled", "--kernel-name", f"regex:{pattern}", "--launch-skip", str(skipped),
                 "--launch-count", "1", *metrics, *workload],
                capture_output=True, text=True,
            )  # fmt: skip
            output = done.stdout + done.stderr
            if "ERR_NVGPUCTRPERM" in output:
                raise SkippedError("this machine does not permit reading counters (ERR_NVGPUCTRPERM)")
            rows = list(counters(done.stdout.splitlines()))
            step.add("kernels", {"kernel": pattern, "counters": rows, **({} if rows else {"output": output[-1500:]})})
    if not any(kernel["counters"] for kernel in step.data["kernels"]):
        raise FailedError("ncu has profiled no kernel: see output")


def counters(lines: Iterable[str]) -> Iterable[dict[str, str]]:
    """Rows of ncu's CSV, by column, as it prints them; the units, its second line, are in brackets here."""
    table = csv.reader(line for line in lines if line.startswith('"'))
    header = next(table, None)
    units = next(table, None)
    if header is None or units is None:
        return
    names = [f"{name} [{unit}]" if unit else name for name, unit in zip(header, units, strict=False)]
    for row in table:
        yield {name: value for name, value in zip(names, row, strict=False) if value}
