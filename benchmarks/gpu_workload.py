"""A few calls of the network and nothing else: what compute-sanitizer and ncu look at.

python gpu_workload.py FOLDER DTYPE BATCH CALLS
"""

from __future__ import annotations

import sys
from pathlib import Path

from gpu.network import LIMITS, head_errors, load, pool, reference
from gpu.store import ABSENT, WRONG, Folder, SkippedError


def main(path: str, dtype: str, batch: str, calls: str) -> int:
    folder, images = Folder(Path(path)), int(batch)
    try:
        fast = load(folder, dtype)
    except SkippedError as error:
        print(error)
        return ABSENT
    pixels = pool(folder, "uint8", images)
    for _ in range(int(calls)):
        results = fast(pixels)
    error, head = head_errors(results, reference(folder, images))
    print(f"{head}: {error:.1e}")
    return 0 if error <= LIMITS[dtype] else WRONG


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
