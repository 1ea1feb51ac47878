"""mixed: any choice of formats gives a correct plan."""

import dataclasses

import numpy as np
import pytest
from cases import Case, run_engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import SMALL, assert_same_bits, available_isas, normalise, random_pixels, reference, worst_error
from random_specs import names_of_outputs

from faceattr_fast import NetworkSpec
from faceattr_fast.engine.backend import compile_plan
from faceattr_fast.formats.mixed import map_classes
from faceattr_fast.formats.quantize import quantize_plan
from faceattr_fast.plan.algorithms import ALGORITHMS, choose_algorithms
from faceattr_fast.plan.oracle import run_phase, run_plan
from faceattr_fast.plan.phases import (
    Integers,
    Output,
    Plan,
    Quantize,
    QuantizedConv,
    QuantizedStem,
    Segment,
    SegmentedConv,
    Stem,
    TensorShape,
)
from faceattr_fast.spec import BlockSpec, PixelSpec, StemSpec

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ISAS = available_isas()
FLOATS = 3e-6  # of a phase in float32: its error, as a share of what it writes or adds
#: Shortcuts that are the identity, one of them around the first block: the stem's result is added.
ADDED = NetworkSpec(
    StemSpec(8), ((BlockSpec(8, 6, 8, 1), BlockSpec(8, 5, 8, 1), BlockSpec(8, 7, 9, 2)),), 10, pixels=PixelSpec(size=32)
)


@pytest.fixture(scope="module")
def small():
    return Case(SMALL, 1)


@pytest.fixture(scope="module")
def added():
    return Case(ADDED, 2)


def assert_phases(plan, x, isa="", threads=1):
    """Each phase by itself: what the oracle makes of what the engine's phase has read. Integers must be equal."""
    written = dict.fromkeys(name for p in plan.phases for name in (p.dst, getattr(p, "copy", None)) if name)
    outputs = {name: Output(name, 0, plan.tensors[name].channels) for name in written}
    found = run_engine(dataclasses.replace(plan, outputs=outputs), x, isa, threads)
    stored = {}
    for name, value in found.items():
        integers, stored[name] = plan.tensors[name].integers, value.astype(np.float64)
        if integers is not None:
            stored[name] = np.rint(stored[name] / np.array(integers.scale))
            assert stored[name].min() >= integers.low
            assert stored[name].max() <= integers.low + 255
    for phase in plan.phases:
        for name, expected in run_phase(plan, phase, stored, x.astype(np.float64)).items():
            if isinstance(phase, (QuantizedStem, QuantizedConv, Quantize)):
                np.testing.assert_array_equal(stored[name], expected, err_msg=name)
            else:
                size = np.linalg.norm(expected) + np.linalg.norm(stored.get(getattr(phase, "residual", None), 0))
                assert np.linalg.norm(stored[name] - expected) <= FLOATS * size, name
    # As it runs otherwise, where maps replace each other.
    results = run_engine(plan, x, isa, threads)
    for name, output in plan.outputs.items():
        part = found[output.tensor][..., output.start : output.start + output.count]
        np.testing.assert_array_equal(results[name], part, err_msg=name)
    return results


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_choice_gives_a_correct_plan(small, added, data):
    case = data.draw(st.sampled_from([small, added]))
    names = data.draw(st.lists(st.sampled_from(names_of_outputs(case.spec)), min_size=1, unique=True))
    plan = case.plan(data.draw(st.booleans()), names)
    chosen = {name for members in map_classes(plan) if data.draw(st.booleans()) for name in members}
    mixed = choose_algorithms(
        quantize_plan(plan, case.ranges, chosen),
        data.draw(st.sampled_from([None, *ALGORITHMS])),
    )
    for phase in mixed.phases:
        if isinstance(phase, (SegmentedConv, QuantizedConv)):
            integers = {mixed.tensors[s.src].integers is not None for s in phase.segments}
            assert integers == {isinstance(phase, QuantizedConv)}
    assert mixed.multiply_adds() == plan.multiply_adds()
    found = assert_phases(mixed, case.x, data.draw(st.sampled_from(ISAS)), data.draw(st.integers(1, 3)))
    # An integer may be its neighbour where the floats before it round another way: no more than int8 itself costs.
    assert worst_error(found, run_plan(mixed, case.x))[0] < 0.03
    error = worst_error(found, reference(case.net, case.x))[0]
    assert error < 0.1 if chosen else error < 2e-6


def test_no_maps_and_all_maps_are_float32_and_int8(small):
    for rewrite in (True, False):
        plan = small.plan(rewrite)
        assert quantize_plan(plan, {}, ()).hash() == plan.hash()
        every = quantize_plan(plan, small.ranges)
        assert not any(isinstance(phase, (Quantize, Stem, SegmentedConv)) for phase in every.phases)


def test_a_map_that_is_added_is_floats_whatever_reads_it(added):
    plan = added.plan(rewrite=False)
    mixed = quantize_plan(plan, added.ranges, [name for members in map_classes(plan) for name in members])
    assert mixed.phases[0] is plan.phases[0]
    assert mixed.phases[1] == Quantize("x0.int8", "x0", mixed.phases[1].inverse)
    assert_phases(mixed, added.x)


def test_a_convolution_reads_one_format(small):
    plan = small.plan()
    members = next(members for members in map_classes(plan) if len(members) > 1)
    with pytest.raises(ValueError, match="one format"):
        quantize_plan(plan, small.ranges, members[:1])


def test_classes_are_what_convolutions_read_together(small):
    for rewrite in (True, False):
        plan = small.plan(rewrite)
        classes = map_classes(plan)
        names = [name for members in classes for name in members]
        assert len(set(names)) == len(names)
        owner = {name: members for members in classes for name in members}
        reads = [{s.src for s in p.segments} for p in plan.phases if isinstance(p, SegmentedConv)]
        assert set(names) == set().union(*reads)
        assert all(len({owner[name] for name in read}) == 1 for read in reads)
        for members in classes:  # and no larger than that: every split of a class splits a convolution
            for name in members[1:]:
                before = set(members[: members.index(name)])
                assert any(read & before and read - before for read in reads)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [1, 5, 17, 40])
def test_conversion_equals_the_oracle(channels, isa):
    rng = np.random.default_rng(channels)
    stem = Stem("x0", rng.normal(size=(channels, 3, 7, 7)) / 12, rng.normal(size=channels))
    wide = SegmentedConv("x1", (Segment("x0", rng.normal(size=(channels, channels, 3, 3))),), None, relu=False)
    scale = rng.uniform(0.01, 0.1, channels).astype(np.float32)
    inverse = (1 / scale.astype(np.float64)).astype(np.float32)
    shape = TensorShape(8, 8, channels)
    plan = Plan(
        SMALL,
        {"x0": shape, "x1": shape} | {
            name: dataclasses.replace(shape, integers=Integers(tuple(scale.tolist()), low))
            for name, low in (("u", 0), ("s", -128))
        },
        (stem, Quantize("u", "x0", inverse), wide, Quantize("s", "x1", inverse)),
        {"s": Output("s", 0, channels)},
        rewritten=False,
    )  # fmt: skip
    x = normalise(random_pixels(SMALL, 3, 4), SMALL)
    found = assert_phases(plan, x, isa, threads=2)["s"]
    assert found.min() < 0 < found.max()
    assert plan.phase_multiply_adds(plan.phases[1]) == plan.phase_products(plan.phases[1]) == 0


def test_groups_of_images_run_conversions_too():
    """Phases with large weights run layer by layer over several images."""
    case = Case(NetworkSpec.paper(identities=None, pixels=PixelSpec(size=32)), 1, images=9)
    plan = case.plan()
    chosen = [name for members in map_classes(plan)[::2] for name in members]
    mixed = choose_algorithms(quantize_plan(plan, case.ranges, chosen))
    engine = compile_plan(mixed, 1, "")
    kinds = {type(phase) for phase in mixed.phases[engine.first_grouped :]}
    assert {Quantize, QuantizedConv, SegmentedConv} <= kinds
    expected = assert_phases(mixed, case.x)
    for i in (0, 8):
        alone = run_engine(mixed, case.x[i : i + 1])
        assert_same_bits(alone, {name: value[i : i + 1] for name, value in expected.items()})
