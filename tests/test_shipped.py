"""The package as it comes: its own weights, a real photo, a typed result."""

from pathlib import Path

import numpy as np
import pytest

import faceattr_fast as faf
from faceattr_fast.photo import CropTemplate, load_image

ASTRONAUT = Path(__file__).parents[1] / "examples" / "astronaut.jpg"


@pytest.fixture(scope="module")
def analyzer():
    return faf.FaceAnalyzer.load(threads=2)


def test_a_photo_becomes_a_face(analyzer):
    (face,) = analyzer.predict(ASTRONAUT)
    assert face.gender.label == "female"
    assert 15 < face.age.years < 60
    assert face.embedding.shape == (320,)
    assert face.crop == "box" if analyzer.detector.name == "haar" else "landmarks"
    assert face.emotion is None
    assert face.ethnicity is None
    x, y, width, height = face.box
    assert x < 223 < x + width  # the nose of the portrait
    assert y < 130 < y + height


def test_sensitive_attributes_name_no_untrained_class():
    (face,) = faf.FaceAnalyzer.load(sensitive=True).predict(ASTRONAUT)
    assert face.emotion.label in ("happy", "neutral", "surprised", "sad", "angry", "disgusted", "scared")
    assert face.ethnicity.label in ("black", "east-asian", "south-asian", "white")
    assert face.ethnicity.probabilities["hispanic"] == 0


def test_shipped_network_agrees_with_the_reference():
    torch = pytest.importorskip("torch")
    net = faf.reference.load(faf.shipped_weights())
    fast = faf.FastForward.load(faf.shipped_weights())
    template = CropTemplate.from_dict(fast.metadata["crop"])
    photo = load_image(ASTRONAUT)[40:264, 110:334]
    assert photo.shape == (template.size, template.size, 3)
    crops = np.stack([photo, photo[:, ::-1]])
    mean, scale = np.array(net.spec.pixels.mean), np.array(net.spec.pixels.scale)
    x = torch.from_numpy(((crops - mean) / scale).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        expected = {name: value.numpy() for name, value in net.double()(x).items()}
    for name, value in fast(crops).items():
        assert np.linalg.norm(value - expected[name]) <= 2e-6 * np.linalg.norm(expected[name]), name


def test_figures_are_well_above_chance():
    accuracy = faf.FastForward.load(faf.shipped_weights()).metadata["accuracy"]
    assert accuracy["gender"]["value"] >= 0.85  # of two, a third of the faces are children
    assert accuracy["ethnicity"]["value"] >= 0.82  # of four classes
    assert accuracy["emotion"]["value"] >= 0.62  # of seven
    assert accuracy["age"]["value"] >= 0.55  # of fourteen
    assert accuracy["verification"]["value"] >= 0.80  # of two
