"""The commands, as a shell sees them: what goes to which stream, and the exit code."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from terminal import Terminal

import faceattr_fast as faf
from faceattr_fast.cli import main
from faceattr_fast.cli.paths import find_pictures
from faceattr_fast.cli.progress import Progress
from faceattr_fast.cli.usage import UsageError
from faceattr_fast.machine import cpu_model

ASTRONAUT = Path(__file__).parents[1] / "examples" / "astronaut.jpg"
pytestmark = pytest.mark.usefixtures("no_yunet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "PATH"),
        (["predict", "no/such/picture.jpg"], "no/such/picture.jpg"),
        (["predict", str(ASTRONAUT), "--heads", "nose"], "nose"),
        (["predict", str(ASTRONAUT), "--device", "cuda"], "CUDA"),
        (["predict", str(ASTRONAUT), "--dtype", "float8"], "float8"),
        (["predict", str(ASTRONAUT), "--threads", "0"], "threads"),
        (["predict", str(ASTRONAUT), "--detector", "eyes"], "eyes"),
        (["predict", str(ASTRONAUT), "--detector-model", "no/such/model.onnx"], "no/such/model.onnx"),
        (["predict", str(ASTRONAUT), "--out", "no/such/folder/out.txt"], "no/such/folder"),
        (["predict", str(ASTRONAUT), "--weights", "no/such/weights"], "no/such/weights"),
        (["predict", str(ASTRONAUT), "--weights", str(ASTRONAUT)], "damaged"),
        (["verify", str(ASTRONAUT), "no/such/picture.jpg"], "no/such/picture.jpg"),
        (["bench", "--batch", "0"], "batch"),
        (["bench", "--threads", "two"], "'two'"),
        (["bench", "--peers", "abacus"], "abacus"),
        (["bench", "--seconds", "-1"], "seconds"),
        (["bench", "--json", "no/such/folder/record.json"], "no/such/folder"),
        (["bench", "--json", "."], "--json . is a folder"),
        (["export-onnx"], "OUT"),
        (["doctor", "--weights", "no/such/weights"], "no/such/weights"),
        ([], "COMMAND"),
        (["dance"], "dance"),
    ],
    ids=" ".join,
)
def test_usage_errors(arguments, message, photo_weights, capsys):
    if arguments[:1] in (["predict"], ["bench"], ["verify"]) and "--weights" not in arguments:
        arguments = [*arguments, "--weights", photo_weights]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_unknown_isa_is_a_usage_error(photo_weights, capsys, monkeypatch):
    monkeypatch.setenv("FACEATTR_ISA", "mmx")
    assert main(["predict", str(ASTRONAUT), "--weights", photo_weights]) == 2
    assert "mmx" in capsys.readouterr().err


# doctor


def test_doctor(photo_weights, capsys):
    assert main(["doctor", "--weights", photo_weights]) == 0
    out = capsys.readouterr().out
    for text in ("SegmentedConv", "licence none", "no training data for 60+", "accuracy, gender", "PyTorch", "haar"):
        assert text in out


@pytest.mark.parametrize(
    ("machine", "isa", "text"),
    [
        ("aarch64", "scalar", "scalar (NEON, fused multiply-adds)"),
        ("riscv64", "scalar", "scalar\n"),
        ("x86_64", "avx2", "avx2\n"),
    ],
)
def test_doctor_says_what_scalar_is(photo_weights, capsys, monkeypatch, machine, isa, text):
    monkeypatch.delenv("FACEATTR_ISA", raising=False)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("faceattr_fast._core.detected_isa", lambda: isa)
    assert main(["doctor", "--weights", photo_weights]) == 0
    assert f"instruction sets detected: {text}" in capsys.readouterr().out


def test_cpu_model(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    cpuinfo = tmp_path / "cpuinfo"
    cpus = ["processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "processor\t: 1\nCPU part\t: 0xd05\n"]
    cpuinfo.write_text("\n".join(cpus))
    assert cpu_model(cpuinfo) == "aarch64, implementer 0x41, part 0xd0c"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A CPU: fast\n")
    assert cpu_model(cpuinfo) == "A CPU: fast"


def test_doctor_without_optional_packages(photo_weights, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr("faceattr_fast.bench.machine.installed", lambda names: None)
    assert main(["doctor", "--weights", photo_weights]) == 0
    out = capsys.readouterr().out
    assert "none: finding faces needs OpenCV" in out
    assert "missing: pip install 'faceattr_fast[bench]'" in out


def test_doctor_says_what_is_broken(photo_weights, capsys, monkeypatch):
    for variable, value in (("FACEATTR_ISA", "mmx"), ("FACEATTR_NUM_THREADS", "many")):
        with monkeypatch.context() as environment:
            environment.setenv(variable, value)
            assert main(["doctor", "--weights", photo_weights]) == 1
        assert value in capsys.readouterr().out.partition("problems")[2]


# export-onnx


def test_export_onnx(photo_weights, tmp_path, capsys):
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    out = tmp_path / "small.onnx"
    assert main(["export-onnx", str(out), "--weights", photo_weights]) == 0
    assert "onnxruntime agrees to" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    model = onnx.load(out)
    assert json.loads(model.metadata_props[0].value)["licence"] == "none"
    assert [output.name for output in model.graph.output] == ["embedding", "gender", "emotion", "age"]
    pixels = np.random.default_rng(1).uniform(-1, 1, (3, 3, 224, 224)).astype(np.float32)
    results = ort.InferenceSession(str(out)).run(["age"], {"pixels": pixels})[0]
    np.testing.assert_allclose(results, faf.FastForward.load(photo_weights)(pixels)["age"], rtol=1e-4, atol=1e-5)


def test_export_onnx_names_the_extra(photo_weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("faceattr_fast.export.find_spec", lambda name: None)
    assert main(["export-onnx", str(tmp_path / "a.onnx"), "--weights", photo_weights]) == 2
    assert "faceattr_fast[onnx]" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


# the process


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(faf.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_a_closed_pipe_is_no_error(photo_weights):
    process = start("-m", "faceattr_fast", "predict", str(ASTRONAUT), "--json", "--weights", photo_weights)
    process.stdout.close()
    with process:
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from faceattr_fast.cli import main; code = main(['predict', '--help']);"
        "print([name for name in ('torch', 'cv2', 'PIL', 'onnxruntime', 'openvino') if name in sys.modules], code)"
    )
    out, _ = start("-c", code).communicate(timeout=60)
    assert out.endswith("[] 0\n")


def test_python_dash_m():
    process = start("-m", "faceattr_fast", "--version")
    assert process.communicate(timeout=60) == (f"faceattr_fast {faf.__version__}\n", "")
    assert process.returncode == 0


# parts


def test_pictures_are_found_in_order_and_named_apart(tmp_path):
    for name in ("x/b.JPG", "x/a.png", "x/.hidden.png", "x/.cache/c.png", "y/a.png", "x/notes.txt", "odd.name"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = find_pictures([tmp_path / "odd.name", tmp_path / "y", tmp_path / "x"])
    assert [picture.name.as_posix() for picture in found] == ["odd.name", "a.png", "a-2.png", "b.JPG"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="no pictures"):
        find_pictures([empty])


def test_progress_is_for_terminals(monkeypatch):
    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        out = io.StringIO()
        with Progress(2, "pictures") as progress:
            progress.step()
            progress.print("a line", out)
            progress.step()
        assert out.getvalue() == "a line\n"
        assert ("2/2 pictures" in stream.getvalue()) == shown
        assert stream.getvalue().endswith("\x1b[K") == shown  # nothing is left behind
