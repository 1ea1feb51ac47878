"""The spec by counting: every number of the reconstruction, the JSON round trip, the errors."""

import dataclasses

import pytest

from faceattr_fast.layers import BN_TENSORS
from faceattr_fast.spec import BlockSpec, HeadSpec, NetworkSpec, PixelSpec, StemSpec

PAPER = NetworkSpec.paper()
BASE = NetworkSpec.paper(heads=())
ATTRIBUTES = NetworkSpec.paper(identities=None)


def own_parameters(spec, head):
    """Of convolutions and linear layers; norms left out, as the paper does."""
    layers = [layer for layer in spec.layers() if layer.prefix.startswith(f"heads.{head}.")]
    return sum(layer.parameters - (2 * layer.out_channels if layer.norm else 0) for layer in layers)


def stage_multiply_adds(convs):
    names = {f"conv{i}" for i in convs}
    return sum(layer.multiply_adds for layer in BASE.layers() if layer.branch in names)


def test_paper_has_24_convolutions_without_shortcuts():
    convs = [layer for layer in BASE.layers() if not layer.linear and not layer.prefix.endswith(".shortcut")]
    assert len(convs) == 24
    assert [layer.branch for layer in convs] == [f"conv{i}" for i in range(23)] + ["bottleneck"]


@pytest.mark.parametrize(
    ("spec", "parameters", "multiply_adds"),
    [
        (BASE, 6_861_232, 897_299_456),
        (ATTRIBUTES, 5_858_752, 990_775_296),
        (PAPER, 9_068_752, 993_975_296),
    ],
)
def test_counts(spec, parameters, multiply_adds):
    count = spec.count()
    assert (count.parameters, count.multiply_adds) == (parameters, multiply_adds)
    assert f"{parameters:,}" in str(count)


@pytest.mark.parametrize(
    ("convs", "mmac"),
    [
        ((0,), 59.0),
        ((1, 2), 250.5),
        ((3, 4), 96.3),
        ((5, 6), 41.7),
        (range(7, 19), 385.4),
        ((19, 20), 24.1),
        ((21, 22), 36.9),
    ],
)
def test_multiply_adds_of_the_stages(convs, mmac):
    assert round(stage_multiply_adds(convs) / 1e6, 1) == mmac


def test_stage_d_is_the_largest():
    d = {f"conv{i}" for i in range(7, 19)}
    inside = [layer for layer in BASE.layers() if layer.branch in d]
    convs = [layer for layer in BASE.layers() if not layer.linear]
    assert sum(layer.parameters for layer in inside) > sum(layer.parameters for layer in convs) / 3
    assert all(
        stage_multiply_adds(range(7, 19)) > stage_multiply_adds(c)
        for c in [(0,), (1, 2), (3, 4, 5, 6), (19, 20, 21, 22)]
    )


def test_sizes_and_widths_along_the_trunk():
    # A block is listed by its 3x3, which has the block's output; the stem by what it convolves to, before the pool.
    expands = [
        (layer.out_h, layer.out_channels) for layer in BASE.layers() if layer.prefix.endswith(("expand", "stem.conv"))
    ]
    assert expands == [(112, 32), (56, 128), (28, 128), (14, 256), *[(14, 256)] * 6, (7, 256), (7, 512)]
    assert BASE.trunk_channels == 512
    assert BASE.embedding == 320


@pytest.mark.parametrize(
    ("head", "parameters"), [("emotion", 1_312_967), ("age", 889_230), ("ethnicity", 2_889), ("gender", 642)]
)
def test_own_parameters_of_the_paper_heads(head, parameters):
    assert own_parameters(PAPER, head) == parameters


def test_own_parameters_meet_the_paper():
    assert own_parameters(PAPER, "age") == 3 * 3 * 128 * 512 + 256 * 512 + 512 * 320 + 321 * 14 == 889_230
    assert own_parameters(PAPER, "gender") == 321 * 2 == 642
    assert own_parameters(PAPER, "emotion") - 3 * 3 * 128 * 256 == 1_018_055
    assert own_parameters(PAPER, "ethnicity") == 321 * 9


@pytest.mark.parametrize("classes", [1, 7])
@pytest.mark.parametrize(
    ("branch", "parameters"),
    [
        ("conv17", 1_638_400),
        ("conv18", 1_605_632),
        ("conv19", 1_310_720),
        ("conv20", 1_277_952),
        ("conv21", 917_504),
        ("conv22", 884_736),
        ("bottleneck", 163_840),
        ("conv-bn320", 163_840),
        ("fc", 0),
    ],
)
def test_own_parameters_by_branch_point(branch, parameters, classes):
    spec = NetworkSpec.paper(identities=None, heads=(HeadSpec("it", classes, branch),))
    assert own_parameters(spec, "it") == parameters + 321 * classes


def test_the_flops_of_the_paper():
    assert round(BASE.count().multiply_adds / 1e9, 1) == 0.9
    assert round(PAPER.count().multiply_adds / 1e9, 3) == 0.994
    assert round(ATTRIBUTES.count().multiply_adds / 1e9, 3) == 0.991


def test_labels_of_the_paper():
    assert PAPER.head("gender").labels == ("female", "male")
    assert PAPER.head("emotion").labels == ("happy", "sad", "angry", "surprised", "disgusted", "scared", "neutral")
    assert len(PAPER.head("age").class_labels) == 14
    assert len(PAPER.head("ethnicity").class_labels) == 9
    assert HeadSpec("glasses", 2, "fc").class_labels == ("0", "1")


def test_tensor_names_of_a_head_that_branches_inside_a_block():
    names = {name for name in PAPER.tensor_shapes() if name.startswith("heads.age.")}
    assert names == {
        "heads.age.blocks.11.expand.weight",
        "heads.age.blocks.11.shortcut.weight",
        "heads.age.bottleneck.conv.weight",
        *(f"heads.age.bottleneck.bn.{name}" for name in BN_TENSORS),
        "heads.age.fc.weight",
        "heads.age.fc.bias",
    }
    assert PAPER.tensor_shapes()["heads.age.blocks.11.expand.weight"] == (512, 128, 3, 3)


def test_branch_at_conv0_copies_everything():
    spec = NetworkSpec.paper(identities=None, heads=(HeadSpec("it", 2, "conv0"),))
    trunk = {name for name in spec.tensor_shapes() if not name.startswith("heads.")}
    own = {name.removeprefix("heads.it.") for name in spec.tensor_shapes() if name.startswith("heads.it.")}
    assert own == trunk | {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    "spec",
    [
        PAPER,
        ATTRIBUTES,
        NetworkSpec(stages=(), stem=StemSpec(3), embedding=2, pixels=PixelSpec((1, 2, 3), (4, 5, 6), 16)),
        NetworkSpec.paper(heads=(HeadSpec("a", 2, "conv-bn320", "sigmoid", ("x", "y"), (0.1, 0.9), (True, False)),)),
    ],
)
def test_json_round_trip(spec):
    assert NetworkSpec.from_json(spec.to_json()) == spec
    assert NetworkSpec.from_json(spec.to_json()).to_json() == spec.to_json()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '"paper"', PAPER.to_json().replace('"embedding":320', '"embedding":0')]
)
def test_other_json_is_an_error(text):
    with pytest.raises(ValueError, match=r"NetworkSpec"):
        NetworkSpec.from_json(text)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BlockSpec(1, 0, 1), "mid must be an integer from 1 to \\d+, got 0"),
        (lambda: BlockSpec(1, 1, 1, stride=1.5), "stride must be an integer from 1 to \\d+, got 1.5"),
        (lambda: StemSpec(True), "out must be an integer from 1"),
        (lambda: PixelSpec(size=30), "multiple of 4"),
        (lambda: PixelSpec(scale=(1.0, 0.0, 1.0)), "must not contain 0"),
        (lambda: PixelSpec(mean=(1.0, float("nan"), 1.0)), "three finite numbers"),
        (lambda: PixelSpec(mean=(1.0, 2.0)), "three finite numbers"),
        (lambda: HeadSpec("Age", 2, "fc"), "name must match"),
        (lambda: HeadSpec("embedding", 2, "fc"), "reserved"),
        (lambda: HeadSpec("identity", 2, "fc"), "reserved"),
        (lambda: HeadSpec("age", 2, "conv01"), "branch must be"),
        (lambda: HeadSpec("age", 2, "fc", kind="tanh"), "kind must be"),
        (lambda: HeadSpec("age", 2, "fc", labels=("a",)), "labels needs 2 entries"),
        (lambda: HeadSpec("age", 2, "fc", labels=("a", "a")), "must differ"),
        (lambda: HeadSpec("age", 2, "fc", thresholds=(0.5,)), "thresholds needs 2 entries"),
        (
            lambda: NetworkSpec(StemSpec(8), ((BlockSpec(9, 1, 1),),)),
            "block 1 expects 9 channels, the layer before gives 8",
        ),
        (lambda: NetworkSpec.paper(heads=(HeadSpec("a", 1, "fc"), HeadSpec("a", 2, "fc"))), "two heads are named 'a'"),
        (lambda: NetworkSpec.paper(heads=(HeadSpec("a", 1, "conv23"),)), "this network has conv0 … conv22"),
        (lambda: NetworkSpec.paper(identities=0), "identities must be an integer from 1"),
        (lambda: PAPER.head("mood"), "no head named 'mood'"),
        (lambda: PixelSpec(mean=127.5), "mean must be a sequence of numbers, got 127.5"),
        (lambda: HeadSpec("age", 2, "fc", thresholds=("x", 0.5)), "thresholds must be a sequence of numbers"),
        (lambda: HeadSpec("age", 2, "fc", thresholds=(50, 50)), "thresholds must be probabilities"),
        (lambda: HeadSpec("age", 2, "fc", thresholds=(float("nan"), 0.5)), "thresholds must be probabilities"),
        (lambda: HeadSpec("age", 2, "fc", trained=("no", "yes")), "trained must be a sequence of truth values"),
        (lambda: NetworkSpec(stem=32), "stem must be a StemSpec, got 32"),
        (lambda: NetworkSpec.paper(pixels=127.5), "pixels must be a PixelSpec, got 127.5"),
        (lambda: NetworkSpec(stages=(BlockSpec(32, 8, 8),)), "stages must be a sequence of stages"),
        (lambda: NetworkSpec(stages=((8,),)), "stage 0 must be a sequence of BlockSpec"),
        (lambda: NetworkSpec.paper(heads=HeadSpec("a", 1, "fc")), "heads must be a sequence of HeadSpec"),
        (lambda: NetworkSpec.paper(heads=("glasses",)), "heads must be a sequence of HeadSpec"),
    ],
)
def test_errors_say_what_was_expected(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_spec_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPER.embedding = 1
