"""int8: the engine computes exactly the integers that the scheme defines, and the scheme stays near float64."""

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
from random_specs import names_of_outputs, specs

from faceattr_fast import FastForward, NetworkSpec, WeightsError
from faceattr_fast.backend import compile_plan
from faceattr_fast.oracle import run_plan
from faceattr_fast.plan import Output, QuantizedConv, QuantizedStem, SegmentedConv, Stem
from faceattr_fast.quantize import _best_range, calibrate, quantize_plan
from faceattr_fast.reference.model import tensors_of
from faceattr_fast.rewrite import build_plan
from faceattr_fast.spec import BlockSpec, HeadSpec, PixelSpec, StemSpec
from faceattr_fast.weights import Weights, read_weights, write_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_torch_thread")

ISAS = available_isas()
HEADS = 1e-5  # of heads, which are float32, where all that they read is equal

PAPER = NetworkSpec.paper(identities=None, pixels=PixelSpec(size=64))


class Case:
    """A network with its ranges, and its plans in floats and integers."""

    def __init__(self, spec, seed, images=3):
        self.spec, self.net = spec, random_net(spec, seed)
        self.tensors = tensors_of(self.net)
        self.pixels = random_pixels(spec, images, seed)
        self.x = normalise(self.pixels, spec)
        self.ranges = calibrate(spec, self.tensors, self.pixels, threads=1)

    def plans(self, outputs=None, rewrite=True):
        plan = build_plan(self.spec, self.tensors, outputs or names_of_outputs(self.spec), rewrite=rewrite)
        return plan, quantize_plan(plan, self.ranges)


@pytest.fixture(scope="module", params=["small", "paper"])
def case(request):
    return Case({"small": SMALL, "paper": PAPER}[request.param], 1)


def with_every_map(plan):
    """The same plan with all of its maps as outputs, beside its own."""
    convs = [phase for phase in plan.phases if isinstance(phase, (QuantizedStem, QuantizedConv))]
    copies = [phase.copy for phase in convs if isinstance(phase, QuantizedConv) and phase.copy]
    maps = [phase.dst for phase in convs] + copies
    outputs = dict(plan.outputs) | {f"map {name}": Output(name, 0, plan.tensors[name].channels) for name in maps}
    return dataclasses.replace(plan, outputs=outputs, _hash=[])


def run_engine(plan, pixels, isa="", threads=1):
    written = {phase.dst for phase in plan.phases if not isinstance(phase, (QuantizedConv, QuantizedStem))}
    arrays = {}
    for name, output in plan.outputs.items():
        shape = plan.tensors[output.tensor]
        spatial = () if output.tensor in written else (shape.height, shape.width)
        arrays[name] = np.empty((len(pixels), *spatial, output.count), np.float32)
    compile_plan(plan, threads, isa).run(pixels, list(arrays.values()))
    return arrays


def assert_equals_oracle(found, expected):
    """Maps bit for bit; heads, whose sums are float32, nearly."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        if name.startswith("map "):
            np.testing.assert_array_equal(found[name], value.astype(np.float32), err_msg=name)
        else:
            largest = max(1.0, *(abs(v).max(initial=0) for v in expected.values()))
            assert abs(found[name] - value).max() <= HEADS * largest, name


# ------------------------------------------------------------------------------------------- engine, oracle and torch


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rewrite", [True, False])
def test_the_engine_computes_what_the_oracle_says(case, rewrite, isa):
    _, plan = case.plans(rewrite=rewrite)
    tapped = with_every_map(plan)
    expected = run_plan(tapped, case.x)
    assert sum(name.startswith("map ") for name in expected) >= 7
    for pixels in (case.pixels, case.x):  # the mean is a multiple of one half: the same integers
        assert_equals_oracle(run_engine(tapped, pixels, isa, threads=2), expected)
    # Without further outputs maps replace each other in the arena.
    heads = run_plan(plan, case.x)
    assert_equals_oracle(run_engine(plan, case.pixels, isa), heads)
    assert_same_bits(run_engine(plan, case.pixels, isa), run_engine(plan, case.x, isa))


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(spec=specs(), data=st.data())
def test_unusual_specs(spec, data):
    case = Case(spec, data.draw(st.integers(0, 2**16)), images=2)
    outputs = data.draw(st.lists(st.sampled_from(names_of_outputs(spec)), min_size=1, unique=True))
    _, plan = case.plans(outputs, data.draw(st.booleans()))
    tapped, threads = with_every_map(plan), data.draw(st.integers(1, 3))
    isa = data.draw(st.sampled_from(ISAS))
    expected = run_plan(tapped, case.x)
    assert_equals_oracle(run_engine(tapped, case.x, isa, threads), expected)
    torch_maps = run_torch(tapped, case.x)
    for name, value in torch_maps.items():
        np.testing.assert_array_equal(expected[f"map {name}"], value, err_msg=name)


def run_torch(plan, x):
    """By name, every map that a quantised plan writes, as its phases are documented: sums by torch, in float64."""
    values = {}  # as they are stored, NCHW

    def to_integers(value, shape):
        assert value.dtype == torch.float32
        low = shape.integers.low
        return torch.clamp(torch.round(value), low, low + 255).double()  # torch rounds halves to even

    def by_channel(array):
        return torch.from_numpy(array)[None, :, None, None]

    for phase in plan.phases:
        match phase:
            case QuantizedStem():
                doubled = by_channel(np.array(plan.spec.pixels.scale, np.float32) * np.float32(2))
                pixels = torch.round(torch.clamp(torch.from_numpy(x) * doubled, -32767, 32767)).double()
                weight, bias = torch.from_numpy(phase.weight).double(), torch.from_numpy(phase.bias).double()
                sums = torch.nn.functional.conv2d(pixels, weight, bias, stride=2, padding=3)
                q = to_integers(sums.float() * by_channel(phase.multiplier), plan.tensors[phase.dst])
                values[phase.dst] = torch.nn.functional.max_pool2d(q, 2)
            case QuantizedConv():
                sums = by_channel(phase.bias).double()
                for s in phase.segments:
                    src = values[s.src][:, s.start : s.start + s.count]
                    weight = torch.from_numpy(s.weight).double()
                    sums = sums + torch.nn.functional.conv2d(src, weight, stride=s.stride, padding=s.kernel // 2)
                value = sums.float() * by_channel(phase.multiplier)
                if plan.tensors[phase.dst].integers is not None:
                    values[phase.dst] = to_integers(value, plan.tensors[phase.dst])
                    continue
                if phase.residual is not None:
                    value = value + values[phase.residual].float()
                if phase.relu:
                    value = torch.relu(value)
                values[phase.dst] = value.double()
                if phase.copy is not None:
                    values[phase.copy] = to_integers(value * by_channel(phase.inverse), plan.tensors[phase.copy])
    results = {}
    for name, value in values.items():
        array, integers = value.permute(0, 2, 3, 1).numpy(), plan.tensors[name].integers
        results[name] = array if integers is None else array * np.array(integers.scale)
    return results


def test_torch_and_the_oracle_agree_on_every_integer(case):
    for rewrite in (True, False):
        tapped = with_every_map(case.plans(rewrite=rewrite)[1])
        expected = run_plan(tapped, case.x)
        maps = run_torch(tapped, case.x)
        assert {f"map {name}" for name in maps} == {name for name in expected if name.startswith("map ")}
        for name, value in maps.items():
            np.testing.assert_array_equal(expected[f"map {name}"], value, err_msg=name)
            assert len(np.unique(value)) > 20, name  # and it says something


def test_integers_stand_for_the_weights(case):
    """Half a unit per weight and bias, the unit being as small as the largest weight of the channel lets it be."""
    for rewrite in (True, False):
        plan, quantized = case.plans(rewrite=rewrite)
        compared = 0
        for before, after in zip(plan.phases, quantized.phases, strict=True):
            if not isinstance(before, (Stem, SegmentedConv)):
                assert after is before
                continue
            out = quantized.tensors[after.dst].integers
            unit = after.multiplier.astype(np.float64) * (1.0 if out is None else np.array(out.scale))
            if isinstance(before, Stem):
                doubled = 2 * np.array(case.spec.pixels.scale)
                pairs = [(before.weight / doubled[:, None, None], after.weight)]
            else:
                pairs = []
                for given_, stored in zip(before.segments, after.segments, strict=True):
                    source = quantized.tensors[stored.src].integers
                    scale = np.array(source.scale)[stored.start : stored.start + stored.count]
                    pairs.append((given_.weight * scale[:, None, None], stored.weight))
            for given_, stored in pairs:
                assert stored.dtype == np.int8
                error = abs(stored * unit[:, None, None, None] - given_)
                assert (error <= 0.501 * unit[:, None, None, None]).all(), after.dst
                compared += stored.size
            largest = np.max([abs(stored.astype(int)).reshape(len(unit), -1).max(1) for _, stored in pairs], axis=0)
            assert (largest == 127).all(), after.dst
            bias = np.zeros(len(unit)) if before.bias is None else before.bias
            assert (abs(after.bias * unit - bias) <= 0.501 * unit).all()
            if isinstance(after, QuantizedConv) and after.copy is not None:
                copy = quantized.tensors[after.copy].integers
                np.testing.assert_allclose(after.inverse * np.array(copy.scale), 1, rtol=1e-6)
        assert compared > 1000


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize("rewrite", [True, False])
def test_a_block_that_adds_the_stem_itself(dtype, rewrite):
    """An identity shortcut around the first block: what is added is narrow, and added as a convolution."""
    blocks = (BlockSpec(8, 6, 8, 1), BlockSpec(8, 5, 8, 1))
    heads = (HeadSpec("a", 3, "fc"), HeadSpec("b", 2, "conv2"))
    spec = NetworkSpec(StemSpec(8), (blocks,), 10, heads, pixels=PixelSpec(size=32))
    net, images = random_net(spec, 4), random_pixels(spec, 6, 4)
    fast = FastForward.from_module(net, dtype=dtype, rewrite=rewrite, calibration=images, threads=2)
    assert worst_error(fast(images), reference(net, normalise(images, spec)))[0] < 0.1
    case = Case(spec, 4)
    plan = with_every_map(case.plans(rewrite=rewrite)[1])
    assert_equals_oracle(run_engine(plan, case.pixels), run_plan(plan, case.x))


# --------------------------------------------------------------------------------------------- the same bits for all


def in_int8(net, calibration, **options):
    return FastForward.from_module(net, dtype="int8", calibration=calibration, **options)


@pytest.mark.parametrize(
    "pixels",
    [
        PixelSpec(size=32),
        PixelSpec((100.0, 0.0, 33.5), (57.0, 1.0, 127.5), 32),
        PixelSpec((-0.5, 255, 300), (9, 5, 3), 32),
    ],
)
@pytest.mark.parametrize("isa", ISAS)
def test_uint8_and_float32_pixels_give_the_same_bits(pixels, isa, monkeypatch):
    monkeypatch.setenv("FACEATTR_ISA", isa)
    net = random_net(dataclasses.replace(SMALL, pixels=pixels), 2)
    images = random_pixels(net.spec, 5, 2)
    images[3], images[4] = 0, 255
    fast = in_int8(net, images, threads=2)
    assert_same_bits(fast(images), fast(normalise(images, net.spec)))


def rows(outputs, index):
    return {name: np.ascontiguousarray(value[index]) for name, value in outputs.items()}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rewrite", [True, False])
def test_bits_depend_neither_on_threads_nor_on_the_batch(small_net, isa, rewrite, monkeypatch):
    monkeypatch.setenv("FACEATTR_ISA", isa)
    images = random_pixels(SMALL, 33, 1)
    objects = [in_int8(small_net, images, threads=threads, rewrite=rewrite) for threads in (1, 2, 3)]
    expected = objects[0](images)
    order = np.random.default_rng(2).permutation(33)
    for fast in objects:
        assert_same_bits(fast(images), expected)
        assert_same_bits(fast(images[order]), rows(expected, order))
        for i in (0, 1, 17, 32):
            assert_same_bits(fast(images[i : i + 1]), rows(expected, np.s_[i : i + 1]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_image_is_nan_and_alone(small_net, bad):
    images = random_pixels(SMALL, 5, 1)
    fast, x = in_int8(small_net, images, threads=2), normalise(images, SMALL)
    expected = fast(x)
    x[2, 1, 5, 7] = bad
    found = fast(x)
    others = [0, 1, 3, 4]
    assert all(np.isnan(value[2]).all() for value in found.values())
    assert_same_bits(rows(found, others), rows(expected, others))
    assert all(np.isnan(value[2]).all() for value in fast.features(x, "conv4").values())


def test_pixels_beyond_any_picture_are_clipped(small_net):
    """Finite values of any size: no integer wraps around."""
    images = random_pixels(SMALL, 1, 1)
    fast, x = in_int8(small_net, images), normalise(images, SMALL)
    found = fast(np.concatenate([x * 1e6, x * 1e30, x * np.float32(3e38)]))
    for value in found.values():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(value[1], value[2])


# --------------------------------------------------------------------------------------------------------- one scheme


def test_one_set_of_ranges_serves_any_heads_and_both_forms(case):
    expected = reference(case.net, case.x)
    for rewrite in (True, False):
        for outputs in (["embedding"], [case.spec.heads[0].name], names_of_outputs(case.spec)[::-1]):
            _, plan = case.plans(outputs, rewrite)
            found = run_engine(plan, case.pixels)
            assert list(found) == outputs
            assert worst_error(found, expected)[0] < 0.1, (outputs, rewrite)


def test_features_are_near_those_of_float32(small_net):
    images = random_pixels(SMALL, 8, 1)
    fast, exact = in_int8(small_net, images), FastForward.from_module(small_net)
    ranges = fast.metadata["int8"]["ranges"]
    # The stem: half a step of its own, and the rounding of its weights, whose 147 terms rarely add up.
    step = ranges["x0"] / 255
    found, expected = (f.features(images, "conv1")["block_input"] for f in (fast, exact))
    assert abs(found - np.minimum(expected, ranges["x0"])).max() <= 3 * step
    integers = found / np.float32(step)
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-3)
    assert len(np.unique(np.rint(integers))) > 150
    for branch in SMALL.branches[1:]:
        found, expected = fast.features(images, branch), exact.features(images, branch)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == np.float32
            assert found[name].shape == value.shape
            assert 0 < head_error(found[name], value.astype(np.float64)) < 0.05, (branch, name)
    np.testing.assert_array_equal(*(f.features(images, "conv0")["pixels"] for f in (fast, exact)))


@pytest.mark.parametrize(("seed", "size", "images"), [(0, 224, 4), (1, 64, 16), (2, 64, 16)])
def test_the_error_of_the_paper_network(seed, size, images):
    """Calibrated on other images than those that are measured. Random weights, which spread errors most."""
    spec = NetworkSpec.paper(identities=None, pixels=PixelSpec(size=size))
    net = random_net(spec, seed)
    seen, unseen = random_pixels(spec, images, 10 + seed), random_pixels(spec, 4, 20 + seed)
    expected = reference(net, normalise(unseen, spec))
    for rewrite in (True, False):
        error, head = worst_error(in_int8(net, seen, rewrite=rewrite)(unseen), expected)
        assert error < 0.1, head


def test_ranges_weigh_rounding_against_clipping():
    """A long tail is cut where that costs less than coarse steps for all; values without one keep their range."""
    rng = np.random.default_rng(0)

    def error(values, limit, levels):
        step = limit / levels
        return np.square(values - np.clip(np.rint(values / step), -levels, levels) * step).mean()

    for levels in (127, 255):
        tail = np.append(rng.laplace(0, 1, 100_000), 40.0)
        limit = _best_range(tail, levels)
        assert limit < 37
        assert error(tail, limit, levels) < 0.9 * error(tail, 40.0, levels)
        assert all(error(tail, limit, levels) < 1.01 * error(tail, other, levels) for other in np.linspace(5, 40, 200))
        flat = rng.uniform(-3, 3, 100_000)
        assert _best_range(flat, levels) == pytest.approx(3, rel=0.02)
    assert _best_range(np.zeros(10), 255) == 1.0


def test_values_that_are_always_zero_are_no_trouble():
    net = random_net(SMALL, 1)
    with torch.no_grad():
        for norm in (net.blocks["2"].bn, net.stem.bn):
            norm.weight.zero_()
            norm.bias.fill_(-1.0)
    images = random_pixels(SMALL, 2, 1)
    fast = in_int8(net, images)
    assert fast.metadata["int8"]["ranges"]["m2"] == fast.metadata["int8"]["ranges"]["x0"] == 1.0
    assert worst_error(fast(images), reference(net, normalise(images, SMALL)))[0] < 0.1


# ---------------------------------------------------------------------------------------------------- files and errors


@pytest.fixture(scope="module")
def int8_file(small_net, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "small.safetensors"
    FastForward.from_module(small_net, calibration=random_pixels(SMALL, 6, 3)).save(path)
    return path


def test_scales_travel_in_the_file(int8_file, small_net, tmp_path):
    images = random_pixels(SMALL, 3, 1)
    made = in_int8(small_net, random_pixels(SMALL, 6, 3))
    assert made.metadata["int8"]["images"] == 6
    loaded = FastForward.load(int8_file, dtype="int8")
    assert loaded.metadata == made.metadata
    assert loaded.describe() == made.describe()
    expected = made(images)
    assert_same_bits(loaded(images), expected)
    loaded.save(tmp_path / "again.safetensors")
    assert_same_bits(FastForward.load(tmp_path / "again.safetensors", dtype="int8")(images), expected)
    # Scales are there for whoever wants them: float32 is as without.
    assert_same_bits(FastForward.load(int8_file)(images), FastForward.from_module(small_net)(images))


def test_pickles(int8_file, small_net):
    images = random_pixels(SMALL, 3, 1)
    for fast in (
        FastForward.load(int8_file, dtype="int8", heads=["pose"], rewrite=False),
        in_int8(small_net, images, threads=2),
    ):
        other = pickle.loads(pickle.dumps(fast))
        assert other.dtype == "int8"
        assert other.describe() == fast.describe()
        assert_same_bits(other(images), fast(images))


def test_describe_says_int8(int8_file):
    fast, exact = FastForward.load(int8_file, dtype="int8"), FastForward.load(int8_file)
    description = fast.describe()
    assert (fast.dtype, description.dtype) == ("int8", "int8")
    assert "cpu int8" in str(description)
    assert {phase.kind for phase in description.phases} == {
        "QuantizedStem",
        "QuantizedConv",
        "ShiftedMeans",
        "LinearHead",
    }
    assert description.multiply_adds == exact.describe().multiply_adds
    assert description.hash != exact.describe().hash
    json.dumps(description.to_dict(), allow_nan=False)
    assert fast.profile(random_pixels(SMALL, 2)).seconds > 0


def weights_with(int8_file, entry):
    weights = read_weights(int8_file)
    return dataclasses.replace(weights, metadata=weights.metadata | {"int8": entry})


def test_without_scales_the_error_says_how_to_make_them(small_file):
    with pytest.raises(WeightsError, match=r"no scales.*faceattr quantize"):
        FastForward.load(small_file, dtype="int8")


@pytest.mark.parametrize("entry", [None, 3, [], {}, {"ranges": None}, {"ranges": [1.0]}, {"ranges": "x0"}])
def test_damaged_scales(int8_file, entry):
    with pytest.raises(WeightsError, match="no scales"):
        FastForward(weights_with(int8_file, entry), dtype="int8")


@pytest.mark.parametrize(
    "value", ["1", None, True, [], float("nan"), float("inf"), 0, 0.0, -1.0, 1e-300, 1e300, 10**400, -(10**400)]
)
def test_damaged_ranges_are_named(int8_file, value, tmp_path):
    ranges = dict(read_weights(int8_file).metadata["int8"]["ranges"]) | {"m2": value}
    weights = weights_with(int8_file, {"ranges": ranges})
    with pytest.raises(WeightsError, match="range of 'm2'"):
        FastForward(weights, dtype="int8")
    if not isinstance(value, int) or isinstance(value, bool):
        write_weights(tmp_path / "damaged.safetensors", weights)
        with pytest.raises(WeightsError, match="range of 'm2'"):
            FastForward.load(tmp_path / "damaged.safetensors", dtype="int8")


def test_a_missing_range_is_named(int8_file):
    ranges = dict(read_weights(int8_file).metadata["int8"]["ranges"])
    del ranges["mood.m3"]
    weights = weights_with(int8_file, {"ranges": ranges})
    with pytest.raises(WeightsError, match=r"no scale for 'mood.m3'.*faceattr quantize"):
        FastForward(weights, dtype="int8")
    FastForward(weights, dtype="int8", heads=["hat"])  # needs it not


@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        (np.zeros((0, 32, 32, 3), np.uint8), ValueError, "calibration: expected at least one image"),
        (np.zeros((2, 16, 16, 3), np.uint8), ValueError, r"calibration: expected uint8 \[N, 32, 32, 3\]"),
        (np.zeros((32, 32, 3), np.uint8), ValueError, "calibration: got a single image"),
        (np.zeros((2, 3, 32, 32)), TypeError, "calibration: expected uint8"),
        ("faces", TypeError, "calibration: expected an array"),
        (np.full((2, 3, 32, 32), np.nan, np.float32), ValueError, "calibration: expected finite pixels"),
    ],
)
def test_wrong_calibration(small_net, calibration, error, message):
    with pytest.raises(error, match=message):
        FastForward.from_module(small_net, calibration=calibration)


def test_one_bad_image_among_many_is_found(small_net):
    x = normalise(random_pixels(SMALL, 9, 1), SMALL)
    x[8, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="finite"):
        in_int8(small_net, x)


def test_calibration_is_repeatable_and_counts_its_images(small_net):
    images, seen = random_pixels(SMALL, 9, 1), []
    weights = Weights(SMALL, tensors_of(small_net))
    first = calibrate(SMALL, weights.tensors, images, threads=1, progress=seen.append)
    assert seen[-1] == 9
    assert seen == sorted(seen)
    assert first == calibrate(SMALL, weights.tensors, images, threads=3)
    plan = build_plan(SMALL, weights.tensors, names_of_outputs(SMALL), rewrite=False)
    assert first.keys() == {p.dst for p in plan.phases if isinstance(p, (Stem, SegmentedConv))}
