"""int8: the engine computes exactly the integers that the scheme defines."""

import dataclasses

import numpy as np
import pytest
from cases import Case, run_engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import (
    SMALL,
    assert_same_bits,
    available_isas,
    normalise,
    random_net,
    random_pixels,
    reference,
    worst_error,
)
from random_specs import names_of_outputs, specs

from faceattr_fast import FastForward, NetworkSpec
from faceattr_fast.formats.quantize import _best_range, quantize_plan
from faceattr_fast.plan.oracle import run_plan
from faceattr_fast.plan.phases import Output, QuantizedConv, QuantizedStem, SegmentedConv, Stem
from faceattr_fast.spec import BlockSpec, HeadSpec, PixelSpec, StemSpec

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_torch_thread")

ISAS = available_isas()
HEADS = 1e-5  # of heads, which are float32, where all that they read is equal
PAPER = NetworkSpec.paper(identities=None, pixels=PixelSpec(size=64))


@pytest.fixture(scope="module", params=["small", "paper"])
def case(request):
    return Case({"small": SMALL, "paper": PAPER}[request.param], 1)


def with_every_map(plan):
    """The same plan with all of its maps as outputs, beside its own."""
    convs = [phase for phase in plan.phases if isinstance(phase, (QuantizedStem, QuantizedConv))]
    copies = [phase.copy for phase in convs if isinstance(phase, QuantizedConv) and phase.copy]
    maps = [phase.dst for phase in convs] + copies
    outputs = dict(plan.outputs) | {f"map {name}": Output(name, 0, plan.tensors[name].channels) for name in maps}
    return dataclasses.replace(plan, outputs=outputs)


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


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rewrite", [True, False])
def test_the_engine_computes_what_the_oracle_says(case, rewrite, isa):
    plan = case.quantised_plan(rewrite)
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
    plan = case.quantised_plan(data.draw(st.booleans()), outputs)
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
        tapped = with_every_map(case.quantised_plan(rewrite))
        expected = run_plan(tapped, case.x)
        maps = run_torch(tapped, case.x)
        assert {f"map {name}" for name in maps} == {name for name in expected if name.startswith("map ")}
        for name, value in maps.items():
            np.testing.assert_array_equal(expected[f"map {name}"], value, err_msg=name)
            assert len(np.unique(value)) > 20, name  # and it says something


def test_integers_stand_for_the_weights(case):
    """Half a unit per weight and bias, the unit being as small as the largest weight of the channel lets it be."""
    for rewrite in (True, False):
        plan = case.plan(rewrite)
        quantized = quantize_plan(plan, case.ranges)
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
    plan = with_every_map(case.quantised_plan(rewrite))
    assert_equals_oracle(run_engine(plan, case.pixels), run_plan(plan, case.x))


def test_one_set_of_ranges_serves_any_heads_and_both_forms(case):
    expected = reference(case.net, case.x)
    for rewrite in (True, False):
        for outputs in (["embedding"], [case.spec.heads[0].name], names_of_outputs(case.spec)[::-1]):
            plan = case.quantised_plan(rewrite, outputs)
            found = run_engine(plan, case.pixels)
            assert list(found) == outputs
            assert worst_error(found, expected)[0] < 0.1, (outputs, rewrite)


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
