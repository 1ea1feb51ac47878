"""The oracle against definitions written as loops."""

import numpy as np
import pytest

from faceattr_fast.plan.oracle import run_plan
from faceattr_fast.plan.phases import LinearHead, Output, Plan, Segment, SegmentedConv, ShiftedMeans, Stem, TensorShape
from faceattr_fast.spec import NetworkSpec, PixelSpec, StemSpec

SIZE = 20
CHANNELS = 4


def run(*phases, name="result"):
    """The value that the last phase writes, after a stem."""
    rng = np.random.default_rng(1)
    stem = Stem("x0", rng.normal(size=(CHANNELS, 3, 7, 7)) / 12, rng.normal(size=CHANNELS))
    spec = NetworkSpec(StemSpec(CHANNELS), (), embedding=1, pixels=PixelSpec(size=SIZE))
    shape = TensorShape(SIZE // 4, SIZE // 4, CHANNELS)
    last = (stem, *phases)[-1]
    outputs = {"x0": Output("x0", 0, CHANNELS), name: Output(last.dst, 0, 10_000), "part": Output("x0", 1, 2)}
    results = run_plan(Plan(spec, {"x0": shape}, (stem, *phases), outputs, rewritten=False), pixels())
    return results, stem


def pixels():
    return np.random.default_rng(2).normal(size=(2, 3, SIZE, SIZE))


def at(image, y, x):
    inside = 0 <= y < image.shape[0] and 0 <= x < image.shape[1]
    return image[y, x] if inside else np.zeros(image.shape[2])


def convolve(image, weight, stride):
    """[h, w, c], [oc, c, k, k] → [ceil(h / stride), …, oc]."""
    oc, _, kernel, _ = weight.shape
    height, width = (-(-side // stride) for side in image.shape[:2])
    out = np.zeros((height, width, oc))
    for y, x, ky, kx in np.ndindex(height, width, kernel, kernel):
        out[y, x] += weight[:, :, ky, kx] @ at(image, y * stride + ky - kernel // 2, x * stride + kx - kernel // 2)
    return out


def test_stem():
    results, stem = run()
    for image, found in zip(pixels(), results["x0"], strict=True):
        full = np.maximum(convolve(image.transpose(1, 2, 0), stem.weight, 2) + stem.bias, 0)
        expected = np.array(
            [[full[y : y + 2, x : x + 2].max((0, 1)) for x in range(0, 10, 2)] for y in range(0, 10, 2)]
        )
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(results["part"], results["x0"][..., 1:3])


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("relu", [False, True])
def test_segmented_convolution(stride, relu):
    rng = np.random.default_rng(stride)
    wide, narrow = rng.normal(size=(5, 2, 3, 3)), rng.normal(size=(5, CHANNELS, 1, 1))
    segments = (Segment("x0", wide, stride, start=1), Segment("x0", narrow, stride))
    bias = rng.normal(size=5)
    results, _ = run(SegmentedConv("y", segments, bias, relu))
    for image, found in zip(results["x0"], results["result"], strict=True):
        expected = convolve(image[..., 1:3], wide, stride) + convolve(image, narrow, stride) + bias
        np.testing.assert_allclose(found, np.maximum(expected, 0) if relu else expected, rtol=1e-12, atol=1e-12)


def test_residual_without_bias():
    weight = np.random.default_rng(3).normal(size=(CHANNELS, CHANNELS, 3, 3))
    results, _ = run(SegmentedConv("y", (Segment("x0", weight),), None, relu=False, residual="x0"))
    for image, found in zip(results["x0"], results["result"], strict=True):
        np.testing.assert_allclose(found, convolve(image, weight, 1) + image, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3, 6])
@pytest.mark.parametrize("kernel", [1, 3])
def test_shifted_means_turn_a_mean_of_a_convolution_into_a_matrix(kernel, stride):
    weight = np.random.default_rng(4).normal(size=(5, 2, kernel, kernel))
    matrix = weight.transpose(0, 2, 3, 1).reshape(5, -1)  # [oc, (ky * kernel + kx) * count + c]
    bias = np.arange(5.0)
    means = ShiftedMeans("means", "x0", kernel, stride, start=2, count=2)
    results, _ = run(means, LinearHead("y", (("means", matrix),), bias))
    assert results["result"].shape == (2, 5)
    for image, found in zip(results["x0"], results["result"], strict=True):
        expected = convolve(image[..., 2:], weight, stride).mean((0, 1)) + bias
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_linear_head_adds_its_inputs_and_reads_leading_channels():
    rng = np.random.default_rng(5)
    whole, leading = rng.normal(size=(3, CHANNELS)), rng.normal(size=(3, 2))
    means = ShiftedMeans("a", "x0", 1, 1, 0, CHANNELS), ShiftedMeans("b", "x0", 1, 2, 1, 3)
    results, _ = run(*means, LinearHead("y", (("a", whole), ("b", leading)), np.ones(3)))
    x0 = results["x0"]
    expected = x0.mean((1, 2)) @ whole.T + x0[:, ::2, ::2, 1:3].mean((1, 2)) @ leading.T + 1
    np.testing.assert_allclose(results["result"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, SIZE, SIZE), (1, 1, SIZE, SIZE), (1, 3, SIZE, SIZE + 4)])
def test_other_shapes_are_an_error(shape):
    plan = Plan(NetworkSpec(StemSpec(1), (), embedding=1, pixels=PixelSpec(size=SIZE)), {}, (), {}, rewritten=False)
    with pytest.raises(ValueError, match=r"must be \[N, 3, 20, 20\]"):
        run_plan(plan, np.zeros(shape))
