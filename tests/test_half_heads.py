"""Weights of heads as float16: what is rounded, by how much, and that the engine computes with just that."""

from dataclasses import replace

import numpy as np
import pytest
from networks import SMALL, available_isas, head_error, normalise, random_net, random_pixels, worst_error

from faceattr_fast import FastForward
from faceattr_fast.engine.backend import compile_plan
from faceattr_fast.formats.dtypes import DTYPES
from faceattr_fast.formats.storage import halve_heads
from faceattr_fast.plan.oracle import run_plan
from faceattr_fast.plan.phases import LinearHead
from faceattr_fast.plan.rewrite import build_plan
from faceattr_fast.reference.model import tensors_of


def plan_of(seed, rewrite=True):
    tensors = {name: np.array(value) for name, value in tensors_of(random_net(SMALL, seed)).items()}
    return build_plan(SMALL, tensors, ["embedding", *(head.name for head in SMALL.heads)], rewrite=rewrite)


def heads_of(plan):
    return [phase for phase in plan.phases if isinstance(phase, LinearHead)]


def scaled(plan, factors):
    """The plan with the rows of its heads times ``factors``, one after the other."""

    def convert(phase):
        if not isinstance(phase, LinearHead):
            return phase
        rows = np.resize(factors, len(phase.bias))
        inputs = tuple((src, weight * rows[:, None]) for src, weight in phase.inputs)
        return replace(phase, inputs=inputs, bias=phase.bias * rows)

    return replace(plan, phases=tuple(map(convert, plan.phases)))


@pytest.mark.parametrize("factors", [[1.0], [1e-30, 1.0, 1e25], [0.0, 1.0], [2.0**-140]])
def test_weights_are_rounded_in_units_of_their_row(factors):
    plan = scaled(plan_of(1), factors)
    for before, after in zip(heads_of(plan), heads_of(halve_heads(plan)), strict=True):
        assert (np.frexp(after.scale)[0] == 0.5).all()  # powers of two
        assert (after.scale.astype(np.float32) == after.scale).all()
        highest = np.max([np.abs(weight).max(1) for _, weight in before.inputs], axis=0)
        assert (highest < 2 * after.scale).all()
        for (_, old), (_, new) in zip(before.inputs, after.inputs, strict=True):
            half = (new / after.scale[:, None]).astype(np.float16)
            np.testing.assert_array_equal(half * after.scale[:, None], new)
            assert (np.abs(new - old) <= 2.0**-11 * np.abs(old) + 2.0**-25 * after.scale[:, None]).all()


@pytest.mark.parametrize("rewrite", [True, False])
@pytest.mark.parametrize("isa", available_isas())
def test_the_engine_computes_with_the_rounded_weights(isa, rewrite):
    pixels = random_pixels(SMALL, 5)
    plan = plan_of(2, rewrite)
    found = {}
    for name, form in {"given": plan, "halved": halve_heads(plan), "small": halve_heads(scaled(plan, [1e-9]))}.items():
        outputs = {name: np.empty((len(pixels), out.count), np.float32) for name, out in form.outputs.items()}
        compile_plan(form, 2, isa).run(pixels, list(outputs.values()))
        error, head = worst_error(outputs, run_plan(form, normalise(pixels, SMALL)))
        assert error < 2e-6, (name, head)
        found[name] = outputs
    assert all(1e-6 < head_error(found["halved"][name], value) < 1e-3 for name, value in found["given"].items())


@pytest.mark.parametrize("dtype", DTYPES["cpu"])
def test_heads_are_halved_where_maps_are_narrow(dtype):
    calibration = random_pixels(SMALL, 4) if dtype in ("int8", "mixed") else None
    fast = FastForward.from_module(random_net(SMALL, 3), dtype=dtype, calibration=calibration)
    assert heads_of(fast._plan)
    assert all((head.scale is None) == (dtype == "float32") for head in heads_of(fast._plan))
