"""What this machine is and what is installed on it: for ``faceattr doctor`` and for benchmark records."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from .. import _core
from ..machine import cpu_model

__all__ = ["OPTIONAL", "describe_machine", "installed"]

# Four distributions of one package.
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")

# Distributions of the same package under other names.
PROVIDERS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}

# Name, the distributions that provide it, the extra that brings it.
OPTIONAL = (
    ("OpenCV", _OPENCV, "photo"),
    ("Pillow", ("pillow",), "photo"),
    ("PyTorch", ("torch",), "torch"),
    ("ONNX", ("onnx",), "onnx"),
    ("ONNX Script", ("onnxscript",), "onnx"),
    ("ONNX Runtime", PROVIDERS["onnxruntime"], "bench"),
    ("OpenVINO", ("openvino",), "bench"),
    ("Ray", ("ray",), "ray"),
    ("Arrow", ("pyarrow",), "ray"),
)


def installed(distributions: tuple[str, ...]) -> str | None:
    """Version of the first that is installed."""
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def describe_machine() -> dict[str, str | int]:
    """Plain data for a benchmark record."""
    return {
        "cpu": cpu_model(),
        "cpus": os.cpu_count() or 1,
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "isa": _core.detected_isa(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
