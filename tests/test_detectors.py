"""Detectors find the face of a known portrait, say nothing of other pictures, and are found by name."""

import hashlib
import os
import pickle
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceattr_fast.photo import detectors, yunet_model
from faceattr_fast.photo.detectors import (
    Detection,
    Detector,
    DetectorError,
    HaarDetector,
    YuNetDetector,
    find_detector,
)
from faceattr_fast.photo.image import load_image

ASTRONAUT = load_image(Path(__file__).parents[1] / "examples" / "astronaut.jpg")
# Eyes, nose, mouth corners in that picture, by eye.
LANDMARKS = np.array([(204, 102), (247, 102), (224, 126), (206, 143), (241, 143)])

YUNET = os.environ.get("FACEATTR_YUNET")
needs_yunet = pytest.mark.skipif(not YUNET, reason="FACEATTR_YUNET names no YuNet model file")


@pytest.fixture(params=["haar", pytest.param("yunet", marks=needs_yunet)])
def detector(request):
    return HaarDetector() if request.param == "haar" else YuNetDetector(YUNET)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No model named, an empty cache, no network. Returns the cache folder."""

    def refuse(*args, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.delenv("FACEATTR_YUNET", raising=False)
    monkeypatch.setenv("FACEATTR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path / "cache"


def encloses_face(box, factor=1.0):
    x, y, width, height = np.array(box) / factor
    from_corner = LANDMARKS - (x, y)
    inside = (from_corner > 0).all() and (from_corner < (width, height)).all()
    return inside and 60 < width < 140 and 60 < height < 160


def plain(found):
    return [(one.box, None if one.landmarks is None else one.landmarks.tolist(), one.score) for one in found]


def test_portrait(detector):
    (face,) = detector.detect(ASTRONAUT)
    assert encloses_face(face.box)
    assert 0.6 < face.score <= 1
    assert isinstance(detector, Detector)
    if detector.name == "yunet":
        assert face.landmarks.dtype == np.float32
        assert np.abs(face.landmarks - LANDMARKS).max() < 6
    else:
        assert face.landmarks is None


@pytest.mark.parametrize("factor", [3, 6])
def test_coordinates_of_a_large_picture(detector, factor):
    large = cv2.resize(ASTRONAUT, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    (face,) = detector.detect(large)
    assert encloses_face(face.box, factor)
    if face.landmarks is not None:
        assert np.abs(face.landmarks / factor - LANDMARKS).max() < 7


def test_several_faces_are_found_once_each(detector):
    (face,) = detector.detect(ASTRONAUT)
    found = detector.detect(np.concatenate([ASTRONAUT, ASTRONAUT[:, ::-1]], axis=1))
    assert len(found) == 2
    assert found[0].score >= found[1].score
    left = min(found, key=lambda one: one.box[0])
    np.testing.assert_allclose(left.box, face.box, atol=12)
    assert abs(max(one.box[0] + one.box[2] / 2 for one in found) - (1023 - 224)) < 12


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (3, 1280), (1280, 3), (20, 20), (31, 33), (2, 9000)])
@pytest.mark.parametrize("value", [0, 127])
def test_pictures_without_a_face(detector, shape, value):
    for _ in range(3):  # some OpenCV versions answer from memory that was never written
        detector.detect(ASTRONAUT[:100, :100])
        assert detector.detect(np.full((*shape, 3), value, np.uint8)) == []


def test_noise_gives_finite_boxes_only(detector):
    rng = np.random.default_rng(0)
    for shape in ((1, 64), (4, 1300), (64, 64), (200, 300)):
        for one in detector.detect(rng.integers(0, 256, (*shape, 3), np.uint8)):
            assert np.isfinite(one.box).all()


def test_shared_between_threads(detector):
    portrait = ASTRONAUT[:256, 100:356]
    pictures = [portrait, np.ascontiguousarray(portrait[:, ::-1])]
    expected = [plain(detector.detect(picture)) for picture in pictures]
    assert all(expected)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(detector.detect, pictures * 6))
    assert [plain(found) for found in results] == expected * 6


def test_pickle(detector):
    copy = pickle.loads(pickle.dumps(detector))
    assert plain(copy.detect(ASTRONAUT)) == plain(detector.detect(ASTRONAUT))


@needs_yunet
def test_close_up_beyond_the_size_yunet_knows():
    close = cv2.resize(ASTRONAUT[50:190, 160:290], None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    (face,) = YuNetDetector(YUNET).detect(close)
    assert face.score > 0.85
    assert np.abs(face.landmarks / 8 + (160, 50) - LANDMARKS).max() < 7


def test_duplicates_keep_the_best():
    def detection(x, size, score):
        return Detection((x, 0.0, size, size), None, score)

    nested, best, apart = detection(12.0, 20.0, 0.7), detection(0.0, 50.0, 0.9), detection(45.0, 50.0, 0.8)
    assert detectors._without_duplicates([nested, apart, best]) == [best, apart]


def test_opencv_5_without_cascades(monkeypatch, offline):
    monkeypatch.delattr(cv2, "CascadeClassifier")
    for name in ("haar", "auto"):
        with pytest.raises(DetectorError, match=r"opencv-python-headless<5.*FACEATTR_YUNET"):
            find_detector(name)


def test_damaged_model(tmp_path):
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(DetectorError, match=r"yunet\.onnx: OpenCV .* cannot read it"):
        YuNetDetector(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        find_detector("auto", tmp_path / "absent.onnx")


def test_auto_falls_back_to_haar(offline, caplog):
    caplog.set_level("INFO", "faceattr_fast")
    assert isinstance(find_detector(), HaarDetector)
    assert "face detector: haar" in caplog.text
    offline.mkdir()
    (offline / yunet_model.FILE_NAME).write_bytes(b"something else")
    assert isinstance(find_detector(), HaarDetector)
    assert "other SHA-256" in caplog.text


def test_environment_names_the_model(offline, monkeypatch, tmp_path):
    monkeypatch.setenv("FACEATTR_YUNET", str(tmp_path / "absent.onnx"))
    with pytest.raises(FileNotFoundError):
        find_detector()
    assert isinstance(find_detector("haar"), HaarDetector)


def test_yunet_offline_says_what_to_do(offline):
    with pytest.raises(DetectorError, match=r"no network.*FACEATTR_YUNET"):
        find_detector("yunet")


@needs_yunet
def test_yunet_is_preferred_where_it_is_at_hand(offline, monkeypatch):
    assert isinstance(find_detector("auto", YUNET), YuNetDetector)
    data = Path(YUNET).read_bytes()
    monkeypatch.setattr(yunet_model, "SHA256", hashlib.sha256(data).hexdigest())
    offline.mkdir()
    (offline / yunet_model.FILE_NAME).write_bytes(data)
    assert isinstance(find_detector(), YuNetDetector)


def test_download_is_checked(monkeypatch, tmp_path):
    monkeypatch.setenv("FACEATTR_CACHE", str(tmp_path / "cache"))
    origin = tmp_path / "model.onnx"
    origin.write_bytes(b"the model")
    with pytest.raises(DetectorError, match="another file"):
        yunet_model.download_yunet(origin.as_uri())
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(yunet_model, "SHA256", hashlib.sha256(b"the model").hexdigest())
    path = yunet_model.download_yunet(origin.as_uri())
    assert path.read_bytes() == b"the model"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert yunet_model.cached_yunet() == b"the model"
    with pytest.raises(DetectorError, match="could not be fetched"):
        yunet_model.download_yunet((tmp_path / "absent").as_uri())


def test_detector_argument():
    class Own:
        name = "own"

        def detect(self, image):
            return []

    own = Own()
    assert find_detector(own) is own
    with pytest.raises(TypeError, match="detect"):
        find_detector(object())
    with pytest.raises(ValueError, match="'auto', 'haar', 'yunet'"):
        find_detector("mtcnn")
    for other in ("haar", own):
        with pytest.raises(ValueError, match="detector_model"):
            find_detector(other, "yunet.onnx")
