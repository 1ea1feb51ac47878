"""Scoring very many photos in parts: whoever dies meanwhile, every photo has one row at the end."""

import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("PIL")
pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra 'ray')")

from PIL import Image  # noqa: E402
from pyarrow import parquet  # noqa: E402

from faceattr_fast import FaceAnalyzer, FastForward  # noqa: E402
from faceattr_fast.photo import analyzer as analyzer_module  # noqa: E402
from faceattr_fast.scoring import ScoringJob  # noqa: E402

EXAMPLES = Path(__file__).parents[1] / "examples"


def write_photos(folder, count, astronaut=EXAMPLES / "astronaut.jpg"):
    """Of ten photos eight have a face, the fourth is damaged, and the sixth is of nothing. Returns status by name."""
    folder.mkdir(parents=True)
    face = Image.open(astronaut).crop((130, 20, 330, 220))
    face.save(folder / "face.jpg")
    expected = {}
    for i in range(count):
        path = folder / f"{i:03}.jpg"
        if i % 10 == 3:
            path.write_bytes(b"not a picture")
        elif i % 10 == 5:
            Image.fromarray(np.full((60, 60, 3), 90, np.uint8)).save(path)
        else:
            shutil.copy(folder / "face.jpg", path)
        expected[str(path)] = {3: "damaged", 5: "no_face"}.get(i % 10, "ok")
    (folder / "face.jpg").unlink()
    return expected


@pytest.fixture(scope="module")
def analyzer():
    return FaceAnalyzer.load(threads=1, detector="haar")


def statuses(out):
    """Status by file, of a folder in which no file has two rows."""
    table = parquet.read_table(out, columns=["file", "status"])
    rows = list(zip(table["file"].to_pylist(), table["status"].to_pylist(), strict=True))
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_a_row_for_every_photo(analyzer, tmp_path):
    expected = write_photos(tmp_path / "photos", 23)
    job = ScoringJob(analyzer, tmp_path / "out", embedding=True)
    parts = job.begin([tmp_path / "photos"], 10)
    assert [job.score(part) for part in parts] == [
        {"ok": 8, "no_face": 1, "damaged": 1},
        {"ok": 8, "no_face": 1, "damaged": 1},
        {"ok": 3, "no_face": 0, "damaged": 0},
    ]
    job.finish()
    assert statuses(job.out) == expected
    rows = parquet.read_table(job.out).to_pylist()
    (face,) = analyzer.predict(rows[0]["file"])
    (found,) = rows[0]["faces"]
    assert found["attributes"]["gender"]["label"] == face.gender.label
    assert found["attributes"]["age"]["probabilities"] == pytest.approx(face.age.probabilities)
    assert found["box"] == pytest.approx(face.box)
    assert np.array_equal(np.array(found["embedding"], np.float32), face.embedding)
    assert "ethnicity" not in found["attributes"]
    assert "no picture in a known format" in rows[3]["reason"]
    assert (rows[5]["faces"], rows[5]["reason"]) == ([], None)
    assert {path.name for path in (job.out / "_job").iterdir()} == {"parts.jsonl"}


def write_shard(path, photos):
    with tarfile.open(path, "w") as tar:
        for name, content in photos:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_shards_and_what_is_lost_with_a_damaged_one(analyzer, tmp_path):
    face = next(path for path in write_photos(tmp_path / "photos", 1))
    content = Path(face).read_bytes()
    shards = tmp_path / "shards"
    shards.mkdir()
    samples = [(f"{i}.{end}", data) for i in range(4) for end, data in (("jpg", content), ("json", b"{}"))]
    for name in ("a", "header", "truncated"):
        write_shard(shards / f"{name}.tar", samples)
    (shards / "none.tar").write_bytes(b"")
    size = 512 + -(-len(content) // 512) * 512  # of a photo with its header; a label takes 1024
    with (shards / "header.tar").open("r+b") as file:
        file.seek(2 * (size + 1024))
        file.write(b"\xff" * 512)
    with (shards / "truncated.tar").open("r+b") as file:
        file.truncate(size + 1024 + 700)
    job = ScoringJob(analyzer, tmp_path / "out")
    for part in job.begin([shards, Path(face)]):
        job.score(part)
    job.finish()
    assert statuses(job.out) == {
        face: "ok",
        **{f"{shards}/a.tar/{i}.jpg": "ok" for i in range(4)},
        **{f"{shards}/header.tar/{i}.jpg": "ok" for i in range(2)},
        f"{shards}/header.tar": "damaged",
        f"{shards}/none.tar": "damaged",
        f"{shards}/truncated.tar/0.jpg": "ok",
        f"{shards}/truncated.tar/1.jpg": "damaged",
        f"{shards}/truncated.tar": "damaged",
    }
    reasons = {row["file"]: row["reason"] for row in parquet.read_table(job.out).to_pylist()}
    assert "from here on are lost: damaged header at byte" in reasons[f"{shards}/header.tar"]


# Dies by SIGKILL at the photo with green pixels, and at a number of photos read.
MORTAL = """
import os, signal, sys
from pathlib import Path
from faceattr_fast import FaceAnalyzer
from faceattr_fast.photo import HaarDetector
from faceattr_fast.scoring import ScoringJob

photos, out, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
detect, seen = HaarDetector.detect, []

def mortal(self, image):
    seen.append(image)
    if len(seen) > last or image[0, 0, 1] > 200 > image[0, 0, 0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return detect(self, image)

HaarDetector.detect = mortal
job = ScoringJob(FaceAnalyzer.load(threads=1, detector="haar"), out)
for part in job.begin([photos], 10):
    job.score(part)
"""


def test_killed_within_and_between_parts(analyzer, tmp_path):
    expected = write_photos(tmp_path / "photos", 20)
    deadly = tmp_path / "photos" / "004.jpg"
    Image.fromarray(np.full((60, 60, 3), (0, 255, 0), np.uint8)).save(deadly, quality=100)
    job = ScoringJob(analyzer, tmp_path / "out")
    # Three die of the photo; the next one leaves it out, has read eight when its first part is done, and dies at the
    # first photo of the second part.
    for last in (99, 99, 99, 8):
        child = [sys.executable, "-c", MORTAL, str(tmp_path / "photos"), str(job.out), str(last)]
        done = subprocess.run(child, capture_output=True, text=True, timeout=100)
        assert done.returncode == -9, done.stderr
    assert [path.name for path in job.out.glob("*.parquet")] == ["part-000000.parquet"]
    first = (job.out / "part-000000.parquet").read_bytes()
    waiting = job.begin([tmp_path / "photos"], 10)
    assert [part.number for part in waiting] == [1]
    with pytest.raises(RuntimeError, match="1 parts are not finished, the first is 1"):
        job.finish()
    for part in waiting:
        job.score(part)
    job.finish()
    assert (job.out / "part-000000.parquet").read_bytes() == first
    assert statuses(job.out) == {**expected, str(deadly): "damaged"}
    rows = {row["file"]: row for row in parquet.read_table(job.out).to_pylist()}
    assert rows[str(deadly)]["reason"] == "RuntimeError: 3 workers died while it was open"
    assert {path.name for path in (job.out / "_job").iterdir()} == {"parts.jsonl"}


def test_a_later_run_keeps_to_the_list(analyzer, tmp_path):
    expected = write_photos(tmp_path / "photos", 4)
    job = ScoringJob(analyzer, tmp_path / "out")
    parts = job.begin([tmp_path / "photos"], 2)
    shutil.copy(tmp_path / "photos" / "000.jpg", tmp_path / "photos" / "0.jpg")  # would come first
    (tmp_path / "photos" / "002.jpg").unlink()
    assert job.begin([tmp_path / "photos"], 2) == parts
    for part in parts:
        job.score(part)
    assert statuses(job.out) == {**expected, str(tmp_path / "photos" / "002.jpg"): "damaged"}
    # A part whose file is removed is scored again; one that is there is not.
    (job.out / "part-000001.parquet").unlink()
    assert job.begin([tmp_path / "photos"], 2) == parts[1:]
    before = (job.out / "part-000000.parquet").stat().st_mtime_ns
    assert job.score(parts[0]) == {"ok": 2, "no_face": 0, "damaged": 0}
    assert (job.out / "part-000000.parquet").stat().st_mtime_ns == before


def test_what_is_not_the_photos_fault_stops_the_run(analyzer, tmp_path, monkeypatch):
    write_photos(tmp_path / "photos", 2)
    job = ScoringJob(analyzer, tmp_path / "out")
    (part,) = job.begin([tmp_path / "photos"])

    def broken(source):
        raise ImportError("no Pillow here")

    with monkeypatch.context() as patch:
        patch.setattr(analyzer_module, "load_image", broken)
        for _ in range(4):  # as often as one likes: no photo is blamed for it
            with pytest.raises(ImportError, match="no Pillow here"):
                job.score(part)
    assert job.score(part) == {"ok": 2, "no_face": 0, "damaged": 0}


def test_every_picture_of_a_folder_counts_and_nothing_else(analyzer, tmp_path):
    write_photos(tmp_path / "photos", 1)
    (tmp_path / "photos" / "000.jpg").rename(tmp_path / "photos" / "a.JFIF")
    for name in ("._a.jpg", "notes.txt"):
        (tmp_path / "photos" / name).write_text("no picture")
    job = ScoringJob(analyzer, tmp_path / "out")
    for part in job.begin([tmp_path / "photos"]):
        job.score(part)
    assert statuses(job.out) == {str(tmp_path / "photos" / "a.JFIF"): "ok"}


def test_what_is_wrong_is_said(analyzer, tmp_path, small_file, small_net):
    write_photos(tmp_path / "photos", 2)
    job = ScoringJob(analyzer, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*nowhere"):
        job.begin([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no photos and no shards"):
        job.begin([tmp_path / "empty"])
    with pytest.raises(ValueError, match="size: expected at least 1, got 0"):
        job.begin([tmp_path / "photos"], 0)
    job.begin([tmp_path / "photos"])
    with pytest.raises(ValueError, match="holds the results of other embedding, size: give another folder"):
        ScoringJob(analyzer, job.out, embedding=True).begin([tmp_path / "photos"], 7)
    with pytest.raises(ValueError, match="the network computes \\['gender'\\] only"):
        ScoringJob(FaceAnalyzer.load(heads=["gender"], threads=1), job.out, embedding=True)
    nameless = FaceAnalyzer.load(threads=1)
    nameless.fast = FastForward.from_module(small_net)
    with pytest.raises(ValueError, match="must come from a weights file"):
        ScoringJob(nameless, job.out)


def test_names_that_are_no_text(analyzer, tmp_path):
    write_photos(tmp_path / "photos", 1)
    name = b"\xff.jpg"
    shutil.copy(tmp_path / "photos" / "000.jpg", bytes(tmp_path / "photos") + b"/" + name)
    job = ScoringJob(analyzer, tmp_path / "out")
    for part in job.begin([tmp_path / "photos"]):
        assert job.score(part)["ok"] == 2
    assert any("udcff" in file for file in statuses(job.out))
    assert json.loads((job.out / "_job" / "parts.jsonl").read_text().splitlines()[1])["photos"]


def test_what_a_photo_takes_is_measured(capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("photo_cost", EXAMPLES / "photo_cost.py")
    photo_cost = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(photo_cost)
    threads = cv2.getNumThreads()
    monkeypatch.setattr(sys, "argv", ["photo_cost.py", *[str(EXAMPLES / "astronaut.jpg")] * 2])
    assert photo_cost.main() == 0
    cv2.setNumThreads(threads)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("2 photos, 1.00 faces each, detector ")
    times = [float(line.split()[-4]) for line in rest]
    assert len(times) == 5
    assert sum(times[:-1]) == pytest.approx(times[-1], abs=0.03)
    assert min(times) > 0
