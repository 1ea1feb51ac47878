"""The benchmark's run: who is timed and who is not, the peers' formats, and one short run from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
from random_weights import one_block, random_tensors

import faceattr_fast as faf
from faceattr_fast.bench import Settings, inputs, peers, process, report, run_benchmark, session, tables, turns, worker
from faceattr_fast.bench import start as start_file
from faceattr_fast.bench.contenders import CONTENDERS
from faceattr_fast.bench.quantised import UnsupportedError, write_int8_onnx, write_int8_weights
from faceattr_fast.cli import main
from faceattr_fast.weights import Weights, write_weights

SPEC = one_block(faf.HeadSpec("gender", 2, "fc"), stride=2, pixels=faf.PixelSpec(size=32))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    write_weights(path, Weights(SPEC, random_tensors(SPEC)))
    return path


# who is timed


class FakeWorker:
    """A contender in this process, right or wrong as ``behaviour`` says."""

    behaviour: dict[str, str]
    log: list[tuple[str, int]]

    def __init__(self, command, job, threads, log):
        self.job, self.name = job, job.get("contender", "peaks")

    def start(self):
        if self.name == "peaks":
            return {"blas": "a BLAS", "copy_bytes": 1 << 20}
        files = inputs.Inputs(Path(self.job["folder"]))
        how = self.behaviour.get(self.name)
        if how == "fails":
            raise process.WorkerError("no licence")
        if how == "lacks":
            raise UnsupportedError("no such instructions")
        fast = faf.FastForward.load(files.weights("float32"), threads=1)
        for batch in self.job["batches"]:
            outputs = dict(fast(np.array(files.test("float32"))))
            if how == "wrong":
                outputs["gender"] = outputs["gender"] * (1.001 if self.job["dtype"] == "float32" else 1.1)
            if how == "lazy":
                del outputs["embedding"]
            np.savez(files.folder / f"{self.job['name']}-batch{batch}.npz", **outputs)
        return {
            "version": "1", "settings": {str(batch): "as it is" for batch in self.job["batches"]}, "plan": None,
            "start": {"batch": 1, "seconds": 0.5, "bare": 10, "before": 30, "loaded": 50, "ran": 70},
        }  # fmt: skip

    def turn(self, batch=None, seconds=None):
        if self.name == "peaks":
            return {"sgemm_gflops": 50.0 + len(self.log), "copy_gb_per_s": 10.0}
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
    monkeypatch.setattr(turns, "Worker", FakeWorker)
    monkeypatch.setattr(session, "installed", lambda names: "1")
    monkeypatch.setattr(process, "_PAUSE_SECONDS", 0.0)
    return FakeWorker


def test_everyone_has_as_many_turns_in_changing_order(fake, weights):
    settings = Settings(batches=(1, 2), peers=("torch",), seconds=2.0)
    record = run_benchmark(weights, settings)
    assert record["left_out"] == {}
    names = ["faceattr_fast", "faceattr_fast-uint8", "torch"]
    rounds = np.array(fake.log, object).reshape(settings.rounds, 2, 3, 2)
    orders = {tuple(turn[0] for turn in batch) for batches in rounds for batch in batches}
    assert {tuple(sorted(order)) for order in orders} == {tuple(names)}
    assert len(orders) > 1
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


def test_mixed_is_a_format_of_this_package_alone(fake, weights, monkeypatch):
    written = []
    monkeypatch.setattr(session, "write_int8_weights", written.append)
    record = run_benchmark(weights, Settings((1,), dtypes=("float32", "mixed"), peers=("torch",), seconds=0.1))
    assert record["skipped"] == record["left_out"] == {}
    assert len(written) == 1  # the scales that it reads
    ours, all_three = {"faceattr_fast", "faceattr_fast-uint8"}, {"faceattr_fast", "faceattr_fast-uint8", "torch"}
    for dtype, names in (("float32", all_three), ("mixed", ours)):
        assert {row["contender"] for row in record["rows"] if row["dtype"] == dtype} == names


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
    assert record["versions"]["faceattr_fast"] != "0+unknown"
    (peaks_,) = record["peaks"]
    assert len(peaks_["turns"]) == 3
    assert tables.peak(peaks_, "sgemm_gflops") > 0
    for start_ in record["starts"]:
        assert 0 < start_["seconds"] < 900
        assert 0 < start_["bare"] <= start_["before"] <= start_["loaded"]
    loaded = {start_["contender"]: tables.own_bytes(start_, "ran") for start_ in record["starts"]}
    assert loaded["torch"] > 50e6 > loaded["faceattr_fast"] > 0
    (profile,) = record["profiles"]
    assert (profile["contender"], profile["dtype"], len(profile["turns"])) == ("faceattr_fast", "float32", 3)
    assert all(len(turn["phase_seconds"]) == len(profile["plan"]["phases"]) for turn in profile["turns"])
    assert all(phase["bytes"] > 0 for phase in profile["plan"]["phases"])
    assert {(m["contender"], m["batch"]) for m in record["measurements"]} == {
        (name, batch) for name in ("faceattr_fast", "faceattr_fast-uint8", "torch") for batch in (1, 2)
    }
    for measured in record["measurements"]:
        assert max(measured["errors"].values()) < 1e-5
        assert measured["agreement"] == {"gender": 1.0}
        assert all(turn["seconds_per_image"] for turn in measured["turns"])


def worker_of(folder, contender, dtype, batches=(1,)):
    job = {
        "contender": contender,
        "dtype": dtype,
        "name": contender,
        "folder": str(folder),
        "device": "cpu",
        "batches": batches,
    }
    return process.Worker([start_file.__file__], job, 1, folder / "worker.log")


def test_a_failing_worker_says_why(tmp_path):
    inputs.Inputs(tmp_path).weights("float32").write_bytes(b"damaged")
    process_ = worker_of(tmp_path, "faceattr_fast", "float32")
    with pytest.raises(process.WorkerError, match="damaged"):
        process_.start()
    process_.stop()


def test_a_worker_without_the_format_says_so(tmp_path):
    process_ = worker_of(tmp_path, "onnxruntime", "bfloat16")
    pytest.importorskip("onnxruntime")
    with pytest.raises(UnsupportedError, match="bfloat16"):
        process_.start()
    process_.stop()


# narrow formats


@pytest.fixture(scope="module")
def narrow_inputs(weights, tmp_path_factory):
    for package in ("torch", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    written = inputs.Inputs(tmp_path_factory.mktemp("inputs"))
    crops = inputs.synthetic_crops(SPEC.pixels, [1, 3], seed=0)
    reference = inputs.write_inputs(written, weights, crops, [1, 3], onnx=False)
    write_int8_onnx(written, [1, 3])
    write_int8_weights(written)
    return written, reference


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [name for name in CONTENDERS if name != "torch-compile"])
def test_int8_contenders_compute_the_network(narrow_inputs, name, batch):
    written, reference = narrow_inputs
    contender = CONTENDERS[name]
    pytest.importorskip(contender.packages[0])
    prepared = contender.prepare(written, "int8", 1, batch)
    errors = report.head_errors(worker.run_test_crops(prepared, written), reference)
    # Above float32's by far: it is int8 that runs.
    assert 1e-4 < max(errors.values()) < 0.15
    if prepared.profile:
        assert len(prepared.profile()) == len(prepared.plan()["phases"])


@pytest.mark.parametrize("name", ["faceattr_fast", "faceattr_fast-uint8", "torch"])
def test_bfloat16_contenders_compute_the_network(narrow_inputs, monkeypatch, name):
    written, reference = narrow_inputs
    monkeypatch.setattr(peers, "_convolves_bfloat16", lambda: True)  # it does anywhere, but slowly
    prepared = CONTENDERS[name].prepare(written, "bfloat16", 1, 3)
    errors = report.head_errors(worker.run_test_crops(prepared, written), reference)
    assert 1e-4 < max(errors.values()) < 0.05


@pytest.mark.usefixtures("emulated")
def test_this_package_runs_on_cuda(weights, tmp_path, capsys):
    file = tmp_path / "record.json"
    options = ["--device", "cuda", "--dtype", "float16", "--peers", "none", "--batch", "2", "--seconds", "0.05"]
    assert main(["bench", *options, "--weights", str(weights), "--json", str(file)]) == 0
    assert "on cuda" in capsys.readouterr().out
    record = json.loads(file.read_text())
    rows = {row["group"]: row for row in record["rows"]}
    assert rows.keys() == {"faceattr_fast", "faceattr_fast-uint8"}
    for row in rows.values():
        assert row["dtype"] == "float16"
        assert 1e-5 < row["worst_error"] < 2e-3
    assert "host emulator" in str(record["measurements"])
    assert main(["bench", "--device", "cuda:9", "--peers", "none", "--weights", str(weights)]) == 2
    assert "cuda:9" in capsys.readouterr().err
