"""The network of the paper, compiled; its weights are random, since values do not matter for the speed."""

import os
from unittest import mock

import numpy as np
import pytest

from faceattr_fast import FastForward, NetworkSpec, _core
from faceattr_fast.engine.threads import thread_count
from faceattr_fast.plan.algorithms import ALGORITHMS
from faceattr_fast.weights import Weights


def pytest_generate_tests(metafunc):
    if "threads" in metafunc.fixturenames:
        metafunc.parametrize("threads", sorted({1, thread_count(None)}), ids="{}t".format, scope="session")


def random_weights():
    spec = NetworkSpec.paper(identities=None)
    rng = np.random.default_rng(0)
    # Variances of 1, and weights that keep activations near 1 through all layers: no overflow, no denormal numbers.
    tensors = {
        name: rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32) if len(shape) > 1
        else np.full(shape, name.endswith(("running_var", "bn.weight")), np.float32)
        for name, shape in spec.tensor_shapes().items()
    }  # fmt: skip
    return Weights(spec, tensors)


def variants():
    """Every instruction set of this machine with every algorithm."""
    detected = _core.detected_isa().split("+")
    isas = [isa for isa in _core.isa_levels() if isa in detected or isa == "scalar"]
    return [(isa, algorithm) for isa in isas for algorithm in ALGORITHMS]


def compiled(isa, algorithm):
    """The network in these kernels, on one thread."""
    with mock.patch.dict(os.environ, FACEATTR_ISA=isa, FACEATTR_ALGORITHM=algorithm):
        return FastForward(random_weights(), threads=1)


@pytest.fixture(scope="session")
def paper_weights():
    return random_weights()


@pytest.fixture(scope="session")
def fast(paper_weights, threads):
    return FastForward(paper_weights, threads=threads)


@pytest.fixture(scope="session")
def pixels():
    """uint8 [32, 224, 224, 3]; take as many as you need."""
    return np.random.default_rng(0).integers(0, 256, (32, 224, 224, 3), np.uint8)
