"""The crop rule: landmarks to template, box to template, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("cv2")

from faceattr_fast.photo.alignment import DEFAULT_TEMPLATE, CropTemplate, align, crop_box, similarity_transform

POINTS = np.array(DEFAULT_TEMPLATE.points)


def similarity(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.radians(degrees)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def photo_with_blobs(points: np.ndarray, height: int, width: int, radius: float) -> np.ndarray:
    """Black, with a Gaussian blob at each point."""
    y, x = np.mgrid[:height, :width]
    blobs = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2)) for px, py in points)
    return np.repeat(np.rint(255 * blobs).clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def centroid(crop: np.ndarray, near: np.ndarray, reach: int = 12) -> np.ndarray:
    x0, y0 = np.rint(near).astype(int)
    part = crop[y0 - reach : y0 + reach + 1, x0 - reach : x0 + reach + 1, 0].astype(float)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.array([x0 + (part * x).sum() / part.sum(), y0 + (part * y).sum() / part.sum()])


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.7, 9.0])
@pytest.mark.parametrize("degrees", [0.0, 25.0, -80.0])
def test_landmarks_come_to_lie_on_the_template_within_a_tenth_of_a_pixel(scale, degrees):
    to_photo = similarity(scale, degrees, (0.0, 0.0))
    landmarks = apply(to_photo, POINTS)
    landmarks += 0.3 + 25 * scale - landmarks.min(0)
    height, width = np.ceil(landmarks.max(0)[::-1] + 25 * scale).astype(int)
    crop = align(photo_with_blobs(landmarks, height, width, 3 * scale), landmarks)
    assert crop.shape == (224, 224, 3)
    assert crop.dtype == np.uint8
    for point in POINTS:
        assert np.abs(centroid(crop, point) - point).max() < 0.1


def test_similarity_transform_recovers_a_known_one_and_the_best_of_noisy_points():
    known = similarity(2.5, 33.0, (7.0, -4.0))
    assert np.allclose(similarity_transform(POINTS, apply(known, POINTS)), known)
    noisy = apply(known, POINTS) + np.random.default_rng(0).normal(0, 2, (5, 2))
    best = similarity_transform(POINTS, noisy)

    def error(matrix):
        return ((apply(matrix, POINTS) - noisy) ** 2).sum()

    for change in np.random.default_rng(1).normal(0, 0.02, (50, 4)):
        nearby = best + np.array([[change[0], -change[1], change[2]], [change[1], change[0], change[3]]])
        assert error(nearby) >= error(best)


def test_a_face_much_larger_than_the_crop_is_averaged_not_sampled():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2, (2240, 2240, 1)).repeat(3, 2).astype(np.uint8) * 255
    crop = align(noise, apply(similarity(10, 0, (4.5, 4.5)), POINTS))
    assert abs(crop.mean() - 127.5) < 1
    assert crop.std() < 20  # sampling alone would keep most of the noise's 127


def test_a_crop_of_its_own_size_is_the_photo_itself():
    photo = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert np.array_equal(align(photo, POINTS), photo)


def test_a_large_photo_gives_the_same_crop_as_its_window():
    photo = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    landmarks = apply(similarity(0.8, 12, (500.0, 300.0)), POINTS)
    part = align(np.ascontiguousarray(photo[200:, 350:]), landmarks - (350, 200))
    assert np.abs(align(photo, landmarks).astype(int) - part).max() <= 1


def test_border_rule():
    photo = np.full((40, 40, 3), 200, np.uint8)
    landmarks = apply(similarity(0.2, 0, (-20.0, -20.0)), POINTS)
    assert (align(photo, landmarks) == 200).all()
    zero = align(photo, landmarks, CropTemplate(border="zero"))
    assert zero.min() == 0
    far = apply(similarity(0.2, 0, (5000.0, -9000.0)), POINTS)  # wholly outside: a border, not an error
    assert (align(photo, far) == 200).all()


def test_box_crop_is_where_align_puts_the_average_face():
    from faceattr_fast.photo.alignment import _BOX_POINTS

    box = (31.0, 47.0, 150.0, 150.0)
    landmarks = np.array(box[:2]) + np.array(_BOX_POINTS) * 150
    photo = photo_with_blobs(landmarks, 260, 260, 3)
    crop = crop_box(photo, box)
    assert np.array_equal(crop, align(photo, landmarks))
    eyes = np.mean([centroid(crop, point) for point in POINTS[:2]], axis=0)
    assert np.abs(eyes - POINTS[:2].mean(0)).max() < 4
    wide = crop_box(np.full((50, 90, 3), 7, np.uint8), [5, 5, 60, 40])
    assert (wide == 7).all()


def test_default_template_arithmetic():
    eyes, mouth = POINTS[:2], POINTS[3:]
    assert eyes[:, 1].mean() == pytest.approx(74)
    assert eyes[1, 0] - eyes[0, 0] == pytest.approx(2.6 * (73.53 - 38.29))
    assert mouth[:, 1].mean() - 74 == pytest.approx(2.6 * ((92.37 + 92.20) / 2 - (51.70 + 51.50) / 2))
    assert (POINTS > 50).all()
    assert (POINTS < 190).all()


def test_template_travels_as_plain_json_and_pads():
    template = CropTemplate(border="zero", interpolation="cubic", size=112, points=tuple(map(tuple, POINTS / 2)))
    assert CropTemplate.from_dict(json.loads(json.dumps(template.to_dict()))) == template
    padded = DEFAULT_TEMPLATE.padded(16)
    assert padded.size == 256
    photo = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    landmarks = POINTS + 30.0
    assert np.array_equal(align(photo, landmarks, padded)[16:-16, 16:-16], align(photo, landmarks))
    for bad in ({"points": POINTS.tolist(), "colour": 1}, {"points": [[0, 0]]}, {"border": "wrap"}, {"size": 0}):
        with pytest.raises(ValueError, match=r"template|CropTemplate"):
            CropTemplate.from_dict(bad)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((9, 9, 3), np.float32), TypeError, "float32"),
        ([[0]], TypeError, "list"),
        (np.zeros((9, 9), np.uint8), ValueError, r"\[9, 9\]"),
        (np.zeros((9, 9, 4), np.uint8), ValueError, r"\[9, 9, 4\]"),
        (np.zeros((0, 9, 3), np.uint8), ValueError, r"\[0, 9, 3\]"),
    ],
)
def test_wrong_images_are_named(image, error, message):
    with pytest.raises(error, match=message):
        align(image, POINTS)
    with pytest.raises(error, match=message):
        crop_box(image, (0, 0, 5, 5))


@pytest.mark.parametrize(
    "landmarks",
    [POINTS[:4], POINTS.ravel(), "face", np.full((5, 2), np.nan), np.full((5, 2), 3.0), POINTS * np.inf, POINTS * 1e12],
)
def test_wrong_landmarks_are_refused(landmarks):
    with pytest.raises(ValueError, match="landmarks"):
        align(np.zeros((9, 9, 3), np.uint8), landmarks)


@pytest.mark.parametrize("box", [(0, 0, 5), (0, 0, 0, 5), (0, 0, 5, -1), (np.nan, 0, 5, 5), "box"])
def test_wrong_boxes_are_refused(box):
    with pytest.raises(ValueError, match="box"):
        crop_box(np.zeros((9, 9, 3), np.uint8), box)


def test_wrong_template_is_refused():
    with pytest.raises(TypeError, match="CropTemplate"):
        align(np.zeros((9, 9, 3), np.uint8), POINTS, POINTS)


def test_without_opencv_the_extra_is_named():
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "import numpy as np\n"
        "from faceattr_fast.photo.alignment import DEFAULT_TEMPLATE, align\n"
        "try:\n    align(np.zeros((9, 9, 3), np.uint8), DEFAULT_TEMPLATE.points)\n"
        "except ImportError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "faceattr_fast[photo]" in result.stdout
