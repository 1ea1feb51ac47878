"""How many threads a call may use."""

from __future__ import annotations

import operator
import os
from pathlib import Path

__all__ = ["thread_count"]

_LIMIT = 1024
_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))


def thread_count(threads: int | None) -> int:
    """``threads``, or FACEATTR_NUM_THREADS, or the CPUs that this process may use (affinity and cgroup quota)."""
    if threads is not None:
        if isinstance(threads, bool) or not hasattr(threads, "__index__"):
            raise TypeError(f"threads must be an integer or None, got {type(threads).__name__}")
        threads = operator.index(threads)
        if not 1 <= threads <= _LIMIT:
            raise ValueError(f"threads must be between 1 and {_LIMIT}, got {threads}")
        return threads
    text = os.environ.get("FACEATTR_NUM_THREADS")
    if text:
        if not text.isdecimal() or not 1 <= int(text) <= _LIMIT:
            raise ValueError(f"FACEATTR_NUM_THREADS must be an integer between 1 and {_LIMIT}, got {text!r}")
        return int(text)
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _cgroup_cpus(), _LIMIT))


def _cgroup_cpus() -> int:
    """CPUs of the container's quota, rounded up; a large number where there is none."""
    try:
        if _CGROUP_V2.exists():
            quota, period = _CGROUP_V2.read_text().split()
        else:
            quota, period = (path.read_text().strip() for path in _CGROUP_V1)
        if quota in ("max", "-1"):
            return _LIMIT
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return _LIMIT
