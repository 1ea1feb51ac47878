"""faceattr prepare: every source, who is left out, how it is split, and what happens after a kill."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from functools import partial

import numpy as np
import pytest

pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from training_data import LANDMARKS, write_csv, write_data, write_picture  # noqa: E402

from faceattr_fast import cli  # noqa: E402
from faceattr_fast.photo import Detection  # noqa: E402
from faceattr_fast.photo.alignment import DEFAULT_TEMPLATE, align  # noqa: E402
from faceattr_fast.training import sources  # noqa: E402
from faceattr_fast.training.packed import PackedFaces  # noqa: E402
from faceattr_fast.training.prepare import PrepareOptions, prepare  # noqa: E402
from faceattr_fast.training.tables import DataError  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


def run(*arguments):
    return cli.main(["prepare", *map(str, arguments)])


class Boxes:
    """A detector that finds as many faces as the brightness of the first pixel says, the second largest first."""

    name = "boxes"

    def __init__(self, *boxes):
        self.boxes = boxes

    def detect(self, image):
        return [Detection(box, None, 0.9) for box in self.boxes]


# --- what is packed ---------------------------------------------------------------------------------------------------


def test_crops_are_those_of_the_template_with_margin(data, tmp_path):
    packed = prepare(sources.LFW(data / "lfw"), tmp_path / "lfw", report=lambda line: None)
    picture = cv2.imread(str(data / "lfw" / "images" / packed.files[5]))[..., ::-1]
    points = np.array([float(number) for number in LANDMARKS.split(",")[5:]]).reshape(5, 2)
    assert np.array_equal(packed.crops[5], align(np.ascontiguousarray(picture), points, DEFAULT_TEMPLATE.padded(16)))
    assert (packed.info["kind"], packed.info["split"]) == ("aligned", "given by the source")


def test_a_damaged_picture_is_reported_skipped_and_counted(data, tmp_path, capsys):
    arguments = (data / "utkface", "--format", "utkface", "--out", tmp_path / "utk", "--test", "8")
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == f"wrote {tmp_path / 'utk'}: 38 faces, split by near-duplicate groups\n"
    assert err.count("skipped u7.png: damaged") == 1
    assert "30 train, 8 test" in err
    packed = PackedFaces.open(tmp_path / "utk")
    assert packed.info["skipped"] == {"damaged": 1, "no face": 1}
    assert not {"u7.png", "u9.png"} & set(packed.files)
    before = (tmp_path / "utk" / "set.json").stat().st_mtime_ns
    assert run(*arguments) == 1
    assert "38 faces are packed already" in capsys.readouterr().err
    assert (tmp_path / "utk" / "set.json").stat().st_mtime_ns == before
    assert run(*arguments, "--seed", "1") == 2
    assert "other options" in capsys.readouterr().err


def test_a_missing_picture_is_reported_and_a_set_of_nothing_is_an_error(tmp_path, capsys):
    write_csv(tmp_path / "t.csv", "file,gender", ["a.png,male", "b.png,female"])
    assert run(tmp_path / "t.csv", "--format", "csv", "--out", tmp_path / "set") == 2
    err = capsys.readouterr().err
    assert "skipped a.png: missing: no such file" in err
    assert "none of 2 pictures gave a face: {'missing': 2}" in err
    assert not (tmp_path / "set").exists()
    write_picture(tmp_path / "b.png", 0)
    restart = ("--crops", "--restart", "--test", "0")
    assert run(tmp_path / "t.csv", "--format", "csv", "--out", tmp_path / "set", *restart) == 1
    assert PackedFaces.open(tmp_path / "set").files == ["b.png"]


def test_without_landmarks_the_largest_face_is_cut_out(tmp_path):
    write_picture(tmp_path / "in" / "Ann" / "1.png", 1)
    detector = Boxes((0, 0, 10, 10), (8, 12, 40, 40))
    options = PrepareOptions(detector=detector, test=0)
    packed = prepare(sources.Folder(tmp_path / "in"), tmp_path / "set", options, report=lambda line: None)
    from faceattr_fast.photo import crop_box, load_image

    picture = load_image(tmp_path / "in" / "Ann" / "1.png")
    assert np.array_equal(packed.crops[0], crop_box(picture, (8, 12, 40, 40), DEFAULT_TEMPLATE.padded(16)))
    assert packed.info["settings"]["detector"] == "boxes"


@pytest.mark.parametrize(
    ("boxes", "options", "reason"),
    [
        ([], {}, "no face"),
        ([(0, 0, 20, 20), (30, 30, 20, 20)], {"single_face": True}, "several faces"),
        ([(0, 0, 20, 18)], {"min_face": 0.3}, "small face"),
        ([(0, 0, 20, 19)], {"min_face": 0.3}, None),  # √380 = 19.49, 0.3 of 64 is 19.2
        ([(0, 0, 20, 20)], {"single_face": True}, None),
    ],
)
def test_faces_that_are_left_out(tmp_path, boxes, options, reason):
    write_picture(tmp_path / "in" / "Ann" / "1.png", 1)
    plan = PrepareOptions(detector=Boxes(*boxes), test=0, **options)
    if reason is None:
        assert len(prepare(sources.Folder(tmp_path / "in"), tmp_path / "set", plan, report=lambda line: None)) == 1
        return
    with pytest.raises(DataError, match=f"'{reason}': 1"):
        prepare(sources.Folder(tmp_path / "in"), tmp_path / "set", plan, report=lambda line: None)


# --- who is packed, and how it is split -------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path):
    """Folders of 1 to 6 pictures; one of Eve's is damaged."""
    for number, name in enumerate(("Ann", "Bob", "Cy_Doe", "Dan", "Eve", "Fay"), 1):
        for i in range(number):
            write_picture(tmp_path / "in" / name / f"{i}.png", 100 * number + i)
    (tmp_path / "in" / "Eve" / "0.png").write_bytes(b"no picture")
    return tmp_path / "in"


def test_people_are_left_out_by_name_and_by_number(people, tmp_path, capsys):
    (tmp_path / "not.txt").write_text("# the test set\n\ncy doe\n")
    arguments = (people, "--format", "folder", "--out", tmp_path / "set", "--crops", "--test", "0")
    assert run(*arguments, "--min-images", 3, "--exclude-people", tmp_path / "not.txt") == 1
    packed = PackedFaces.open(tmp_path / "set")
    assert set(packed.subjects) == {"Dan", "Eve", "Fay"}
    assert packed.info["skipped"] == {"rare": 3, "excluded": 3, "damaged": 1}
    assert packed.info["split"] == "by subject"
    assert "rare" in capsys.readouterr().err
    # Eve has four pictures that can be used: too few, as the source's list alone does not show.
    assert run(*arguments, "--min-images", 5, "--restart") == 2  # the set is another
    assert run(*arguments[:4], tmp_path / "five", *arguments[5:], "--min-images", 5) == 1
    packed = PackedFaces.open(tmp_path / "five")
    assert set(packed.subjects) == {"Fay"}
    assert packed.info["skipped"] == {"rare": 1 + 2 + 3 + 4 + 4, "damaged": 1}


def test_a_subject_is_on_one_side(people, tmp_path):
    options = PrepareOptions(crops=True, test=0.3, validation=0.2)
    packed = prepare(sources.Folder(people), tmp_path / "set", options, report=lambda line: None)
    sides = [set(packed.subjects[packed.split == split]) for split in ("train", "validation", "test")]
    assert all(sides)
    assert sum(map(len, sides)) == 6
    by_person = {person: set(packed.groups[packed.subjects == person]) for person in set(packed.subjects)}
    assert all(len(numbers) == 1 for numbers in by_person.values())
    assert len(set.union(*by_person.values())) == 6


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_face_may_go_to_one_split(people, tmp_path, split):
    arguments = (people, "--format", "folder", "--out", tmp_path / "set", "--crops", "--split-by", split)
    assert run(*arguments) == 1  # Eve's damaged picture
    packed = PackedFaces.open(tmp_path / "set")
    assert set(packed.split) == {split}
    assert packed.info["split"] == f"all {split}"
    assert len(set(packed.groups)) == 6


def test_copies_are_on_one_side_where_nobody_is_named(tmp_path):
    for i in range(40):
        write_picture(tmp_path / "in" / f"{i}.png", i % 20)  # each twice
    options = PrepareOptions(crops=True, test=0.5)
    packed = prepare(sources.Folder(tmp_path / "in", ()), tmp_path / "set", options, report=lambda line: None)
    assert packed.info["split"] == "by near-duplicate groups"
    assert packed.info["duplicates"] == 20
    assert (packed.split == "test").sum() == 20
    number = np.array([int(file.removesuffix(".png")) % 20 for file in packed.files])
    assert all(len(set(packed.split[number == n])) == 1 for n in range(20))


def test_the_sources_own_split_stays_and_its_copies_do_not_train(data, tmp_path):
    packed = prepare(sources.FERPlus(data / "ferplus"), tmp_path / "fer", report=lambda line: None)
    assert packed.info["split"] == "given by the source"
    assert packed.info["skipped"] == {"copy": 1}
    assert packed.crops.shape[1:] == (48, 48, 3)
    assert (packed.split == "test").sum() == 8
    more = PrepareOptions(validation=5)
    again = prepare(sources.FERPlus(data / "ferplus"), tmp_path / "more", more, report=lambda line: None)
    assert (again.split == "validation").sum() == 5
    assert np.array_equal(again.split == "test", packed.split == "test")


def test_a_person_in_two_splits_of_the_source_is_told(tmp_path):
    rows = ["1.png,Ann,train", "2.png,Ann,test", "3.png,Bob,train", "4.png,Bob,train", "5.png,,test", "6.png,,"]
    write_csv(tmp_path / "t.csv", "file,subject,split", rows)
    for i in range(1, 7):
        write_picture(tmp_path / f"{i}.png", i)
    lines: list[str] = []
    packed = prepare(
        sources.Table(tmp_path / "t.csv"), tmp_path / "set", PrepareOptions(crops=True), report=lines.append
    )
    assert "t: 1 people are in more than one split of the source" in lines
    assert packed.split.tolist() == ["train", "test", "train", "train", "test"]
    assert packed.info["skipped"] == {"no label": 1}  # of the sixth nothing is known that could be learned


def picture(i):
    return np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)


class Endless(sources.Source):
    """As many tight pictures as it is told, made when they are read."""

    name, kind, side = "endless", "tight", 64

    def __init__(self, count):
        super().__init__()
        self.count = count

    def records(self):
        for i in range(self.count):
            yield sources.Record(f"{i}.png", partial(picture, i), subject=f"P{i // 5}")


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    peaks = []
    for count in (300, 1500):
        tracemalloc.start()
        prepare(Endless(count), tmp_path / str(count), threads=2, report=lambda line: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 1200 more pictures are 15 MB; what is known of them may take a kilobyte each.
    assert peaks[1] - peaks[0] < 1200 * 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_by": "subject"}, "names no people, so it cannot be split by subject"),
        ({"min_images": 5}, "names no people, so min_images"),
        ({"split_by": "source"}, "gives no split"),
    ],
)
def test_what_a_source_cannot_give(tmp_path, options, message):
    write_picture(tmp_path / "in" / "1.png", 1)
    with pytest.raises(DataError, match=message):
        prepare(sources.Folder(tmp_path / "in", ()), tmp_path / "set", PrepareOptions(crops=True, **options))


# --- after a kill -----------------------------------------------------------------------------------------------------

_SLOW = """
import sys, time
from pathlib import Path
from faceattr_fast.training import packing, sources
from faceattr_fast.training.prepare import PrepareOptions, prepare
packing._EVERY = 4
prepare(sources.LFW(Path(sys.argv[1])), sys.argv[2], PrepareOptions(), threads=1, watch=lambda *_: time.sleep(0.05))
"""


def test_a_killed_run_is_continued_to_the_same_set(data, tmp_path):
    source = sources.LFW(data / "lfw")
    whole = prepare(source, tmp_path / "whole", report=lambda line: None)
    process = subprocess.Popen([sys.executable, "-c", _SLOW, data / "lfw", tmp_path / "set"], stdout=subprocess.DEVNULL)
    journal = tmp_path / "set.part" / "journal.jsonl"
    while not (journal.exists() and journal.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = journal.read_bytes().count(b"\n")
    assert 4 <= done < 32
    lines: list[str] = []
    packed = prepare(source, tmp_path / "set", report=lines.append)
    assert lines[0] == f"lfw: going on after {done} pictures"
    for name in ("crops.npy", "faces.csv", "set.json"):
        assert (packed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_source_that_has_changed_is_not_continued(people, tmp_path):
    options = PrepareOptions(crops=True)
    (tmp_path / "stop.csv").write_text("")

    def stop(done, total):
        assert total == 21
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(sources.Folder(people), tmp_path / "set", options, watch=stop, report=lambda line: None)
    write_picture(people / "Ann" / "00.png", 7)
    with pytest.raises(DataError, match=r"begun with Bob/0.png as picture 2, now there is Ann/00.png: restart"):
        prepare(sources.Folder(people), tmp_path / "set", options, report=lambda line: None)
    packed = prepare(sources.Folder(people), tmp_path / "set", options, restart=True, report=lambda line: None)
    assert packed.files[:2] == ["Ann/0.png", "Ann/00.png"]


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--levels", "split/emotion/age"], "expected it in subfolders split/emotion/age, got"),
        (["--levels", "split/gender"], "gender: expected one of ['female', 'male'], got 'happy'"),
        (["--train-folds", "1"], "--train-folds is for --format lfw, not for folder"),
        (["--column", "a=b"], "--column is for --format csv and webdataset, not for folder"),
        (["--column", "a"], "expected NAME=VALUE, got 'a'"),
        (["--test", "1.5"], "test must be a number of faces or a share below 1, got 1.5"),
        (["--min-face", "2"], "min_face must be a share from 0 to 1, got 2.0"),
        (["--crops", "--single-face"], "crops are taken as they are"),
        (["--exclude-people", "nowhere.txt"], "nowhere.txt"),
        (["--detector", "haar", "--detector-model", "x"], "detector 'haar' has no use for it"),
    ],
)
def test_usage_errors(tmp_path, options, message, capsys):
    write_picture(tmp_path / "in" / "train" / "happy" / "1.png", 1)
    assert run(tmp_path / "in", "--format", "folder", "--out", tmp_path / "set", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
