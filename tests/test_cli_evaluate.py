"""``faceattr evaluate`` and ``calibrate``: reports of drawn faces against what is computed here from the outputs."""

import dataclasses
import json

import numpy as np
import pytest

metrics = pytest.importorskip("sklearn.metrics")
pytest.importorskip("cv2")

from PIL import Image  # noqa: E402
from test_protocols import accuracy_by_sklearn, write_lfw_pairs  # noqa: E402

import faceattr_fast as faf  # noqa: E402
from faceattr_fast.cli import main  # noqa: E402
from faceattr_fast.photo import DEFAULT_TEMPLATE, FaceAnalyzer, probabilities  # noqa: E402
from faceattr_fast.spec import years_of_label  # noqa: E402
from faceattr_fast.training.evaluate import operating_point  # noqa: E402
from faceattr_fast.training.packed import PackedFaces  # noqa: E402
from faceattr_fast.training.packing import Entry, PackedWriter  # noqa: E402
from faceattr_fast.weights import Weights, read_weights, write_weights  # noqa: E402

SIDE, PEOPLE, EACH = 56, 12, 8
LABELS = {
    "gender": ("female", "male"),
    "ethnicity": ("black", "white", "hispanic"),
    "age": ("0-2", "8-14", "60+"),
}
SPEC = faf.NetworkSpec(
    stem=faf.StemSpec(8),
    stages=((faf.BlockSpec(8, 8, 16, 4),),),
    embedding=16,
    heads=(
        faf.HeadSpec("gender", 2, "fc", labels=LABELS["gender"]),
        faf.HeadSpec("ethnicity", 3, "fc", labels=LABELS["ethnicity"], trained=(True, True, False)),
        faf.HeadSpec("age", 3, "conv2", labels=LABELS["age"]),
        faf.HeadSpec("glasses", 2, "bottleneck", kind="sigmoid", labels=("glasses", "hat")),
    ),
    pixels=faf.PixelSpec(size=SIDE),
)
CROP = {**DEFAULT_TEMPLATE.to_dict(), "size": SIDE}
VALIDATION = range(6)  # persons; men and women and each ethnicity are on both sides
NAMES = [f"Ann_{person}" for person in range(PEOPLE - 1)] + ["Bob"]


def save(path, spec, metadata=None):
    """Random weights, whose heads give every answer on the drawn faces, some more often."""
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in spec.tensor_shapes().items()}
    tensors = {name: abs(value) if name.endswith("running_var") else value for name, value in tensors.items()}
    for head, logits in faf.FastForward(Weights(spec, tensors))(crops()).items():
        if head != "embedding":
            tensors[f"heads.{head}.fc.bias"] -= np.quantile(
                logits, 0.5 - 0.1 * np.arange(logits.shape[1]), axis=0
            ).diagonal()
    write_weights(path, Weights(spec, tensors, {"licence": "none", "crop": CROP, **(metadata or {})}), dtype="float16")
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "small.safetensors", SPEC)


def crops():
    """Pictures of a colour and some coarse noise: those of a person are alike, but not very."""
    rng = np.random.default_rng(0)
    colours = np.repeat(rng.uniform(60, 200, (PEOPLE, 1, 1, 3)), EACH, 0)
    coarse = np.clip(colours + rng.normal(0, 45, (PEOPLE * EACH, 14, 14, 3)), 0, 255)
    return np.kron(coarse, np.ones((1, SIDE // 14, SIDE // 14, 1))).astype(np.uint8)


def entry(i):
    person, image = divmod(i, EACH)
    labels = {
        "gender": LABELS["gender"][person % 2],
        "ethnicity": ("white", "black", "hispanic", "")[person % 4],
        "age": LABELS["age"][i % 3],
    }
    both = {"glasses": [float(i % 2), float(i % 2 == 0 or i % 3 == 0)]}
    return Entry(f"{NAMES[person]}_{image + 1:04d}.png", subject=NAMES[person], years=(1, 11, 71)[i % 3],
                 labels=labels, targets=both)  # fmt: skip


def pack(folder, split, classes=LABELS, labels=None):
    """All faces; ``split`` says where the i-th goes, ``labels`` replace those that faces have."""
    info = {"name": folder.name, "version": "1", "kind": "tight", "split": "by lot", "crop": {"margin": 0}}
    with PackedWriter(folder, SIDE, {}) as writer:
        for i, crop in enumerate(crops()):
            item = entry(i)
            writer.add(dataclasses.replace(item, labels=item.labels | (labels or {})), crop)
        parts = np.array([split(i) for i in range(writer.crops)])
        writer.finish(parts, np.arange(writer.crops), {**classes, "glasses": ("glasses", "hat")}, info)
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Half of the people are in the validation split, the others in the test split."""
    root = tmp_path_factory.mktemp("sets")
    return pack(root / "drawn", lambda i: "validation" if i // EACH in VALIDATION else "test")


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("sets") / "tested", lambda i: "test")


def evaluate(weights, out, *arguments, plots=False):
    command = ["evaluate", "--weights", weights, "--out", out, *arguments, *([] if plots else ["--no-plots"])]
    assert main([*map(str, command)]) == 0
    return json.loads((out / "report.json").read_text())


def outputs(weights, chosen=slice(None)):
    return faf.FastForward.load(weights)(crops()[chosen])


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


def test_pairs_of_trained_and_missing_pictures(weights, faces, tested, tmp_path, capsys):
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
    assert evaluate(unnamed, tmp_path / "u", tested)["sets"][0]["identity"]["method"] == "nearest mean of embeddings"


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


# --- calibrate --------------------------------------------------------------------------------------------------------


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


def test_classes_without_training_data_get_no_say(weights, faces):
    from faceattr_fast.training.cases import examine_packed

    fast = faf.FastForward.load(weights, heads=["ethnicity"])
    cases = examine_packed(fast, PackedFaces.open(faces), "all")
    head = dataclasses.replace(SPEC.head("ethnicity"), thresholds=(0.0, 0.0, 0.0))
    point = operating_point(head, cases)
    assert point["classes"].keys() == {"black", "white"}
    assert cases.left_out == {"ethnicity": {"hispanic": 3 * EACH}}
    assert point["n"] == 6 * EACH  # neither those left out nor the unlabelled
