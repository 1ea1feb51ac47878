"""The benchmark: its arithmetic, who is timed and who is not, and one short run from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest

import faceattr_fast as faf
from faceattr_fast.bench import (
    Settings,
    inputs,
    peers,
    process,
    relative_speeds,
    report,
    run_benchmark,
    session,
    summarise,
)
from faceattr_fast.bench.contenders import CONTENDERS
from faceattr_fast.bench.prepared import Prepared
from faceattr_fast.bench.quantised import UnsupportedError, write_int8_onnx
from faceattr_fast.bench.timing import time_calls
from faceattr_fast.bench.worker import run_test_crops
from faceattr_fast.cli import main
from faceattr_fast.weights import Weights, write_weights

SPEC = faf.NetworkSpec(
    stem=faf.StemSpec(8),
    stages=((faf.BlockSpec(8, 8, 16, 2),),),
    embedding=16,
    heads=(faf.HeadSpec("gender", 2, "fc"),),
    pixels=faf.PixelSpec(size=32),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in SPEC.tensor_shapes().items()}
    tensors = {name: abs(value) if name.endswith("running_var") else value for name, value in tensors.items()}
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    write_weights(path, Weights(SPEC, tensors))
    return path


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
    table = report.format_rows(rows)
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
    lines = [line for line in report.format_rows(rows).splitlines() if line.startswith(("ours", "peer"))]
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


# crops


def test_all_test_crops_go_through_the_timed_call(tmp_path):
    test = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1)
    np.save(tmp_path / "test-float32.npy", test)
    pixels = test[:2].copy()
    results = {}
    prepared = Prepared(lambda: results.update(a=pixels.reshape(2, 1)), lambda: results, pixels, images=2, settings="")
    outputs = run_test_crops(prepared, inputs.Inputs(tmp_path))
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
        ({"seconds": float("nan")}, "seconds"),
    ],
)
def test_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)


# who is timed


class FakeWorker:
    """A contender in this process, right or wrong as ``behaviour`` says."""

    behaviour: dict[str, str]
    log: list[tuple[str, int]]

    def __init__(self, command, job, threads, log):
        self.job, self.name = job, job["contender"]
        self.inputs = inputs.Inputs(Path(job["folder"]))

    def start(self):
        how = self.behaviour.get(self.name)
        if how == "fails":
            raise process.WorkerError("no licence")
        if how == "lacks":
            raise UnsupportedError("no such instructions")
        fast = faf.FastForward.load(self.inputs.weights("float32"), threads=1)
        for batch in self.job["batches"]:
            outputs = dict(fast(np.array(self.inputs.test("float32"))))
            if how == "wrong":
                outputs["gender"] = outputs["gender"] * (1.001 if self.job["dtype"] == "float32" else 1.1)
            if how == "lazy":
                del outputs["embedding"]
            np.savez(self.inputs.folder / f"{self.job['name']}-batch{batch}.npz", **outputs)
        return {"version": "1", "settings": {str(batch): "as it is" for batch in self.job["batches"]}}

    def turn(self, batch, seconds):
        if self.behaviour.get(self.name) == "dies":
            raise process.WorkerError("its process ended with code -11")
        self.log.append((self.name, batch))
        return {"seconds_per_image": [0.002 if self.name == "faceattr_fast" else 0.004]}

    def cpu_seconds(self):
        return 0.0

    def stop(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(FakeWorker, "behaviour", {}, raising=False)
    monkeypatch.setattr(FakeWorker, "log", [], raising=False)
    monkeypatch.setattr(session, "Worker", FakeWorker)
    monkeypatch.setattr(session, "installed", lambda names: "1")
    monkeypatch.setattr(process, "_PAUSE_SECONDS", 0.0)
    return FakeWorker


def test_everyone_has_as_many_turns_in_changing_order(fake, weights):
    settings = Settings(batches=(1, 2), peers=("torch",), seconds=2.0)
    record = run_benchmark(weights, settings)
    assert record["left_out"] == {}
    names = ["faceattr_fast", "faceattr_fast-uint8", "torch"]
    rounds = np.array(fake.log, object).reshape(settings.rounds, 2, 3, 2)
    assert {tuple(sorted(turn[0] for turn in turns)) for batch in rounds for turns in batch} == {tuple(names)}
    assert len({tuple(turn[0] for turn in turns) for batch in rounds for turns in batch}) > 1
    speeds = {row["contender"]: row["relative_speed"] for row in record["rows"] if row["batch"] == 2}
    assert speeds == pytest.approx({"faceattr_fast": 2.0, "faceattr_fast-uint8": 1.0, "torch": 1.0})
    json.dumps(record)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("wrong", "wrong results"), ("lazy", "wrong results"), ("fails", "no licence"), ("dies", "code -11")],
)
def test_who_is_wrong_is_not_timed(fake, weights, how, reason):
    fake.behaviour["torch"] = how
    record = run_benchmark(weights, Settings(batches=(1,), peers=("torch",), seconds=0.1))
    assert record["left_out"].keys() == {"torch float32"}
    assert reason in record["left_out"]["torch float32"]
    assert {row["contender"] for row in record["rows"]} == {"faceattr_fast", "faceattr_fast-uint8"}
    assert all(row["relative_speed"] is None for row in record["rows"])


def test_the_limit_depends_on_the_format(fake, weights):
    fake.behaviour["torch"] = "wrong"
    record = run_benchmark(weights, Settings((1,), dtypes=("float32", "bfloat16"), peers=("torch",), seconds=0.1))
    assert record["left_out"].keys() == {"torch float32", "torch bfloat16"}
    assert "limit 0.05" in record["left_out"]["torch bfloat16"]


def test_what_a_contender_does_not_have_is_skipped(fake, weights, capsys):
    fake.behaviour["torch"] = "lacks"
    record = run_benchmark(weights, Settings((1,), dtypes=("float32", "bfloat16"), peers=("torch",), seconds=0.1))
    assert record["left_out"] == {}
    assert record["skipped"] == dict.fromkeys(["torch float32", "torch bfloat16"], "no such instructions")
    arguments = ["bench", "--weights", str(weights), "--batch", "1", "--seconds", "0.1"]
    assert main([*arguments, "--dtype", "bfloat16"]) == 0
    assert "torch bfloat16 is skipped: no such instructions" in capsys.readouterr().err
    assert main([*arguments, "--dtype", "float99"]) == 2


def test_a_quantiser_that_fails_leaves_out_its_readers(fake, weights, monkeypatch):
    pytest.importorskip("onnxscript")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(session, "write_int8_onnx", fail)
    record = run_benchmark(weights, Settings((1,), dtypes=("int8",), peers=("onnxruntime", "openvino"), seconds=0.1))
    assert record["left_out"] == dict.fromkeys(["onnxruntime int8", "openvino-latency int8"], "no space left")


def test_exit_codes(fake, weights, capsys, monkeypatch):
    arguments = ["bench", "--weights", str(weights), "--batch", "1", "--seconds", "0.1"]
    fake.behaviour["torch"] = "wrong"
    assert main([*arguments, "--peers", "torch"]) == 1
    assert "torch float32 was left out: wrong results" in capsys.readouterr().err
    # What is not installed matters only to those who asked for it.
    monkeypatch.setattr(session, "installed", lambda names: None)
    assert main(arguments) == 0
    assert main([*arguments, "--peers", "torch"]) == 1


# end to end


def test_processes_are_timed(weights, tmp_path, capsys):
    pytest.importorskip("torch")
    path = tmp_path / "record.json"
    arguments = ["--weights", str(weights), "--batch", "1,2", "--threads", "1", "--seconds", "0.1", "--json", str(path)]
    assert main(["bench", *arguments, "--peers", "torch"]) == 0
    assert "batch 2, 1 thread " in capsys.readouterr().out
    record = json.loads(path.read_text())
    assert record["machine"]["isa_used"]
    assert {(m["contender"], m["batch"]) for m in record["measurements"]} == {
        (name, batch) for name in ("faceattr_fast", "faceattr_fast-uint8", "torch") for batch in (1, 2)
    }
    for measured in record["measurements"]:
        assert max(measured["errors"].values()) < 1e-5
        assert measured["agreement"] == {"gender": 1.0}
        assert all(turn["seconds_per_image"] for turn in measured["turns"])


def worker_of(folder, contender, dtype, batches=(1,)):
    job = {"contender": contender, "dtype": dtype, "name": contender, "folder": str(folder), "batches": batches}
    return process.Worker(["-m", "faceattr_fast.bench.worker"], job, 1, folder / "worker.log")


def test_a_failing_worker_says_why(tmp_path):
    inputs.Inputs(tmp_path).weights("float32").write_bytes(b"damaged")
    worker = worker_of(tmp_path, "faceattr_fast", "float32")
    with pytest.raises(process.WorkerError, match="damaged"):
        worker.start()
    worker.stop()


def test_a_worker_without_the_format_says_so(tmp_path):
    worker = worker_of(tmp_path, "onnxruntime", "bfloat16")
    pytest.importorskip("onnxruntime")
    with pytest.raises(UnsupportedError, match="bfloat16"):
        worker.start()
    worker.stop()


# the peers' narrow formats


@pytest.fixture(scope="module")
def int8_inputs(weights, tmp_path_factory):
    for package in ("torch", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    written = inputs.Inputs(tmp_path_factory.mktemp("inputs"))
    crops = inputs.synthetic_crops(SPEC.pixels, [1, 3], seed=0)
    reference = inputs.write_inputs(written, weights, crops, [1, 3], onnx=False)
    write_int8_onnx(written, [1, 3])
    return written, reference


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino-latency", "openvino-throughput", "torch"])
def test_int8_peers_compute_the_network(int8_inputs, name, batch):
    written, reference = int8_inputs
    contender = CONTENDERS[name]
    pytest.importorskip(contender.packages[0])
    prepared = contender.prepare(written, "int8", 1, batch)
    errors = report.head_errors(run_test_crops(prepared, written), reference)
    # Above float32's by far: it is int8 that runs.
    assert 1e-4 < max(errors.values()) < 0.15


def test_bfloat16_torch_computes_the_network(int8_inputs, monkeypatch):
    written, reference = int8_inputs
    monkeypatch.setattr(peers, "_convolves_bfloat16", lambda: True)  # it does anywhere, but slowly
    prepared = CONTENDERS["torch"].prepare(written, "bfloat16", 1, 3)
    errors = report.head_errors(run_test_crops(prepared, written), reference)
    assert 1e-4 < max(errors.values()) < 0.05
