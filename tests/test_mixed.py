"""mixed: any choice of formats gives a correct plan, and the choice keeps its promises."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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

from faceattr_fast import FastForward, NetworkSpec, WeightsError
from faceattr_fast.algorithms import ALGORITHMS, choose_algorithms, plan_cost
from faceattr_fast.backend import compile_plan
from faceattr_fast.mixed import choose_formats, map_classes, measure_errors
from faceattr_fast.oracle import run_phase, run_plan
from faceattr_fast.plan import (
    Integers,
    LinearHead,
    Output,
    Plan,
    Quantize,
    QuantizedConv,
    QuantizedStem,
    Segment,
    SegmentedConv,
    ShiftedMeans,
    Stem,
    TensorShape,
)
from faceattr_fast.quantize import calibrate, quantize_plan
from faceattr_fast.reference.model import tensors_of
from faceattr_fast.rewrite import build_plan
from faceattr_fast.spec import BlockSpec, PixelSpec, StemSpec
from faceattr_fast.weights import read_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_torch_thread")

ISAS = available_isas()
FLOATS = 3e-6  # of a phase in float32: its error, as a share of what it writes or adds
OUTPUTS = ["embedding", "mood", "glasses", "hat", "pose"]
#: Shortcuts that are the identity, one of them around the first block: the stem's result is added.
ADDED = NetworkSpec(
    StemSpec(8), ((BlockSpec(8, 6, 8, 1), BlockSpec(8, 5, 8, 1), BlockSpec(8, 7, 9, 2)),), 10, pixels=PixelSpec(size=32)
)


class Case:
    def __init__(self, spec, seed, images=3):
        self.spec, self.net = spec, random_net(spec, seed)
        self.tensors = tensors_of(self.net)
        self.pixels = random_pixels(spec, images, seed)
        self.x = normalise(self.pixels, spec)
        self.ranges = calibrate(spec, self.tensors, self.pixels, threads=1)
        self.names = ["embedding", *(head.name for head in spec.heads)]

    def plan(self, rewrite=True, names=None):
        return build_plan(self.spec, self.tensors, names or self.names, rewrite=rewrite)


@pytest.fixture(scope="module")
def small():
    return Case(SMALL, 1)


@pytest.fixture(scope="module")
def added():
    return Case(ADDED, 2)


def run_engine(plan, pixels, isa="", threads=1):
    vectors = {phase.dst for phase in plan.phases if isinstance(phase, (ShiftedMeans, LinearHead))}
    arrays = {}
    for name, output in plan.outputs.items():
        shape = plan.tensors[output.tensor]
        spatial = () if output.tensor in vectors else (shape.height, shape.width)
        arrays[name] = np.empty((len(pixels), *spatial, output.count), np.float32)
    compile_plan(plan, threads, isa).run(pixels, list(arrays.values()))
    return arrays


def assert_phases(plan, x, isa="", threads=1):
    """Each phase by itself: what the oracle makes of what the engine's phase has read. Integers must be equal."""
    written = dict.fromkeys(name for p in plan.phases for name in (p.dst, getattr(p, "copy", None)) if name)
    outputs = {name: Output(name, 0, plan.tensors[name].channels) for name in written}
    found = run_engine(dataclasses.replace(plan, outputs=outputs, _hash=[]), x, isa, threads)
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


# ------------------------------------------------------------------------------------------------- any choice of maps


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_choice_gives_a_correct_plan(small, added, data):
    case = data.draw(st.sampled_from([small, added]))
    names = data.draw(st.lists(st.sampled_from(case.names), min_size=1, unique=True))
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


# --------------------------------------------------------------------------------------------------------- the choice


@pytest.fixture(scope="module")
def measured(small):
    """By form of the network."""
    return measure_errors(SMALL, small.tensors, small.ranges, small.pixels, threads=1)


@pytest.fixture(scope="module")
def paper():
    """The paper's network on small pictures, with random weights, which spread errors most."""
    return Case(NetworkSpec.paper(identities=None, pixels=PixelSpec(size=64)), 1, images=16)


@pytest.fixture(scope="module")
def paper_weights(paper):
    return calibrated(paper.net, paper.pixels)._weights


def narrow_maps(plan):
    return {name.removesuffix(".int8") for name, shape in plan.tensors.items() if shape.integers is not None}


def square(plan, errors, members):
    values = [part for name in members for part, _ in plan.parts.get(name, ((name, 0),))]
    return sum(errors[value] ** 2 for value in values)


@pytest.mark.parametrize(("rewrite", "form"), [(True, "rewritten"), (False, "given")])
def test_the_choice_keeps_to_its_share_of_the_error(paper, paper_weights, rewrite, form):
    plan, errors = paper.plan(rewrite), paper_weights.metadata["int8"]["errors"][form]
    classes = map_classes(plan)
    read = {name for members in classes for name in members}
    mixed = choose_formats(plan, paper.ranges, errors, "avx2")
    chosen = [members for members in classes if set(members) <= narrow_maps(mixed)]
    assert chosen
    assert narrow_maps(mixed) & read == {name for members in chosen for name in members}
    total = sum(square(plan, errors, members) for members in classes)
    spent = sum(square(plan, errors, members) for members in chosen)
    assert spent <= total / 4
    floats = plan_cost(choose_algorithms(plan), "avx2")
    assert plan_cost(choose_algorithms(mixed), "avx2") < floats
    for members in classes:  # nothing that helps and has room is left out
        alone = choose_algorithms(quantize_plan(plan, paper.ranges, members))
        if members not in chosen and plan_cost(alone, "avx2") < floats:
            assert spent + square(plan, errors, members) > total / 4


def test_errors_are_those_of_one_class_alone(small, measured):
    for rewrite, form in ((True, "rewritten"), (False, "given")):
        plan = small.plan(rewrite)
        exact = run_engine(plan, small.pixels)
        for members in map_classes(plan):
            alone = quantize_plan(plan, small.ranges, members)
            worst = max(head_error(v, exact[n].astype(np.float64)) for n, v in run_engine(alone, small.pixels).items())
            assert square(plan, measured[form], members) ** 0.5 == pytest.approx(worst, rel=1e-3)
            assert 0 < worst < 0.1
        assert measured[form].keys() >= {"x0", "m1"}


def test_what_costs_no_error_and_saves_time_is_chosen(small):
    plan = small.plan(rewrite=False)
    nothing = dict.fromkeys(plan.tensors, 0.0)
    chosen = narrow_maps(choose_formats(plan, small.ranges, nothing, "avx2"))
    assert "x0" in chosen
    # Without a record a class stays float32, and so does one whose cost is all of the error.
    for errors in ({n: e for n, e in nothing.items() if n != "x0"}, nothing | {"x0": 1.0}):
        other = narrow_maps(choose_formats(plan, small.ranges, errors, "avx2"))
        assert other == chosen - {"x0", "m1"}  # which one convolution reads
    plain = choose_formats(plan, small.ranges, nothing, "scalar")  # on which integers are not faster
    assert plain.hash() == plan.hash()
    assert narrow_maps(choose_formats(plan, small.ranges, nothing, "avx2+avx512")) < chosen  # only weights are smaller
    assert narrow_maps(choose_formats(plan, small.ranges, nothing, "avx2+avx512+avx512vnni")) == chosen


def test_a_forced_algorithm_is_part_of_the_estimate(small):
    """A 3x3 of floats that may not be transformed takes longer: more is faster in int8."""
    plan = small.plan(rewrite=False)
    nothing = dict.fromkeys(plan.tensors, 0.0)
    free, direct = (choose_formats(plan, small.ranges, nothing, "avx2", forced) for forced in (None, "direct"))
    assert narrow_maps(direct) >= narrow_maps(free)


# -------------------------------------------------------------------------------------------------------- FastForward


def calibrated(net, images, **options):
    return FastForward.from_module(net, dtype="mixed", calibration=images, **options)


def test_the_error_lies_between_those_of_float32_and_int8(paper, paper_weights):
    unseen = random_pixels(paper.spec, 8, 21)
    expected = reference(paper.net, normalise(unseen, paper.spec))
    for rewrite in (True, False):
        mixed, int8 = (FastForward(paper_weights, dtype=dtype, rewrite=rewrite) for dtype in ("mixed", "int8"))
        errors = [worst_error(fast(unseen), expected)[0] for fast in (mixed, int8)]
        assert errors[0] < 0.8 * errors[1]  # meant to be half
        if "avx2" in mixed.isa and "avx512" not in mixed.isa:
            formats = {phase.dtype for phase in mixed.describe().phases if phase.kind.endswith("Conv")}
            assert formats == {"float32", "int8"}
            assert errors[0] > 1e-4


@pytest.mark.parametrize("rewrite", [True, False])
def test_bits_depend_neither_on_threads_nor_on_the_batch(small_net, rewrite):
    images = random_pixels(SMALL, 33, 1)
    weights = calibrated(small_net, images)._weights
    objects = [FastForward(weights, dtype="mixed", threads=threads, rewrite=rewrite) for threads in (1, 2, 3)]
    expected = objects[0](images)
    for fast in objects:
        assert fast.describe().hash == objects[0].describe().hash
        assert_same_bits(fast(images), expected)
        for i in (0, 17, 32):
            assert_same_bits(fast(images[i : i + 1]), {n: v[i : i + 1] for n, v in expected.items()})


def test_a_non_finite_image_is_nan_and_alone(small_net, monkeypatch):
    images = random_pixels(SMALL, 4, 1)
    for isa in ISAS:
        monkeypatch.setenv("FACEATTR_ISA", isa)
        fast, x = calibrated(small_net, images, threads=2), normalise(images, SMALL)
        expected = fast(x)
        x[2, 1, 5, 7] = np.nan
        found = fast(x)
        for name, value in found.items():
            assert np.isnan(value[2]).all()
            np.testing.assert_array_equal(value[[0, 1, 3]], expected[name][[0, 1, 3]])


@pytest.fixture(scope="module")
def mixed_file(small_net, tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "small.safetensors"
    FastForward.from_module(small_net, calibration=random_pixels(SMALL, 6, 3)).save(path)
    return path


def test_files_and_pickles(mixed_file, small_net):
    images = random_pixels(SMALL, 3, 1)
    made, loaded = calibrated(small_net, random_pixels(SMALL, 6, 3)), FastForward.load(mixed_file, dtype="mixed")
    assert loaded.metadata == made.metadata
    assert loaded.describe() == made.describe()
    assert_same_bits(loaded(images), made(images))
    for fast in (made, FastForward.load(mixed_file, dtype="mixed", heads=["pose"], rewrite=False)):
        other = pickle.loads(pickle.dumps(fast))
        assert other.dtype == "mixed"
        assert other.describe() == fast.describe()
        assert_same_bits(other(images), fast(images))


def test_heads_and_features(mixed_file, small_fast):
    """Whatever is asked for, and however the plan then looks, is near float32."""
    images = random_pixels(SMALL, 5, 1)
    exact = small_fast(images)
    for rewrite in (True, False):
        for heads in (["pose"], ["mood", "embedding"], OUTPUTS):
            found = FastForward.load(mixed_file, dtype="mixed", heads=heads, rewrite=rewrite)(images)
            assert list(found) == heads
            assert max(head_error(v, exact[n].astype(np.float64)) for n, v in found.items()) < 0.05
    fast = FastForward.load(mixed_file, dtype="mixed")
    for branch in SMALL.branches:
        for name, value in small_fast.features(images, branch).items():
            assert head_error(fast.features(images, branch)[name], value.astype(np.float64)) < 0.05, (branch, name)


def test_describe_shows_the_choice(mixed_file, monkeypatch):
    for isa in ISAS:
        monkeypatch.setenv("FACEATTR_ISA", isa)
        fast = FastForward.load(mixed_file, dtype="mixed", rewrite=False)
        description = fast.describe()
        assert f"cpu mixed, {fast.isa}" in str(description)
        for phase in description.phases:
            integers = phase.kind in ("QuantizedStem", "QuantizedConv", "Quantize")
            assert phase.dtype == ("int8" if integers else "float32")
            assert phase.kernel.startswith("quantize") == integers
            assert f"{phase.kernel:29}  {phase.dtype}" in str(description)
        if isa in ("avx2", "avx512vnni"):
            assert {"int8", "float32"} == {phase.dtype for phase in description.phases}
            assert description.hash != FastForward.load(mixed_file, rewrite=False).describe().hash
        json.dumps(description.to_dict(), allow_nan=False)
        assert fast.profile(random_pixels(SMALL, 2)).seconds > 0


def with_errors(mixed_file, errors):
    weights = read_weights(mixed_file)
    entry = {name: value for name, value in weights.metadata["int8"].items() if name != "errors"}
    entry |= {} if errors is None else {"errors": errors}
    return dataclasses.replace(weights, metadata=weights.metadata | {"int8": entry})


def test_without_scales_the_error_says_how_to_make_them(small_file):
    with pytest.raises(WeightsError, match=r"no scales.*faceattr quantize"):
        FastForward.load(small_file, dtype="mixed")


@pytest.mark.parametrize("errors", [None, 3, [], {}, {"given": {}}, {"rewritten": [0.1]}])
def test_without_errors_the_message_says_how_to_make_them(mixed_file, errors):
    weights = with_errors(mixed_file, errors)
    with pytest.raises(WeightsError, match=r"mixed.*faceattr quantize"):
        FastForward(weights, dtype="mixed")
    FastForward(weights, dtype="int8")  # needs none


@pytest.mark.parametrize("value", ["1", None, True, [], float("nan"), float("inf"), -1e-9, 10**400])
def test_damaged_errors_are_named(mixed_file, value):
    errors = {"rewritten": read_weights(mixed_file).metadata["int8"]["errors"]["rewritten"] | {"x0": value}}
    with pytest.raises(WeightsError, match="error of 'x0'"):
        FastForward(with_errors(mixed_file, errors), dtype="mixed")
