"""Step: every primitive that kernels call gives on the device what it gives on the emulator, on random bits."""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np

from .build import program
from .record import require_gpu
from .store import FailedError, Folder, Step

__all__ = ["compare", "parse", "run"]

Cases = dict[str, tuple[str, float, np.ndarray]]


def run(folder: Folder, step: Step) -> None:
    require_gpu()
    outputs = []
    for machine in ("emulated", "device"):
        path = program(folder, f"cuda_conformance_{machine}")
        done = subprocess.run([str(path), str(folder.seed)], capture_output=True, text=True)
        (folder.path / f"conformance-{machine}.txt").write_text(done.stdout)
        if done.returncode != 0:
            step.set(**{f"{machine}_error": done.stderr[-1500:]})
        outputs.append(parse(done.stdout))
    emulated, device = outputs
    rows = compare(emulated, device)
    # Of a device without Hopper's primitives, those are no failure; of any other, what does not come is.
    step.set(seed=folder.seed, cases=rows, only_emulated=sorted(emulated.keys() - device.keys()))
    wrong = [row["case"] for row in rows if not row["passed"]]
    if wrong or not rows or "device_error" in step.data or "emulated_error" in step.data:
        raise FailedError(f"the device differs from the emulator: {', '.join(wrong) or step.data.get('device_error')}")


def parse(text: str) -> Cases:
    """By name: kind, bound and words, as ``csrc/tests/cuda_cases.h`` says."""
    cases: Cases = {}
    for line in text.splitlines():
        name, kind, bound, *words = line.split(" ")
        cases[name] = kind, float(bound), np.array([int(word, 16) for word in words], np.uint32)
    return cases


def compare(emulated: Cases, device: Cases) -> list[dict[str, Any]]:
    """One row for each case of the device: how many words differ by more than they may, and by how much at most."""
    rows = []
    for name, (kind, bound, found) in device.items():
        if name not in emulated or len(emulated[name][2]) != len(found):
            rows.append({"case": name, "words": len(found), "wrong": len(found), "worst": None, "passed": False})
            continue
        expected = emulated[name][2]
        if kind == "bits":
            wrong, worst = found != expected, None
        else:
            a, b = (words.view(np.float32).astype(np.float64) for words in (found, expected))
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            scale = np.ones_like(a)
            if bound:
                scale = emulated[name if name.endswith(".magnitude") else f"{name}.magnitude"][2].view(np.float32)
            with np.errstate(invalid="ignore"):
                error = np.where(same, 0.0, np.abs(a - b) / np.maximum(scale, np.finfo(np.float32).tiny))
            error[np.isnan(error)] = np.inf
            wrong, worst = error > bound, float(error.max())
            worst = worst if np.isfinite(worst) else None  # JSON has no infinity
        rows.append({"case": name, "words": len(found), "wrong": int(wrong.sum()), "worst": worst,
                     "bound": bound, "passed": not wrong.any()})  # fmt: skip
    return rows
