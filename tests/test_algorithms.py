"""The choice of algorithm per convolution, and transformed convolutions against the float64 oracle."""

from dataclasses import replace
from fractions import Fraction
from functools import reduce
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import available_isas, normalise, random_net, random_pixels

from faceattr_fast import BlockSpec, DeviceError, FastForward, HeadSpec, NetworkSpec, PixelSpec, StemSpec, _core
from faceattr_fast.engine.backend import compile_plan
from faceattr_fast.formats.quantize import quantize_plan
from faceattr_fast.formats.storage import store_bfloat16
from faceattr_fast.plan.algorithms import (
    ALGORITHMS,
    candidates,
    choose_algorithms,
    transform_stem,
    transform_weight,
)
from faceattr_fast.plan.oracle import run_plan
from faceattr_fast.plan.phases import TILES, Output, Plan, QuantizedConv, Segment, SegmentedConv, Stem, TensorShape
from faceattr_fast.plan.rewrite import build_plan
from faceattr_fast.reference.model import tensors_of

PAPER = NetworkSpec.paper(None)
OUTPUTS = ("embedding", "gender", "ethnicity", "emotion", "age")


@pytest.fixture(scope="module")
def paper_plan():
    return build_plan(PAPER, tensors_of(random_net(PAPER, 0)), OUTPUTS)


def algorithms(plan):
    return {phase.dst: phase.algorithm for phase in plan.phases if isinstance(phase, (Stem, SegmentedConv))}


def test_what_the_paper_network_transforms(paper_plan):
    chosen = algorithms(choose_algorithms(paper_plan))
    # 14x14: nine tiles of 5x5 instead of sixteen of 4x4. 56x56: 49 · 12² products are as many as 36 · 14².
    assert {name for name, algorithm in chosen.items() if algorithm == "winograd5x5"} == {f"x{i}" for i in range(4, 10)}
    assert {name for name, algorithm in chosen.items() if algorithm == "winograd4x4"} == {"m2"}
    # Not m11, 7x7: the weights of 65 points would be four times those of nine taps, for four tiles.
    assert {name for name, algorithm in chosen.items() if algorithm == "polyphase4x4"} == {"x0", "m3", "x3"}


def test_products_are_counted_by_algorithm(paper_plan):
    plan = choose_algorithms(paper_plan)
    # x4 … x9: 49 products for each of 3x3 tiles; m2: 36 for each of 14x14 tiles, and its 1x1 as before.
    saved = 6 * 128 * 256 * (9 * 14 * 14 - 49 * 3 * 3) + 64 * 64 * (9 * 56 * 56 - 36 * 14 * 14)
    # m3, x3: 65 products for each of 7x7 and 4x4 tiles, the centre tap for each position.
    saved += 128 * 64 * (8 * 28 * 28 - 65 * 7 * 7) + 64 * 256 * (8 * 14 * 14 - 65 * 4 * 4)
    # The stem: 507 for each of 28x28 tiles.
    saved += 32 * (3 * 49 * 112 * 112 - 507 * 28 * 28)
    assert plan.products() == paper_plan.products() - saved
    assert plan.multiply_adds() == paper_plan.multiply_adds() == 728_629_184
    assert choose_algorithms(paper_plan, "direct").products() == 728_629_184


def test_forcing_applies_wherever_it_can(paper_plan):
    assert set(algorithms(choose_algorithms(paper_plan, "direct")).values()) == {"direct"}
    plan = build_plan(PAPER, tensors_of(random_net(PAPER, 0)), OUTPUTS, rewrite=False)
    forced = algorithms(choose_algorithms(plan, "winograd4x4"))
    assert forced["x11"] == "winograd4x4"
    assert forced["x2"] == "direct"  # its 3x3 has stride 2
    for other in ("winograd2x2", "winograd5x5"):
        assert algorithms(choose_algorithms(plan, other)) == {
            name: other if algorithm == "winograd4x4" else algorithm for name, algorithm in forced.items()
        }
    forced = algorithms(choose_algorithms(plan, "polyphase4x4"))
    assert forced["x2"] == forced["x10"] == "polyphase4x4"
    assert forced["x11"] == "direct"
    assert choose_algorithms(plan, "direct").hash() != choose_algorithms(plan, "winograd4x4").hash()


def test_candidates_are_what_forcing_can_choose(paper_plan):
    for plan in (paper_plan, store_bfloat16(paper_plan)):
        for phase in plan.phases:
            names = candidates(plan, phase)
            if not isinstance(phase, (Stem, SegmentedConv)):
                assert names == ()
                continue
            assert names[0] == "direct"
            for name in ALGORITHMS:
                forced = algorithms(choose_algorithms(plan, name))[phase.dst]
                assert forced == (name if name in names else "direct")
            if isinstance(phase, Stem):
                assert names == ("direct", "polyphase4x4")
                continue
            kinds = {(s.kernel, s.stride) for s in phase.segments}
            for name in ("winograd2x2", "winograd4x4"):
                assert (name in names) == ((3, 1) in kinds)
            assert ("winograd5x5" in names) == ((3, 1) in kinds and plan is paper_plan)
            assert ("polyphase4x4" in names) == ((3, 2) in kinds)


def test_what_the_paper_network_transforms_in_bfloat16(paper_plan):
    chosen = algorithms(choose_algorithms(store_bfloat16(paper_plan)))
    names = {name for name, algorithm in chosen.items() if algorithm == "winograd4x4"}
    assert names == {"m2", *(f"x{i}" for i in range(4, 10))}
    assert {name for name, algorithm in chosen.items() if algorithm == "polyphase4x4"} == {"x0", "m3", "x3"}


def integer_algorithms(plan, isa):
    chosen = choose_algorithms(plan, isa=isa)
    return {phase.dst: phase.algorithm for phase in chosen.phases if isinstance(phase, QuantizedConv)}


@pytest.mark.parametrize("rewrite", [True, False])
def test_where_integers_are_transformed(rewrite, monkeypatch):
    plan = build_plan(PAPER, tensors_of(random_net(PAPER, 0)), OUTPUTS, rewrite=rewrite)
    values = {part.partition("[")[0] for name in plan.tensors for part, _ in plan.parts.get(name, ((name, 0),))}
    plan = quantize_plan(plan, dict.fromkeys(values, 1.0))
    # Also where bytes are multiplied four at once and transformed values two at once: a quarter of the products.
    vnni = "avx2+avx512+avx512bf16+avx512vnni"
    for isa in ("avx2", "avx2+avx512", "avx2+avx512+avx512bf16", "avx2+avx512+avx512vnni", vnni, "scalar"):
        chosen = integer_algorithms(plan, isa)
        assert {"m2" if rewrite else "x1", "x4", "x5", "x6", "x7", "x8", "x9"} <= {
            name for name, algorithm in chosen.items() if algorithm == "winograd4x4"
        }
    # At 7x7, four tiles of 4x4 or sixteen of 2x2 with fewer weights.
    expected = {"avx2": "winograd2x2", "avx2+avx512": "winograd4x4", vnni: "direct"}
    for isa, algorithm in expected.items() if not rewrite else ():
        assert integer_algorithms(plan, isa)["x11"] == algorithm
    for algorithm in ("winograd2x2", "winograd4x4"):
        forced = choose_algorithms(plan, algorithm, isa=vnni)
        assert {phase.algorithm for phase in forced.phases if isinstance(phase, QuantizedConv)} == {"direct", algorithm}
    for isa in ("avx2", vnni):
        monkeypatch.setattr(_core, "detected_isa", lambda isa=isa: isa)
        assert integer_algorithms(plan, "") == integer_algorithms(plan, isa)


@pytest.mark.parametrize(("channels", "weight", "able"), [(115, 127, True), (116, -127, False), (1100, 13, True)])
def test_which_sums_of_integers_tiles_of_4x4_hold(channels, weight, able):
    """Up to 131,586, weights in magnitude."""
    weights = np.zeros((2, channels, 3, 3), np.int8)
    weights[1] = weight
    zeros = np.zeros(2, np.int32)
    conv = QuantizedConv("y", (Segment("x", weights),), zeros, zeros.astype(np.float32), True)
    plan = Plan(PAPER, {"x": TensorShape(14, 14, channels), "y": TensorShape(14, 14, 2)}, (conv,), {}, False)
    names = candidates(plan, conv)
    assert ("winograd4x4" in names) == able
    assert ("winograd2x2" in names) == (channels <= 1024)


def test_wide_convolutions_are_transformed_even_so():
    """Where the transforms are few against the products: 1,000 channels."""
    channels = 1000
    weight = np.broadcast_to(np.zeros((), np.int8), (channels, channels, 3, 3))
    zeros = np.zeros(channels, np.int32)
    conv = QuantizedConv("y", (Segment("x", weight),), zeros, zeros.astype(np.float32), True)
    shape = TensorShape(56, 56, channels)
    plan = Plan(PAPER, {"x": shape, "y": shape}, (conv,), {}, False)
    assert integer_algorithms(plan, "avx2+avx512+avx512vnni") == {"y": "winograd4x4"}


def test_unknown_algorithm(monkeypatch):
    monkeypatch.setenv("FACEATTR_ALGORITHM", "fft")
    with pytest.raises(
        DeviceError, match=r"'fft'.*direct or winograd2x2 or winograd4x4 or winograd5x5 or polyphase4x4"
    ):
        FastForward.from_module(random_net(PAPER, 0))


def times(a, b):
    """Product of two polynomials, lowest power first."""
    result = [Fraction(0)] * (len(a) + len(b) - 1)
    for (i, x), (j, y) in product(enumerate(a), enumerate(b)):
        result[i + j] += x * y
    return result


def interpolation(points, outputs, taps):
    """(Aᵀ, G, Bᵀ) along one axis for these points and infinity, exact: by Lagrange's interpolation, transposed.

    A polynomial is s(x) = Σ s(p) / Π(p - q) · Π(x - q) over q ≠ p, and its highest coefficient times Π(x - p). With
    s = (Σ w_i xⁱ) · (Σ t_o x^o), that multiplies polynomials of ``taps`` and ``outputs`` coefficients by one product a
    point; read the other way, from inputs to outputs, it is the filter w.
    """
    lagrange = [reduce(times, ([-q, Fraction(1)] for q in points if q != p), [Fraction(1)]) for p in points]
    b = [[*row, Fraction(0)] for row in lagrange]
    b.append(reduce(times, ([-p, Fraction(1)] for p in points), [Fraction(1)]))
    scales = [1 / prod(p - q for q in points if q != p) for p in points]
    g = [[scale * p**tap for tap in range(taps)] for p, scale in zip(points, scales, strict=True)]
    g.append([Fraction(tap == taps - 1) for tap in range(taps)])
    a = [[p**power for p in points] + [Fraction(power == outputs - 1)] for power in range(outputs)]
    return a, g, b


WINOGRAD = {
    "winograd2x2": (2, ("0", "1", "-1")),
    "winograd4x4": (4, ("0", "11/16", "-11/16", "3/2", "-3/2")),
    "winograd5x5": (5, ("1/4", "-1/4", "7/8", "-7/8", "7/4", "-7/4")),
}


@pytest.mark.parametrize("algorithm", WINOGRAD)
def test_the_winograd_matrices_are_exact(algorithm):
    """Along one axis, for every filter and input, in rational numbers; transformed weights are of these matrices."""
    outputs, points = WINOGRAD[algorithm]
    a, g, b = interpolation([Fraction(p) for p in points], outputs, 3)
    for tap, i in product(range(3), range(outputs + 2)):  # it is linear in both: basis vectors are enough
        found = [sum(a[o][p] * g[p][tap] * b[p][i] for p in range(outputs + 2)) for o in range(outputs)]
        assert found == [i == o + tap for o in range(outputs)]
    for factor in (factor for row in a + b for factor in row):  # float32 numbers
        assert factor == Fraction(float(np.float32(factor.numerator / factor.denominator)))
    weight = np.random.default_rng(0).standard_normal((3, 2, 3, 3))
    g = np.array(g, np.float64)
    expected = (g @ weight @ g.T).transpose(2, 3, 0, 1).reshape(-1, 3, 2)
    np.testing.assert_allclose(transform_weight(weight, algorithm), expected, atol=1e-14)


def polyphase_axis():
    """(Aᵀ [4, 9], G [6, 3], Bᵀ [9, 9]) along one axis, exact: F(4, 2) of the odd inputs and the filter (w0, w2)."""
    a, outer, odd = interpolation([Fraction(p) for p in ("7/16", "-7/16", "5/4", "-5/4")], 4, 2)
    b = [[Fraction(0)] * 9 for _ in range(9)]
    for row, values in zip(b, odd, strict=False):
        row[::2] = values
    g = [[w0, Fraction(0), w2] for w0, w2 in outer] + [[Fraction(0), Fraction(1), Fraction(0)]]
    for o in range(4):  # the even inputs, each an output's middle tap
        b[5 + o][2 * o + 1] = Fraction(1)
        a[o] += [Fraction(i == o) for i in range(4)]
    return a, g, b


def test_the_polyphase_matrices_are_exact():
    """Along one axis: four outputs of stride 2 from nine products, for every filter and input, in rational numbers."""
    a, g, b = polyphase_axis()
    for tap, i in product(range(3), range(9)):
        filters = [g[min(p, 5)][tap] for p in range(9)]
        outputs = [sum(a[o][p] * filters[p] * b[p][i] for p in range(9)) for o in range(4)]
        assert outputs == [i == 2 * o + tap for o in range(4)]


def test_polyphase_weights_are_those_of_the_derivation():
    a, g, b = (np.array(matrix, np.float64) for matrix in polyphase_axis())
    rng = np.random.default_rng(0)
    weight, tile = rng.standard_normal((1, 1, 3, 3)), rng.standard_normal((9, 9))
    filters = transform_weight(weight, "polyphase4x4")
    assert filters.shape == (35, 1, 1)
    square = np.append(filters.ravel(), 0).reshape(6, 6)  # without the centre tap
    np.testing.assert_allclose(square, g @ weight[0, 0] @ g.T * (1 - np.outer(np.eye(6)[5], np.eye(6)[5])), atol=1e-15)
    spread = np.minimum(np.arange(9), 5)
    result = a @ (square[np.ix_(spread, spread)] * (b @ tile @ b.T)) @ a.T
    others = [(y, x) for y, x in product(range(3), range(3)) if (y, x) != (1, 1)]
    direct = sum(weight[0, 0, y, x] * tile[y : y + 8 : 2, x : x + 8 : 2] for y, x in others)
    np.testing.assert_allclose(result, direct, rtol=0, atol=1e-13)


def stem_axes():
    """(Aᵀ [4, 7], G, Bᵀ) along one axis, of even and of odd taps, exact: F(4, 4) at the points of F(5, 3), and F(4, 3)
    at those of them that are finite, which ends in the same Aᵀ.
    """
    points = [Fraction(p) for p in WINOGRAD["winograd5x5"][1]]
    a, even, b = interpolation(points, 4, 4)
    odd = interpolation(points, 4, 3)[1][:6]
    assert all(row[6] == 0 for row in b[:6])  # six inputs are enough for the finite points
    return a, (even, odd), (b, [row[:6] for row in b[:6]])


def test_the_matrices_of_the_stem_are_exact():
    """Along one axis: four outputs of seven taps at stride 2, for every filter and input, in rational numbers."""
    a, g, b = stem_axes()
    for tap, i in product(range(7), range(13)):
        if tap % 2 != i % 2:
            continue  # they never meet: 2 o + tap is i
        filters, inputs = [row[tap // 2] for row in g[tap % 2]], [row[i // 2] for row in b[tap % 2]]
        found = [sum(a[o][p] * filters[p] * inputs[p] for p in range(len(filters))) for o in range(4)]
        assert found == [i == 2 * o + tap for o in range(4)]


def test_the_stems_weights_are_those_of_the_derivation():
    a, g, b = stem_axes()
    a, g, b = np.array(a, np.float64), [np.array(m, np.float64) for m in g], [np.array(m, np.float64) for m in b]
    rng = np.random.default_rng(0)
    weight, tile = rng.standard_normal((2, 3, 7, 7)), rng.standard_normal((3, 13, 13))
    factors = transform_stem(weight)
    assert factors.shape == (2, 507)
    points, place = np.zeros((2, 7, 7)), 0
    for y, x in product(range(7), range(7)):
        for row, column in product(range(2), range(2)):
            if (row and y == 6) or (column and x == 6):
                continue
            values = (b[row] @ tile[:, row::2, column::2] @ b[column].T)[:, y, x]
            np.testing.assert_allclose(
                factors[:, place : place + 3],
                np.einsum("k,ockl,l->oc", g[row][y], weight[:, :, row::2, column::2], g[column][x]),
                atol=1e-13,
            )
            points[:, y, x] += factors[:, place : place + 3] @ values
            place += 3
    assert place == 507
    windows = np.lib.stride_tricks.sliding_window_view(tile, (7, 7), axis=(1, 2))[:, ::2, ::2]
    direct = np.einsum("ocij,cyxij->oyx", weight, windows)
    np.testing.assert_allclose(a @ points @ a.T, direct, rtol=0, atol=1e-12)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 7, 8, 15, 16, 27, 28, 31, 32, 33, 56])
def test_the_stem_against_float64(isa, side):
    rng = np.random.default_rng(side)
    spec = NetworkSpec(StemSpec(8), ((BlockSpec(8, 1, 8, 1),),), 1, (), pixels=PixelSpec(size=4 * side))
    x = rng.standard_normal((3, 3, 4 * side, 4 * side)).astype(np.float32)
    for out in (1, 8, 32, 37):
        stem = Stem("y", rng.normal(0, 0.1, (out, 3, 7, 7)), rng.normal(0, 0.1, out), "polyphase4x4")
        shape = TensorShape(side, side, out)
        plan = Plan(spec, {"y": shape}, (stem,), {"y": Output("y", 0, out)}, False)
        expected = run_plan(plan, x.astype(np.float64))["y"]
        found = run_compiled(plan, x, isa, 2)
        assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)
        assert np.abs(found - expected).max() <= 4e-6 * np.abs(expected).max()
        assert np.array_equal(run_compiled(plan, x, isa, 1), found)
        assert np.array_equal(run_compiled(plan, x[1:], isa, 3), found[1:])
        narrow = replace(plan, tensors={"y": replace(shape, floats="bfloat16")})
        rounded = (found.view(np.uint32) + 0x7FFF + (found.view(np.uint32) >> 16 & 1)) & np.uint32(0xFFFF0000)
        assert np.array_equal(run_compiled(narrow, x, isa, 2).view(np.uint32), rounded)


# Where every value, product and sum is an integer that float32 holds: what weights are multiplied by, so that the
# denominators of transformed ones divide it. Those of the other forms are too large: of F(4x4) 1089² alone.
UNITS = {"winograd2x2": 4}


def one_convolution(rng, algorithm, side, counts, out, relu, residual, exact):
    """A plan of one convolution: of slices of the stem's output, with a 1x1 and perhaps a shortcut.

    ``exact``: with integers; see ``UNITS``.
    """
    channels, stride = max(counts) + 2, TILES[algorithm].stride
    spec = NetworkSpec(
        StemSpec(channels), ((BlockSpec(channels, 1, channels, 1),),), 1, (), pixels=PixelSpec(size=4 * side)
    )
    if exact:  # the stem passes one pixel of four
        stem = np.zeros((channels, 3, 7, 7))
        for o in range(channels):
            stem[o, o % 3, 3, 3] = rng.choice([-1, 1])
        draw = lambda *shape: rng.integers(-1, 2, shape).astype(np.float64)  # noqa: E731
        unit = UNITS[algorithm]
    else:
        stem = rng.normal(0, 0.1, (channels, 3, 7, 7))
        draw = lambda *shape: rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)  # noqa: E731
        unit = 1
    segments = [Segment("x", unit * draw(out, count, 3, 3), stride, i % 3) for i, count in enumerate(counts)]
    segments.append(Segment("x", draw(out, channels, 1, 1), stride))
    shape = TensorShape(-(-side // stride), -(-side // stride), out)
    shortcut = SegmentedConv("r", (Segment("x", draw(out, channels, 1, 1), stride),), None, False)
    conv = SegmentedConv("y", tuple(segments), draw(out, 1)[:, 0], relu, "r" if residual else None, algorithm)
    return Plan(
        spec,
        {"x": TensorShape(side, side, channels), "r": shape, "y": shape},
        (Stem("x", stem, draw(channels, 1)[:, 0]), shortcut, conv),
        {"y": Output("y", 0, out)},
        False,
    )


def run_compiled(plan, x, isa, threads):
    shape = plan.tensors["y"]
    out = np.empty((len(x), shape.height, shape.width, shape.channels), np.float32)
    compile_plan(plan, threads, isa).run(x, [out])
    return out


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("algorithm", UNITS)
@pytest.mark.parametrize("side", [1, 2, 3, 7, 8, 15, 28, 33])
def test_tiles_are_exact_on_integers(isa, algorithm, side):
    rng = np.random.default_rng(side)
    for counts, out, relu, residual in [((1,), 3, False, False), ((9, 5), 17, True, False), ((24,), 40, False, True)]:
        plan = one_convolution(rng, algorithm, side, counts, out, relu, residual, exact=True)
        x = rng.integers(-2, 3, (2, 3, 4 * side, 4 * side)).astype(np.float32)
        expected = run_plan(plan, x)["y"]
        assert np.abs(expected).max() > UNITS[algorithm]
        for threads in (1, 3):
            assert np.array_equal(run_compiled(plan, x, isa, threads), expected), (counts, threads)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("algorithm", TILES)
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 23, 40])
def test_tiles_against_float64(isa, algorithm, side):
    rng = np.random.default_rng(side)
    wide = [((128, 64), 64, False, False)] if side in (14, 40) else []
    for counts, out, relu, residual in [((30, 7), 33, True, True), *wide]:
        plan = one_convolution(rng, algorithm, side, counts, out, relu, residual, exact=False)
        x = rng.standard_normal((2, 3, 4 * side, 4 * side)).astype(np.float32)
        expected = run_plan(plan, x.astype(np.float64))["y"]
        found = run_compiled(plan, x, isa, 2)
        # About four times what docs/numerics.md has for one convolution: inputs and weights are other ones.
        assert np.linalg.norm(found - expected) <= 4e-6 * np.linalg.norm(expected)
        assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
        assert np.array_equal(run_compiled(plan, x, isa, 1), found)
        assert np.array_equal(run_compiled(plan, x[1:], isa, 3), found[1:])


@pytest.mark.parametrize("algorithm", ["winograd2x2", "winograd4x4", "winograd5x5"])
def test_the_paper_network_by_one_form(monkeypatch, algorithm):
    """Within three quarters of float32's bound."""
    net = random_net(PAPER, 0)
    x = random_pixels(PAPER, 2)
    plan = build_plan(PAPER, tensors_of(net), OUTPUTS, rewrite=False)
    expected = run_plan(plan, normalise(x, PAPER))
    monkeypatch.setenv("FACEATTR_ALGORITHM", algorithm)
    for rewrite in (True, False):
        fast = FastForward.from_module(net, rewrite=rewrite)
        kernels = [phase.kernel for phase in fast.describe().phases]
        assert sum(kernel.startswith(algorithm) for kernel in kernels) == (7 if rewrite else 10)
        for name, value in fast(x).items():
            assert np.linalg.norm(value - expected[name]) <= 1.5e-6 * np.linalg.norm(expected[name]), (name, rewrite)


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


@settings(max_examples=60, deadline=None)
@given(
    spec=specs(),
    seed=st.integers(0, 99),
    images=st.integers(1, 3),
    rewrite=st.booleans(),
    algorithm=st.sampled_from(sorted(TILES)),
)
def test_networks_against_float64(spec, seed, images, rewrite, algorithm):
    net = random_net(spec, seed)
    x = np.random.default_rng(seed).standard_normal((images, 3, spec.pixels.size, spec.pixels.size)).astype(np.float32)
    plan = build_plan(spec, tensors_of(net), ("embedding", "glasses"), rewrite=rewrite)
    expected = run_plan(plan, x.astype(np.float64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEATTR_ALGORITHM", algorithm)
        fast = FastForward.from_module(net, rewrite=rewrite)
    blocks = len(spec.blocks)
    out, features = fast(x), fast.features(x, f"conv{2 * blocks}")
    tapped = build_plan(spec, tensors_of(net), (), taps={"mid": f"m{blocks}"}, rewrite=rewrite)
    mid = run_plan(tapped, x.astype(np.float64))["mid"]
    # Values are of order one before ReLU and sums cancel: where little is left of them, the error is of what was there.
    for got, value in [(features["mid"], mid), *((out[name], value) for name, value in expected.items())]:
        assert np.linalg.norm(got - value) <= 4e-6 * (np.linalg.norm(value) + 0.2 * value.size**0.5)


@pytest.mark.parametrize("algorithm", ["", "winograd2x2", "winograd5x5"])
def test_threads_batch_and_groups_keep_the_bits(monkeypatch, algorithm):
    monkeypatch.setenv("FACEATTR_ALGORITHM", algorithm)
    spec = replace(PAPER, pixels=PixelSpec(size=120))  # 30x30: edge tiles, strip by strip
    net = random_net(spec, 1)
    x = np.random.default_rng(1).standard_normal((19, 3, 120, 120)).astype(np.float32)
    one = FastForward.from_module(net, threads=1)
    assert one.describe().first_grouped == "x3"
    assert one.describe().group_images == 4
    expected = [one(image[None]) for image in x]
    for threads in (1, 2, 3):
        fast = FastForward.from_module(net, threads=threads)
        for images in (1, 2, 5, 19):  # 19 images on two threads: nine each in groups of 3, and one by both
            for name, value in fast(x[:images]).items():
                wanted = np.concatenate([outputs[name] for outputs in expected[:images]])
                assert np.array_equal(value, wanted), (threads, images, name)
