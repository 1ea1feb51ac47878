"""From photos to typed results, with a stand-in for the network and for the detector."""

import dataclasses
import json
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from random_weights import one_block, random_tensors

from faceattr_fast.photo import analyzer as analyzer_module
from faceattr_fast.photo.alignment import DEFAULT_TEMPLATE, CropTemplate, align, crop_box
from faceattr_fast.photo.analyzer import FaceAnalyzer
from faceattr_fast.photo.detectors import Detection, HaarDetector
from faceattr_fast.photo.image import ImageError, load_image
from faceattr_fast.photo.results import Failure
from faceattr_fast.spec import HeadSpec, NetworkSpec
from faceattr_fast.weights import Weights, write_weights

EXAMPLE = Path(__file__).parents[1] / "examples" / "astronaut.jpg"
ASTRONAUT = load_image(EXAMPLE)
LANDMARKS = np.array([(204, 102), (247, 102), (224, 126), (206, 143), (241, 143)], np.float32)
SPEC = NetworkSpec.paper(identities=None)


class StandInNetwork:
    """Answers depend on the pixels of each crop alone, as the real network's do; batch sizes are kept."""

    def __init__(self, heads=("embedding", "gender", "age"), metadata=None, spec=SPEC):
        self.spec, self.heads, self.metadata = spec, heads, metadata or {}
        self.batches = []

    def __call__(self, pixels):
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (224, 224, 3)
        self.batches.append(len(pixels))
        widths = {"embedding": 320, **{head.name: head.classes for head in self.spec.heads}}
        flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 64 - 2
        return {name: flat[:, 1000 : 1000 + widths[name]] for name in self.heads}


class StandInDetector:
    """As many faces as the picture's first pixel says, each larger than the one before."""

    name = "stand-in"

    def __init__(self, landmarks=None):
        self.landmarks = landmarks

    def detect(self, image):
        if image[0, 0, 0] == 255:
            raise RuntimeError("detector failed")
        return [Detection((10.0 + i, 20.0, 40.0 + i, 40.0), self.landmarks, 0.9) for i in range(image[0, 0, 0])]


def photo(faces, seed=0):
    picture = np.random.default_rng(seed).integers(0, 255, (100, 100, 3), np.uint8)
    picture[0, 0, 0] = faces
    return picture


def stand_in(**options):
    return FaceAnalyzer(StandInNetwork(**options), StandInDetector())


def test_real_portrait_with_the_default_detector():
    (face,) = FaceAnalyzer(StandInNetwork(), HaarDetector()).predict(EXAMPLE)
    assert face.crop == "box"
    assert face.landmarks is None
    x, y, width, height = face.box
    assert x < 204
    assert x + width > 247
    assert y < 102 < y + height
    assert face.embedding.shape == (320,)
    assert face.embedding.dtype == np.float32
    assert set(face.attributes) == {"gender", "age"}
    assert face.gender.label in ("female", "male")
    assert face.emotion is None
    assert face.ethnicity is None
    json.dumps(face.to_dict(embedding=True), allow_nan=False)


@pytest.mark.parametrize("template", [DEFAULT_TEMPLATE, CropTemplate(border="zero", interpolation="cubic")])
def test_crops_follow_the_template_of_the_weights(template):
    fast = StandInNetwork(metadata={"crop": template.to_dict()})
    for landmarks, crop in ((LANDMARKS, "landmarks"), (None, "box")):

        class OneFace:
            name = "one"

            def detect(self, image, landmarks=landmarks):
                return [Detection((177.0, 66.0, 95.0, 95.0), landmarks, 1.0)]

        (face,) = FaceAnalyzer(fast, OneFace()).predict(ASTRONAUT)
        assert face.crop == crop
        cut = crop_box(ASTRONAUT, face.box, template) if landmarks is None else align(ASTRONAUT, LANDMARKS, template)
        np.testing.assert_array_equal(face.embedding, fast(cut[None])["embedding"][0])


def test_one_batch_per_photo_largest_face_first():
    analyzer = stand_in()
    faces = analyzer.predict(photo(5))
    assert analyzer.fast.batches == [5]
    assert [face.box[2] for face in faces] == [44, 43, 42, 41, 40]
    assert analyzer.predict(photo(0)) == []
    assert analyzer.fast.batches == [5]  # nothing to run


def test_several_photos_share_batches_and_keep_their_order():
    analyzer = stand_in()
    counts = [3, 0, 1, 40, 2, 0, 7] + [1] * 40
    results = analyzer.predict(photo(count, seed) for seed, count in enumerate(counts))
    assert [len(faces) for faces in results] == counts
    assert len(analyzer.fast.batches) == 3
    for seed, faces in enumerate(results):
        alone = analyzer.predict(photo(counts[seed], seed))
        assert [face.embedding.tolist() for face in faces] == [face.embedding.tolist() for face in alone]
    assert analyzer.predict([]) == []


def test_every_kind_of_source(tmp_path):
    picture = Image.fromarray(photo(2))
    picture.save(tmp_path / "photo.png")
    path, analyzer = tmp_path / "photo.png", stand_in()
    for source in (path, str(path), path.read_bytes(), photo(2), picture):
        assert len(analyzer.predict(source)) == 2
        assert [len(faces) for faces in analyzer.predict([source])] == [2]


def test_on_error(tmp_path):
    analyzer = stand_in()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    sources = [photo(1), broken, tmp_path / "missing.jpg", photo(255), 3, photo(2)]
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        analyzer.predict(sources)
    results = analyzer.predict(sources, on_error="record")
    assert [type(result) for result in results] == [list, Failure, Failure, Failure, Failure, list]
    assert [type(failure.error) for failure in results[1:5]] == [ImageError, FileNotFoundError, RuntimeError, TypeError]
    assert results[1].source == str(broken)
    assert results[3].source == "ndarray"
    assert results[1].to_dict()["error"].startswith("ImageError: ")
    assert len(results[5]) == 2
    with pytest.raises(ImageError):
        analyzer.predict(broken, on_error="record")
    with pytest.raises(ValueError, match="on_error"):
        analyzer.predict(sources, on_error="skip")
    with pytest.raises(TypeError, match="iterable of photos"):
        analyzer.stream(str(broken))


def test_stream_reads_only_a_few_photos_ahead():
    opened = []

    def photos():
        for seed in range(1000):
            opened.append(seed)
            yield photo(1, seed)

    stream = stand_in().stream(photos())
    assert len(next(stream)) == 1
    assert len(opened) <= 32


def test_given_crops():
    analyzer = stand_in()
    grey = np.full((48, 48), 90, np.uint8)
    crops = [grey, ASTRONAUT[40:190, 150:290], Image.fromarray(grey), ASTRONAUT[:224, :224], str(EXAMPLE)]
    faces = analyzer.predict_crops(crops)
    assert analyzer.fast.batches == [5]
    assert all(face.box is None and face.score is None and face.crop == "given" for face in faces)
    np.testing.assert_array_equal(faces[0].embedding, faces[2].embedding)
    np.testing.assert_array_equal(faces[3].embedding, analyzer.fast(ASTRONAUT[None, :224, :224])["embedding"][0])
    assert len(analyzer.predict_crops(np.zeros((70, 224, 224, 3), np.uint8))) == 70
    assert analyzer.predict_crops([]) == []
    for single in (ASTRONAUT, str(EXAMPLE)):
        with pytest.raises(TypeError, match="into a list"):
            analyzer.predict_crops(single)


def test_crops_are_those_that_predict_gives_to_the_network():
    class Recorder(StandInNetwork):
        def __call__(self, pixels):
            self.pixels = pixels
            return super().__call__(pixels)

    network = Recorder()
    analyzer = FaceAnalyzer(network, StandInDetector(LANDMARKS))
    analyzer.predict(photo(3))
    crops = analyzer.crops(photo(3))
    assert crops.dtype == np.uint8
    np.testing.assert_array_equal(crops, network.pixels)
    assert analyzer.crops(photo(0)).shape == (0, 224, 224, 3)
    with pytest.raises(ImageError):
        analyzer.crops(b"no picture")


def test_sensitive_heads_need_a_word(caplog, monkeypatch):
    monkeypatch.setattr(analyzer_module, "_notice_given", False)
    heads = ("embedding", "gender", "ethnicity", "emotion", "age")
    with pytest.raises(ValueError, match=r"emotion and ethnicity.*sensitive=True"):
        stand_in(heads=heads)
    with pytest.raises(ValueError, match="sensitive=True"):
        FaceAnalyzer.load("weights.safetensors", heads=["emotion"])
    caplog.set_level(logging.WARNING, "faceattr_fast")
    for _ in range(2):
        (face,) = FaceAnalyzer(StandInNetwork(heads=heads), StandInDetector(), sensitive=True).predict(photo(1))
        assert face.emotion.label in ("happy", "sad", "angry", "surprised", "disgusted", "scared", "neutral")
        assert face.ethnicity is not None
    assert len(caplog.records) == 1
    assert "Do not use them" in caplog.text
    caplog.clear()
    FaceAnalyzer(StandInNetwork(), StandInDetector(), sensitive=True)  # computes neither: nothing to say
    assert not caplog.records


@pytest.fixture
def weights_file(tmp_path):
    pytest.importorskip("faceattr_fast._core")
    spec = one_block(HeadSpec("gender", 2, "fc", labels=("female", "male")), HeadSpec("emotion", 3, "conv2"))
    path = tmp_path / "small.safetensors"
    write_weights(path, Weights(spec, random_tensors(spec), {"crop": CropTemplate(border="zero").to_dict()}))
    return path


def test_load(weights_file):
    analyzer = FaceAnalyzer.load(weights_file, detector="haar", threads=1)
    assert analyzer.fast.heads == ("embedding", "gender")
    assert analyzer.template.border == "zero"
    (face,) = analyzer.predict(EXAMPLE)
    assert face.embedding.shape == (16,)
    assert face.gender.label in ("female", "male")
    assert face.emotion is None
    (again,), nobody = pickle.loads(pickle.dumps(analyzer)).predict([ASTRONAUT, photo(0)])
    np.testing.assert_array_equal(again.embedding, face.embedding)
    assert nobody == []
    (sensitive,) = FaceAnalyzer.load(weights_file, sensitive=True, detector="haar").predict(EXAMPLE)
    assert sensitive.emotion.label in ("0", "1", "2")
    np.testing.assert_array_equal(sensitive.embedding, face.embedding)
    (bare,) = FaceAnalyzer.load(weights_file, detector="haar", heads=["gender"]).predict(EXAMPLE)
    assert bare.embedding is None
    assert bare.gender.label == face.gender.label
    assert bare.gender.score == pytest.approx(face.gender.score, abs=1e-6)  # another plan: nearly the same bits


def test_template_of_another_size():
    with pytest.raises(ValueError, match="112"):
        FaceAnalyzer(StandInNetwork(), StandInDetector(), CropTemplate(size=112))


def test_shared_between_threads():
    analyzer = FaceAnalyzer(StandInNetwork(), HaarDetector())
    portrait = ASTRONAUT[:256, 100:356]
    photos = [portrait, np.ascontiguousarray(portrait[:, ::-1]), photo(0)]

    def answers(picture):
        return [(face.box, face.embedding.tolist()) for face in analyzer.predict(picture)]

    expected = [answers(picture) for picture in photos]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answers, photos * 4)) == expected * 4


def test_results_are_frozen_and_pickle():
    (face,) = stand_in().predict(photo(1))
    copy = pickle.loads(pickle.dumps(face))
    assert copy.to_dict(embedding=True) == face.to_dict(embedding=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        face.score = 1.0
