"""The commands, as a shell sees them: what goes to which stream, and the exit code."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import faceattr_fast as faf
from faceattr_fast.cli import main
from faceattr_fast.cli.paths import find_pictures
from faceattr_fast.cli.progress import Progress
from faceattr_fast.cli.usage import UsageError
from faceattr_fast.cli.verify import meaning, verification
from faceattr_fast.machine import cpu_model
from faceattr_fast.weights import Weights, write_weights

ASTRONAUT = Path(__file__).parents[1] / "examples" / "astronaut.jpg"

SPEC = faf.NetworkSpec(
    stem=faf.StemSpec(8),
    stages=((faf.BlockSpec(8, 8, 16, 4),),),
    embedding=16,
    heads=(
        faf.HeadSpec("gender", 2, "fc", labels=("female", "male")),
        faf.HeadSpec("emotion", 2, "fc", labels=("happy", "sad")),
        faf.HeadSpec("age", 3, "bottleneck", labels=("0-2", "3", "60+"), trained=(True, True, False)),
    ),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in SPEC.tensor_shapes().items()}
    tensors = {name: abs(value) if name.endswith("running_var") else value for name, value in tensors.items()}
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    metadata = {"licence": "none", "accuracy": {"gender": {"value": 0.5, "n": 2, "data": "two pictures"}}}
    write_weights(path, Weights(SPEC, tensors, metadata))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Two faces, one grey picture, one file that is no picture and one that is none of our business."""
    pictures = tmp_path / "pictures"
    (pictures / "more").mkdir(parents=True)
    for name in ("b.jpg", "more/a.jpg"):
        (pictures / name).write_bytes(ASTRONAUT.read_bytes())
    (pictures / "a.jpg").write_bytes(b"not a picture")
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(pictures / "grey.png")
    (pictures / "notes.txt").write_text("not a picture either")
    return pictures


@pytest.fixture(autouse=True)
def no_yunet(monkeypatch, tmp_path_factory):
    """Whatever this machine has: Haar is used."""
    monkeypatch.delenv("FACEATTR_YUNET", raising=False)
    monkeypatch.setenv("FACEATTR_CACHE", str(tmp_path_factory.mktemp("cache")))


# predict


def test_predict_prints_a_table(weights, capsys):
    assert main(["predict", str(ASTRONAUT), "--weights", weights]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "box", "gender", "age", "years"]
    assert row.startswith(str(ASTRONAUT))
    assert "%" in row


def test_one_bad_file_among_good_ones(folder, weights, capsys):
    assert main(["predict", str(folder), "--weights", weights]) == 1
    out, err = capsys.readouterr()
    rows = out.splitlines()[1:]
    names = [Path(row.split()[0]).relative_to(folder).as_posix() for row in rows]
    assert names == ["a.jpg", "b.jpg", "grey.png", "more/a.jpg"]
    assert "error: " in rows[0]
    assert rows[2].endswith("no face found")
    assert err == f"faceattr predict: 1 of 4 failed: {folder / 'a.jpg'}\n"  # quiet otherwise: this is no terminal


def test_predict_json_lines(folder, weights, capsys):
    assert main(["predict", str(folder), "--weights", weights, "--json"]) == 1
    bad, good, grey, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert bad.keys() == {"file", "error"}
    assert grey == {"file": str(folder / "grey.png"), "faces": []}
    (face,) = good["faces"]
    assert face["attributes"].keys() == {"gender", "age"}
    assert "embedding" not in face


def test_json_has_the_embedding_if_it_is_asked_for(weights, capsys):
    assert main(["predict", str(ASTRONAUT), "--weights", weights, "--json", "--heads", "embedding,gender"]) == 0
    (face,) = json.loads(capsys.readouterr().out)["faces"]
    assert len(face["embedding"]) == SPEC.embedding
    assert face["attributes"].keys() == {"gender"}


def test_sensitive_heads_need_the_option(weights, capsys):
    assert main(["predict", str(ASTRONAUT), "--weights", weights, "--heads", "emotion"]) == 2
    assert "sensitive" in capsys.readouterr().err
    assert main(["predict", str(ASTRONAUT), "--weights", weights, "--sensitive"]) == 0
    assert "emotion" in capsys.readouterr().out.splitlines()[0]


def test_crops_use_no_detector(folder, weights, capsys, monkeypatch):
    monkeypatch.delattr("cv2.CascadeClassifier")
    arguments = ["predict", str(folder), "--weights", weights, "--crops", "--json"]
    code, out = main(arguments), capsys.readouterr().out
    bad, *good = (json.loads(line) for line in out.splitlines())
    assert code == 1
    assert "error" in bad
    assert [len(line["faces"]) for line in good] == [1, 1, 1]
    assert good[0]["faces"][0]["box"] is None


def test_annotate_writes_pictures(folder, weights, tmp_path):
    target = tmp_path / "annotated"
    assert main(["predict", str(folder), "--weights", weights, "--annotate", str(target)]) == 1
    written = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert written == ["b.jpg", "grey.png", "more/a.jpg"]
    assert Image.open(target / "b.jpg").size == Image.open(ASTRONAUT).size


def test_annotate_never_overwrites_its_input(folder, weights, capsys):
    assert main(["predict", str(folder), "--weights", weights, "--annotate", str(folder)]) == 2
    assert "overwrite" in capsys.readouterr().err
    assert (folder / "b.jpg").read_bytes() == ASTRONAUT.read_bytes()


def test_a_picture_that_cannot_be_annotated_keeps_its_faces(weights, tmp_path, capsys):
    (tmp_path / "astronaut.jpg").mkdir()  # in the way
    arguments = ["predict", str(ASTRONAUT), "--weights", weights, "--annotate", str(tmp_path), "--json"]
    assert main(arguments) == 1
    line = json.loads(capsys.readouterr().out)
    assert len(line["faces"]) == 1
    assert "annotated picture" in line["error"]


def test_out_appears_only_complete(weights, tmp_path, capsys, monkeypatch):
    out = tmp_path / "faces.jsonl"
    out.write_text("before")

    def interrupted(*_):
        assert out.read_text() == "before"
        raise KeyboardInterrupt

    arguments = ["predict", str(ASTRONAUT), "--weights", weights, "--json", "--out", str(out)]
    monkeypatch.setattr("faceattr_fast.cli.predict._results", interrupted)
    assert main(arguments) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["faces.jsonl"]
    monkeypatch.undo()
    assert main(arguments) == 0
    assert len(json.loads(out.read_text())["faces"]) == 1
    assert capsys.readouterr().out == ""


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
        (["export-onnx"], "OUT"),
        (["doctor", "--weights", "no/such/weights"], "no/such/weights"),
        ([], "COMMAND"),
        (["dance"], "dance"),
    ],
    ids=" ".join,
)
def test_usage_errors(arguments, message, weights, capsys):
    if arguments[:1] in (["predict"], ["bench"], ["verify"]) and "--weights" not in arguments:
        arguments = [*arguments, "--weights", weights]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_unknown_isa_is_a_usage_error(weights, capsys, monkeypatch):
    monkeypatch.setenv("FACEATTR_ISA", "mmx")
    assert main(["predict", str(ASTRONAUT), "--weights", weights]) == 2
    assert "mmx" in capsys.readouterr().err


# verify


def test_verify_compares_the_largest_faces(weights, capsys):
    assert main(["verify", str(ASTRONAUT), str(ASTRONAUT), "--weights", weights]) == 0
    out = capsys.readouterr().out
    assert out.startswith("similarity 1.000\n")
    assert "no verdict" in out


def test_verify_without_a_face_fails(folder, weights, capsys):
    assert main(["verify", str(ASTRONAUT), str(folder / "grey.png"), "--weights", weights]) == 1
    assert "no face found" in capsys.readouterr().err
    assert main(["verify", str(folder / "a.jpg"), str(ASTRONAUT), "--weights", weights]) == 1
    assert "a.jpg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cosine", "verdict"), [(0.31, "the same person"), (0.3, "the same person"), (0.29, "different")]
)
def test_a_verdict_needs_a_threshold(cosine, verdict):
    figures = {"value": 0.75, "n": 1200, "data": "LFW"}
    assert "75.0% of 1,200 pairs right (LFW)" in meaning(cosine, figures)
    assert "no verdict" in meaning(cosine, figures)
    assert verdict in meaning(cosine, {**figures, "threshold": 0.3})


# doctor


def test_doctor(weights, capsys):
    assert main(["doctor", "--weights", weights]) == 0
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
def test_doctor_says_what_scalar_is(weights, capsys, monkeypatch, machine, isa, text):
    monkeypatch.delenv("FACEATTR_ISA", raising=False)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("faceattr_fast._core.detected_isa", lambda: isa)
    assert main(["doctor", "--weights", weights]) == 0
    assert f"instruction sets detected: {text}" in capsys.readouterr().out


def test_cpu_model(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    cpuinfo = tmp_path / "cpuinfo"
    cpus = ["processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "processor\t: 1\nCPU part\t: 0xd05\n"]
    cpuinfo.write_text("\n".join(cpus))
    assert cpu_model(cpuinfo) == "aarch64, implementer 0x41, part 0xd0c"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A CPU: fast\n")
    assert cpu_model(cpuinfo) == "A CPU: fast"


def test_doctor_without_optional_packages(weights, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr("faceattr_fast.bench.machine.installed", lambda names: None)
    assert main(["doctor", "--weights", weights]) == 0
    out = capsys.readouterr().out
    assert "none: finding faces needs OpenCV" in out
    assert "missing: pip install 'faceattr_fast[bench]'" in out


def test_doctor_says_what_is_broken(weights, capsys, monkeypatch):
    for variable, value in (("FACEATTR_ISA", "mmx"), ("FACEATTR_NUM_THREADS", "many")):
        with monkeypatch.context() as environment:
            environment.setenv(variable, value)
            assert main(["doctor", "--weights", weights]) == 1
        assert value in capsys.readouterr().out.partition("problems")[2]


# export-onnx


def test_export_onnx(weights, tmp_path, capsys):
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    out = tmp_path / "small.onnx"
    assert main(["export-onnx", str(out), "--weights", weights]) == 0
    assert "onnxruntime agrees to" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    model = onnx.load(out)
    assert json.loads(model.metadata_props[0].value)["licence"] == "none"
    assert [output.name for output in model.graph.output] == ["embedding", "gender", "emotion", "age"]
    pixels = np.random.default_rng(1).uniform(-1, 1, (3, 3, 224, 224)).astype(np.float32)
    results = ort.InferenceSession(str(out)).run(["age"], {"pixels": pixels})[0]
    np.testing.assert_allclose(results, faf.FastForward.load(weights)(pixels)["age"], rtol=1e-4, atol=1e-5)


def test_export_onnx_names_the_extra(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("faceattr_fast.export.find_spec", lambda name: None)
    assert main(["export-onnx", str(tmp_path / "a.onnx"), "--weights", weights]) == 2
    assert "faceattr_fast[onnx]" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


# the process


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(faf.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_a_closed_pipe_is_no_error(weights):
    process = start("-m", "faceattr_fast", "predict", str(ASTRONAUT), "--json", "--weights", weights)
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


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_for_terminals(monkeypatch):
    for stream, shown in ((io.StringIO(), False), (_Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        out = io.StringIO()
        with Progress(2, "pictures") as progress:
            progress.step()
            progress.print("a line", out)
            progress.step()
        assert out.getvalue() == "a line\n"
        assert ("2/2 pictures" in stream.getvalue()) == shown
        assert stream.getvalue().endswith("\x1b[K") == shown  # nothing is left behind


def test_out_keeps_permissions_and_never_replaces_a_picture(weights, folder, tmp_path, capsys):
    out = tmp_path / "private.json"
    out.touch(mode=0o600)
    assert main(["predict", str(ASTRONAUT), "--weights", weights, "--json", "--out", str(out)]) == 0
    assert out.stat().st_mode & 0o777 == 0o600
    photo = folder / "b.jpg"
    assert main(["predict", str(folder), "--weights", weights, "--out", str(photo)]) == 2
    assert "overwrite" in capsys.readouterr().err
    assert photo.read_bytes() == ASTRONAUT.read_bytes()


def test_a_pipe_in_a_folder_is_no_picture(folder):
    os.mkfifo(folder / "pipe.jpg")
    assert "pipe.jpg" not in [picture.path.name for picture in find_pictures([folder])]


@pytest.mark.parametrize(
    "figures", [{"value": "x"}, {"threshold": "0.3"}, {"threshold": True}, {"value": 0.7, "n": "many"}, {"data": 5}, 7]
)
def test_verify_survives_what_a_file_may_say(figures):
    kept = verification({"accuracy": {"verification": figures}})
    assert "threshold" not in kept
    assert "no verdict" in meaning(0.5, kept)
