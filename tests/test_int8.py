"""int8 in FastForward: the same bits for all callers, errors near float64, scales that travel in the file."""

import dataclasses
import json
import pickle

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
from random_specs import names_of_outputs

from faceattr_fast import FastForward, NetworkSpec, WeightsError
from faceattr_fast.formats.quantize import calibrate
from faceattr_fast.plan.phases import SegmentedConv, Stem
from faceattr_fast.plan.rewrite import build_plan
from faceattr_fast.reference.model import tensors_of
from faceattr_fast.spec import PixelSpec
from faceattr_fast.weights import Weights, read_weights, write_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_torch_thread")

ISAS = available_isas()


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


@pytest.mark.parametrize("size", [8, 12, 48])
def test_bytes_of_pixels_and_other_pixels_give_the_integers_of_all_instruction_sets(size, tmp_path, monkeypatch):
    # Where kernels multiply bytes, the stem does so strip by strip, eight rows of its map each: at 48 pixels one image
    # has strips of both kinds. AVX2 knows one kind.
    net = random_net(dataclasses.replace(SMALL, pixels=PixelSpec(size=size)), 2)
    images = random_pixels(net.spec, 4, 2)
    pixels = normalise(images, net.spec)
    pixels[1, 0, 0, 0] += 0.001
    pixels[2, 2, -1, -1] += 0.001
    pixels[3] *= 3
    in_int8(net, images).save(tmp_path / "scaled.safetensors")
    results = []
    for isa in ISAS:
        monkeypatch.setenv("FACEATTR_ISA", isa)
        fast = FastForward.load(tmp_path / "scaled.safetensors", dtype="int8")
        results.append(fast.features(pixels, "conv1")["block_input"])
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


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


# files and errors


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
