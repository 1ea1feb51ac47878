"""bfloat16: how far it is from float64, and what it keeps of the promises of float32."""

import numpy as np
import pytest
from networks import (
    SMALL,
    assert_same_bits,
    available_isas,
    head_error,
    normalise,
    random_net,
    random_pixels,
    reference,
    worst_error,
)

from faceattr_fast import FastForward
from faceattr_fast.formats.storage import store_bfloat16
from faceattr_fast.plan.rewrite import build_plan
from faceattr_fast.reference.model import tensors_of
from faceattr_fast.spec import NetworkSpec

PAPER = NetworkSpec.paper(identities=None)


@pytest.mark.parametrize("rewrite", [True, False])
@pytest.mark.parametrize("isa", available_isas())
def test_small_network_is_close_to_float64(isa, rewrite, monkeypatch):
    monkeypatch.setenv("FACEATTR_ISA", isa)
    net, pixels = random_net(SMALL, 3), random_pixels(SMALL, 5)
    expected = reference(net, normalise(pixels, SMALL))
    out = FastForward.from_module(net, dtype="bfloat16", rewrite=rewrite)(pixels)
    error, name = worst_error(out, expected)
    assert error < 2e-2, name
    assert error > 1e-4, "rounded to 8 bits, it cannot be closer"


def test_paper_network_is_close_to_float64():
    net, pixels = random_net(PAPER, 1), random_pixels(PAPER, 2)
    fast = FastForward.from_module(net, dtype="bfloat16")
    error, name = worst_error(fast(pixels), reference(net, normalise(pixels, PAPER)))
    assert error < 1e-2, name  # measured: 3e-3 to 5e-3
    assert any("bfloat16" in phase.kernel for phase in fast.describe().phases)


def test_uint8_and_float32_pixels_give_the_same_bits():
    """Twice the distance from a mean of 127.5 is an odd integer below 256: bfloat16 holds it."""
    net, pixels = random_net(SMALL, 4), random_pixels(SMALL, 3)
    fast = FastForward.from_module(net, dtype="bfloat16")
    assert_same_bits(fast(normalise(pixels, SMALL)), fast(pixels))


def test_features_are_those_of_float32_rounded():
    net, pixels = random_net(SMALL, 5), random_pixels(SMALL, 3)
    fast, exact = FastForward.from_module(net, dtype="bfloat16"), FastForward.from_module(net)
    mid = fast.features(pixels, "conv4")["mid"]
    assert (mid.view(np.uint32) & 0xFFFF == 0).all()  # nothing behind the upper half
    assert head_error(mid, exact.features(pixels, "conv4")["mid"]) < 2e-2


def test_streams_that_blocks_add_to_stay_float32():
    tensors = {name: np.array(value) for name, value in tensors_of(random_net(SMALL, 6)).items()}
    plan = build_plan(SMALL, tensors, ["embedding"], rewrite=False)
    stored = store_bfloat16(plan)
    residuals = {phase.residual for phase in stored.phases if getattr(phase, "residual", None)}
    assert residuals
    assert all(stored.tensors[name].floats == "float32" for name in residuals)
    assert any(shape.floats == "bfloat16" for shape in stored.tensors.values())
    assert stored.hash() != plan.hash()
