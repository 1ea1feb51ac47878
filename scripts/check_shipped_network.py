"""Hold the shipped network, as this machine computes it, against float64. Needs numpy and safetensors alone.

For machines without the tools that the tests need, emulated ones above all. Exits non-zero if an error exceeds
the bound of docs/numerics.md, or if results depend on the batch or on threads.
"""

import sys

import numpy as np

from faceattr_fast import FastForward, shipped_weights
from faceattr_fast.plan.oracle import run_plan
from faceattr_fast.plan.rewrite import build_plan
from faceattr_fast.weights import read_weights

BOUND = 2e-6


def picture(size: int) -> np.ndarray:
    """[1, size, size, 3] uint8: a gradient, waves and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    smooth = np.stack([255 * y, 255 * x, 127 + 100 * np.sin(9 * x + 5 * y)], axis=-1)
    return np.clip(smooth + rng.normal(0, 25, (size, size, 3)), 0, 255).astype(np.uint8)[None]


def main() -> int:
    weights = read_weights(shipped_weights())
    spec = weights.spec
    names = ["embedding", *(head.name for head in spec.heads)]
    u8 = picture(spec.pixels.size)
    x = ((u8.astype(np.float64) - spec.pixels.mean) / spec.pixels.scale).transpose(0, 3, 1, 2)
    f32 = np.ascontiguousarray(x, np.float32)
    expected = run_plan(build_plan(spec, weights.tensors, names, rewrite=False), f32)

    failures = 0
    for rewrite in (True, False):
        fast = FastForward(weights, heads=names, rewrite=rewrite, threads=1)
        print(fast.isa, ", ".join(sorted({phase.kernel for phase in fast.describe().phases})), flush=True)
        found = fast(f32)
        for pixels, form in ((f32, "float32"), (u8, "uint8")):
            for name, value in fast(pixels).items():
                error = float(np.linalg.norm(value - expected[name]) / np.linalg.norm(expected[name]))
                failures += not error <= BOUND
                print(
                    f"rewrite={rewrite} {form:8} {name:10} error {error:.1e}" + (error > BOUND) * " TOO LARGE",
                    flush=True,
                )
        team = FastForward(weights, heads=names, rewrite=rewrite, threads=2)
        for batch, count in ((f32, 1), (np.concatenate([f32, -f32, f32]), 3)):
            for name, value in team(batch).items():
                for i in range(0, count, 2):
                    same = value[i].tobytes() == found[name][0].tobytes()
                    failures += not same
                    if not same:
                        print(f"rewrite={rewrite} {name}: image {i} of {count} differs with two threads", flush=True)
    print("all within bounds" if failures == 0 else f"{failures} failures")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
