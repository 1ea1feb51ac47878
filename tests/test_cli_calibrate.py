"""``faceattr calibrate``: thresholds that keep the rate that was asked for."""

import dataclasses
import json

import numpy as np
import pytest
from drawn_people import EACH, SPEC, VALIDATION, crops, evaluate, outputs, pack, save

import faceattr_fast as faf
from faceattr_fast.cli import main
from faceattr_fast.photo import SENSITIVE_LIMITS, FaceAnalyzer, probabilities
from faceattr_fast.training.evaluate import operating_point
from faceattr_fast.training.packed import PackedFaces
from faceattr_fast.weights import read_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "small.safetensors", SPEC)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Half of the people are in the validation split, the others in the test split."""
    root = tmp_path_factory.mktemp("sets")
    return pack(root / "drawn", lambda i: "validation" if i // EACH in VALIDATION else "test")


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("sets") / "tested", lambda i: "test")


def calibrate(weights, faces, out, *arguments):
    base = ["calibrate", str(faces), "--weights", str(weights), "--out", str(out), "--target-fpr", "0.1"]
    return main([*base, *map(str, arguments)])


def test_thresholds_keep_the_rate_and_the_analyzer_obeys(weights, faces, tmp_path, capsys):
    out = tmp_path / "calibrated.safetensors"
    assert calibrate(weights, faces, out, "--head", "gender") == 0
    text = capsys.readouterr().out
    assert "validation, 48 faces, by which they were chosen" in text
    assert "test, 48 faces, by which nothing was chosen" in text
    found, before = read_weights(out), read_weights(weights)
    head = found.spec.head("gender")
    assert all(np.array_equal(found.tensors[name], before.tensors[name]) for name in before.tensors)
    assert dataclasses.replace(head, thresholds=None) == before.spec.head("gender")
    assert found.metadata["licence"] == "none"
    entry = found.metadata["thresholds"]["gender"]
    assert entry["target false positive rate"] == 0.1
    packed = PackedFaces.open(faces)
    p = probabilities(head, outputs(weights)["gender"])
    labels, validation = packed.labels["gender"], packed.split == "validation"
    for i, threshold in enumerate(head.thresholds):
        negatives = p[validation & (labels != i), i]
        if len(negatives):
            assert (negatives >= threshold).mean() <= 0.1
    said, truth = p >= head.thresholds, labels[:, None] == np.arange(2)
    assert entry["test"]["unlabelled"] == pytest.approx((~said[~validation].any(1)).mean())
    expected = (said & truth)[~validation].sum() / truth[~validation].sum()
    assert entry["test"]["true positive"] == pytest.approx(expected)
    answers = FaceAnalyzer.load(out, sensitive=True, detector="haar").predict_crops(crops())
    abstained = [face.gender.abstained for face in answers]
    assert abstained == (~said.any(1)).tolist()
    assert 0 < sum(abstained) < len(abstained)
    report = evaluate(out, tmp_path / "r", faces, "--heads", "gender")["sets"][0]["heads"]["gender"]
    assert report["operating point"]["unlabelled"]["rate"] == pytest.approx(entry["test"]["unlabelled"])
    female = ~validation & (labels == 0)
    groups = json.loads((tmp_path / "r" / "report.json").read_text())["sets"][0]["groups"]
    assert groups["female"]["unlabelled"] == {"gender": pytest.approx(np.mean(np.array(abstained)[female]))}
    answered = [face for face, part in zip(answers, validation, strict=True) if not part and not face.gender.abstained]
    assert report["operating point"]["answered"]["n"] == len(answered)
    # A further head is added in place, and the first stays.
    assert calibrate(out, faces, out, "--head", "age") == 0
    again = read_weights(out)
    assert again.spec.head("gender") == head
    assert again.metadata["thresholds"].keys() == {"gender", "age"}


def test_several_labels_at_once_are_calibrated_too(weights, tested, faces, tmp_path, capsys):
    out = tmp_path / "calibrated.safetensors"
    assert calibrate(weights, faces, out, "--head", "glasses") == 0
    packed = PackedFaces.open(faces)
    validation = (packed.split == "validation") & packed.targets["glasses"].any(1)
    head = read_weights(out).spec.head("glasses")
    p, truth = probabilities(head, outputs(weights)["glasses"])[validation], packed.targets["glasses"][validation] == 1
    for i, threshold in enumerate(head.thresholds):
        assert (p[~truth[:, i], i] >= threshold).mean() <= 0.1
    capsys.readouterr()
    assert calibrate(weights, tested, out, "--head", "glasses") == 2
    assert "no face in the split 'validation'" in capsys.readouterr().err


def test_calibrate_says_what_is_wrong(weights, faces, tmp_path, capsys):
    out = tmp_path / "out.safetensors"

    def error(*arguments):
        assert calibrate(weights, faces, out, *arguments) == 2
        assert not out.exists()
        return capsys.readouterr().err

    assert "no head named 'mood'" in error("--head", "mood")
    assert "expected a rate above 0 and below 1, got '1.5'" in error("--head", "gender", "--target-fpr", "1.5")
    assert calibrate(weights, faces, tmp_path, "--head", "gender") == 2
    assert "is a folder" in capsys.readouterr().err
    assert calibrate(weights, faces, out, "--head", "gender", "--target-fpr", "0.001") == 0
    assert "too few to measure a rate of 0.001" in capsys.readouterr().err


def test_thresholds_of_a_sensitive_head_come_with_what_it_must_not_be_used_for(weights, faces, tmp_path, capsys):
    for head, said in (("ethnicity", True), ("gender", False)):
        assert calibrate(weights, faces, tmp_path / "w.safetensors", "--head", head) == 0
        assert (SENSITIVE_LIMITS in capsys.readouterr().err) == said


def test_classes_without_training_data_get_no_say(weights, faces):
    from faceattr_fast.training.cases import examine_packed

    fast = faf.FastForward.load(weights, heads=["ethnicity"])
    cases = examine_packed(fast, PackedFaces.open(faces), "all")
    head = dataclasses.replace(SPEC.head("ethnicity"), thresholds=(0.0, 0.0, 0.0))
    point = operating_point(head, cases)
    assert point["classes"].keys() == {"black", "white"}
    assert cases.left_out == {"ethnicity": {"hispanic": 3 * EACH}}
    assert point["n"] == 6 * EACH  # neither those left out nor the unlabelled
