"""The rewrite is exact: torch in float64, the plan as given and the rewritten plan agree, for any spec."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_specs import names_of_outputs, specs
from random_weights import random_tensors

from faceattr_fast.plan.fold import fold_layer
from faceattr_fast.plan.oracle import run_plan
from faceattr_fast.plan.phases import LinearHead, SegmentedConv, ShiftedMeans, Stem
from faceattr_fast.plan.rewrite import build_features_plan, build_plan
from faceattr_fast.spec import BlockSpec, HeadSpec, NetworkSpec, PixelSpec, StemSpec

torch = pytest.importorskip("torch")
from faceattr_fast.reference import FaceAttrNet  # noqa: E402  (needs torch)

PAPER = NetworkSpec.paper(identities=None)
PAPER_OUTPUTS = ("embedding", "gender", "ethnicity", "emotion", "age")
EXACT = 1e-12

pytestmark = pytest.mark.usefixtures("one_torch_thread")
many = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def torch_module(spec, tensors):
    net = FaceAttrNet(spec, seed=0).double().eval()
    net.load_state_dict({name: torch.from_numpy(value).double() for name, value in tensors.items()}, strict=False)
    return net


def torch_outputs(net, x):
    with torch.no_grad():
        return {name: value.numpy() for name, value in net(torch.from_numpy(x)).items()}


def torch_features(net, x, branch):
    """What the layers at ``branch`` read, seen by hooks."""
    seen = {}

    def record(name):
        return lambda module, inputs: seen.update({name: inputs[0].numpy()})

    index, blocks = net.spec.branch_index(branch), len(net.spec.blocks)
    block = net.blocks.get(str((index + 1) // 2))
    hooks = []
    if index == 2 * blocks + 1:
        hooks.append(net.bottleneck.conv.register_forward_pre_hook(record("pooled")))
    elif index <= 2 * blocks:
        hooks.append(block.reduce.register_forward_pre_hook(record("block_input")))
        if index % 2 == 0:
            hooks.append(block.expand.register_forward_pre_hook(record("mid")))
    embedding = torch_outputs(net, x)["embedding"]
    for hook in hooks:
        hook.remove()
    if not hooks:
        return {"embedding": embedding}
    return {
        name: value[:, :, 0, 0] if name == "pooled" else value.transpose(0, 2, 3, 1) for name, value in seen.items()
    }


def assert_equal(found, expected):
    """‖found - expected‖ ≤ 1e-12 ‖expected‖ for each result; where all is zero, zero is expected."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert np.linalg.norm(found[name] - value) <= EXACT * np.linalg.norm(value), name


def random_pixels(spec, seed=0, count=2):
    return np.random.default_rng(seed).normal(size=(count, 3, spec.pixels.size, spec.pixels.size))


#: Float64 in numpy is slow: small networks, and the rewrite sees normalised pixels.
small_specs = specs(widths=st.integers(1, 9), norms=st.just(((127.5,) * 3, (127.5,) * 3)), blocks=5)


@many
@given(small_specs, st.data())
def test_as_given_and_rewritten_agree_with_torch(spec, data):
    outputs = data.draw(st.lists(st.sampled_from(names_of_outputs(spec)), min_size=1, unique=True))
    seed = data.draw(st.integers(0, 2**16))
    tensors, x = random_tensors(spec, seed), random_pixels(spec, seed)
    as_given, rewritten = (build_plan(spec, tensors, outputs, rewrite=rewrite) for rewrite in (False, True))

    everything = torch_outputs(torch_module(spec, tensors), x)
    expected = {name: everything[name] for name in outputs}
    assert_equal(run_plan(as_given, x), expected)
    assert_equal(run_plan(rewritten, x), expected)
    assert rewritten.multiply_adds() <= as_given.multiply_adds() <= spec.count().multiply_adds


@many
@given(small_specs, st.data())
def test_features_agree_with_torch(spec, data):
    branch = data.draw(st.sampled_from(spec.branches[1:]))
    seed = data.draw(st.integers(0, 2**16))
    tensors, x = random_tensors(spec, seed), random_pixels(spec, seed)
    as_given, rewritten = (build_features_plan(spec, tensors, branch, rewrite=rewrite) for rewrite in (False, True))

    expected = torch_features(torch_module(spec, tensors), x, branch)
    assert_equal(run_plan(as_given, x), expected)
    assert_equal(run_plan(rewritten, x), expected)
    assert rewritten.multiply_adds() <= as_given.multiply_adds()


@many
@given(small_specs, st.data())
def test_plans_are_well_formed(spec, data):
    """What a backend relies on: every tensor is written once, before it is read, with the shape that is stated."""
    outputs = data.draw(st.lists(st.sampled_from(names_of_outputs(spec)), min_size=1, unique=True))
    plan = build_plan(spec, random_tensors(spec), outputs, rewrite=data.draw(st.booleans()))
    written = {}
    for phase in plan.phases:
        reads = []
        match phase:
            case SegmentedConv():
                shape = plan.tensors[phase.dst]
                for s in phase.segments:
                    src = plan.tensors[s.src]
                    assert (-(-src.height // s.stride), -(-src.width // s.stride)) == (shape.height, shape.width)
                    assert 0 <= s.start < s.start + s.count <= src.channels
                    assert s.weight.shape == (shape.channels, s.count, s.kernel, s.kernel)
                reads = [s.src for s in phase.segments]
                if phase.residual is not None:
                    assert plan.tensors[phase.residual] == shape
                    reads.append(phase.residual)
            case ShiftedMeans():
                assert phase.start + phase.count <= plan.tensors[phase.src].channels
                assert plan.tensors[phase.dst].channels == phase.kernel**2 * phase.count
                reads = [phase.src]
            case LinearHead():
                assert all(weight.shape[0] == len(phase.bias) for _, weight in phase.inputs)
                assert all(weight.shape[1] <= plan.tensors[src].channels for src, weight in phase.inputs)
                reads = [src for src, _ in phase.inputs]
        assert phase.dst not in written
        assert all(src in written for src in reads)
        written[phase.dst] = phase
    assert written.keys() == plan.tensors.keys()
    assert list(plan.outputs) == outputs
    used = {o.tensor for o in plan.outputs.values()}
    for phase in reversed(plan.phases):  # nothing is computed in vain
        assert phase.dst in used
        match phase:
            case SegmentedConv():
                used |= {s.src for s in phase.segments} | {phase.residual}
            case ShiftedMeans():
                used.add(phase.src)
            case LinearHead():
                used |= {src for src, _ in phase.inputs}


@many
@given(small_specs)
def test_as_given_is_the_network_as_counted(spec):
    plan = build_plan(spec, random_tensors(spec), names_of_outputs(spec), rewrite=False)
    assert plan.multiply_adds() == spec.count().multiply_adds
    assert not plan.rewritten


# ------------------------------------------------------------------------------------------------ the paper's network


@pytest.fixture(scope="module")
def paper_tensors():
    return random_tensors(PAPER)


@pytest.fixture(scope="module")
def paper_plan(paper_tensors):
    return build_plan(PAPER, paper_tensors, PAPER_OUTPUTS)


def test_paper_agrees_with_torch(paper_tensors, paper_plan):
    x = random_pixels(PAPER, count=1)
    expected = torch_outputs(torch_module(PAPER, paper_tensors), x)
    assert_equal(run_plan(paper_plan, x), expected)
    assert_equal(run_plan(build_plan(PAPER, paper_tensors, PAPER_OUTPUTS, rewrite=False), x), expected)


def test_paper_phases(paper_plan):
    stage_d = [row for i in range(4, 10) for row in ((f"m{i}", (14, 128), 6_422_528), (f"x{i}", (14, 256), 57_802_752))]
    table = [
        ("x0", (56, 32), 59_006_976),
        ("m1", (56, 64), 6_422_528),
        ("m2", (56, 64), 122_028_032),
        ("x2[::2]", (14, 128), 29_704_192),
        ("m3", (28, 64), 59_408_384),
        ("x3", (14, 256), 35_323_904),
        *stage_d,
        ("m10+emotion.m10", (14, 256), 12_845_056),
        ("m11", (7, 128), 8_830_976),
        ("emotion.m11", (7, 128), 8_830_976),
        ("embedding+age.logits", (1, 334), 334 * 2560),
        ("gender.logits+ethnicity.logits", (1, 11), 11 * 320),
        ("emotion.logits", (1, 7), 7 * 2560),
    ]
    found = []
    for phase in paper_plan.phases:
        if not isinstance(phase, ShiftedMeans):
            shape = paper_plan.tensors[phase.dst]
            found.append((phase.dst, (shape.height, shape.channels), paper_plan.phase_multiply_adds(phase)))
    assert found == table
    assert paper_plan.multiply_adds() == 728_629_184


def test_paper_sources(paper_plan):
    convs = {phase.dst: phase for phase in paper_plan.phases if isinstance(phase, SegmentedConv)}

    def reads(dst):
        return [(s.src, s.start, s.count, s.kernel, s.stride) for s in convs[dst].segments]

    assert reads("m2") == [("m1", 0, 64, 3, 1), ("x0", 0, 32, 1, 1)]
    assert reads("m3") == [("m2", 0, 64, 3, 2), ("m1", 0, 64, 3, 2), ("x0", 0, 32, 1, 2)]
    assert reads("x2[::2]") == [("m2", 0, 64, 3, 4), ("m1", 0, 64, 3, 4), ("x0", 0, 32, 1, 4)]
    assert reads("x3") == [("m3", 0, 64, 3, 2), ("x2[::2]", 0, 128, 1, 1)]
    for i in range(4, 10):  # stage d stays residual blocks
        assert reads(f"m{i}") == [(f"x{i - 1}", 0, 256, 1, 1)]
        assert reads(f"x{i}") == [(f"m{i}", 0, 128, 3, 1)]
        assert convs[f"x{i}"].residual == f"x{i - 1}"
    assert reads("m11") == [("m10+emotion.m10", 0, 128, 3, 2), ("x9", 0, 256, 1, 2)]
    assert reads("emotion.m11") == [("m10+emotion.m10", 128, 128, 3, 2), ("x9", 0, 256, 1, 2)]
    means = {
        p.dst: (p.src, p.kernel, p.stride, p.start, p.count) for p in paper_plan.phases if isinstance(p, ShiftedMeans)
    }
    assert means == {
        "x9.mean1/2": ("x9", 1, 2, 0, 256),
        "m10.mean3/2": ("m10+emotion.m10", 3, 2, 0, 128),
        "m11.mean3": ("m11", 3, 1, 0, 128),
        "emotion.m10.mean3/2": ("m10+emotion.m10", 3, 2, 128, 128),
        "emotion.m11.mean3": ("emotion.m11", 3, 1, 0, 128),
    }


def test_paper_weights(paper_plan):
    def size(phase):
        match phase:
            case Stem():
                return phase.weight.size
            case SegmentedConv():
                return sum(s.weight.size for s in phase.segments)
            case LinearHead():
                return sum(weight.size for _, weight in phase.inputs)
        return 0

    assert round(sum(map(size, paper_plan.phases)) / 1e6, 2) == 3.72


@pytest.mark.parametrize("output", ["emotion", "age", "gender"])
def test_only_what_is_needed_is_read(output):
    """A head alone needs the trunk up to where it branches: without those tensors it plans, and computes the same."""
    tensors = random_tensors(PAPER)
    path = PAPER.path(PAPER.head(output))
    prefixes = (path.stem, path.bottleneck, path.fc, *(f"{a}.{b}" for a, _ in path.blocks for b in ("reduce", "bn")),
                *(f"{a}.{b}" for _, a in path.blocks for b in ("expand", "shortcut")))  # fmt: skip
    own = {name: value for name, value in tensors.items() if name.startswith(prefixes)}
    assert len(own) < len(tensors)
    plan = build_plan(PAPER, own, [output])
    assert plan.hash() == build_plan(PAPER, tensors, [output]).hash()
    assert "embedding" not in plan.tensors  # its 320 values fold away: the logits compose onto the pooled features


# ------------------------------------------------------------------------------------------------------------ details


def test_the_order_of_the_request_changes_nothing_but_the_order_of_the_results(paper_tensors, paper_plan):
    plan = build_plan(PAPER, paper_tensors, PAPER_OUTPUTS[::-1])
    assert tuple(plan.outputs) == PAPER_OUTPUTS[::-1]
    assert plan.hash() == paper_plan.hash()


def test_a_tapped_value_is_kept_whole(paper_tensors):
    taps = {"x1": "x1", "x2": "x2", "mid": "m10", "pooled": "pooled"}
    plan = build_plan(PAPER, paper_tensors, PAPER_OUTPUTS, taps=taps)
    assert [plan.tensors[plan.outputs[name].tensor].height for name in taps] == [56, 28, 14, 1]
    x = random_pixels(PAPER, count=1)
    plain = build_plan(PAPER, paper_tensors, PAPER_OUTPUTS, taps=taps, rewrite=False)
    assert_equal(run_plan(plan, x), run_plan(plain, x))


def test_heads_at_the_bottleneck_share_one_pooled_value():
    """Forming the 24 pooled values once is less work than four times a matrix on all nine shifted means."""
    heads = tuple(HeadSpec(f"head{i}", 20, "bottleneck") for i in range(4))
    spec = NetworkSpec(StemSpec(8), ((BlockSpec(8, 24, 24),),), embedding=30, heads=heads, pixels=PixelSpec(size=32))
    plan = build_plan(spec, random_tensors(spec), [head.name for head in heads])
    assert "x1" not in plan.tensors
    assert plan.tensors["pooled"].channels == 24
    [logits] = [phase for phase in plan.phases if isinstance(phase, LinearHead) and phase.dst != "pooled"]
    assert [(src, weight.shape) for src, weight in logits.inputs] == [("pooled", (80, 24))]


def test_as_given_has_residuals_and_no_fusion(paper_tensors):
    plan = build_plan(PAPER, paper_tensors, PAPER_OUTPUTS, rewrite=False)
    convs = {phase.dst: phase for phase in plan.phases if isinstance(phase, SegmentedConv)}
    assert convs["x5"].residual == "x4"
    assert [(s.src, s.kernel, s.stride) for s in convs["x3"].segments] == [("m3", 3, 2), ("x2", 1, 2)]
    assert {"emotion.m10", "emotion.x11", "age.x11"} <= convs.keys()
    heads = {p.dst: [src for src, _ in p.inputs] for p in plan.phases if isinstance(p, LinearHead)}
    assert heads["age.embedding"] == ["age.x11.mean1"]
    assert heads["gender.logits"] == ["embedding"]


def test_fold(paper_tensors):
    folded = {layer.prefix: fold_layer(layer, paper_tensors) for layer in PAPER.layers()}
    layer = folded["heads.emotion.blocks.10.reduce"]
    x = np.random.default_rng(0).normal(size=(1, 256, 2, 2))
    block = torch_module(PAPER, paper_tensors).heads["emotion"].blocks["10"]
    with torch.no_grad():
        expected = block.bn(block.reduce(torch.from_numpy(x))).numpy()
    found = np.einsum("oi,nihw->nohw", layer.weight[:, :, 0, 0], x) + layer.bias[:, None, None]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert folded["blocks.3.expand"].bias is None
    assert folded["heads.age.fc"].weight.dtype == np.float64


@pytest.mark.parametrize(
    ("outputs", "taps", "message"),
    [
        (["mood"], {}, "no head named 'mood'"),
        (["identity"], {}, "no identity layer"),
        ([], {}, "outputs must not be empty"),
        (["age"], {"it": "x12"}, "value 'x12' does not exist"),
        (["age"], {"it": "m0"}, "value 'm0' does not exist"),
    ],
)
def test_errors(paper_tensors, outputs, taps, message):
    with pytest.raises(ValueError, match=message):
        build_plan(PAPER, paper_tensors, outputs, taps=taps)


@pytest.mark.parametrize(
    ("branch", "message"), [("conv0", "reads the pixels"), ("conv23", "does not exist"), ("x", "must be")]
)
def test_features_errors(paper_tensors, branch, message):
    with pytest.raises(ValueError, match=message):
        build_features_plan(PAPER, paper_tensors, branch)


def test_features_names(paper_tensors):
    names = {
        b: list(build_features_plan(PAPER, paper_tensors, b).outputs) for b in ("conv1", "conv22", "conv-bn320", "fc")
    }
    assert names == {
        "conv1": ["block_input"],
        "conv22": ["mid", "block_input"],
        "conv-bn320": ["pooled"],
        "fc": ["embedding"],
    }
