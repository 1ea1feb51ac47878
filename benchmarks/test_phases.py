"""Each phase of the plan inside the running network: with the caches as its neighbours leave them.

The engine's own clock measures a phase; pytest-benchmark gets its times through a clock that such a run advances.
"""

import pytest

from faceattr_fast import NetworkSpec
from faceattr_fast.plan.rewrite import build_plan

ROUNDS = 20


def phase_names():
    import numpy as np

    spec = NetworkSpec.paper(identities=None)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in spec.tensor_shapes().items()}
    return [phase.dst for phase in build_plan(spec, tensors, ["embedding", *(head.name for head in spec.heads)]).phases]


class Clock:
    """Stands still but for the time of the phase that is measured."""

    now = 0.0

    def __call__(self):
        return self.now


CLOCK = Clock()


@pytest.fixture(scope="session")
def profiles(fast, pixels):
    """The same runs for every phase: one table adds up to one network."""
    return [fast.profile(pixels[:1]) for _ in range(ROUNDS)]


def benchmark_phase(benchmark, profiles, name):
    """Hand the times of one phase in these runs to pytest-benchmark."""
    runs = iter([next(phase for phase in profile.phases if phase.name == name) for profile in profiles])

    def run():
        CLOCK.now += next(runs).seconds

    benchmark.pedantic(run, rounds=ROUNDS)
    phase = next(phase for phase in profiles[0].phases if phase.name == name)
    benchmark.extra_info |= {
        "isa": profiles[0].isa,
        "kernel": phase.kernel,
        "multiply_adds": phase.multiply_adds,
        "products": phase.products,
        "executed_gflops": 2 * phase.products / benchmark.stats.stats.median / 1e9,
    }


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("name", phase_names())
def test_phase(benchmark, fast, profiles, name):
    benchmark.group = f"phases, {fast.threads} threads"
    benchmark_phase(benchmark, profiles, name)
