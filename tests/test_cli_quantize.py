"""``faceattr quantize``: from pictures to a weights file that runs in int8."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from random_weights import one_block, random_tensors
from terminal import Terminal

import faceattr_fast as faf
from faceattr_fast.cli import main
from faceattr_fast.formats.deviation import deviations
from faceattr_fast.weights import Weights, copy_weights, read_weights, write_weights

pytest.importorskip("cv2")

ASTRONAUT = Path(__file__).parents[1] / "examples" / "astronaut.jpg"
pytestmark = pytest.mark.usefixtures("no_yunet")

SPEC = one_block(
    faf.HeadSpec("gender", 2, "fc", labels=("female", "male")),
    faf.HeadSpec("emotion", 2, "conv2", labels=("happy", "sad")),
    faf.HeadSpec("glasses", 1, "bottleneck", kind="sigmoid", labels=("glasses",)),
)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "small.safetensors"
    write_weights(path, Weights(SPEC, random_tensors(SPEC), {"licence": "none"}), dtype="float16")
    return path


@pytest.fixture
def folder(tmp_path):
    """Two pictures with a face and one without."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (pictures / name).write_bytes(ASTRONAUT.read_bytes())
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(pictures / "grey.png")
    return pictures


def body(path):
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def quantize(*arguments):
    return main(["quantize", *map(str, arguments), "--threads", "1"])


def test_int8_runs_on_what_is_written(weights, folder, tmp_path, capsys):
    out = tmp_path / "int8.safetensors"
    assert main(["predict", str(ASTRONAUT), "--weights", str(weights), "--dtype", "int8"]) == 2
    assert "faceattr quantize" in capsys.readouterr().err
    before = weights.read_bytes()
    assert quantize(folder, "--out", out, "--weights", weights) == 0
    printed, err = capsys.readouterr()
    assert f"{out}: scales from 2 faces" in printed
    assert "2 faces are few" in err
    table = {line.split()[0]: line.split()[1:] for line in printed.splitlines()[3:-1]}
    assert table.keys() == {"embedding", "gender", "emotion", "glasses"}
    assert len(table["embedding"]) == 1
    assert 0 < max(float(cells[0].removesuffix("%")) for cells in table.values()) < 20
    assert table["gender"][1] == "100.0%"
    assert not {"female", "male", "happy", "sad"} & set(printed.split())
    assert printed.splitlines()[-1].startswith("worst: ")
    # Tensors byte for byte, the rest of the metadata too.
    assert weights.read_bytes() == before
    assert body(out) == body(weights)
    found = read_weights(out)
    assert (found.spec, found.metadata["licence"], found.metadata["int8"]["images"]) == (SPEC, "none", 2)
    assert found.metadata.keys() == {"licence", "int8"}

    for dtype in ("int8", "float32"):
        assert main(["predict", str(ASTRONAUT), "--weights", str(out), "--dtype", dtype, "--json"]) == 0
        (face,) = json.loads(capsys.readouterr().out)["faces"]
        assert face["attributes"].keys() == {"gender", "glasses"}
    assert main(["doctor", "--weights", str(out)]) == 0
    assert "int8: scales from 2 faces" in capsys.readouterr().out
    assert main(["doctor", "--weights", str(weights)]) == 0
    assert "int8: no scales; 'faceattr quantize' makes them" in capsys.readouterr().out


def test_the_scales_are_those_of_the_faces_that_predict_finds(weights, folder, tmp_path):
    out = tmp_path / "int8.safetensors"
    assert quantize(ASTRONAUT, "--out", out, "--weights", weights) == 0
    crops = faf.FaceAnalyzer.load(weights, detector="haar").crops(ASTRONAUT)
    assert crops.shape == (1, 224, 224, 3)
    expected = faf.FastForward(read_weights(weights), calibration=crops, threads=1)
    assert read_weights(out).metadata["int8"] == expected.metadata["int8"]


def test_in_place_and_again(weights, folder):
    assert quantize(folder, "--out", weights, "--weights", weights) == 0
    once = weights.read_bytes()
    assert quantize(folder, "--out", weights, "--weights", weights) == 0
    assert weights.read_bytes() == once
    assert [path.name for path in weights.parent.iterdir() if path.is_file()] == [weights.name]


def test_a_bad_picture_is_passed_over(weights, folder, tmp_path, capsys):
    (folder / "bad.jpg").write_bytes(b"not a picture")
    out = tmp_path / "int8.safetensors"
    assert quantize(folder, "--out", out, "--weights", weights) == 1
    printed, err = capsys.readouterr()
    assert "scales from 2 faces" in printed
    assert f"{folder / 'bad.jpg'}: " in err
    assert f"1 of 4 failed: {folder / 'bad.jpg'}" in err
    assert faf.FastForward.load(out, dtype="int8").dtype == "int8"


def test_no_face_at_all(weights, folder, tmp_path, capsys):
    out = tmp_path / "int8.safetensors"
    assert quantize(folder / "grey.png", "--out", out, "--weights", weights) == 1
    assert "no face found" in capsys.readouterr().err
    assert not out.exists()


def test_crops_are_taken_whole_and_limited(weights, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.delattr("cv2.CascadeClassifier")
    out = tmp_path / "int8.safetensors"
    assert quantize(folder, "--crops", "--out", out, "--weights", weights) == 0
    assert "scales from 3 faces" in capsys.readouterr().out
    assert quantize(folder, "--crops", "--images", "2", "--out", out, "--weights", weights) == 0
    assert "scales from 2 faces" in capsys.readouterr().out


def test_progress_on_a_terminal(weights, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert quantize(folder, "--out", tmp_path / "int8.safetensors", "--weights", weights) == 0
    shown = sys.stderr.getvalue()
    assert "3/3 pictures" in shown
    assert "2/2 faces  making scales" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "int8.safetensors"], "PATH"),
        ([str(ASTRONAUT)], "--out"),
        ([str(ASTRONAUT), "--out", str(ASTRONAUT)], "overwrite a picture"),
        ([str(ASTRONAUT), "--out", "."], "folder"),
        ([str(ASTRONAUT), "--out", "no/such/folder/file"], "no/such/folder"),
        (["no/such/picture.jpg", "--out", "x"], "no/such/picture.jpg"),
        ([str(ASTRONAUT), "--out", "x", "--images", "0"], "images"),
        ([str(ASTRONAUT), "--out", "x", "--detector", "eyes"], "eyes"),
        ([str(ASTRONAUT), "--out", "x", "--weights", "no/such/weights"], "no/such/weights"),
        ([str(ASTRONAUT), "--out", "x", "--weights", str(ASTRONAUT)], "damaged"),
    ],
)
def test_usage_errors(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert quantize(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_help_lists_the_formats(capsys):
    assert main(["predict", "--help"]) == 0
    assert "float32, bfloat16, int8" in " ".join(capsys.readouterr().out.split())


# parts


def test_copy_weights_changes_metadata_and_nothing_else(weights, tmp_path):
    copied = tmp_path / "copy.safetensors"
    copy_weights(weights, copied, {"licence": "free", "note": "é"})
    found, before = read_weights(copied), read_weights(weights)
    assert found.metadata == {"licence": "free", "note": "é"}
    assert found.spec == before.spec
    assert body(copied) == body(weights)
    assert (len(copied.read_bytes()) - len(body(copied))) % 8 == 0
    link = tmp_path / "link.safetensors"
    link.symlink_to(copied)
    copy_weights(link, link, {})
    assert link.is_symlink()
    assert read_weights(copied).metadata == found.metadata


@pytest.mark.parametrize("changes", [{"spec": {}}, {"format": 2, "licence": "x"}])
def test_copy_weights_keeps_what_belongs_to_the_tensors(weights, tmp_path, changes):
    with pytest.raises(ValueError, match="cannot be changed"):
        copy_weights(weights, tmp_path / "copy", changes)
    assert not (tmp_path / "copy").exists()


def test_copy_weights_sets_thresholds(weights, tmp_path):
    copied = tmp_path / "copy.safetensors"
    copy_weights(weights, copied, {}, {"gender": (0.25, 0.75)})
    assert read_weights(copied).spec.head("gender").thresholds == (0.25, 0.75)
    assert read_weights(copied).spec.head("emotion") == SPEC.head("emotion")
    assert body(copied) == body(weights)
    for thresholds, message in (({"mood": (0.5,)}, "no head named 'mood'"), ({"gender": (0.5,)}, "needs 2 entries")):
        with pytest.raises(ValueError, match=message):
            copy_weights(weights, tmp_path / "other", {}, thresholds)
    assert not (tmp_path / "other").exists()


def test_copy_weights_refuses_a_damaged_file(weights, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(faf.WeightsError, match="damaged"):
        copy_weights(damaged, tmp_path / "copy", {})
    with pytest.raises(FileNotFoundError):
        copy_weights(tmp_path / "missing", tmp_path / "copy", {})


def test_an_interrupted_copy_leaves_the_old_file(weights, monkeypatch):
    before = weights.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        copy_weights(weights, weights, {"licence": "free"})
    assert weights.read_bytes() == before
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]


def test_deviations():
    exact = {
        "embedding": np.array([[3.0, 4.0]]),
        "gender": np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [0.0, 3.0]]),
        "glasses": np.array([[1.0], [-1.0], [2.0], [-2.0]]),
    }
    found = {
        "embedding": np.array([[3.0, 4.5]]),
        "gender": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 2.0], [0.0, 3.0]]),
        "glasses": -exact["glasses"],
    }
    result = deviations(SPEC, found, exact)
    assert (result["embedding"].error, result["embedding"].agreement) == (0.1, None)
    assert result["gender"].agreement == 0.75
    assert (result["glasses"].error, result["glasses"].agreement) == (2.0, 0.0)
    zeros = {"embedding": np.zeros((1, 2))}
    assert deviations(SPEC, zeros, zeros)["embedding"].error == 0
