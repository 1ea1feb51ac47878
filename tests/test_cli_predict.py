"""``faceattr predict`` and ``verify``: faces of pictures, as a shell sees them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceattr_fast.cli import main
from faceattr_fast.cli.paths import find_pictures
from faceattr_fast.cli.verify import meaning, verification

ASTRONAUT = Path(__file__).parents[1] / "examples" / "astronaut.jpg"
pytestmark = pytest.mark.usefixtures("no_yunet")


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


def test_predict_prints_a_table(photo_weights, capsys):
    assert main(["predict", str(ASTRONAUT), "--weights", photo_weights]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "box", "gender", "age", "years"]
    assert row.startswith(str(ASTRONAUT))
    assert "%" in row


def test_one_bad_file_among_good_ones(folder, photo_weights, capsys):
    assert main(["predict", str(folder), "--weights", photo_weights]) == 1
    out, err = capsys.readouterr()
    rows = out.splitlines()[1:]
    names = [Path(row.split()[0]).relative_to(folder).as_posix() for row in rows]
    assert names == ["a.jpg", "b.jpg", "grey.png", "more/a.jpg"]
    assert "error: " in rows[0]
    assert rows[2].endswith("no face found")
    assert err == f"faceattr predict: 1 of 4 failed: {folder / 'a.jpg'}\n"  # quiet otherwise: this is no terminal


def test_predict_json_lines(folder, photo_weights, capsys):
    assert main(["predict", str(folder), "--weights", photo_weights, "--json"]) == 1
    bad, good, grey, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert bad.keys() == {"file", "error"}
    assert grey == {"file": str(folder / "grey.png"), "faces": []}
    (face,) = good["faces"]
    assert face["attributes"].keys() == {"gender", "age"}
    assert "embedding" not in face


def test_json_has_the_embedding_if_it_is_asked_for(photo_weights, capsys):
    assert main(["predict", str(ASTRONAUT), "--weights", photo_weights, "--json", "--heads", "embedding,gender"]) == 0
    (face,) = json.loads(capsys.readouterr().out)["faces"]
    assert len(face["embedding"]) == 16
    assert face["attributes"].keys() == {"gender"}


def test_sensitive_heads_need_the_option(photo_weights, capsys):
    assert main(["predict", str(ASTRONAUT), "--weights", photo_weights, "--heads", "emotion"]) == 2
    assert "sensitive" in capsys.readouterr().err
    assert main(["predict", str(ASTRONAUT), "--weights", photo_weights, "--sensitive"]) == 0
    assert "emotion" in capsys.readouterr().out.splitlines()[0]


def test_crops_use_no_detector(folder, photo_weights, capsys, monkeypatch):
    monkeypatch.delattr("cv2.CascadeClassifier")
    arguments = ["predict", str(folder), "--weights", photo_weights, "--crops", "--json"]
    code, out = main(arguments), capsys.readouterr().out
    bad, *good = (json.loads(line) for line in out.splitlines())
    assert code == 1
    assert "error" in bad
    assert [len(line["faces"]) for line in good] == [1, 1, 1]
    assert good[0]["faces"][0]["box"] is None


def test_a_file_that_is_gone_does_not_stop_the_others(photo_weights, capsys):
    assert main(["predict", "gone.jpg", str(ASTRONAUT), "--weights", photo_weights, "--json"]) == 1
    gone, there = map(json.loads, capsys.readouterr().out.splitlines())
    assert (gone["file"], len(there["faces"])) == ("gone.jpg", 1)
    assert "No such file" in gone["error"]


def test_annotate_writes_pictures(folder, photo_weights, tmp_path):
    target = tmp_path / "annotated"
    assert main(["predict", str(folder), "--weights", photo_weights, "--annotate", str(target)]) == 1
    written = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert written == ["b.jpg", "grey.png", "more/a.jpg"]
    assert Image.open(target / "b.jpg").size == Image.open(ASTRONAUT).size


def test_annotate_never_overwrites_its_input(folder, photo_weights, capsys):
    assert main(["predict", str(folder), "--weights", photo_weights, "--annotate", str(folder)]) == 2
    assert "overwrite" in capsys.readouterr().err
    assert (folder / "b.jpg").read_bytes() == ASTRONAUT.read_bytes()


def test_a_picture_that_cannot_be_annotated_keeps_its_faces(photo_weights, tmp_path, capsys):
    (tmp_path / "astronaut.jpg").mkdir()  # in the way
    arguments = ["predict", str(ASTRONAUT), "--weights", photo_weights, "--annotate", str(tmp_path), "--json"]
    assert main(arguments) == 1
    line = json.loads(capsys.readouterr().out)
    assert len(line["faces"]) == 1
    assert "annotated picture" in line["error"]


def test_out_appears_only_complete(photo_weights, tmp_path, capsys, monkeypatch):
    out = tmp_path / "faces.jsonl"
    out.write_text("before")

    def interrupted(*_):
        assert out.read_text() == "before"
        raise KeyboardInterrupt

    arguments = ["predict", str(ASTRONAUT), "--weights", photo_weights, "--json", "--out", str(out)]
    monkeypatch.setattr("faceattr_fast.cli.predict._results", interrupted)
    assert main(arguments) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["faces.jsonl"]
    monkeypatch.undo()
    assert main(arguments) == 0
    assert len(json.loads(out.read_text())["faces"]) == 1
    assert capsys.readouterr().out == ""


def test_out_keeps_permissions_and_never_replaces_a_picture(photo_weights, folder, tmp_path, capsys):
    out = tmp_path / "private.json"
    out.touch(mode=0o600)
    assert main(["predict", str(ASTRONAUT), "--weights", photo_weights, "--json", "--out", str(out)]) == 0
    assert out.stat().st_mode & 0o777 == 0o600
    photo = folder / "b.jpg"
    assert main(["predict", str(folder), "--weights", photo_weights, "--out", str(photo)]) == 2
    assert "overwrite" in capsys.readouterr().err
    assert photo.read_bytes() == ASTRONAUT.read_bytes()


def test_a_pipe_in_a_folder_is_no_picture(folder):
    os.mkfifo(folder / "pipe.jpg")
    assert "pipe.jpg" not in [picture.path.name for picture in find_pictures([folder])]


# verify


def test_verify_compares_the_largest_faces(photo_weights, capsys):
    assert main(["verify", str(ASTRONAUT), str(ASTRONAUT), "--weights", photo_weights]) == 0
    out = capsys.readouterr().out
    assert out.startswith("similarity 1.000\n")
    assert "no verdict" in out


def test_verify_without_a_face_fails(folder, photo_weights, capsys):
    assert main(["verify", str(ASTRONAUT), str(folder / "grey.png"), "--weights", photo_weights]) == 1
    assert "no face found" in capsys.readouterr().err
    assert main(["verify", str(folder / "a.jpg"), str(ASTRONAUT), "--weights", photo_weights]) == 1
    assert "a.jpg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cosine", "verdict"), [(0.31, "the same person"), (0.3, "the same person"), (0.29, "different")]
)
def test_a_verdict_needs_a_threshold(cosine, verdict):
    figures = {"value": 0.75, "n": 1200, "data": "LFW"}
    assert "75.0% of 1,200 pairs right (LFW)" in meaning(cosine, figures)
    assert "no verdict" in meaning(cosine, figures)
    assert verdict in meaning(cosine, {**figures, "threshold": 0.3})


@pytest.mark.parametrize(
    "figures", [{"value": "x"}, {"threshold": "0.3"}, {"threshold": True}, {"value": 0.7, "n": "many"}, {"data": 5}, 7]
)
def test_verify_survives_what_a_file_may_say(figures):
    kept = verification({"accuracy": {"verification": figures}})
    assert "threshold" not in kept
    assert "no verdict" in meaning(0.5, kept)
