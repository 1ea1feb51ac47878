"""Steps: compute-sanitizer's tools over two images, with the portable kernels and with Hopper's.

racecheck does not know bulk copies and wgmma: of Hopper's kernels it says little.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .network import require_inputs
from .record import require_gpu
from .store import ABSENT, ROOT, FailedError, Folder, SkippedError, Step

__all__ = ["run"]

_FOUND = 9  # exit code of the tool where it has found something


def run(folder: Folder, step: Step, tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).is_file():
        raise SkippedError("no compute-sanitizer")
    require_gpu()
    require_inputs(folder)
    workload = [sys.executable, str(ROOT / "benchmarks" / "gpu_workload.py"), str(folder.path)]
    for dtype in ("float16", "int8"):
        for kernels in ("v1", "v2"):
            started = time.monotonic()
            done = subprocess.run(
                [sanitizer, "--tool", tool, "--error-exitcode", str(_FOUND), *workload, dtype, "2", "2"],
                capture_output=True, text=True, env={**os.environ, "FACEATTR_GPU": kernels},
            )  # fmt: skip
            output = (done.stdout + done.stderr)[-4000:]
            refused = done.returncode == 1 and "not supported" in output.lower()
            result = {0: "clean", ABSENT: "skipped: no such kernels here", _FOUND: "found something"}.get(
                done.returncode, "skipped: refused here" if refused else f"ended with {done.returncode}"
            )
            step.add("runs", {"tool": tool, "kernels": kernels, "dtype": dtype, "result": result,
                              "seconds": round(time.monotonic() - started, 1),
                              "output": [] if result == "clean" else output.splitlines()})  # fmt: skip
    runs = step.data["runs"]
    bad = [row for row in runs if row["result"] != "clean" and not row["result"].startswith("skipped")]
    if bad:
        raise FailedError(f"{tool}, {bad[0]['kernels']}, {bad[0]['dtype']}: {bad[0]['result']}")
    if all(row["result"] != "clean" for row in runs):
        raise SkippedError(runs[0]["result"].removeprefix("skipped: "))
