"""Other people's labels in this package's order, and the soft targets made of them."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

from faceattr_fast.spec import AGE_LABELS, EMOTION_LABELS, ETHNICITY_LABELS
from faceattr_fast.training import labels

COLUMNS = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]


@pytest.mark.parametrize(
    ("years", "label"),
    [(0, "0-2"), (2, "0-2"), (3, "3"), (4, "4-6"), (7, "7"), (8, "8-14"), (14, "8-14"), (24, "21-24"), (25, "25-32"),
     (37, "33-37"), (43, "38-43"), (47, "44-47"), (53, "48-53"), (59, "54-59"), (60, "60+"), (116, "60+")],
)  # fmt: skip
def test_age_bins(years, label):
    assert AGE_LABELS[labels.age_bin(years)] == label


def test_age_targets_peak_at_the_bin_and_unknown_ages_weigh_nothing():
    years = np.array([1, 5, 11, 28, 40, 75, -1])
    targets = labels.age_targets(years)
    assert targets.dtype == np.float32
    assert np.allclose(targets[:-1].sum(1), 1, atol=1e-5)
    assert targets[:-1].argmax(1).tolist() == [labels.age_bin(y) for y in years[:-1]]
    assert not targets[-1].any()


def test_years_that_stand_for_the_bins():
    centres = labels.age_centres()
    assert (centres[0], centres[1], centres[4], centres[-1]) == (1, 3, 11, 70)


def test_codes_of_utkface_in_our_order():
    assert [labels.utkface_gender(code) for code in (0, 1, 3)] == [1, 0, labels.UNKNOWN]
    names = [ETHNICITY_LABELS[labels.utkface_ethnicity(code)] for code in range(4)]
    assert names == ["white", "black", "east-asian", "south-asian"]
    assert labels.utkface_ethnicity(4) == labels.UNKNOWN
    trained = [name for name, known in zip(ETHNICITY_LABELS, labels.TRAINED_ETHNICITIES, strict=True) if known]
    assert sorted(trained) == sorted(names)


def test_every_name_of_an_emotion():
    names = ("happiness", "sadness", "anger", "surprise", "disgust", "fear", "neutral")
    assert [EMOTION_LABELS[labels.emotion_index(n)] for n in names] == list(EMOTION_LABELS)
    assert [labels.emotion_index(n) for n in EMOTION_LABELS] == list(range(7))
    assert labels.emotion_index("contempt") == labels.UNKNOWN


def test_ferplus_votes():
    votes = np.array([
        [4, 0, 0, 1, 3, 2, 0, 0, 0, 0],  # neutral
        [4, 0, 0, 1, 4, 1, 0, 0, 0, 0],  # a tie
        [1, 0, 0, 0, 0, 0, 2, 7, 0, 0],  # contempt does not count: scared
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 9],  # nothing that counts
    ])  # fmt: skip
    assert labels.ferplus_label(votes, COLUMNS).tolist() == [6, labels.UNKNOWN, 5, labels.UNKNOWN]
    targets = labels.ferplus_targets(votes, COLUMNS)
    assert np.allclose(targets[2], [0, 0, 0, 0, 0, 2 / 3, 1 / 3])
    assert targets.sum(1).tolist() == [1, 1, 1, 0]


def test_smoothing_goes_to_known_classes_alone():
    targets = labels.hard_targets(np.array([2, labels.UNKNOWN]), 4, 0.2, known=(True, False, True, False))
    assert np.allclose(targets, [[0.1, 0, 0.9, 0], [0, 0, 0, 0]])
