"""The benchmark: its arithmetic, who is timed and who is not, and one short run from end to end."""

import json

import numpy as np
import pytest

import faceattr_fast as faf
from faceattr_fast.bench import Settings, process, relative_speeds, report, run_benchmark, session, summarise
from faceattr_fast.bench.contenders import Prepared
from faceattr_fast.bench.worker import time_calls
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


def measurement(contender, seconds, batch=1, threads=1):
    group = contender.partition("-")[0]
    return {
        "contender": contender, "group": group, "peer": group != "ours", "threads": threads, "batch": batch,
        "worst_error": 1e-7, "settings": contender, "turns": [{"seconds_per_image": [s]} for s in seconds],
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
    assert [row.contender for row in report.best_of_groups(rows)] == ["ours", "peer-throughput", "ours"]
    table = report.format_rows(rows)
    assert "2.00x" in table
    assert "peer-latency" not in table


def test_worst_error_is_of_the_worst_head():
    reference = {"a": np.array([[3.0, 4.0]]), "b": np.array([[1.0]])}
    outputs = {"a": np.array([[3.0, 4.5], [9.0, 9.0]]), "b": np.array([[1.0], [9.0]])}
    assert report.worst_error(outputs, reference) == pytest.approx(0.1)
    assert report.worst_error({"a": outputs["a"]}, reference) == float("inf")  # left a head out
    assert report.worst_error({**outputs, "b": np.array([[np.nan]])}, reference) == float("inf")
    assert report.worst_error({**outputs, "b": np.array([[1.0, 0.0]])}, reference) == float("inf")


def test_the_first_call_of_a_turn_is_not_counted():
    calls = []
    prepared = Prepared(lambda: calls.append(1), dict, images=2, settings="")
    assert len(time_calls(prepared, seconds=0.0)) == 1
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": ()}, "batches"),
        ({"threads": (1, 1)}, "threads"),
        ({"peers": ("abacus",)}, "abacus"),
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

    def __init__(self, contender, inputs, threads, batches):
        self.name, self.inputs, self.batches = contender, inputs, batches

    def start(self):
        how = self.behaviour.get(self.name)
        if how == "fails":
            raise process.WorkerError("no licence")
        fast = faf.FastForward.load(self.inputs.weights, threads=1)
        for batch in self.batches:
            outputs = dict(fast(self.inputs.float32(batch)))
            if how == "wrong":
                outputs["gender"] = outputs["gender"] * 1.001
            if how == "lazy":
                del outputs["embedding"]
            np.savez(self.inputs.folder / f"{self.name}-batch{batch}.npz", **outputs)
        return {"version": "1", "settings": {str(batch): "as it is" for batch in self.batches}}

    def turn(self, batch, seconds):
        if self.behaviour.get(self.name) == "dies":
            raise process.WorkerError("its process ended with code -11")
        self.log.append((self.name, batch))
        return [0.002 if self.name == "faceattr_fast" else 0.004]

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
    monkeypatch.setattr(session, "_PAUSE_SECONDS", 0.0)
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
    assert record["left_out"].keys() == {"torch"}
    assert reason in record["left_out"]["torch"]
    assert {row["contender"] for row in record["rows"]} == {"faceattr_fast", "faceattr_fast-uint8"}
    assert all(row["relative_speed"] is None for row in record["rows"])


def test_exit_codes(fake, weights, capsys, monkeypatch):
    arguments = ["bench", "--weights", str(weights), "--batch", "1", "--seconds", "0.1"]
    fake.behaviour["torch"] = "wrong"
    assert main([*arguments, "--peers", "torch"]) == 1
    assert "torch was left out: wrong results" in capsys.readouterr().err
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
        assert measured["worst_error"] < 1e-5
        assert all(turn["seconds_per_image"] for turn in measured["turns"])


def test_a_failing_worker_says_why(weights, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"damaged")
    worker = process.Worker("faceattr_fast", process.Inputs(tmp_path), threads=1, batches=[1])
    with pytest.raises(process.WorkerError, match="damaged"):
        worker.start()
    worker.stop()
