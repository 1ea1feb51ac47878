"""The fast path computes the network: against torch in float64, on every instruction set that this machine has."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import (
    SMALL,
    assert_same_bits,
    available_isas,
    double_net,
    head_error,
    normalise,
    random_net,
    random_pixels,
    reference,
    torch_features,
    worst_error,
)
from random_specs import names_of_outputs, specs

from faceattr_fast import FastForward
from faceattr_fast.plan.oracle import run_plan
from faceattr_fast.plan.phases import LinearHead, SegmentedConv, Stem
from faceattr_fast.plan.rewrite import build_features_plan, build_plan
from faceattr_fast.spec import BlockSpec, HeadSpec, NetworkSpec, PixelSpec, StemSpec
from faceattr_fast.weights import read_weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_torch_thread")

TOLERANCE = 2e-6
ISAS = available_isas()
PAPER_HEADS = ["embedding", "gender", "ethnicity", "emotion", "age"]


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    monkeypatch.setenv("FACEATTR_ISA", request.param)
    return request.param


@pytest.fixture(params=[*((isa, True) for isa in ISAS), (ISAS[-1], False)], ids=lambda p: f"{p[0]}-{p[1]}")
def rewrite(request, monkeypatch):
    """Rewritten on every instruction set, as given on the best one."""
    monkeypatch.setenv("FACEATTR_ISA", request.param[0])
    return request.param[1]


class Paper:
    """One random network of the paper's shape with its float64 results."""

    def __init__(self, seed):
        self.net = random_net(NetworkSpec.paper(identities=50 if seed == 2 else None), seed)
        self.pixels = random_pixels(self.net.spec, 33, seed)
        self.x = normalise(self.pixels, self.net.spec)
        self.expected = reference(self.net, self.x)


@pytest.fixture(scope="module", params=[0, 1, 2])
def paper(request):
    return Paper(request.param)


@pytest.mark.parametrize("rewritten", [True, False])
def test_paper_network_against_float64(paper, isa, rewritten):
    fast = FastForward.from_module(paper.net, rewrite=rewritten, threads=2)
    for n in (1, 2, 3, 8, 33):
        found = fast(paper.x[:n])
        assert list(found) == PAPER_HEADS
        assert all(value.dtype == np.float32 for value in found.values())
        error, head = worst_error(found, {name: value[:n] for name, value in paper.expected.items()})
        assert error <= TOLERANCE, (head, n)
    n = 2
    u8 = fast(paper.pixels[:n])
    assert worst_error(u8, {name: value[:n] for name, value in paper.expected.items()})[0] <= TOLERANCE
    assert worst_error(u8, fast(paper.x[:n]))[0] <= TOLERANCE


def test_results_depend_on_the_image_not_only_on_the_weights(paper):
    """What all the tests above would miss: outputs that are one constant vector plus a little."""
    for name, value in paper.expected.items():
        spread = np.linalg.norm(value - value.mean(0)) / np.linalg.norm(value)
        assert spread > 100 * TOLERANCE, name


def narrow(heads, size=32, pixels=None):
    """The paper's blocks at a quarter of their width and fewer pixels: all 25 branch points, quickly computed."""
    blocks = tuple(BlockSpec(b.in_ // 4, b.mid // 4, b.out // 4, b.stride) for b in NetworkSpec.paper().blocks)
    return NetworkSpec(StemSpec(8), (blocks,), 40, heads, 11, pixels or PixelSpec(size=size))


@pytest.fixture(scope="module")
def everywhere():
    """A network with a head at each of its branch points, and its float64 results."""
    branches = narrow(()).branches
    heads = tuple(
        HeadSpec(f"at_{branch}", 2 + i % 4, branch, kind="sigmoid" if i % 3 == 0 else "softmax")
        for i, branch in enumerate(branches)
    )
    net = random_net(narrow(heads), 3)
    x = normalise(random_pixels(net.spec, 3, 3), net.spec)
    return net, x, reference(net, x)


def test_one_head_at_every_branch_point(everywhere, rewrite):
    net, x, expected = everywhere
    for head in net.spec.heads:
        found = FastForward.from_module(net, heads=[head.name], rewrite=rewrite, threads=1)(x)
        assert list(found) == [head.name]
        assert head_error(found[head.name], expected[head.name]) <= TOLERANCE, head


def test_heads_at_all_branch_points_at_once(everywhere, rewrite):
    net, x, expected = everywhere
    found = FastForward.from_module(net, rewrite=rewrite, threads=2)(x)
    assert list(found) == ["embedding", *(head.name for head in net.spec.heads)]
    error, head = worst_error(found, expected)
    assert error <= TOLERANCE, head


@pytest.fixture(
    scope="module",
    params=[("conv17", "conv18", "conv20"), ("conv21", "conv18", "conv22", "fc", "bottleneck", "conv20", "conv20")],
)
def full_width(request):
    """Heads at other branch points than the paper's, with their float64 results."""
    heads = tuple(HeadSpec(f"head{i}", 2 + 3 * i, branch) for i, branch in enumerate(request.param))
    net = random_net(NetworkSpec.paper(identities=None, heads=heads), 4)
    x = normalise(random_pixels(net.spec, 2, 4), net.spec)
    return net, x, reference(net, x)


def test_several_heads_of_full_width(full_width, rewrite):
    net, x, expected = full_width
    error, head = worst_error(FastForward.from_module(net, rewrite=rewrite, threads=2)(x), expected)
    assert error <= TOLERANCE, head


def test_identity_layer(everywhere):
    net, x, expected = everywhere
    found = FastForward.from_module(net, heads=["identity", "embedding"])(x)
    assert list(found) == ["identity", "embedding"]
    assert found["identity"].shape == (3, 11)
    assert worst_error(found, expected)[0] <= TOLERANCE
    assert "identity" not in FastForward.from_module(net)(x)


def test_no_heads_and_no_blocks():
    for spec in (narrow(()), NetworkSpec(StemSpec(5), (), 3, (HeadSpec("a", 1, "conv0"), HeadSpec("b", 2, "fc")))):
        net = random_net(spec, 5)
        x = normalise(random_pixels(spec, 2), spec)
        assert worst_error(FastForward.from_module(net)(x), reference(net, x))[0] <= TOLERANCE


def test_eps_is_that_of_the_file_format():
    """A wrong one would be wrong in the reference as well, and so pass every comparison with it."""
    norms = [m for m in random_net(SMALL, 0).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-5}
    assert len(norms) == sum(name.endswith("running_var") for name in SMALL.tensor_shapes())


@pytest.mark.parametrize("heads", [["age"], ["gender", "embedding"], ("emotion", "ethnicity"), ["embedding"]])
def test_heads_select_what_is_computed(heads):
    spec = NetworkSpec.paper(identities=None, pixels=PixelSpec(size=32))
    net = random_net(spec, 6)
    x = normalise(random_pixels(spec, 2), spec)
    every = FastForward.from_module(net)
    some = FastForward.from_module(net, heads=heads)
    found = some(x)
    assert tuple(found) == some.heads == tuple(heads)
    assert worst_error(found, every(x))[0] <= TOLERANCE
    assert some.describe().multiply_adds < every.describe().multiply_adds
    assert some.describe().weight_bytes < every.describe().weight_bytes


@pytest.mark.parametrize(
    "pixels",
    [
        PixelSpec(size=48),
        PixelSpec((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 48),
        PixelSpec((0.0, 0.0, 0.0), (255.0, 1.0, 31.7), 48),
        PixelSpec((255.0, 3.3, 200.7), (7.77, -128.0, 300.0), 48),
        PixelSpec((-40.5, 300.25, 1e-3), (1.0, 2.0, 3.0), 48),
    ],
)
def test_uint8_and_float32_agree(pixels, isa):
    """Borders too: outside the picture is zero after normalisation, not a black or grey pixel."""
    net = random_net(narrow((HeadSpec("own_stem", 3, "conv0"),), pixels=pixels), 7)
    images = random_pixels(net.spec, 4, 7)
    images[2], images[3] = 0, 255
    x = normalise(images, net.spec)
    expected, fast = reference(net, x), FastForward.from_module(net, threads=1)
    u8, f32 = fast(images), fast(x)
    assert worst_error(u8, f32)[0] <= TOLERANCE
    for i in range(4):  # each image on its own: none hides behind a larger one
        one = {name: value[i] for name, value in expected.items()}
        for found in (u8, f32):  # three logits of one image may cancel
            assert worst_error({name: value[i] for name, value in found.items()}, one)[0] <= 5 * TOLERANCE
    stem = torch_features(double_net(net), x, "conv1")["block_input"]
    for given_as in (images, x):
        tapped = fast.features(given_as, "conv1")["block_input"]
        for border in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
            assert head_error(tapped[border], stem[border]) <= TOLERANCE


def magnitudes(plan, x):
    """By name, Σ|product| behind each result: what rounding errors are relative to, however much cancels."""

    def positive(phase):
        match phase:
            case Stem():
                return dataclasses.replace(phase, weight=np.abs(phase.weight), bias=np.abs(phase.bias))
            case SegmentedConv():
                segments = tuple(dataclasses.replace(s, weight=np.abs(s.weight)) for s in phase.segments)
                bias = None if phase.bias is None else np.abs(phase.bias)
                return dataclasses.replace(phase, segments=segments, bias=bias)
            case LinearHead():
                inputs = tuple((src, np.abs(weight)) for src, weight in phase.inputs)
                return dataclasses.replace(phase, inputs=inputs, bias=np.abs(phase.bias))
        return phase

    return run_plan(dataclasses.replace(plan, phases=tuple(map(positive, plan.phases))), np.abs(x))


def assert_close_to_oracle(found, plan, x):
    expected, scale = run_plan(plan, x), magnitudes(plan, x)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        excess = np.abs(found[name] - value) - TOLERANCE * scale[name]
        assert excess.max(initial=0) <= 0, (name, excess.max(), scale[name].max())


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(spec=specs(), data=st.data())
def test_unusual_specs_against_the_oracle(spec, data, monkeypatch):
    outputs = data.draw(st.lists(st.sampled_from(names_of_outputs(spec)), min_size=1, unique=True))
    rewrite, images = data.draw(st.booleans()), data.draw(st.integers(1, 4))
    monkeypatch.setenv("FACEATTR_ISA", data.draw(st.sampled_from(ISAS)))
    seed = data.draw(st.integers(0, 2**16))
    net = random_net(spec, seed)
    fast = FastForward.from_module(net, heads=outputs, rewrite=rewrite, threads=data.draw(st.integers(1, 3)))
    pixels = random_pixels(spec, images, seed)
    x = normalise(pixels, spec)
    tensors = {name: value.numpy() for name, value in net.state_dict().items()}
    plan = build_plan(spec, tensors, outputs, rewrite=rewrite)
    assert_close_to_oracle(fast(x), plan, x.astype(np.float64))
    exact = (pixels - np.array(spec.pixels.mean)) / np.array(spec.pixels.scale)
    found = fast(pixels)
    assert_close_to_oracle(found, plan, exact.transpose(0, 3, 1, 2))
    assert list(found) == outputs

    branch = data.draw(st.sampled_from(spec.branches[1:]))
    plan = build_features_plan(spec, tensors, branch, rewrite=rewrite)
    assert_close_to_oracle(fast.features(x, branch), plan, x.astype(np.float64))


def test_features_at_every_branch(everywhere, rewrite):
    net, x, _ = everywhere
    fast, double = FastForward.from_module(net, rewrite=rewrite, threads=2), double_net(net)
    for branch in net.spec.branches:
        found, expected = fast.features(x, branch), torch_features(double, x, branch)
        assert found.keys() == expected.keys(), branch
        for name, value in expected.items():
            assert found[name].dtype == np.float32
            assert found[name].flags.c_contiguous
            assert head_error(found[name], value) <= TOLERANCE, (branch, name)


def test_features_alias_and_pixels(everywhere):
    net, x, _ = everywhere
    fast = FastForward.from_module(net)
    assert_same_bits(fast.features(x, "conv-bn320"), fast.features(x, "bottleneck"))
    np.testing.assert_array_equal(fast.features(x, "conv0")["pixels"], x.transpose(0, 2, 3, 1))
    pixels = random_pixels(net.spec, 3, 3)
    np.testing.assert_allclose(fast.features(pixels, "conv0")["pixels"], x.transpose(0, 2, 3, 1), rtol=0, atol=1e-6)


def test_features_of_the_paper_network_give_its_heads():
    """What a head reads and what it makes of it are the two halves of one network."""
    spec = NetworkSpec.paper(identities=None, pixels=PixelSpec(size=64))
    net = random_net(spec, 8)
    x = normalise(random_pixels(spec, 2), spec)
    fast = FastForward.from_module(net)
    out, features = fast(x), fast.features(x, "fc")
    gender = features["embedding"] @ net.heads["gender"].fc.weight.detach().numpy().T
    gender += net.heads["gender"].fc.bias.detach().numpy()
    assert head_error(gender, out["gender"].astype(np.float64)) <= 2 * TOLERANCE  # two results with an error each
    for branch, shape in (("conv19", (2, 4, 4, 256)), ("conv22", (2, 2, 2, 256)), ("conv21", (2, 2, 2, 256))):
        assert fast.features(x, branch)["block_input"].shape == shape
    assert fast.features(x, "conv22")["mid"].shape == (2, 2, 2, 128)
    assert fast.features(x[:0], "conv22")["mid"].shape == (0, 2, 2, 128)


@pytest.fixture(scope="module")
def paper_net():
    return random_net(NetworkSpec.paper(), 9)


def test_describe_counts_multiply_adds(paper_net):
    description = FastForward.from_module(paper_net, threads=2).describe()
    assert description.multiply_adds_as_given == 990_775_296
    assert round(description.multiply_adds / 1e6, 1) == 728.6
    assert description.multiply_adds == sum(phase.multiply_adds for phase in description.phases)
    assert (description.device, description.dtype, description.threads) == ("cpu", "float32", 2)
    assert description.rewritten
    assert description.seconds is None
    given = FastForward.from_module(paper_net, rewrite=False).describe()
    assert given.multiply_adds == given.multiply_adds_as_given == 990_775_296
    assert not given.rewritten
    assert given.hash != description.hash


@pytest.mark.parametrize(
    ("heads", "as_given"),
    [
        (["embedding", "identity"], 897_299_456),
        (["embedding"], 894_099_456),
        ([*PAPER_HEADS, "identity"], 993_975_296),
    ],
)
def test_multiply_adds_of_what_is_asked_for(paper_net, heads, as_given):
    description = FastForward.from_module(paper_net, heads=heads, rewrite=False).describe()
    assert description.multiply_adds_as_given == description.multiply_adds == as_given


def test_describe_is_plain_data(small_fast):
    description = small_fast.describe()
    plain = description.to_dict()
    assert json.loads(json.dumps(plain)) == json.loads(json.dumps(plain, allow_nan=False))
    assert len(plain["phases"]) == len(description.phases) > 3
    assert all(phase["kernel"] for phase in plain["phases"])
    assert all("seconds" not in phase for phase in plain["phases"])
    text = str(description)
    assert all(phase.name in text for phase in description.phases)
    assert small_fast.isa in text
    assert repr(small_fast).startswith("FastForward(")


def test_profile_adds_times(small_fast):
    images = random_pixels(SMALL, 3)
    timed, plain = small_fast.profile(images), small_fast.describe()
    assert timed.hash == plain.hash
    assert all(phase.seconds is not None and phase.seconds >= 0 for phase in timed.phases)
    assert timed.seconds == pytest.approx(sum(phase.seconds for phase in timed.phases))
    assert timed.seconds > 0
    untimed = dataclasses.replace(timed, phases=tuple(dataclasses.replace(p, seconds=None) for p in timed.phases))
    assert untimed == plain
    json.dumps(timed.to_dict(), allow_nan=False)
    assert "us" in str(timed)
    with pytest.raises(ValueError, match="pixels"):
        small_fast.profile(images[:0])


def test_describe_names_the_instruction_set(small_file, isa):
    fast = FastForward.load(small_file)
    assert fast.isa.split("+")[-1] == isa
    assert fast.describe().isa == fast.isa


def test_hash_is_of_structure_and_weights(small_file, small_net, tmp_path):
    fast = FastForward.load(small_file)
    program = f"import faceattr_fast as f; print(f.FastForward.load({str(small_file)!r}).describe().hash)"
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == fast.describe().hash == FastForward.from_module(small_net).describe().hash
    weights = read_weights(small_file)
    for name in ("heads.pose.fc.bias", "stem.conv.weight", "heads.mood.blocks.3.bn.running_var"):
        changed = dict(weights.tensors)
        changed[name] = changed[name].copy()
        changed[name].flat[0] += 0.25
        other = FastForward(dataclasses.replace(weights, tensors=changed))
        assert other.describe().hash != fast.describe().hash, name
    assert FastForward.load(small_file, heads=["pose"]).describe().hash != fast.describe().hash


def test_mixed_layouts_are_one_plan(small_file):
    """Equal requests become equal plans, whatever the order of the names; results keep the order asked for."""
    x = normalise(random_pixels(SMALL, 2), SMALL)
    one = FastForward.load(small_file, heads=["pose", "embedding", "mood"])
    other = FastForward.load(small_file, heads=["mood", "pose", "embedding"])
    found = other(x)
    assert list(found) == ["mood", "pose", "embedding"]
    assert_same_bits({name: found[name] for name in one.heads}, one(x))
