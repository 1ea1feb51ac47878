"""Each phase by each instruction set and algorithm of this machine, in float32, one thread; see test_phases.py.

kernels.py has the same figures taken in turns, as one table.
"""

import pytest
from conftest import compiled, variants
from test_phases import CLOCK, ROUNDS, benchmark_phase, phase_names


@pytest.fixture(scope="module", params=variants(), ids="-".join)
def profiles(request, pixels):
    fast = compiled(*request.param)
    return [fast.profile(pixels[:1]) for _ in range(ROUNDS)]


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("name", phase_names())
def test_kernel(benchmark, profiles, name):
    benchmark.group = f"kernels, {name}"
    benchmark_phase(benchmark, profiles, name)
