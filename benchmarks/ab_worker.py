"""One side of ab.py, in a process that imports the package of its own commit.

That may know nothing of this benchmark, so it is met through its public names alone, and the harness comes by its path
from the tree that this file lies in.
"""

import importlib.util
from pathlib import Path

import numpy as np

import faceattr_fast


def harness():
    path = Path(__file__).parents[1] / "python" / "faceattr_fast" / "bench" / "timing.py"
    spec = importlib.util.spec_from_file_location("timing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TIMING = harness()


def prepare(job):
    dtype = None if job["dtype"] == "float32" else job["dtype"]
    fast = faceattr_fast.FastForward.load(job["weights"], dtype=dtype, threads=job["threads"])
    pixels = np.load(Path(job["folder"]) / "test-float32.npy", mmap_mode="r")
    arrays = {batch: np.array(pixels[:batch]) for batch in job["batches"]}
    for batch, array in arrays.items():
        np.savez(Path(job["folder"]) / f"{job['name']}-batch{batch}.npz", **fast(array))

    def turn(question):
        array = arrays[question["batch"]]
        seconds = TIMING.time_calls(lambda: fast(array), len(array), question["seconds"])
        return {"seconds_per_image": seconds}

    return {"package": faceattr_fast.__file__}, turn


if __name__ == "__main__":
    TIMING.serve(prepare)
