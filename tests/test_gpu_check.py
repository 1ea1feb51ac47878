"""The GPU check: its steps as far as they run on the emulator, how it keeps what they find, its tables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def modules():
    """``gpu`` and ``gpu_results`` are found as they are by the script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield
        for name in [name for name in sys.modules if name.partition(".")[0] in ("gpu", "gpu_results")]:
            del sys.modules[name]


def check(*arguments):
    """Runs the script as users do, on the emulator, and returns what it prints."""
    environment = {**os.environ, "FACEATTR_GPU": "emulated", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), *map(str, arguments), "--minutes", "60"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def record_of(folder):
    (path,) = folder.glob("emulated-*.json")
    return json.loads(path.read_text())


def test_emulated_run(tmp_path):
    """The machine, inputs and correctness; what needs a device says so; a later call adds to the same record."""
    pytest.importorskip("faceattr_fast._cuda_emulated", reason="built without the emulator")
    pytest.importorskip("torch")
    done = check(tmp_path, "--steps", "record,inputs,correctness")
    assert done.returncode == 0, done.stdout + done.stderr
    record = record_of(tmp_path)
    assert str(record["seed"]) in done.stdout
    assert {name: step["status"] for name, step in record["steps"].items()} == dict.fromkeys(
        ("record", "inputs", "correctness"), "done"
    )
    checks = record["steps"]["correctness"]["checks"]
    assert {row["dtype"] for row in checks} == {"float16", "bfloat16", "int8", "float32"}
    assert {row["pixels"] for row in checks} == {"uint8", "float32"}
    assert all(row["passed"] for row in checks)
    assert any(row["check"] == "the CPU engine" for row in checks)
    assert max(row["error"] for row in checks if row["dtype"] == "float16" and "error" in row) > 1e-5

    done = check(tmp_path, "--steps", "build,conformance,ours")
    assert done.returncode == 0, done.stdout + done.stderr
    again = record_of(tmp_path)
    assert again["seed"] == record["seed"]
    assert again["steps"]["correctness"] == record["steps"]["correctness"]
    for name in ("build", "conformance", "ours"):
        assert again["steps"][name]["status"] == "skipped"
        assert again["steps"][name]["why"]


def test_refused(tmp_path):
    assert "--steps: expected some of record" in check(tmp_path, "--steps", "speed").stderr
    (tmp_path / "run.json").write_text(
        json.dumps({"gpu": "another", "commit": None, "host": "h", "seed": 1, "time": ""})
    )
    done = check(tmp_path, "--steps", "record")
    assert done.returncode == 2
    assert "of another machine or source: gpu another became emulated" in done.stderr


def test_steps_that_fail_or_hang_keep_what_they_found(tmp_path, monkeypatch, capsys):
    from gpu import main
    from gpu.store import Folder, Step

    folder = Folder(tmp_path)
    script = tmp_path / "benchmarks" / "gpu_check.py"
    script.parent.mkdir()
    script.write_text(
        "import json, os, pathlib, sys, time\n"
        "name = sys.argv[-1]\n"
        "path = pathlib.Path(sys.argv[1]) / 'steps' / f'{name}.json'\n"
        "path.write_text(json.dumps({'status': 'running', 'rows': [1]}))\n"
        "os.abort() if name == 'ours' else time.sleep(600)\n"
    )
    monkeypatch.setattr(main, "ROOT", tmp_path)
    monkeypatch.setitem(main.LIMITS, "profile", 1.5)
    far = main.time.monotonic() + 100
    for name, deadline in (("ours", far), ("profile", far), ("peer-jax", 0)):
        main._run_step(name, folder, deadline)
    found = {name: json.loads(folder.step(name).read_text()) for name in ("ours", "profile", "peer-jax")}
    assert found["ours"]["status"] == "failed"
    assert found["ours"]["why"].startswith("ended with -6")
    assert found["profile"]["status"] == "timed out"
    assert found["ours"]["rows"] == found["profile"]["rows"] == [1]
    assert (found["peer-jax"]["status"], found["peer-jax"]["why"]) == ("skipped", "no time was left")
    assert "profile: timed out" in capsys.readouterr().out

    monkeypatch.setattr(main, "import_module", lambda name: (_ for _ in ()).throw(ValueError("no such module")))
    main._run_here("ours", folder)
    assert json.loads(folder.step("ours").read_text())["why"] == "ValueError: no such module"
    assert Step(folder.step("new")).data == {}


def test_conformance_compares_bits_and_bounded_sums():
    from gpu.conformance import compare, parse

    def words(*values):
        return " ".join(f"{word:x}" for word in np.array(values, np.float32).view(np.uint32))

    emulated = parse(
        "moved bits 0 1 2 ffffffff\n"
        f"sum float32 0.01 {words(1, -2, 1e-6)}\nsum.magnitude float32 0.01 {words(1, 4, 10)}\n"
        f"exact float32 0 {words(0.0, np.nan, np.inf)}\n"
    )
    same = parse(
        "moved bits 0 1 2 ffffffff\n"
        f"sum float32 0.01 {words(1.009, -2.03, 0.09)}\nsum.magnitude float32 0.01 {words(1, 4, 10)}\n"
        f"exact float32 0 {words(-0.0, -np.nan, np.inf)}\n"
    )
    assert [row["case"] for row in compare(emulated, same) if not row["passed"]] == []
    for name, line in (
        ("moved", "moved bits 0 1 3 ffffffff"),
        ("moved", "moved bits 0 1 2"),
        ("sum", f"sum float32 0.01 {words(1, -2.05, 0)}"),
        ("sum", f"sum float32 0.01 {words(1, np.nan, 0)}"),
        ("exact", f"exact float32 0 {words(0, 1, np.inf)}"),
        ("exact", f"exact float32 0 {words(0, np.nan, -np.inf)}"),
        ("unknown", "unknown bits 0 1"),
    ):
        (row,) = compare(emulated, parse(line))
        assert row["case"] == name
        assert not row["passed"], line
        json.dumps(row, allow_nan=False)


def test_results_of_a_check_need_not_be_good(tmp_path):
    """Errors, differing bits and what is no number are found."""
    from gpu.correctness import _Check
    from gpu.network import POOL
    from gpu.store import Step

    class OfInputs:
        inputs = tmp_path

    class Fast:
        dtype = "float16"

    step = Step(tmp_path / "step.json")
    check = _Check(OfInputs(), step, Fast())
    np.savez(tmp_path / "reference.npz", a=np.ones((POOL, 3)))
    good, bad = {"a": np.ones((2, 3), np.float32)}, {"a": np.array([[1, 1, 1], [1, 1, 1.1]], np.float32)}
    nothing = {"a": np.full((2, 3), np.nan, np.float32)}
    for found in (good, bad, nothing):
        check._error("error", 2, "uint8", found, good)
        check._bits("bits", 2, "uint8", [found, found])
        check._bits("bits", 2, "uint8", [good, found])
    passed = [row["passed"] for row in json.loads((tmp_path / "step.json").read_text())["checks"]]
    assert passed == [True, True, True, False, True, False, False, False, False]
    # Of results that happen to be small, an error counts as those of the pool would have it.
    small = {"a": np.full((1, 3), 1e-3, np.float32)}
    check._error("error", 1, "uint8", {"a": small["a"] + np.float32(1e-3)}, small)
    check._error("error", 1, "uint8", {"a": small["a"] + np.float32(3e-3)}, small)
    passed = [row["passed"] for row in json.loads((tmp_path / "step.json").read_text())["checks"]]
    assert passed[-2:] == [True, False]


def test_plan_as_a_torch_module(small_file):
    torch = pytest.importorskip("torch")
    from gpu.plan_net import PlanNet, plan_of
    from networks import SMALL, normalise, random_pixels, worst_error

    from faceattr_fast.bench.inputs import float64_reference
    from faceattr_fast.weights import read_weights

    weights, x = read_weights(small_file), normalise(random_pixels(SMALL, 2), SMALL)
    expected = float64_reference(weights, x)
    for rewrite in (True, False):
        net = PlanNet(plan_of(weights, rewrite)).eval()
        with torch.no_grad():
            found = {name: value.numpy() for name, value in net(torch.from_numpy(x)).items()}
        assert found.keys() == expected.keys()
        assert worst_error(found, expected)[0] < 2e-6


def test_kernel_resources():
    from gpu.build import kernel_resources

    log = (
        "ptxas info    : Compiling entry function '_Zabc' for 'sm_90a'\n"
        "ptxas info    : Function properties for _Zabc\n"
        "    0 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 168 registers, used 1 barriers, 16 bytes smem\n"
    )
    (kernel,) = kernel_resources(log)
    assert kernel == {
        "name": "_Zabc", "architecture": "sm_90a", "registers": 168, "shared_bytes": 16, "spilled_bytes": 8
    }  # fmt: skip


def test_counters():
    from gpu.profile import counters

    lines = ["==PROF== Connected", '"ID","Kernel Name","dram__bytes.sum"', '"","","byte"', '"0","stem<float>","1,024"']
    assert list(counters(lines)) == [{"ID": "0", "Kernel Name": "stem<float>", "dram__bytes.sum [byte]": "1,024"}]
    assert list(counters([])) == []


# A record whose every figure is made up, to see how it is written.
def made_up_record():
    def row(contender, form, dtype, batch, seconds, how="graph", clock="device, back to back"):
        return {
            "contender": contender, "form": form, "dtype": dtype, "batch": batch, "how": how, "clock": clock,
            "seconds": {"min": 0.9 * seconds, "median": seconds, "max": 2 * seconds, "calls": 9},
            "error": 1e-3, "head": "h",
        }  # fmt: skip

    ours = [
        row("faceattr_fast", "rewritten", "float16", 1, 3e-5),
        row("faceattr_fast", "rewritten", "float16", 1, 6e-5, how="call"),
        row("faceattr_fast", "rewritten", "float16", 1, 8e-5, clock="host"),
        row("faceattr_fast", "rewritten", "float16", 64, 1e-3),
    ]
    return {
        "format": 1, "kind": "gpu", "time": "2000-01-01T00:00:00+00:00", "gpu": "MADE UP", "commit": "c" * 40,
        "seed": 5,
        "steps": {
            "record": {"status": "done", "gpu": {"driver_version": "0.0", "power.limit": "1 W"},
                       "packages": {"torch": "9"}},
            "ceilings": {"status": "done", "rates": [
                {"name": "torch_matmul_float16_8192", "value": 100.0, "unit": "TFLOP/s"}]},
            "correctness": {"status": "failed", "why": "a | b", "checks": [
                {"check": "x", "dtype": "int8", "batch": 3, "pixels": "uint8", "passed": False, "error": 0.5,
                 "limit": 0.1},
                {"check": "x", "dtype": "int8", "batch": 4, "pixels": "uint8", "passed": True, "error": 0.01,
                 "limit": 0.1}]},
            "ours": {"status": "done", "rows": ours,
                     "plan_float16": {"multiply_adds_as_given": 10**9, "multiply_adds": 5 * 10**8}},
            "peer-eager": {"status": "done", "rows": [row("torch", "as given", "float16", 1, 9e-5)],
                           "left_out": [{"contender": "torch", "form": "as given", "dtype": "float16", "batch": 2,
                                         "how": "call", "error": 0.5, "head": "h", "limit": 0.01}]},
            "peer-jax": {"status": "skipped", "why": "not measured: jax is not installed"},
        },
    }  # fmt: skip


def test_tables_of_a_record(tmp_path, capsys):
    from gpu_results import main, record_text

    text, ours = record_text(made_up_record()), "| faceattr_fast | rewritten | float16"
    for line in (
        f"{ours} | 1 | graph | 27.0/30.0/60.0 | 33333 | 66.7 | 33.3 | 33% | 3.00x | 1.0e-03 |",
        f"{ours} | 64 | graph | 900.0/1000.0/2000.0 | 64000 | 128.0 | 64.0 | 64% |  | 1.0e-03 |",
        "| torch | as given | float16 | 1 | graph | 81.0/90.0/180.0 | 11111 |  |  |  |  | 1.0e-03 |",
        f"{ours} | graph | host | 72.0/80.0/160.0 |",
        "| int8 | x | 2 | 5.0e-01 | 1e-01 | **failed**: batch 3 uint8 |",
        "| correctness | failed | 0 | a / b |",
        "Left out: torch as given, float16, batch 2, call: error 0.5 of h, more than 1e-02.",
    ):
        assert line in text.splitlines(), text
    assert "peer-jax (not measured: jax is not installed)" in text

    (tmp_path / "results").mkdir()
    assert main(["--check"], tmp_path) == 0  # no record, no file
    (tmp_path / "results" / "made-up.json").write_text(json.dumps(made_up_record()))
    assert main(["--check"], tmp_path) == 1
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    written = tmp_path / "GPU_RESULTS.md"
    assert text in written.read_text()
    written.write_text(written.read_text().replace("33333", "44444"))
    assert main(["--check"], tmp_path) == 1
    assert "run python benchmarks/gpu_results.py" in capsys.readouterr().out


def test_document_says_what_the_records_say(capsys):
    from gpu_results import main

    assert main(["--check"]) == 0, capsys.readouterr().out
