"""mixed: the choice of formats keeps its promises, and so does FastForward with it."""

import dataclasses
import json
import pickle
import re

import numpy as np
import pytest
from cases import Case, run_engine
from networks import (
    SMALL,
    assert_same_bits,
    available_isas,
    head_error,
    normalise,
    random_pixels,
    reference,
    worst_error,
)

from faceattr_fast import FastForward, NetworkSpec, WeightsError
from faceattr_fast.formats.mixed import choose_formats, map_classes, measure_errors
from faceattr_fast.formats.quantize import quantize_plan
from faceattr_fast.plan.algorithms import choose_algorithms, plan_cost
from faceattr_fast.spec import PixelSpec
from faceattr_fast.weights import read_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_torch_thread")

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ISAS = available_isas()
OUTPUTS = ["embedding", "mood", "glasses", "hat", "pose"]


def calibrated(net, images, **options):
    return FastForward.from_module(net, dtype="mixed", calibration=images, **options)


@pytest.fixture(scope="module")
def small():
    return Case(SMALL, 1)


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


# FastForward


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


def test_files_and_pickles(int8_file, small_net):
    images = random_pixels(SMALL, 3, 1)
    made, loaded = calibrated(small_net, random_pixels(SMALL, 6, 3)), FastForward.load(int8_file, dtype="mixed")
    assert loaded.metadata == made.metadata
    assert loaded.describe() == made.describe()
    assert_same_bits(loaded(images), made(images))
    for fast in (made, FastForward.load(int8_file, dtype="mixed", heads=["pose"], rewrite=False)):
        other = pickle.loads(pickle.dumps(fast))
        assert other.dtype == "mixed"
        assert other.describe() == fast.describe()
        assert_same_bits(other(images), fast(images))


def test_heads_and_features(int8_file, small_fast):
    """Whatever is asked for, and however the plan then looks, is near float32."""
    images = random_pixels(SMALL, 5, 1)
    exact = small_fast(images)
    for rewrite in (True, False):
        for heads in (["pose"], ["mood", "embedding"], OUTPUTS):
            found = FastForward.load(int8_file, dtype="mixed", heads=heads, rewrite=rewrite)(images)
            assert list(found) == heads
            assert max(head_error(v, exact[n].astype(np.float64)) for n, v in found.items()) < 0.05
    fast = FastForward.load(int8_file, dtype="mixed")
    for branch in SMALL.branches:
        for name, value in small_fast.features(images, branch).items():
            assert head_error(fast.features(images, branch)[name], value.astype(np.float64)) < 0.05, (branch, name)


def test_describe_shows_the_choice(int8_file, monkeypatch):
    for isa in ISAS:
        monkeypatch.setenv("FACEATTR_ISA", isa)
        fast = FastForward.load(int8_file, dtype="mixed", rewrite=False)
        description = fast.describe()
        assert f"cpu mixed, {fast.isa}" in str(description)
        for phase in description.phases:
            integers = phase.kind in ("QuantizedStem", "QuantizedConv", "Quantize")
            assert phase.dtype == ("int8" if integers else "float32")
            assert (phase.kernel.startswith("quantize") or phase.kind == "QuantizedStem") == integers
            assert re.search(rf"{phase.kernel} +{phase.dtype}", str(description))
        if isa in ("avx2", "avx512vnni"):
            assert {"int8", "float32"} == {phase.dtype for phase in description.phases}
            assert description.hash != FastForward.load(int8_file, rewrite=False).describe().hash
        json.dumps(description.to_dict(), allow_nan=False)
        assert fast.profile(random_pixels(SMALL, 2)).seconds > 0


def with_errors(int8_file, errors):
    weights = read_weights(int8_file)
    entry = {name: value for name, value in weights.metadata["int8"].items() if name != "errors"}
    entry |= {} if errors is None else {"errors": errors}
    return dataclasses.replace(weights, metadata=weights.metadata | {"int8": entry})


def test_without_scales_the_error_says_how_to_make_them(small_file):
    with pytest.raises(WeightsError, match=r"no scales.*faceattr quantize"):
        FastForward.load(small_file, dtype="mixed")


@pytest.mark.parametrize("errors", [None, 3, [], {}, {"given": {}}, {"rewritten": [0.1]}])
def test_without_errors_the_message_says_how_to_make_them(int8_file, errors):
    weights = with_errors(int8_file, errors)
    with pytest.raises(WeightsError, match=r"mixed.*faceattr quantize"):
        FastForward(weights, dtype="mixed")
    FastForward(weights, dtype="int8")  # needs none


@pytest.mark.parametrize("value", ["1", None, True, [], float("nan"), float("inf"), -1e-9, 10**400])
def test_damaged_errors_are_named(int8_file, value):
    errors = {"rewritten": read_weights(int8_file).metadata["int8"]["errors"]["rewritten"] | {"x0": value}}
    with pytest.raises(WeightsError, match="error of 'x0'"):
        FastForward(with_errors(int8_file, errors), dtype="mixed")
