"""The choice of algorithm per convolution, and Winograd convolutions against the float64 oracle."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_net

from faceattr_fast import BlockSpec, DeviceError, FastForward, HeadSpec, NetworkSpec, PixelSpec, StemSpec
from faceattr_fast.algorithms import choose_algorithms, transform_weight
from faceattr_fast.oracle import run_plan
from faceattr_fast.plan import SegmentedConv
from faceattr_fast.reference.model import tensors_of
from faceattr_fast.rewrite import build_plan

PAPER = NetworkSpec.paper(None)
OUTPUTS = ("embedding", "gender", "ethnicity", "emotion", "age")


@pytest.fixture(scope="module")
def paper_plan():
    return build_plan(PAPER, tensors_of(random_net(PAPER, 0)), OUTPUTS)


def algorithms(plan):
    return {phase.dst: phase.algorithm for phase in plan.phases if isinstance(phase, SegmentedConv)}


def test_the_paper_network_transforms_its_stride_1_convolutions(paper_plan):
    chosen = algorithms(choose_algorithms(paper_plan))
    transformed = {name for name, algorithm in chosen.items() if algorithm == "winograd4x4"}
    assert transformed == {"m2", "x4", "x5", "x6", "x7", "x8", "x9"}


def test_products_are_counted_by_algorithm(paper_plan):
    plan = choose_algorithms(paper_plan)
    # x4 … x9: 36 products for each of 4x4 tiles; m2: for each of 14x14 tiles, and its 1x1 as before.
    saved = 6 * 128 * 256 * (9 * 14 * 14 - 36 * 4 * 4) + 64 * 64 * (9 * 56 * 56 - 36 * 14 * 14)
    assert plan.products() == paper_plan.products() - saved
    assert plan.multiply_adds() == paper_plan.multiply_adds() == 728_629_184
    assert choose_algorithms(paper_plan, "direct").products() == 728_629_184


def test_forcing_applies_wherever_it_can(paper_plan):
    assert set(algorithms(choose_algorithms(paper_plan, "direct")).values()) == {"direct"}
    plan = build_plan(PAPER, tensors_of(random_net(PAPER, 0)), OUTPUTS, rewrite=False)
    forced = algorithms(choose_algorithms(plan, "winograd4x4"))
    assert forced["x11"] == "winograd4x4"
    assert forced["x2"] == "direct"  # its 3x3 has stride 2
    assert choose_algorithms(plan, "direct").hash() != choose_algorithms(plan, "winograd4x4").hash()


def test_unknown_algorithm(monkeypatch):
    monkeypatch.setenv("FACEATTR_ALGORITHM", "fft")
    with pytest.raises(DeviceError, match=r"'fft'.*direct or winograd4x4"):
        FastForward.from_module(random_net(PAPER, 0))


def test_transformed_weights_convolve():
    """Aᵀ ((G w Gᵀ) ∘ (Bᵀ d B)) A is the convolution, with the textbook's matrices."""
    rng = np.random.default_rng(0)
    weight, tile = rng.standard_normal((1, 1, 3, 3)), rng.standard_normal((6, 6))
    b = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    b = np.array([*b, [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]])
    a = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
    result = a @ (transform_weight(weight).reshape(6, 6) * (b @ tile @ b.T)) @ a.T
    direct = sum(weight[0, 0, y, x] * tile[y : y + 4, x : x + 4] for y in range(3) for x in range(3))
    np.testing.assert_allclose(result, direct, rtol=0, atol=1e-13)


widths = st.integers(1, 40)


@st.composite
def specs(draw):
    channels = stem = draw(widths)
    blocks = []
    for _ in range(draw(st.integers(1, 3))):
        out = draw(st.one_of(st.just(channels), widths))
        blocks.append(BlockSpec(channels, draw(widths), out, draw(st.sampled_from([1, 1, 2]))))
        channels = out
    heads = (HeadSpec("glasses", 3, "fc"),)
    pixels = PixelSpec(size=4 * draw(st.integers(2, 30)))
    return NetworkSpec(StemSpec(stem), (tuple(blocks),), 5, heads, pixels=pixels)


@settings(max_examples=40, deadline=None)
@given(spec=specs(), seed=st.integers(0, 99), images=st.integers(1, 3), rewrite=st.booleans())
def test_winograd_against_float64(spec, seed, images, rewrite):
    net = random_net(spec, seed)
    x = np.random.default_rng(seed).standard_normal((images, 3, spec.pixels.size, spec.pixels.size)).astype(np.float32)
    plan = build_plan(spec, tensors_of(net), ("embedding", "glasses"), rewrite=rewrite)
    expected = run_plan(plan, x.astype(np.float64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEATTR_ALGORITHM", "winograd4x4")
        fast = FastForward.from_module(net, rewrite=rewrite)
    blocks = len(spec.blocks)
    out, features = fast(x), fast.features(x, f"conv{2 * blocks}")
    tapped = build_plan(spec, tensors_of(net), (), taps={"mid": f"m{blocks}"}, rewrite=rewrite)
    mid = run_plan(tapped, x.astype(np.float64))["mid"]
    # Values are of order one before ReLU and sums cancel: where little is left of them, the error is of what was there.
    for got, value in [(features["mid"], mid), *((out[name], value) for name, value in expected.items())]:
        assert np.linalg.norm(got - value) <= 4e-6 * (np.linalg.norm(value) + 0.2 * value.size**0.5)


def test_threads_batch_and_groups_keep_the_bits():
    spec = replace(PAPER, pixels=PixelSpec(size=120))  # 30x30: edge tiles, strip by strip
    net = random_net(spec, 1)
    x = np.random.default_rng(1).standard_normal((19, 3, 120, 120)).astype(np.float32)
    one = FastForward.from_module(net, threads=1)
    assert one.describe().first_grouped == "x3"
    assert one.describe().group_images == 8
    expected = [one(image[None]) for image in x]
    for threads in (1, 2, 3):
        fast = FastForward.from_module(net, threads=threads)
        for images in (1, 2, 5, 19):  # 19 images on two threads: groups of 4, 4, 5, 5, and one by both
            for name, value in fast(x[:images]).items():
                wanted = np.concatenate([outputs[name] for outputs in expected[:images]])
                assert np.array_equal(value, wanted), (threads, images, name)
