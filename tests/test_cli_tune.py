"""``faceattr tune``: what is measured, printed and written, and what ``faceattr doctor`` says of it."""

import json
import sys

import numpy as np
import pytest
from networks import SMALL, random_pixels
from terminal import Terminal

from faceattr_fast import FastForward
from faceattr_fast.cli import main
from faceattr_fast.tuning.file import _warn_once, read_choices, read_tunings


@pytest.fixture(scope="module")
def weights(small_net, tmp_path_factory):
    """A file with scales for int8."""
    path = tmp_path_factory.mktemp("int8") / "small.safetensors"
    FastForward.from_module(small_net, calibration=random_pixels(SMALL, 4)).save(path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder of a user who has tuned nothing; nor is there the folder."""
    for name in ("FACEATTR_TUNE", "FACEATTR_ALGORITHM"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "cache" / "faceattr"
    monkeypatch.setenv("FACEATTR_CACHE", str(folder))
    _warn_once.cache_clear()
    return folder


@pytest.fixture
def winograd_is_faster(monkeypatch):
    """A machine on which winograd4x4 takes half the time of other algorithms; the rule never takes it for SMALL."""

    def measured(plans, threads, isa, batches, rounds, report):
        report(0, "packing weights")
        report(rounds, "done")
        seconds = {"winograd4x4": 0.001, "": 0.1}
        times = [[seconds.get(getattr(phase, "algorithm", ""), 0.002) for phase in plan.phases] for plan in plans]
        return np.broadcast_to(np.array(times)[:, None, None], (len(plans), rounds, len(batches), len(times[0])))

    monkeypatch.setattr("faceattr_fast.tuning.measure.measure", measured)


def tune(*arguments):
    return main(["tune", *map(str, arguments)])


def algorithms(weights, **options):
    fast = FastForward.load(weights, **options)
    return {phase.name: (phase.kernel, phase.chosen_by) for phase in fast.describe().phases if phase.chosen_by}


def test_tuning_for_real(weights, cache, capsys):
    assert tune("--weights", weights, "--dtype", "float32,int8,mixed,bfloat16", "--batch", "1,3", "--threads", "2") == 0
    out, err = capsys.readouterr()
    assert "2 threads" in out.splitlines()[0]
    for dtype in ("float32", "int8", "mixed"):
        assert f"\n{dtype}: microseconds per image, medians of 20 rounds\n" in out
    assert out.count("whole network") >= 3
    path = cache / "tune.json"
    assert out.splitlines()[-1] == f"{path}: networks that are loaded from now on use it"
    assert [file.name for file in cache.iterdir()] == ["tune.json"]
    assert set(err.splitlines()) == set() or "other programs used" in err  # no progress: this is no terminal
    (found,) = read_tunings(path)["tunings"]
    for dtype in ("float32", "int8", "mixed"):
        assert found["dtypes"][dtype]
        for entry in found["dtypes"][dtype].values():
            assert entry["threads"] == 2
            assert entry["algorithm"] in entry["seconds"]
            assert len(entry["seconds"]) > 1
            assert all(0 < s < 10 for times in entry["seconds"].values() for s in times.values())
            assert all(list(times) == ["1", "3"] for times in entry["seconds"].values())
        assert "tuned" in {chooser for _, chooser in algorithms(weights, dtype=dtype).values()}


def test_what_is_faster_is_used_and_said(weights, cache, capsys, monkeypatch, winograd_is_faster):
    before = algorithms(weights)
    assert tune("--weights", weights, "--batch", "1,32,1", "--threads", "1") == 0
    out = capsys.readouterr().out
    assert "1 thread\n" in out
    header = next(line for line in out.splitlines() if line.startswith("phases"))
    assert header.split() == ["phases", "by", "rule", "batch", "1", "batch", "32", "tuned", "batch", "1", "batch", "32"]
    assert {chooser for _, chooser in before.values()} == {"rule"}
    rows = ("x1", "m3 mood.m3")
    lines = [line.split() for line in out.splitlines()]
    for names in map(str.split, rows):
        (row,) = (line for line in lines if line[: len(names)] == names)
        by_rule, tuned = [f"{2000 * len(names)}.0"] * 2, [f"{1000 * len(names)}.0"] * 2
        assert row[len(names) + 1 :] == [*by_rule, "winograd4x4", *tuned]
    assert "2 of the rule's 3 choices replaced" in out
    after = algorithms(weights)
    for name, (kernel, chooser) in after.items():
        replaced = name in " ".join(rows).split()
        assert (kernel != before[name][0]) == replaced
        assert chooser == ("tuned" if replaced or name == "x0" else "rule")  # the stem: the rule's choice, measured

    assert main(["doctor", "--weights", str(weights)]) == 0
    assert f"as measured, for some shapes of convolution (float32: {len(rows) + 1})" in capsys.readouterr().out
    monkeypatch.setenv("FACEATTR_TUNE", "off")
    assert algorithms(weights) == before
    assert main(["doctor", "--weights", str(weights)]) == 0
    assert "by rule; FACEATTR_TUNE=off" in capsys.readouterr().out
    monkeypatch.setenv("FACEATTR_ALGORITHM", "direct")
    assert main(["doctor", "--weights", str(weights)]) == 0
    assert "  FACEATTR_ALGORITHM=direct\n" in capsys.readouterr().out


def test_files_are_added_to(weights, cache, winograd_is_faster, monkeypatch):
    isa = FastForward.load(weights).isa
    monkeypatch.setenv("FACEATTR_ISA", isa.split("+")[-1])
    assert tune("--weights", weights, "--heads", "hat") == 0
    few = read_choices(cache / "tune.json", isa.split("+")[-1])["float32"]
    assert tune("--weights", weights, "--dtype", "int8") == 0
    assert tune("--weights", weights, "--heads", "mood,pose,embedding") == 0
    found = read_choices(cache / "tune.json", isa.split("+")[-1])
    assert found.keys() == {"float32", "int8"}
    assert few.items() < found["float32"].items()
    monkeypatch.setenv("FACEATTR_ISA", "scalar")
    assert tune("--weights", weights) == 0
    assert len(read_tunings(cache / "tune.json")["tunings"]) == 2


def test_where_the_file_goes(weights, cache, tmp_path, capsys, monkeypatch, winograd_is_faster):
    named = tmp_path / "named.json"
    assert tune("--weights", weights, "--out", named) == 0
    assert capsys.readouterr().out.endswith(f"{named}: not used unless FACEATTR_TUNE names it\n")
    assert not cache.exists()
    monkeypatch.setenv("FACEATTR_TUNE", str(tmp_path / "variable.json"))  # it is not there yet
    assert tune("--weights", weights) == 0
    assert capsys.readouterr().out.endswith("variable.json: networks that are loaded from now on use it\n")
    assert (tmp_path / "variable.json").read_bytes() == named.read_bytes()
    monkeypatch.setenv("FACEATTR_TUNE", "off")
    assert tune("--weights", weights) == 0
    assert capsys.readouterr().out.endswith("tune.json: not used unless FACEATTR_TUNE names it\n")
    assert (cache / "tune.json").read_bytes() == named.read_bytes()


def test_a_damaged_file(weights, cache, tmp_path, capsys, monkeypatch, winograd_is_faster):
    cache.mkdir(parents=True)
    path = cache / "tune.json"
    path.write_text("{")
    assert main(["doctor", "--weights", str(weights)]) == 0
    assert "by rule; " in (out := capsys.readouterr().out)
    assert "damaged" in out
    # Someone else's file, named by mistake, stays; the command's own is written anew.
    assert tune("--weights", weights, "--out", path) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert path.read_text() == "{"
    monkeypatch.setenv("FACEATTR_TUNE", str(path))
    assert tune("--weights", weights) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert main(["doctor", "--weights", str(weights)]) == 1
    assert "FACEATTR_TUNE" in capsys.readouterr().out.partition("problems")[2]
    monkeypatch.delenv("FACEATTR_TUNE")
    assert tune("--weights", weights) == 0
    assert "written anew" in capsys.readouterr().err
    assert read_tunings(path)["format"] == 1


def test_doctor_without_a_file(weights, cache, capsys, monkeypatch, winograd_is_faster):
    assert main(["doctor", "--weights", str(weights)]) == 0
    assert f"by rule; {cache / 'tune.json'}, which 'faceattr tune' writes, is not there" in capsys.readouterr().out
    assert tune("--weights", weights) == 0
    capsys.readouterr()
    monkeypatch.setattr("faceattr_fast.tuning.file.cpu_model", lambda: "another")
    assert main(["doctor", "--weights", str(weights)]) == 0
    assert "has nothing for this CPU, instruction set and version" in capsys.readouterr().out


def test_an_interrupted_run_leaves_the_old_file(weights, cache, capsys, monkeypatch, winograd_is_faster):
    assert tune("--weights", weights) == 0
    before = (cache / "tune.json").read_bytes()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dump", interrupted)
    assert tune("--weights", weights, "--heads", "hat") == 130
    assert (cache / "tune.json").read_bytes() == before
    assert [file.name for file in cache.iterdir()] == ["tune.json"]


def test_a_busy_machine(weights, capsys, monkeypatch, winograd_is_faster):
    readings = iter((0.0, 1e6))
    monkeypatch.setattr("faceattr_fast.machine.machine_cpu_seconds", lambda: next(readings))
    assert tune("--weights", weights) == 0
    assert "tune again on a quiet machine" in capsys.readouterr().err


def test_progress_on_a_terminal(weights, monkeypatch, winograd_is_faster):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert tune("--weights", weights) == 0
    assert "40/40 rounds" in sys.stderr.getvalue()
    assert "float32: packing weights" in sys.stderr.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "float8"], "float8"),
        (["--dtype", ","], "--dtype"),
        (["--batch", "0"], "'0'"),
        (["--batch", ","], "--batch"),
        (["--threads", "none"], "'none'"),
        (["--heads", "nose"], "nose"),
        (["--heads", ","], "heads"),
        (["--out", "no/such/folder/file"], "no/such/folder"),
        (["--out", "."], "folder"),
        (["--weights", "no/such/weights"], "no/such/weights"),
    ],
    ids=" ".join,
)
def test_usage_errors(arguments, message, weights, cache, capsys, monkeypatch):
    monkeypatch.setattr("faceattr_fast.tuning.measure.measure", None)
    arguments = arguments if "--weights" in arguments else [*arguments, "--weights", weights]
    assert tune(*arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert not (cache / "tune.json").exists()


def test_environment_errors(weights, small_file, cache, capsys, monkeypatch):
    assert tune("--weights", small_file, "--dtype", "int8") == 2
    assert "faceattr quantize" in capsys.readouterr().err
    for name, value in (("FACEATTR_ALGORITHM", "direct"), ("FACEATTR_ISA", "mmx"), ("FACEATTR_NUM_THREADS", "many")):
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            assert tune("--weights", weights) == 2
        assert (name if name != "FACEATTR_ISA" else value) in capsys.readouterr().err
