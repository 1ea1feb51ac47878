"""Pixels that are not finite, or huge, stay in their image."""

import numpy as np
import pytest
from boundary import X
from networks import SMALL, available_isas, normalise, random_net, random_pixels

from faceattr_fast import FastForward
from faceattr_fast.spec import HeadSpec, NetworkSpec, PixelSpec, StemSpec


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("rewrite", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, "signalling"])
def test_non_finite_pixels_poison_their_own_image_only(small_file, monkeypatch, isa, rewrite, value):
    monkeypatch.setenv("FACEATTR_ISA", isa)
    fast = FastForward.load(
        small_file, rewrite=rewrite, threads=2, heads=["embedding", "identity", "mood", "glasses", "hat"]
    )
    bad = np.array(0x7F800001, np.uint32).view(np.float32) if value == "signalling" else np.float32(value)
    clean = normalise(random_pixels(SMALL, 6, 5), SMALL)
    expected = fast(clean)
    places = [(0, 0), (0, -1), (-1, 0), (-1, -1), (1, -2), (15, 16)]
    for channel, (y, x) in enumerate(places):
        poisoned = clean.copy()
        poisoned[1, channel % 3, y, x] = bad
        poisoned[4, channel % 3, y, x] = bad
        for found, wanted in ((fast(poisoned), expected), (fast(poisoned[1:2]), None)):
            rows = [1, 4] if wanted else [0]
            for name, result in found.items():
                assert np.isnan(result[rows]).all(), (name, y, x)
                if wanted:
                    np.testing.assert_array_equal(np.delete(result, rows, 0), np.delete(wanted[name], rows, 0))


@pytest.mark.parametrize("size", [16, 20])
def test_every_single_pixel_can_poison(size):
    """Whatever a kernel reads or skips at borders: NaN anywhere gives NaN."""
    spec = NetworkSpec(StemSpec(3), (), 2, (HeadSpec("a", 2, "conv0"),), pixels=PixelSpec(size=size))
    fast = FastForward.from_module(random_net(spec, 2), threads=2)
    count = 3 * size * size
    x = np.zeros((count + 1, 3, size, size), np.float32)
    x.reshape(count + 1, count)[np.arange(count), np.arange(count)] = np.nan
    for found in (fast(x), fast.features(x, "fc"), fast.features(x, "bottleneck")):
        for name, value in found.items():
            assert np.isnan(value[:-1]).all(), name
            assert np.isfinite(value[-1]).all(), name


def test_features_of_poisoned_images(small_fast):
    x = X.copy()
    x[2, 0, 31, 31] = np.inf
    for branch in SMALL.branches[1:]:
        found, expected = small_fast.features(x, branch), small_fast.features(X, branch)
        for name, value in found.items():
            assert np.isnan(value[2]).all(), (branch, name)
            np.testing.assert_array_equal(np.delete(value, 2, 0), np.delete(expected[name], 2, 0))


def test_huge_and_tiny_pixels_stay_in_their_image(small_fast):
    x = X.copy()
    x[1], x[3] = 3e38, 1e-42
    found, expected = small_fast(x), small_fast(X)
    for name, value in found.items():
        np.testing.assert_array_equal(value[[0, 2]], expected[name][[0, 2]])
        assert np.isfinite(value[3]).all()
