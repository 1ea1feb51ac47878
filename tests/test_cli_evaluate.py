"""``faceattr evaluate``: reports of drawn faces against what is computed here from the outputs."""

import dataclasses
import json

import numpy as np
import pytest
from drawn_people import EACH, LABELS, NAMES, PEOPLE, SPEC, VALIDATION, crops, entry, evaluate, outputs, pack, save
from PIL import Image
from test_protocols import accuracy_by_sklearn, write_lfw_pairs

import faceattr_fast as faf
from faceattr_fast.cli import main
from faceattr_fast.photo import SENSITIVE_LIMITS, probabilities
from faceattr_fast.spec import years_of_label
from faceattr_fast.training.packed import PackedFaces

metrics = pytest.importorskip("sklearn.metrics")


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


def test_figures_are_those_of_the_outputs(weights, faces, tmp_path, capsys):
    report = evaluate(weights, tmp_path / "r", faces)
    (section,) = report["sets"]
    packed = PackedFaces.open(faces)
    test = np.flatnonzero(packed.split == "test")
    assert (section["faces"], section["split"]) == (len(test), "by lot")
    found = outputs(weights, test)
    for head in ("gender", "ethnicity", "age"):
        p = probabilities(SPEC.head(head), found[head])
        labels = packed.labels[head][test]
        if head == "ethnicity":
            assert section["heads"][head]["left out"] == {"hispanic": int((labels == 2).sum())}
            labels = np.where(labels == 2, -1, labels)
        known = labels >= 0
        row = section["heads"][head]
        assert row["n"] == known.sum()
        assert row["accuracy"] == pytest.approx(metrics.accuracy_score(labels[known], p[known].argmax(1)))
        table = metrics.confusion_matrix(labels[known], p[known].argmax(1), labels=range(len(LABELS[head])))
        assert np.array_equal(row["confusion"], table)
        assert 0 <= row["calibration"]["error"] <= 1
    centres = np.array([years_of_label(label) for label in LABELS["age"]])
    error = np.abs(probabilities(SPEC.head("age"), found["age"]) @ centres - packed.years[test])
    assert section["heads"]["age"]["mean error in years"] == pytest.approx(error.mean())
    groups = section["groups"]
    female = packed.labels["gender"][test] == 0
    years = ("0-2", "8-14", "60+", "0-14", "15+")
    ethnicities = ("black", "white", "other or unknown ethnicity")
    assert list(groups) == ["female", "male", *(f"{name} years" for name in years), *ethnicities]
    young = packed.years[test] == 1
    assert groups["0-2 years"]["n"] == young.sum()
    assert groups["0-2 years"]["mean error in years"] == pytest.approx(error[young].mean())
    gender = probabilities(SPEC.head("gender"), found["gender"]).argmax(1) == packed.labels["gender"][test]
    for name, members in (("female", female), ("male", ~female)):
        assert groups[name]["gender"] == pytest.approx(gender[members].mean())
        assert groups[name]["counts"]["gender"] == members.sum()
    point = section["heads"]["glasses"]["operating point"]
    said = probabilities(SPEC.head("glasses"), found["glasses"]) >= 0.5
    truth = packed.targets["glasses"][test] == 1
    assert point["true positive"]["rate"] == pytest.approx((said & truth).sum() / truth.sum())
    assert point["false positive"]["rate"] == pytest.approx((said & ~truth).sum() / (~truth).sum())
    assert point["n"] == len(test)
    bins = section["heads"]["glasses"]["calibration"]["bins"]
    assert sum(row["n"] for row in bins) == 2 * len(test)  # each class on its own
    assert "gender" in capsys.readouterr().out


def test_a_sets_own_order_of_classes_changes_nothing(weights, tested, tmp_path):
    backwards = {head: names[::-1] for head, names in LABELS.items()}
    turned = evaluate(weights, tmp_path / "t", pack(tmp_path / "tested", lambda i: "test", backwards))
    report = evaluate(weights, tmp_path / "r", tested)
    assert turned == report
    for head in ("gender", "ethnicity", "age"):
        table = np.array(report["sets"][0]["heads"][head]["confusion"])
        assert not np.array_equal(table, table[::-1, ::-1])  # it would show


def test_a_report_has_plots_and_is_the_same_twice(weights, faces, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        evaluate(weights, tmp_path / name, faces, plots=True)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [*(f"drawn-{head}.png" for head in ("age", "ethnicity", "gender")), "report.json", "report.md"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    text = (tmp_path / "a" / "report.md").read_text()
    assert "![drawn-gender](drawn-gender.png)" in text
    assert "Mean error of the expected age" in text
    assert "nan" not in text


def test_figures_of_sensitive_heads_come_with_what_they_must_not_be_used_for(weights, faces, tmp_path):
    for heads, said in (("ethnicity,gender", True), ("gender,age", False)):
        report = evaluate(weights, tmp_path, faces, "--heads", heads)
        assert report.get("limits of use") == (SENSITIVE_LIMITS if said else None)
        assert (SENSITIVE_LIMITS in (tmp_path / "report.md").read_text()) == said


def test_verification_by_lfws_file_is_that_of_scikit_learn(weights, tested, tmp_path):
    pairs = write_lfw_pairs(tmp_path / "pairs.txt", each=6)
    report = evaluate(weights, tmp_path / "r", tested, "--pairs", pairs)["verification"]
    place = {entry(i).file[:-4]: i for i in range(PEOPLE * EACH)}
    lines = [line.split() for line in pairs.read_text().splitlines()[1:]]
    first = [place[f"{line[0]}_{int(line[1]):04d}"] for line in lines]
    second = [place[f"{line[-2] if len(line) == 4 else line[0]}_{int(line[-1]):04d}"] for line in lines]
    embedding = outputs(weights)["embedding"].astype(np.float64)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    cosines = (unit[first] * unit[second]).sum(1)
    same, split = np.array([len(line) == 3 for line in lines]), np.repeat(np.arange(10), 12)
    mean, error = accuracy_by_sklearn(cosines, same, split)
    assert report["accuracy"] == pytest.approx(mean, abs=1e-12)
    assert report["standard error"] == pytest.approx(error, abs=1e-12)
    assert report["area under curve"] == pytest.approx(metrics.roc_auc_score(same, cosines))
    assert 0.5 < mean < 1
    assert report["left out"] == {"of another split": 0, "missing": 0}


def test_pairs_of_trained_and_missing_pictures(weights, faces, tested, tmp_path, capsys, monkeypatch):
    lines = ["fold,file_a,file_b,same"]
    for fold in (1, 2):
        lines += [f"{fold},Ann_6_000{i},Ann_{j}_000{i},{int(j == 6)}" for i, j in ((1, 7), (2, 7), (3, 8))]
        lines += [f"{fold},Ann_6_000{i},Ann_6_000{i + 1},1" for i in (1, 2, 3)]
    held_out = len(lines) - 1
    lines += ["1,Ann_0_0001,Ann_0_0002,1", "2,Ann_6_0001,Cid_0001,0"]  # the first is of the validation split
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("\n".join(lines) + "\n")
    command = [
        *map(str, ["evaluate", faces, "--no-plots", "--weights", weights, "--out", tmp_path / "r", "--pairs", pairs])
    ]
    with monkeypatch.context() as patch:  # before anything is measured
        patch.setattr("faceattr_fast.cli.evaluate.examined_set", None)
        assert main(command) == 2
    assert "1 pictures of 1 of the 14 pairs are in no set: Cid_0001" in capsys.readouterr().err
    assert main([*command, "--allow-missing"]) == 0
    found = json.loads((tmp_path / "r" / "report.json").read_text())["verification"]
    assert found["left out"] == {"of another split": 1, "missing": 1}
    assert found["n"] == held_out
    (tmp_path / "bad.txt").write_text("1 1\nAnn 1 2\nAnn 1 Bob\n")
    assert main([*command[:-1], str(tmp_path / "bad.txt")]) == 2
    assert "bad.txt, line 3" in capsys.readouterr().err
    pairs.write_text("fold,file_a,file_b,same\n1,Ann_0_0001,Ann_0_0002,1\n")
    assert main(command) == 2
    assert "none has both faces" in capsys.readouterr().err


def test_identity_by_its_layer_or_by_embeddings(weights, tested, tmp_path):
    by_mean = evaluate(weights, tmp_path / "mean", tested)["sets"][0]["identity"]
    assert by_mean["method"] == "nearest mean of embeddings"
    assert (by_mean["n"], by_mean["persons"]) == (5 * PEOPLE, PEOPLE)
    assert by_mean["top 1"]["accuracy"] <= by_mean["top 5"]["accuracy"]
    known = NAMES[:3]
    spec = dataclasses.replace(SPEC, identities=len(known))
    named = save(tmp_path / "named.safetensors", spec, {"identities": known})
    layer = evaluate(named, tmp_path / "layer", tested)["sets"][0]["identity"]
    assert layer["method"] == "identity layer"
    assert (layer["n"], layer["persons"]) == (15, 3)
    logits = faf.FastForward.load(named, heads=["identity"])(crops()[: 3 * EACH])["identity"]
    right = logits.argmax(1) == np.repeat(np.arange(3), EACH)
    assert right.sum() - 3 * (EACH - 5) <= layer["top 1"]["accuracy"] * 15 <= right.sum()
    assert layer["top 5"]["accuracy"] == 1  # of three
    alone = pack(tmp_path / "alone", lambda i: "test" if i < EACH + 5 else "train")  # the second has five pictures
    none = evaluate(weights, tmp_path / "none", alone)["sets"][0]["identity"]
    assert none == {"method": "none", "reason": "fewer than two people have more than 5 pictures here"}
    assert "Not measured: fewer than two people" in (tmp_path / "none" / "report.md").read_text()
    unnamed = save(tmp_path / "unnamed.safetensors", spec)
    strangers = save(tmp_path / "strangers.safetensors", spec, {"identities": ["Xa", "Xb", "Xc"]})  # nobody is here
    for weights_file in (unnamed, strangers):
        found = evaluate(weights_file, tmp_path / "u", tested)["sets"][0]["identity"]
        assert found["method"] == "nearest mean of embeddings"
    found = evaluate(strangers, tmp_path / "u", alone)["sets"][0]["identity"]
    assert found["method"] == "none"


def write_table(folder, rows=24, change=None):
    """A table of the first pictures, as files."""
    folder.mkdir()
    lines = ["file,subject,years,gender,ethnicity,age"]
    for i, crop in zip(range(rows), crops(), strict=False):
        item = entry(i)
        Image.fromarray(crop).save(folder / item.file)
        cells = [item.labels[head] for head in ("gender", "ethnicity", "age")]
        lines.append(",".join([item.file, item.subject, str(item.years), *cells]))
    if change:
        lines[3] = lines[3].replace(*change)
    (folder / "faces.csv").write_text("\n".join(lines) + "\n")
    return folder / "faces.csv"


def test_pictures_are_measured_as_a_packed_set_is(weights, tmp_path):
    part = pack(tmp_path / "part", lambda i: "test" if i < 24 else "train")
    packed = evaluate(weights, tmp_path / "p", part)["sets"][0]
    pictures = evaluate(weights, tmp_path / "t", write_table(tmp_path / "table"))["sets"][0]
    assert pictures["faces"] == 24
    for head in ("gender", "ethnicity", "age"):
        assert pictures["heads"][head] == packed["heads"][head]
    assert pictures["groups"]["female"]["age"] == packed["groups"]["female"]["age"]
    assert pictures["identity"]["top 1"] == packed["identity"]["top 1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Ann_0_0003", "Ann_0_0033"), "1 pictures are missing: Ann_0_0033.png"),
        (("female", "neither"), r"line 4: gender: expected one of \['female', 'male'\] or nothing, got 'neither'"),
        (("71", "old"), "line 4: years: expected a whole number, got 'old'"),
    ],
)
def test_a_bad_table_is_refused_by_its_line(weights, tmp_path, capsys, change, message):
    table = write_table(tmp_path / "table", 4, change)
    assert main(["evaluate", str(table), "--weights", str(weights), "--out", str(tmp_path / "r")]) == 2
    found = capsys.readouterr().err
    assert message.replace("\\", "") in found


def test_what_is_wrong_with_the_arguments_is_said(weights, faces, tested, tmp_path, capsys):
    base = ["evaluate", "--weights", str(weights), "--out", str(tmp_path / "r")]

    def error(*arguments):
        assert main([*base, *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "no head named 'mood': this network has gender" in error(faces, "--heads", "mood")
    assert "no such file or folder" in error(tmp_path / "nothing")
    assert "is no packed set" in error(tmp_path)
    assert "no face in the split 'train': 0 train, 48 validation, 48 test" in error(faces, "--split", "train")
    assert "two sets are named tested" in error(tested, tested)
    strange = pack(tmp_path / "strange", lambda i: "test", LABELS | {"gender": ("female ", "male ")}, {"gender": ""})
    assert "none of them is among those that the network was trained on: female, male" in error(strange)
