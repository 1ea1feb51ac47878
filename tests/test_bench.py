"""The benchmark's arithmetic, crops, peaks and tables."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from random_weights import one_block

import faceattr_fast as faf
from faceattr_fast.bench import Settings, inputs, peaks, relative_speeds, report, summarise, tables, worker
from faceattr_fast.bench.prepared import Prepared
from faceattr_fast.bench.source import source_version
from faceattr_fast.bench.timing import time_calls
from faceattr_fast.bench.traffic import phase_bytes
from faceattr_fast.plan.phases import (
    Integers,
    LinearHead,
    Plan,
    Quantize,
    QuantizedConv,
    Segment,
    SegmentedConv,
    ShiftedMeans,
    Stem,
    TensorShape,
)

SPEC = one_block(faf.HeadSpec("gender", 2, "fc"), stride=2, pixels=faf.PixelSpec(size=32))


# arithmetic


def test_summarise():
    summary = summarise([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (summary.median, summary.p10, summary.p90) == pytest.approx((3.0, 1.4, 4.6))


@pytest.mark.parametrize("samples", [[], [1.0, 0.0], [float("nan")], [-1.0], [float("inf")]])
def test_samples_are_positive_seconds(samples):
    with pytest.raises(ValueError, match="positive seconds"):
        summarise(samples)


def test_speeds_are_relative_to_the_fastest_peer():
    medians = {"ours": 1.0, "slow peer": 4.0, "fast peer": 2.0}
    assert relative_speeds(medians, ["slow peer", "fast peer"]) == {"ours": 2.0, "slow peer": 0.5, "fast peer": 1.0}
    assert relative_speeds(medians, []) == {}
    assert relative_speeds(medians, ["absent peer"]) == {}


def measurement(contender, seconds, batch=1, threads=1, dtype="float32"):
    group = contender.partition("-")[0]
    return {
        "contender": contender, "group": group, "peer": group != "ours", "dtype": dtype, "threads": threads,
        "batch": batch, "errors": {"a": 1e-7, "b": 2e-7}, "agreement": {"a": 1.0, "b": 0.75}, "settings": contender,
        "turns": [{"seconds_per_image": [s]} for s in seconds],
    }  # fmt: skip


def test_rows_from_samples():
    rows = report.make_rows(
        [
            measurement("ours", [0.001, 0.002, 0.003]),
            measurement("peer-latency", [0.006]),
            measurement("peer-throughput", [0.004, 0.004]),
            measurement("ours", [0.1], batch=2),
        ],
        multiply_adds=10**9,
    )
    assert [row.relative_speed for row in rows] == pytest.approx([2.0, 2 / 3, 1.0, None])
    assert rows[0].images_per_second == pytest.approx(500)
    assert rows[0].gflops == pytest.approx(1000)  # 2 x 10⁹ in 2 ms
    assert rows[0].samples == 3
    assert (rows[0].worst_error, rows[0].worst_agreement) == (2e-7, 0.75)
    assert [row.contender for row in report.best_of_groups(rows)] == ["ours", "peer-throughput", "ours"]
    table = tables.format_rows(rows)
    assert "2.00x" in table
    assert "peer-latency" not in table


def test_speeds_are_relative_to_the_peers_of_the_same_format():
    rows = report.make_rows(
        [
            measurement("ours", [0.002]),
            measurement("ours", [0.001], dtype="int8"),
            measurement("ours", [0.001], dtype="bfloat16"),
            measurement("peer", [0.006]),
            measurement("peer", [0.004], dtype="int8"),
        ],
        multiply_adds=1,
    )
    assert [row.relative_speed for row in rows] == pytest.approx([3.0, 4.0, None, 1.0, 1.0])
    lines = [line for line in tables.format_rows(rows).splitlines() if line.startswith(("ours", "peer"))]
    assert [line.split()[:2] for line in lines] == [
        ["ours", "float32"], ["peer", "float32"], ["ours", "bfloat16"], ["ours", "int8"], ["peer", "int8"],
    ]  # fmt: skip


def test_head_errors():
    reference = {"a": np.array([[3.0, 4.0]]), "b": np.array([[1.0]])}
    outputs = {"a": np.array([[3.0, 4.5]]), "b": np.array([[1.0]])}
    assert report.head_errors(outputs, reference) == pytest.approx({"a": 0.1, "b": 0.0})
    infinite = pytest.approx({"a": 0.1, "b": float("inf")})
    assert report.head_errors({"a": outputs["a"]}, reference) == infinite  # left a head out
    assert report.head_errors({**outputs, "b": np.array([[np.nan]])}, reference) == infinite
    assert report.head_errors({**outputs, "b": np.array([[1.0, 0.0]])}, reference) == infinite
    assert report.head_errors({**outputs, "b": np.array([[1.0], [1.0]])}, reference) == infinite


def test_agreements():
    reference = {"embedding": np.eye(4), "a": np.array([[3.0, 4.0], [1.0, 0.0], [2.0, 1.0], [0.0, 1.0]])}
    outputs = {"embedding": -np.eye(4), "a": np.array([[0.0, 1.0], [0.0, 1.0], [5.0, 4.0], [0.0, 2.0]])}
    assert report.agreements(outputs, reference) == {"a": 0.75}


def test_the_first_call_of_a_turn_is_not_counted():
    calls = []
    assert len(time_calls(lambda: calls.append(1), images=2, seconds=0.0)) == 1
    assert len(calls) == 2


def test_cost_per_million():
    measured = [measurement("ours", [0.0036], threads=2), measurement("peer", [0.0072], threads=2)]
    rows = report.make_rows(measured, multiply_adds=1, price_per_core_hour=0.05)
    assert [row.cost_per_million for row in rows] == pytest.approx([0.1, 0.2])  # 2 cores for an hour, for two
    assert "0.100" in tables.format_rows(rows)
    assert [row.cost_per_million for row in report.make_rows(measured, multiply_adds=1)] == [None, None]


def test_this_package_is_resident_on_our_account():
    memory = {"bare": 10, "before": 30, "loaded": 50, "ran": 70}
    assert tables.own_bytes({"group": "faceattr_fast-uint8", **memory}, "ran") == 60
    assert tables.own_bytes({"group": "torch", **memory}, "loaded") == 20


def test_a_profile_is_the_median_of_its_runs():
    runs = iter([[1.0, 5.0], [2.0, 4.0], [9.0, 3.0]])
    times = iter([0.0, 1.0, 2.0, 4.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.time, "perf_counter", lambda: next(times))
        assert worker.median_profile(lambda: next(runs), seconds=3.0) == [2.0, 4.0]


# peaks


def test_peaks_are_plausible():
    answer, turn = peaks.prepare({"threads": 2, "side": 128, "copy_bytes": 1 << 20})
    assert answer["copy_bytes"] == 1 << 20
    figures = turn({"seconds": 0.05})
    assert all(0.01 < figures[name] < 1e5 for name in ("sgemm_gflops", "copy_gb_per_s"))
    assert peaks.last_cache_bytes() >= 0
    assert peaks.blas_name()


def test_a_rate_is_the_best_of_its_calls(monkeypatch):
    times = iter([0.0, *(0.0, 2.0, 2.0), *(2.0, 3.0, 3.0), *(3.0, 8.0, 8.0)])  # calls of 2, 1 and 5 s
    with monkeypatch.context() as patch:
        patch.setattr(peaks.time, "perf_counter", lambda: next(times))
        assert peaks._rate(lambda: None, 3 * 10**9, seconds=4.5) == pytest.approx(3.0)


# versions


def git(folder, *arguments):
    names = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *names, *arguments], check=True, capture_output=True, text=True
    ).stdout


def test_a_source_tree_knows_its_commit(tmp_path):
    package = tmp_path / "python" / "faceattr_fast"
    package.mkdir(parents=True)
    assert source_version(package) == {"version": faf.__version__, "commit": None}  # not a source tree: installed
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "faceattr_fast"\nversion = "9.8.7"\n')
    assert source_version(package) == {"version": "9.8.7", "commit": None}
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "pyproject.toml")
    git(tmp_path, "commit", "-qm", "First")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    git(tmp_path, "tag", "-a", "v9.8.7", "-m", "a tag does not hide the commit")
    assert source_version(package) == {"version": "9.8.7", "commit": commit}
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "faceattr_fast"\nversion = "9.9"\n')
    assert source_version(package) == {"version": "9.9", "commit": f"{commit}-dirty"}


# traffic


def test_phase_bytes():
    integers = Integers((1.0, 1.0), 0)
    tensors = {
        "a": TensorShape(8, 8, 4), "b": TensorShape(4, 4, 2), "c": TensorShape(1, 1, 4), "d": TensorShape(1, 1, 3),
        "q": TensorShape(4, 4, 2, integers), "r": TensorShape(4, 4, 2, integers),
        "h": TensorShape(4, 4, 2, floats="bfloat16"),
    }  # fmt: skip
    three, one = np.zeros((2, 4, 3, 3)), np.zeros((2, 3, 1, 1))
    conv = SegmentedConv("b", (Segment("a", three, 2), Segment("a", one, 2)), None, relu=True)
    flat = SegmentedConv("b", (Segment("b", np.zeros((2, 2, 3, 3))),), None, False, "b", algorithm="winograd4x4")
    narrow = Segment("q", np.zeros((2, 2, 3, 3), np.int8))
    quantized = QuantizedConv("b", (narrow,), np.zeros(2), np.ones(2), False, residual="b", copy="r")
    conversion = Quantize("r", "b", np.ones(2))
    means, head = ShiftedMeans("c", "a", 1, 2, 0, 4), LinearHead("d", (("c", np.zeros((3, 4))),), np.zeros(3))
    stem = Stem("a", np.zeros((4, 3, 7, 7)), np.zeros(4))
    halves = SegmentedConv("b", (Segment("h", np.zeros((2, 2, 1, 1))),), None, False, residual="b", copy="h")
    plan = Plan(SPEC, tensors, (), {}, True)
    # Inputs, weights, residual, copy, result; of a 1x1 at stride 2 every fourth position is read.
    assert phase_bytes(plan, conv) == 4 * (8 * 8 * 4 + 4 * 4 * 3 + 2 * 4 * 9 + 2 * 3 + 4 * 4 * 2)
    assert phase_bytes(plan, flat) == 4 * (4 * 4 * 2 + 36 * 2 * 2 + 4 * 4 * 2 + 4 * 4 * 2)
    assert phase_bytes(plan, quantized) == 4 * 4 * 2 + 2 * 2 * 9 + 4 * (4 * 4 * 2) + 4 * 4 * 2 + 4 * (4 * 4 * 2)
    assert phase_bytes(plan, conversion) == 4 * (4 * 4 * 2) + 4 * 4 * 2
    assert phase_bytes(plan, halves) == 2 * (4 * 4 * 2 + 2 * 2) + 4 * (4 * 4 * 2) + 2 * (4 * 4 * 2) + 4 * (4 * 4 * 2)
    assert phase_bytes(plan, head) - phase_bytes(plan, replace(head, scale=np.ones(3))) == 2 * 3 * 4
    far = SegmentedConv("d", (Segment("a", three, 4),), None, relu=True)
    assert phase_bytes(plan, far) == 4 * (6 * 6 * 4 + 2 * 4 * 9 + 3)  # of each four rows three
    assert phase_bytes(plan, means) == 4 * (4 * 4 * 4 + 4)
    assert phase_bytes(plan, head) == 4 * (4 + 12 + 3)
    assert phase_bytes(plan, stem) == 4 * (3 * 32 * 32 + 4 * 147 + 8 * 8 * 4)


# crops


def test_all_test_crops_go_through_the_timed_call(tmp_path):
    test = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1)
    np.save(tmp_path / "test-float32.npy", test)
    pixels = test[:2].copy()
    results = {}
    prepared = Prepared(lambda: results.update(a=pixels.reshape(2, 1)), lambda: results, pixels, images=2, settings="")
    outputs = worker.run_test_crops(prepared, inputs.Inputs(tmp_path))
    np.testing.assert_array_equal(outputs["a"][:, 0], np.arange(5))
    np.testing.assert_array_equal(pixels, test[:2])  # what is timed afterwards


def test_synthetic_crops_look_like_photos():
    crops = inputs.synthetic_crops(SPEC.pixels, [1], seed=3)
    again = inputs.synthetic_crops(SPEC.pixels, [1], seed=3)
    assert crops.describe() == again.describe() != inputs.synthetic_crops(SPEC.pixels, [1], seed=4).describe()
    assert crops.test.shape == crops.calibration.shape == (64, 32, 32, 3)
    assert 20 < crops.test.std() < 80
    # In white noise, neighbours are as unlike as any two pixels.
    neighbours = np.abs(np.diff(crops.test.astype(float), axis=2)).mean()
    assert neighbours < 0.7 * np.abs(crops.test.astype(float) - crops.test[..., ::-1, :]).mean()


def test_crops_from_files(tmp_path):
    image = pytest.importorskip("PIL.Image")
    array = np.random.default_rng(0).integers(0, 256, (130, 32, 32, 3), np.uint8)
    np.save(tmp_path / "crops.npy", array)
    crops = inputs.read_crops(tmp_path / "crops.npy", SPEC.pixels, [1], seed=0)
    together = np.concatenate([crops.test, crops.calibration])
    assert len(np.unique(together.reshape(128, -1), axis=0)) == 128  # none twice
    assert {crop.tobytes() for crop in together} <= {crop.tobytes() for crop in array}
    folder = tmp_path / "faces"
    (folder / "deep").mkdir(parents=True)
    for i, crop in enumerate(array[:128]):
        image.fromarray(crop).save(folder / ("deep" if i % 2 else ".") / f"{i}.png")
    crops = inputs.read_crops(folder, SPEC.pixels, [1], seed=0)
    read = {crop.tobytes() for crop in np.concatenate([crops.test, crops.calibration])}
    assert read == {crop.tobytes() for crop in array[:128]}
    assert crops.describe()["source"] == "faces, seed 0"
    with pytest.raises(ValueError, match="at least 364 crops, got 128"):
        inputs.read_crops(folder, SPEC.pixels, [300], seed=0)
    np.save(tmp_path / "float.npy", array.astype(np.float32))
    with pytest.raises(ValueError, match="expected uint8"):
        inputs.read_crops(tmp_path / "float.npy", SPEC.pixels, [1], seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": ()}, "batches"),
        ({"threads": (1, 1)}, "threads"),
        ({"peers": ("abacus",)}, "abacus"),
        ({"dtypes": ("float99",)}, "float99"),
        ({"dtypes": ()}, "dtypes"),
        ({"price_per_core_hour": 0.0}, "price_per_core_hour"),
        ({"seconds": float("nan")}, "seconds"),
    ],
)
def test_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)
