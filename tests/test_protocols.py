"""The measures agree with scikit-learn's, computed on their own; thresholds keep the rate that was asked for."""

import math

import numpy as np
import pytest

metrics = pytest.importorskip("sklearn.metrics")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from faceattr_fast.training import protocols  # noqa: E402
from faceattr_fast.training.pairs import read_pairs  # noqa: E402


def scores(seed, n=400, rounded=2):
    """Overlapping scores of two kinds; rounded, so that many are alike."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    return np.round(rng.normal(0.3 * positive, 0.3), rounded), positive


# --- verification -----------------------------------------------------------------------------------------------------


def accuracy_by_sklearn(cosines, same, split):
    """The ten-split protocol once more: every candidate threshold is judged by accuracy_score."""
    accuracies = []
    for part in sorted(set(split)):
        others = split != part
        candidates = np.unique(cosines[others])
        right = [metrics.accuracy_score(same[others], cosines[others] >= t) for t in candidates]
        best = int(np.argmax(right))
        threshold = (candidates[best] + candidates[max(best - 1, 0)]) / 2
        accuracies.append(metrics.accuracy_score(same[~others], cosines[~others] >= threshold))
    return np.mean(accuracies), np.std(accuracies, ddof=1) / math.sqrt(len(accuracies))


@pytest.mark.parametrize("rounded", [2, 9])
def test_ten_splits_give_the_accuracy_of_scikit_learn(rounded):
    cosines, same = scores(1, 600, rounded)
    split = np.array([str(1 + i % 10) for i in range(600)])
    report = protocols.verification(cosines, same, split)
    mean, error = accuracy_by_sklearn(cosines, same, split)
    assert report["accuracy"] == pytest.approx(mean, abs=1e-12)
    assert report["standard error"] == pytest.approx(error, abs=1e-12)
    assert len(report["splits"]) == 10
    assert 0.5 < mean < 0.9  # neither chance nor certain: a wrong threshold would show
    assert report["area under curve"] == pytest.approx(metrics.roc_auc_score(same, cosines), abs=1e-12)


def test_the_roc_is_that_of_scikit_learn():
    cosines, same = scores(2)
    for ours, theirs in zip(
        protocols.roc(cosines, same), metrics.roc_curve(same, cosines, drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    report = protocols.verification(cosines, same, np.arange(400) % 10)
    assert len(report["roc"]) <= 200
    assert report["roc"][0] == [0, 0]
    assert report["roc"][-1] == [1, 1]


def test_true_accepts_at_a_fixed_share_of_false_accepts():
    cosines, same = scores(3, 3000)
    false, true, _ = metrics.roc_curve(same, cosines, drop_intermediate=False)
    accepts = protocols.verification(cosines, same, np.arange(3000) % 10)["true accept"]
    assert [row["false accept"] for row in accepts] == list(protocols.FALSE_ACCEPTS)
    for row in accepts:
        assert row["true accept"] == pytest.approx(true[false <= row["false accept"]].max())
        assert (cosines[~same] >= row["threshold"]).mean() <= row["false accept"]
    few = protocols.verification(cosines[:300], same[:300], np.arange(300) % 10)["true accept"]
    assert few[0]["true accept"] is None  # a thousandth of some 180 pairs
    assert few[1]["true accept"] is not None


def test_pairs_of_one_kind_have_no_curve():
    with pytest.raises(ValueError, match="both kinds"):
        protocols.verification(np.arange(4.0), np.ones(4, bool), np.arange(4) % 2)


def write_lfw_pairs(path, splits=10, each=3):
    lines = [f"{splits}\t{each}"]
    for split in range(splits):
        lines += [f"Ann_{split}\t{i + 1}\t{i + 2}" for i in range(each)]
        lines += [f"Ann_{split}\t{i + 1}\tBob\t{i + 1}" for i in range(each)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_both_forms_of_pairs_are_read_alike(tmp_path):
    text = read_pairs(write_lfw_pairs(tmp_path / "pairs.txt"))
    assert len(text) == 60
    assert (text.a[0], text.b[0], text.same[0], text.split[0]) == ("Ann_0_0001", "Ann_0_0002", True, "1")
    assert (text.a[-1], text.b[-1], text.same[-1], text.split[-1]) == ("Ann_9_0003", "Bob_0003", False, "10")
    numbers, files = ["fold,person_a,image_a,person_b,image_b,same"], ["fold,file_a,file_b,same"]
    for a, b, same, split in zip(text.a, text.b, text.same, text.split, strict=True):
        cells = [part for name in (a, b) for part in (name[:-5], str(int(name[-4:])))]
        numbers.append(",".join([split, *cells, str(int(same))]))
        files.append(f"{split},x/{a}.jpg,{b}.png,{int(same)}")
    for lines in (numbers, files):
        (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
        table = read_pairs(tmp_path / "pairs.csv")
        assert (table.a, table.b) == (text.a, text.b)
        assert np.array_equal(table.same, text.same)
        assert np.array_equal(table.split, text.split)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "line 1: expected the numbers .* an empty file"),
        ("p.txt", "ten 300\n", "line 1: expected the numbers"),
        ("p.txt", "1 1\nAnn 1 2\n", "expected 1 x 2 x 1 pairs after line 1, got 1"),
        ("p.txt", "1 1\nAnn 1 2\nAnn 1 Bob\n", "line 3: expected PERSON IMAGE PERSON IMAGE, got 'Ann 1 Bob'"),
        ("p.txt", "1 1\nAnn 1 x\nAnn 1 Bob 2\n", "line 2: expected a person and the number"),
        ("p.csv", "fold,same\n1,1\n", "expected the columns"),
        ("p.csv", "fold,file_a,file_b,same\n1,a,b,yes\n", "line 2: same: expected 0 or 1, got 'yes'"),
        ("p.csv", "fold,file_a,file_b,same\n", "no pairs"),
    ],
)
def test_a_bad_file_of_pairs_is_refused_by_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / name)


# --- attributes -------------------------------------------------------------------------------------------------------


def test_accuracy_and_confusion_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 4, 300)
    table = rng.random((300, 4)) + 0.5 * (labels[:, None] == np.arange(4))
    report = protocols.accuracy_report(table, labels, "abcd")
    known = labels >= 0
    best = table[known].argmax(1)
    assert report["n"] == known.sum()
    assert report["accuracy"] == pytest.approx(metrics.accuracy_score(labels[known], best))
    assert np.array_equal(report["confusion"], metrics.confusion_matrix(labels[known], best))
    recalls = metrics.recall_score(labels[known], best, average=None)
    np.testing.assert_allclose([row["recall"] for row in report["classes"].values()], recalls)
    low, high = report["interval"]
    assert low < report["accuracy"] < high


def test_intervals():
    # Newcombe (1998), table I: 81 of 263 and 15 of 148 by the score method.
    assert protocols.wilson(81, 263) == pytest.approx([0.2553, 0.3662], abs=5e-5)
    assert protocols.wilson(15, 148) == pytest.approx([0.0624, 0.1605], abs=5e-5)
    assert protocols.wilson(0, 20)[0] == 0
    assert protocols.wilson(20, 20)[1] == 1
    assert protocols.wilson(0, 0) is None
    values = np.random.default_rng(0).exponential(5, 500)
    low, high = protocols.bootstrap_mean(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(500), rel=0.1)
    assert low < values.mean() < high
    assert protocols.bootstrap_mean(values) == [low, high]
    assert protocols.bootstrap_mean(values[:0]) is None


def test_calibration_measures_the_gap():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0, 1, 20_000)
    honest = protocols.calibration(confidence, rng.random(20_000) < confidence)
    assert honest["error"] < 0.02
    assert sum(row["n"] for row in honest["bins"]) == 20_000
    boastful = protocols.calibration(np.full(1000, 0.9), np.arange(1000) % 2 == 0)
    assert boastful["error"] == pytest.approx(0.4)
    assert protocols.calibration(np.ones(3), np.ones(3, bool))["error"] == 0  # 1 belongs to the last bin
    assert protocols.calibration(np.ones(0), np.ones(0, bool)) == {"error": None, "bins": []}


# --- identities -------------------------------------------------------------------------------------------------------


def test_top_one_and_five_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 12, 500)
    table = rng.random((500, 12)) + 0.4 * (truth[:, None] == np.arange(12))
    report = protocols.identification(table, truth)
    for most in (1, 5):
        expected = metrics.top_k_accuracy_score(truth, table, k=most)
        assert report[f"top {most}"]["accuracy"] == pytest.approx(expected)
    ties = protocols.identification(np.zeros((3, 12)), np.array([0, 1, 2]))
    assert ties["top 1"]["accuracy"] == ties["top 5"]["accuracy"] == 0  # a network that says nothing knows nobody
    assert protocols.identification(np.full((1, 7), np.nan), np.array([0]))["top 5"]["accuracy"] == 0


def test_people_are_found_by_the_mean_of_their_other_pictures():
    rng = np.random.default_rng(0)
    people = np.array(["a"] * 8 + ["b"] * 7 + ["c"] * 5 + [""] * 9)
    held = protocols.hold_out(people, 5)
    assert {name: int(held[people == name].sum()) for name in set(people.tolist())} == {"a": 5, "b": 5, "c": 0, "": 0}
    assert protocols.first_of_each(people, 5).sum() == 15
    directions = {name: rng.normal(size=16) for name in ("a", "b", "c", "")}
    embedding = np.stack([directions[name] * rng.uniform(1, 9) + 0.1 * rng.normal(size=16) for name in people])
    cosines, truth = protocols.nearest_mean(embedding, people, held)
    assert cosines.shape == (10, 2)
    assert protocols.identification(cosines, truth)["top 1"]["accuracy"] == 1
    first = embedding[people == "a"] / np.linalg.norm(embedding[people == "a"], axis=1, keepdims=True)
    mean = first[~held[people == "a"]].mean(0)
    expected = first[held[people == "a"]] @ (mean / np.linalg.norm(mean))
    np.testing.assert_allclose(cosines[truth == 0, 0], expected)


# --- operating points -------------------------------------------------------------------------------------------------


def test_rates_are_over_all_pairs_of_image_and_class():
    said = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]], bool)
    positive = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]], bool)
    report = protocols.operating_point(said, positive, "abc")
    assert report["true positive"] == {"rate": 3 / 5, "interval": protocols.wilson(3, 5), "n": 5}
    assert report["false positive"]["rate"] == 1 / 7
    assert report["unlabelled"]["rate"] == 1 / 4
    assert report["classes"]["b"]["true positive"]["rate"] == 0
    assert report["classes"]["c"]["false positive"]["rate"] == 0


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.0103, 0.1, 0.29, 0.5]), st.sampled_from([1, 2, 9]))
def test_thresholds_are_the_lowest_that_keep_the_rate(seed, target, rounded):
    rng = np.random.default_rng(seed)
    positive = rng.random((100, 3)) < 0.3
    p = np.round(rng.random((100, 3)), rounded)
    thresholds = protocols.choose_thresholds(p, positive, target, "abc")
    for scores, wanted, threshold in zip(p.T, positive.T, thresholds, strict=True):
        false = scores[~wanted]
        assert (false >= threshold).mean() <= target
        lower = scores[scores < threshold].max()  # the next answer that a lower threshold would let in
        assert (false >= lower).mean() > target


def test_thresholds_need_faces_of_other_classes():
    with pytest.raises(ValueError, match="'b': expected faces of other classes"):
        protocols.choose_thresholds(np.ones((4, 2)), np.array([[0, 1]] * 4, bool), 0.1, "ab")
    with pytest.raises(ValueError, match="target"):
        protocols.choose_thresholds(np.ones((4, 2)), np.zeros((4, 2), bool), 1.0, "ab")
