"""What CPU this is, and what it is doing."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["cpu_model", "machine_cpu_seconds"]


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As the system names it; on Arm by the numbers that Linux gives: implementer and part."""
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
    except OSError:
        lines = []
    first_cpu = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    if "model name" in first_cpu:
        return first_cpu["model name"]
    if "CPU part" in first_cpu:
        return f"{platform.machine()}, implementer {first_cpu['CPU implementer']}, part {first_cpu['CPU part']}"
    return platform.processor() or platform.machine()


def machine_cpu_seconds() -> float:
    """CPU time that the whole machine has used so far; 0 where the system does not say."""
    try:
        ticks = [int(text) for text in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
    except (OSError, ValueError):
        return 0.0
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # less idle and waiting for input
