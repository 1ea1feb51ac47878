"""Networks with random weights, and what they give in float64: shared by the tests of the fast path."""

import numpy as np
import pytest
from random_weights import random_tensors

from faceattr_fast import _core
from faceattr_fast.spec import BlockSpec, HeadSpec, NetworkSpec, PixelSpec, StemSpec

torch = pytest.importorskip("torch")
from faceattr_fast.reference import FaceAttrNet  # noqa: E402  (needs torch)

#: Small enough for a call in well under a millisecond; strides, identity and projected shortcuts, all kinds of heads.
SMALL = NetworkSpec(
    StemSpec(8),
    ((BlockSpec(8, 6, 12, 1),), (BlockSpec(12, 5, 12, 1), BlockSpec(12, 8, 20, 2))),
    embedding=10,
    heads=(
        HeadSpec("mood", 3, "conv3"),
        HeadSpec("glasses", 2, "conv6", kind="sigmoid"),
        HeadSpec("hat", 4, "bottleneck"),
        HeadSpec("pose", 5, "fc"),
    ),
    identities=7,
    pixels=PixelSpec(size=32),
)


def random_net(spec, seed):
    """A module in evaluation mode, with :func:`random_tensors`."""
    state = {name: torch.from_numpy(value) for name, value in random_tensors(spec, seed).items()}
    net = FaceAttrNet(spec, seed=0)
    net.load_state_dict(state, strict=False)
    return net.eval()


def random_pixels(spec, count, seed=0):
    """uint8 RGB images: not noise alone, but with structure at every scale, black and white included."""
    rng = np.random.default_rng(seed)
    size = spec.pixels.size
    waves = rng.normal(0, 1, (count, 4, 3)), rng.uniform(-0.3, 0.3, (count, 4, 2)), rng.uniform(0, 6, (count, 4))
    y, x = np.mgrid[:size, :size]
    phase = waves[1][..., 0, None, None] * y + waves[1][..., 1, None, None] * x + waves[2][..., None, None]
    image = np.einsum("nwc,nwyx->nyxc", waves[0], np.sin(phase)) * 40 + rng.normal(127, 40, (count, size, size, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def normalise(pixels, spec):
    """What float32 callers pass for these uint8 pixels, computed in float64."""
    x = (pixels.astype(np.float64) - np.array(spec.pixels.mean)) / np.array(spec.pixels.scale)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2).astype(np.float32))


def reference(net, x):
    """Every output of the module in float64, as given; ``x`` is float [N, 3, S, S]."""
    double = double_net(net)
    with torch.no_grad():
        parts = [double(torch.from_numpy(np.asarray(part, np.float64))) for part in np.split(x, range(8, len(x), 8))]
    return {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}


def head_error(found, expected):
    """‖found − expected‖₂ / ‖expected‖₂ over the batch."""
    assert found.shape == expected.shape
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected))


def worst_error(found, expected):
    """The largest error of a head, and its name; ``found`` may be some of the outputs: callers check which."""
    assert found
    assert found.keys() <= expected.keys()
    return max((head_error(found[name], expected[name]), name) for name in found)


def available_isas():
    """The names that FACEATTR_ISA may have on this machine."""
    found = _core.detected_isa().split("+")
    return ["scalar", *(name for name in _core.isa_levels() if name in found)]


def assert_same_bits(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        np.testing.assert_array_equal(found[name].view(np.uint32), value.view(np.uint32), err_msg=name)


def double_net(net):
    double = FaceAttrNet(net.spec, seed=0).double().eval()
    double.load_state_dict(net.state_dict())
    return double


def torch_features(double, x, branch):
    """What the layers at ``branch`` read in a float64 module, seen by hooks; float64 NHWC."""
    seen, hooks = {}, []

    def tap(layer, name):
        hooks.append(layer.register_forward_pre_hook(lambda _, inputs: seen.update({name: inputs[0].numpy()})))

    index, blocks = double.spec.branch_index(branch), len(double.spec.blocks)
    block = double.blocks.get(str((index + 1) // 2))
    if branch == "conv0":
        tap(double.stem.conv, "pixels")
    elif branch == "bottleneck":
        tap(double.bottleneck.conv, "pooled")
    elif index <= 2 * blocks:
        tap(block.reduce, "block_input")
        if index % 2 == 0:
            tap(block.expand, "mid")
    with torch.no_grad():
        embedding = double(torch.from_numpy(np.asarray(x, np.float64)))["embedding"].numpy()
    for hook in hooks:
        hook.remove()
    if branch == "fc":
        return {"embedding": embedding}
    return {n: v[:, :, 0, 0] if n == "pooled" else v.transpose(0, 2, 3, 1) for n, v in seen.items()}
