"""Whole networks on the kernels of CUDA, which run on the host emulator: how far they are from float64."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import (
    SMALL,
    assert_same_bits,
    double_net,
    head_error,
    normalise,
    random_net,
    random_pixels,
    reference,
    torch_features,
    worst_error,
)
from random_specs import specs

from faceattr_fast import FastForward, NetworkSpec, WeightsError
from faceattr_fast.formats.dtypes import DTYPES
from faceattr_fast.formats.storage import store_float16
from faceattr_fast.plan.rewrite import build_plan
from faceattr_fast.reference.model import tensors_of
from faceattr_fast.spec import PixelSpec, StemSpec

pytestmark = pytest.mark.usefixtures("emulated")

PAPER = NetworkSpec.paper(identities=None)
IMAGES = random_pixels(SMALL, 5, 1)
X = normalise(IMAGES, SMALL)

# docs/numerics.md: bounds of random networks; no closer than the least, or nothing was rounded.
BOUNDS = {"float32": (0, 2e-6), "float16": (2e-5, 2e-3), "bfloat16": (1e-4, 2e-2), "int8": (1e-3, 1e-1)}
formats = pytest.mark.parametrize("dtype", DTYPES["cuda"])


@pytest.fixture(scope="module")
def small_int8(small_net, tmp_path_factory):
    """The weights of the small network with scales for int8."""
    path = tmp_path_factory.mktemp("int8") / "small.safetensors"
    FastForward.from_module(small_net, calibration=IMAGES).save(path)
    return path


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("rewrite", [True, False])
@formats
def test_small_network_is_close_to_float64(small_int8, small_net, dtype, rewrite, device):
    heads = [*(head.name for head in SMALL.heads), "embedding", "identity"]
    fast = FastForward.load(small_int8, device=device, dtype=dtype, rewrite=rewrite, heads=heads)
    least, most = BOUNDS[dtype]
    for pixels in (IMAGES, X):
        found = fast(pixels)
        assert list(found) == heads
        error, name = worst_error(found, reference(small_net, X))
        assert least <= error < most, name


def test_float16_is_the_default(small_file):
    fast = FastForward.load(small_file, device="cuda")
    assert fast.dtype == "float16"
    assert {phase.dtype for phase in fast.describe().phases} == {"float16", "float32"}  # heads stay float32


@pytest.mark.parametrize("rewrite", [True, False])
def test_integers_equal_those_of_the_cpu(small_int8, rewrite):
    gpu, cpu = (FastForward.load(small_int8, device=d, dtype="int8", rewrite=rewrite) for d in ("cuda", "cpu"))
    for branch in SMALL.branches[1:-2]:  # maps; what comes later is made of float32 sums
        assert_same_bits(gpu.features(X, branch), cpu.features(X, branch))
        assert_same_bits(gpu.features(IMAGES, branch), cpu.features(IMAGES, branch))
    error, name = worst_error(gpu(IMAGES), {k: v.astype(np.float64) for k, v in cpu(IMAGES).items()})
    assert error < 2e-6, name
    assert_same_bits(gpu(X), gpu(IMAGES))  # the means are multiples of one half


@formats
def test_features(small_int8, small_net, dtype):
    fast, double = FastForward.load(small_int8, device="cuda", dtype=dtype), double_net(small_net)
    for branch in SMALL.branches:
        expected = torch_features(double, X, branch)
        found = fast.features(X, branch)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert head_error(found[name], value) < BOUNDS[dtype][1], (branch, name)


@formats
def test_images_do_not_mix(small_int8, dtype):
    """A pixel that is not finite makes its own image NaN; the others keep their bits."""
    fast = FastForward.load(small_int8, device="cuda", dtype=dtype)
    expected = fast(X)
    bad = X.copy()
    bad[1, 0, 3, 3], bad[3, 2, -1, 0] = np.inf, np.nan
    for call, clean in ((fast, expected), (lambda p: fast.features(p, "conv4"), fast.features(X, "conv4"))):
        found = call(bad)
        for name, value in found.items():
            assert np.isnan(value[[1, 3]]).all(), name
        fine = [0, 2, 4]
        assert_same_bits({n: v[fine] for n, v in found.items()}, {n: v[fine] for n, v in clean.items()})


@formats
def test_any_number_of_images(small_int8, dtype):
    fast = FastForward.load(small_int8, device="cuda", dtype=dtype)
    assert {name: value.shape for name, value in fast(IMAGES[:0]).items()}["mood"] == (0, 3)
    expected = fast(IMAGES)
    for n in (1, 2, 4):
        found = fast(IMAGES[:n])
        for name, value in found.items():
            assert head_error(value, expected[name][:n].astype(np.float64)) < BOUNDS[dtype][1], name


def test_batches_beyond_what_runs_at_once():
    """Chunks of the engine, and parts that are staged from the host, at their borders too."""
    spec = NetworkSpec(StemSpec(8), (), 4, (), pixels=PixelSpec(size=16))
    fast, pixels = FastForward.from_module(random_net(spec, 0), device="cuda"), random_pixels(spec, 5)
    order = np.arange(fast._network._engine.max_images + 3) % 5
    for images in (pixels, normalise(pixels, spec)):
        expected = fast(images)["embedding"].astype(np.float64)[order]
        assert head_error(fast(images[order])["embedding"], expected) < 1e-3
        if images.dtype == np.float32:
            assert head_error(fast(fast._network._upload(images[order]))["embedding"].numpy(), expected) < 1e-3


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(specs(blocks=3), st.integers(0, 99), st.booleans())
def test_random_networks(spec, seed, rewrite):
    net, pixels = random_net(spec, seed), random_pixels(spec, 2, seed)
    expected = reference(net, normalise(pixels, spec))
    for dtype in ("float32", "float16", "int8"):
        calibration = pixels if dtype == "int8" else None
        fast = FastForward.from_module(net, device="cuda", dtype=dtype, rewrite=rewrite, calibration=calibration)
        found = fast(pixels)
        if dtype == "int8":
            same = FastForward.from_module(net, dtype=dtype, rewrite=rewrite, calibration=calibration)(pixels)
            expected = {name: value.astype(np.float64) for name, value in same.items()}
        for name, value in found.items():
            scale = np.linalg.norm(expected[name]) + 1e-3 * value.size**0.5  # some outputs are zero but for their bias
            bound = 1e-5 if dtype != "float16" else 1e-2
            assert np.linalg.norm(value - expected[name]) < bound * scale, (dtype, name)


def test_paper_network(tmp_path):
    """Every kind of phase in the shapes that production runs."""
    net, pixels = random_net(PAPER, 1), random_pixels(PAPER, 2)
    fast = FastForward.from_module(net, device="cuda")
    error, name = worst_error(fast(pixels), reference(net, normalise(pixels, PAPER)))
    assert error < 2e-3, name
    FastForward.from_module(net, calibration=pixels[:1]).save(tmp_path / "paper.safetensors")
    gpu, cpu = (FastForward.load(tmp_path / "paper.safetensors", device=d, dtype="int8") for d in ("cuda", "cpu"))
    found, expected = gpu(pixels), cpu(pixels)
    for name, value in expected.items():
        assert head_error(found[name], value.astype(np.float64)) < 2e-6, name  # equal maps, float32 heads
    assert_same_bits(gpu.features(pixels[:1], "conv19"), cpu.features(pixels[:1], "conv19"))


def test_maps_are_stored_as_float16():
    tensors = {name: np.array(value) for name, value in tensors_of(random_net(SMALL, 6)).items()}
    plan = build_plan(SMALL, tensors, ["embedding"], rewrite=False)
    stored = store_float16(plan)
    for name, shape in stored.tensors.items():
        is_map = shape.height > 1 and plan.tensors[name].height > 1
        assert shape.floats == ("float16" if is_map else "float32"), name
    assert stored.hash() != plan.hash()


def test_weights_beyond_the_range_of_float16():
    net = random_net(SMALL, 2)
    net.stem.bn.weight.data.fill_(1e7)
    with pytest.raises(WeightsError, match="range of float16"):
        FastForward.from_module(net, device="cuda")
    FastForward.from_module(net, device="cuda", dtype="bfloat16")
