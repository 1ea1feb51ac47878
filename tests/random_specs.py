"""Specs that nobody would write by hand, for tests that must hold for all."""

from hypothesis import strategies as st

from faceattr_fast.spec import BlockSpec, HeadSpec, NetworkSpec, PixelSpec, StemSpec

#: Around the widths of vectors.
WIDTHS = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 23, 24, 25, 31, 32, 33, 40]))

_means, _scales = st.floats(-300, 300), st.floats(0.5, 300)
#: Any normalisation of pixels.
NORMS = st.tuples(st.tuples(_means, _means, _means), st.tuples(_scales, _scales, _scales))


@st.composite
def specs(draw, widths=WIDTHS, norms=NORMS, blocks=4):
    """Odd widths, strides 1 to 3, up to four heads at any branch points, 16 … 48 pixels."""
    stem = channels = draw(widths)
    made = []
    for _ in range(draw(st.integers(0, blocks))):
        out = draw(st.one_of(st.just(channels), widths))  # as often as not, room for an identity shortcut
        made.append(BlockSpec(channels, draw(widths), out, draw(st.sampled_from([1, 1, 2, 3]))))
        channels = out
    branches = [*(f"conv{i}" for i in range(2 * len(made) + 1)), "bottleneck", "fc"]
    heads = tuple(
        HeadSpec(f"head{i}", draw(st.integers(1, 9)), draw(st.sampled_from(branches)))
        for i in range(draw(st.integers(0, 4)))
    )
    pixels = PixelSpec(*draw(norms), draw(st.sampled_from(range(16, 49, 4))))
    return NetworkSpec(StemSpec(stem), (tuple(made),), draw(widths), heads, draw(st.sampled_from([None, 6])), pixels)


def names_of_outputs(spec):
    return ["embedding", *(["identity"] if spec.identities else []), *(head.name for head in spec.heads)]
