"""What becomes of outputs: attributes with labels and probabilities, similarity, pictures with captions."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceattr_fast.photo.draw import annotate, caption
from faceattr_fast.photo.image import load_image
from faceattr_fast.photo.results import Attribute, Face, interpret, probabilities, similarity
from faceattr_fast.spec import AGE_LABELS, HeadSpec, NetworkSpec


def head(**options):
    return HeadSpec("glasses", 3, "fc", labels=("none", "clear", "dark"), **options)


def answer(spec, logits):
    network = NetworkSpec.paper(identities=None, heads=(spec,))
    return interpret(network, {spec.name: np.array(logits, np.float32)})[spec.name]


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=3, max_size=3),
    st.sampled_from(["softmax", "sigmoid"]),
)
def test_probabilities_are_stable(logits, kind):
    p = probabilities(head(kind=kind), logits)
    assert p.dtype == np.float64
    assert ((p >= 0) & (p <= 1)).all()
    assert np.argmax(p) in np.flatnonzero(p == p.max())
    if kind == "softmax":
        assert p.sum() == pytest.approx(1, abs=1e-12)


def test_softmax_and_label():
    found = answer(head(), [1.0, 2.0, 3.0])
    e = np.exp([1.0, 2.0, 3.0])
    assert list(found.probabilities) == ["none", "clear", "dark"]
    np.testing.assert_allclose(list(found.probabilities.values()), e / e.sum(), rtol=1e-12)
    assert found.label == "dark"
    assert found.score == found.probabilities["dark"]
    assert not found.abstained
    assert found.years is None
    assert probabilities(head(), np.zeros((4, 2, 3))).shape == (4, 2, 3)


def test_thresholds():
    strict = head(thresholds=(0.4, 0.4, 0.9))
    nothing = answer(strict, [0.0, 1.0, 1.4])  # 0.13, 0.35, 0.52: all below
    assert (nothing.label, nothing.abstained) == (None, True)
    assert nothing.score == nothing.probabilities["dark"]
    second = answer(strict, [0.0, 2.0, 2.1])  # 0.06, 0.45, 0.49: the second reaches its own
    assert (second.label, second.abstained) == ("clear", False)
    assert second.score == second.probabilities["clear"]
    assert answer(strict, [0.0, 0.0, 9.0]).label == "dark"


def test_sigmoid():
    found = answer(head(kind="sigmoid"), [-800.0, 0.5, 800.0])
    assert found.label == "dark"
    np.testing.assert_allclose(list(found.probabilities.values()), [0, 1 / (1 + np.exp(-0.5)), 1], atol=1e-12)
    nothing = answer(head(kind="sigmoid"), [-1.0, -2.0, -3.0])
    assert (nothing.label, nothing.abstained) == (None, True)
    assert nothing.score == pytest.approx(1 / (1 + np.e))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_untrained_classes_never_become_a_label(kind):
    found = answer(head(kind=kind, trained=(True, True, False)), [0.5, 1.5, 50.0])
    assert found.label == "clear"
    assert found.probabilities["dark"] == 0
    assert found.untrained == ("dark",)
    assert found.to_dict()["untrained"] == ["dark"]
    if kind == "softmax":
        assert sum(found.probabilities.values()) == pytest.approx(1)
    nothing = answer(head(kind=kind, trained=False), [1.0, 2.0, 3.0])
    assert (nothing.label, nothing.abstained, nothing.score) == (None, True, 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("logits", [[np.nan] * 3, [np.inf, np.inf, 0]])
def test_logits_that_are_not_finite_give_no_label(logits):
    found = answer(head(), logits)
    assert (found.label, found.abstained) == (None, True)
    json.dumps(found.to_dict(), allow_nan=False)


def test_wrong_number_of_logits():
    with pytest.raises(ValueError, match=r"'glasses'.*\[\.\.\., 3\]"):
        answer(head(), [1.0, 2.0])
    with pytest.raises(ValueError, match="one face"):
        answer(head(), np.zeros((2, 3)))


def test_age_in_years():
    def years(logits, **options):
        age = HeadSpec("age", 14, "fc", labels=AGE_LABELS, **options)
        return answer(age, logits).years

    centres = [1, 3, 5, 7, 11, 17.5, 22.5, 28.5, 35, 40.5, 45.5, 50.5, 56.5, 70]
    for i, centre in enumerate(centres):
        assert years(np.where(np.arange(14) == i, 100.0, 0.0)) == pytest.approx(centre)
    assert years(np.zeros(14)) == pytest.approx(np.mean(centres))
    assert years(np.zeros(14), trained=[True] * 2 + [False] * 12) == pytest.approx(2)
    assert years(np.zeros(14), trained=False) is None
    assert answer(HeadSpec("age", 2, "fc", labels=("young", "old")), [0.0, 1.0]).years is None


def test_similarity():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 320)).astype(np.float32)
    assert similarity(a, a * 7) == pytest.approx(1)
    assert similarity(a, -a) == pytest.approx(-1)
    assert similarity(a, b) == pytest.approx(similarity(b, a))
    expected = np.dot(a.astype(float), b) / np.linalg.norm(a.astype(float)) / np.linalg.norm(b.astype(float))
    assert similarity(a, b) == pytest.approx(expected)
    with pytest.raises(TypeError, match="a must be an embedding, got None"):
        similarity(None, b)
    with pytest.raises(TypeError, match="b must be an embedding, got str"):
        similarity(a, "b")
    for bad in (np.zeros(320), np.full(320, np.nan), np.ones((1, 320)), np.ones(319)):
        with pytest.raises(ValueError, match=r"b must|one length"):
            similarity(a, bad)


@pytest.mark.parametrize("shape", [(40, 30), (100, 900), (512, 512), (1500, 1100)])
def test_annotated_picture(shape):
    gender = Attribute("female", 0.983, {"female": 0.983, "male": 0.017}, False)
    unsure = Attribute(None, 0.3, {"20": 0.3}, True)
    height, width = shape
    box = (0.2 * width, 0.2 * height, 0.5 * width, 0.5 * height)
    points = np.array([box[:2]] * 5, np.float32)
    faces = [
        Face(box, points, 0.9, "landmarks", {"gender": gender, "age": unsure}),
        Face((-5.0, -5.0, width + 10.0, height + 10.0), None, 0.9, "box", {"gender": gender}),
        Face((width - 4.0, height - 4.0, 30.0, 30.0), None, 0.9, "box", {"gender": gender}),
        Face(None, None, None, "given", {"gender": gender}),
        Face(box, None, 0.9, "box"),
    ]
    assert caption(faces[0]) == "female 98%, age ?"
    picture = np.full((*shape, 3), 60, np.uint8)
    drawn = annotate(picture, faces)
    zoom = drawn.width // width
    assert drawn.size == (zoom * width, zoom * height)
    assert max(drawn.size) >= 480
    assert zoom == 1 or max(shape) < 480
    changed = (np.asarray(drawn) != 60).any(axis=2).mean()
    assert 0.01 < changed < 0.6
    assert (picture == 60).all()
    np.testing.assert_array_equal(np.asarray(annotate(ASTRONAUT, [])), ASTRONAUT)


EXAMPLE = Path(__file__).parents[1] / "examples" / "astronaut.jpg"
ASTRONAUT = load_image(EXAMPLE)
