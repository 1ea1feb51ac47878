"""Step: what this machine is, before anything is built."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

from .store import Folder, SkippedError, Step, is_emulated

__all__ = ["clocks", "nvidia_smi", "require_gpu", "run"]

_PACKAGES = ("faceattr_fast", "numpy", "torch", "triton", "jax", "jaxlib", "tensorrt", "pybind11", "cmake", "ninja")
_QUERY = (
    "name,driver_version,compute_cap,memory.total,power.limit,clocks.max.sm,clocks.max.mem,"
    "ecc.mode.current,mig.mode.current"
)


def run(folder: Folder, step: Step) -> None:
    step.set(
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cpus=len(os.sched_getaffinity(0)),
        packages={name: _version(name) for name in _PACKAGES},
        tools={name: _first_line([path, "--version"]) if (path := shutil.which(name)) else None
               for name in ("nvcc", "g++", "cmake", "ninja", "compute-sanitizer", "ncu")},
        gpu=nvidia_smi(_QUERY),
        clocks=clocks(),
    )  # fmt: skip
    full = _output(["nvidia-smi", "-q"])
    if full is not None:
        (folder.path / "nvidia-smi.txt").write_text(full)


def clocks() -> dict[str, str] | None:
    """Of now; what is throttled, and why, shows whether figures are the device's own."""
    return nvidia_smi("clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_throttle_reasons.active,utilization.gpu")


def nvidia_smi(fields: str) -> dict[str, str] | None:
    """By field, of the first device; None: there is none."""
    text = _output(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "-i", "0"])
    if text is None:
        return None
    return dict(zip(fields.split(","), (value.strip() for value in text.strip().split(",")), strict=False))


def require_gpu() -> None:
    """Raises SkippedError where there is none."""
    if is_emulated():
        raise SkippedError("FACEATTR_GPU=emulated: it needs a device")
    if nvidia_smi("name") is None:
        raise SkippedError("nvidia-smi shows no GPU")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first_line(command: list[str]) -> str | None:
    """nvcc has its version in the last line, others in the first that says one."""
    lines = (_output(command) or "").splitlines()
    return next((line.strip() for line in reversed(lines) if "release" in line.lower()), lines[0] if lines else None)


def _output(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
