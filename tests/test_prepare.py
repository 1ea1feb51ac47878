"""faceattr prepare: every source, who is left out, how it is split, and what happens after a kill."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
from functools import partial

import numpy as np
import pytest

pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from training_data import LANDMARK_HEADER, LANDMARKS, drawn_face, write_csv, write_data  # noqa: E402

from faceattr_fast import cli  # noqa: E402
from faceattr_fast.photo import Detection  # noqa: E402
from faceattr_fast.photo.alignment import DEFAULT_TEMPLATE, align  # noqa: E402
from faceattr_fast.training import sources  # noqa: E402
from faceattr_fast.training.packed import PackedFaces  # noqa: E402
from faceattr_fast.training.prepare import PrepareOptions, prepare, survey  # noqa: E402
from faceattr_fast.training.tables import DataError  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


def run(*arguments):
    return cli.main(["prepare", *map(str, arguments)])


def write_picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), drawn_face(np.random.default_rng(seed))[..., ::-1])


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


# --- tables and shards ------------------------------------------------------------------------------------------------


def test_a_table_as_fairface_has_it(tmp_path):
    rows = [
        "train/1.png,50-59,Male,East Asian,True",
        "train/2.png,more than 70,Female,Latino_Hispanic,False",
        "train/3.png,0-2,Female,Southeast Asian,False",
        "train/4.png,3-9,Male,,False",
    ]
    write_csv(tmp_path / "t.csv", "file,age,gender,race,service_test", rows)
    for i in range(1, 5):
        write_picture(tmp_path / "train" / f"{i}.png", i)
    packed = prepare(
        sources.Table(tmp_path / "t.csv"), tmp_path / "set", PrepareOptions(crops=True), report=lambda line: None
    )
    names = {
        head: [packed.classes(head)[i] if i >= 0 else "" for i in packed.labels[head]]
        for head in ("gender", "ethnicity", "age")
    }
    assert names["gender"] == ["male", "female", "female", "male"]
    assert names["ethnicity"] == ["east-asian", "hispanic", "south-east-asian", ""]
    assert names["age"] == ["", "60+", "0-2", ""]
    ages = dict(zip(packed.classes("age"), packed.targets["age"][3], strict=True))
    assert {age: round(float(share) * 7) for age, share in ages.items() if share} == {
        "3": 1,
        "4-6": 3,
        "7": 1,
        "8-14": 2,
    }
    assert not packed.targets["age"][1].any()
    assert (packed.years == -1).all()


def test_columns_of_other_names_dates_landmarks_and_several_classes(tmp_path):
    points = LANDMARK_HEADER.split(",")[6:]
    header = ",".join(["pic", "who", "born", "captured", "Split", "hat", "race", *points])
    numbers = ",".join(LANDMARKS.split(",")[5:])
    rows = [
        f"1.png,Ann,1990-06-15,2020-06-14,training,cap,white|hispanic,{numbers}",
        f"2.png,Ann,1990-06-15,2020-06-15,val,cap|fez,black,{numbers}",
        f"3.png,Bob,1950,1940,test,,,{numbers}",
        f"4.png,Bob,1990-00-00,2020,test,fez,other,{numbers}",
    ]
    write_csv(tmp_path / "t.csv", header, rows)
    for i in range(1, 5):
        write_picture(tmp_path / "in" / f"{i}.png", i)
    options = [
        "--column", "file=pic", "--column", "subject=who", "--column", "hat=hat", "--classes", "hat=fez,cap",
        "--images", tmp_path / "in", "--name", "hats", "--terms", "drawn here",
    ]  # fmt: skip
    assert run(tmp_path / "t.csv", "--format", "csv", "--out", tmp_path / "set", *options) == 0
    packed = PackedFaces.open(tmp_path / "set")
    assert (packed.info["name"], packed.info["terms"]) == ("hats", "drawn here")
    assert packed.years.tolist() == [29, 30, 30]
    assert packed.info["skipped"] == {"impossible age": 1}
    assert packed.split.tolist() == ["train", "validation", "test"]
    assert packed.classes("hat") == ("fez", "cap")
    assert packed.labels["hat"].tolist() == [1, -1, 0]
    assert packed.targets["hat"][1].tolist() == [1, 1]
    both = packed.targets["ethnicity"][0]
    assert {packed.classes("ethnicity")[i] for i in np.flatnonzero(both)} == {"white", "hispanic"}
    assert packed.labels["ethnicity"].tolist() == [-1, packed.classes("ethnicity").index("black"), -1]


def test_the_format_of_a_table_is_checked_before_a_picture_is_read(tmp_path, capsys):
    good = "1.png,male,Ann,30,happy"
    cases = [
        ("1.png,man!,Ann,30,happy", r"t.csv, line 3: gender: expected one of ['female', 'male'], got 'man!'"),
        ("1.png,male,Ann,old,happy", "t.csv, line 3: age: expected years up to 120 or a range of them"),
        ("1.png,male,Ann,30,joyous", "t.csv, line 3: emotion: expected one of ['happy', 'sad', "),
        ("1.png,male,Ann", "t.csv, line 3: expected 5 columns"),
        (",male,Ann,30,happy", "t.csv, line 3: file: expected the name of a picture, got ''"),
    ]
    for row, message in cases:
        write_csv(tmp_path / "t.csv", "file,gender,subject,age,emotion", [good, row])
        assert run(tmp_path / "t.csv", "--format", "csv", "--out", tmp_path / "set") == 2
        err = capsys.readouterr().err
        assert message in err
        assert "skipped" not in err
    write_csv(tmp_path / "t.csv", "picture,gender", ["1.png,male"])
    assert run(tmp_path / "t.csv", "--format", "csv", "--out", tmp_path / "set") == 2
    assert "expected a column file, path, image or filename, got ['picture', 'gender']" in capsys.readouterr().err
    assert run(tmp_path / "t.csv", "--format", "csv", "--out", tmp_path / "set", "--column", "file=pix") == 2
    assert "expected the columns ['pix'], got ['picture', 'gender']" in capsys.readouterr().err


def write_shard(path, samples):
    with tarfile.open(path, "w") as tar:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_shards(tmp_path, capsys):
    def png(seed):
        return cv2.imencode(".png", drawn_face(np.random.default_rng(seed))[..., ::-1])[1].tobytes()

    facts = [{"subject": "Ann", "age": 31, "gender": "female"}, {"subject": "Bob", "emotion": "anger", "gender": None}]
    for shard in range(2):
        samples = [("README", b"no sample")] if shard else []
        for i, fact in enumerate(facts):
            samples += [(f"{i}.png", png(10 * shard + i)), (f"{i}.json", json.dumps(fact).encode())]
        write_shard(tmp_path / f"f-{shard}.tar", samples)
    write_shard(tmp_path / "f-2.tar", [("0.jpg", b"no picture"), ("0.json", b"{}")])
    out = tmp_path / "set"
    arguments = ("--format", "webdataset", "--out", out, "--crops", "--test", "0")
    assert run(tmp_path / "f-{0..2}.tar", *arguments) == 1
    packed = PackedFaces.open(out)
    assert packed.files == ["f-0.tar/0.png", "f-0.tar/1.png", "f-1.tar/0.png", "f-1.tar/1.png"]
    assert packed.subjects.tolist() == ["Ann", "Bob"] * 2
    assert packed.years.tolist() == [31, -1] * 2
    assert packed.labels["gender"].tolist() == [0, -1] * 2
    assert [packed.classes("emotion")[i] for i in packed.labels["emotion"][[1, 3]]] == ["angry"] * 2
    assert np.array_equal(packed.crops[2, 80:144, 80:144].shape, (64, 64, 3))
    assert packed.info["skipped"] == {"damaged": 1}
    by_folder = prepare(sources.Shards(tmp_path), tmp_path / "other", PrepareOptions(crops=True, test=0))
    assert np.array_equal(by_folder.crops, packed.crops)

    capsys.readouterr()
    write_shard(tmp_path / "bad.tar", [("7.png", png(1)), ("7.json", b'{"gender": "robot"}')])
    assert run(tmp_path / "bad.tar", "--format", "webdataset", "--out", tmp_path / "bad", "--crops") == 2
    assert "bad.tar, sample 7: gender: expected one of ['female', 'male'], got 'robot'" in capsys.readouterr().err
    (tmp_path / "torn.tar").write_bytes((tmp_path / "f-0.tar").read_bytes()[:3000])
    assert run(tmp_path / "torn.tar", "--format", "webdataset", "--out", tmp_path / "bad", "--crops", "--restart") == 2
    assert "skipped torn.tar: damaged: the shard cannot be read on: unexpected end" in capsys.readouterr().err
    assert run(tmp_path / "f-{7..8}.tar", "--format", "webdataset", "--out", tmp_path / "bad") == 2
    assert "no such shard: " in capsys.readouterr().err


# --- other layouts ----------------------------------------------------------------------------------------------------


def test_lfw_as_it_is_published(tmp_path):
    for person, images in (("Ann_Lee", 2), ("Bob", 1), ("Cy", 1)):
        for i in range(1, images + 1):
            write_picture(tmp_path / "lfw" / person / f"{person}_{i:04d}.png", i)
    (tmp_path / "lfw" / "people.txt").write_text("2\n2\nAnn_Lee\t2\nCy\t1\n1\nBob\t1\n")
    records = list(sources.LFW(tmp_path / "lfw", train_folds=(1,)).records())
    assert [(record.subject, record.split) for record in records] == [
        ("Ann_Lee", "train"), ("Ann_Lee", "train"), ("Bob", "test"), ("Cy", "train"),
    ]  # fmt: skip
    (tmp_path / "lfw" / "people.txt").write_text("2\n5\nAnn_Lee\t2\n")
    with pytest.raises(DataError, match=r"people.txt: expected LFW's list of people"):
        sources.LFW(tmp_path / "lfw")
    (tmp_path / "lfw" / "people.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither people.csv nor people.txt"):
        sources.LFW(tmp_path / "lfw")


def test_utkface_as_it_is_published(tmp_path):
    for name in ("31_0_2_2017.png", "61_1_2017.png"):
        write_picture(tmp_path / name, 0)
    first, second = sources.UTKFace(tmp_path).records()
    assert first.years == 31
    assert first.labels == {"age": "25-32", "gender": "male", "ethnicity": "east-asian"}
    assert second.reason.startswith("no label")
    write_csv(tmp_path / "labels.csv", "file,age,gender,race", ["a.png,31,0,2", "31_0_2_2017.png,40,1,1"])
    records = list(sources.UTKFace(tmp_path).records())
    assert [(record.file, record.years) for record in records] == [("a.png", 31), ("31_0_2_2017.png", 40)]
    write_csv(tmp_path / "labels.csv", "file,age,gender,race", ["a.png,31,0,2", "b.png,40,2,1"])
    with pytest.raises(DataError, match=r"labels.csv, line 3: gender: expected 0 to 1, got 2"):
        list(sources.UTKFace(tmp_path).records())


def test_ferplus_as_it_is_published(tmp_path):
    pixels = " ".join(["7"] * 48 * 48)
    write_csv(tmp_path / "fer2013.csv", "emotion,pixels,Usage", [f"0,{pixels},Training", f"1,{pixels},PrivateTest"])
    header = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    rows = ["Training,fer0.png,4,6,0,0,0,0,0,0,0,0", "PrivateTest,,0,0,0,0,0,0,0,0,0,10"]
    write_csv(tmp_path / "fer2013new.csv", header, rows)
    first, second = sources.FERPlus(tmp_path).records()
    assert (first.file, first.split, first.labels) == ("fer0.png", "train", {"emotion": "happy"})
    assert first.targets["emotion"][0] == pytest.approx(0.6)
    assert np.array_equal(first.load(), np.full((48, 48, 3), 7, np.uint8))
    assert (second.file, second.split, second.labels) == ("line 3", "test", {})
    rows[1] = rows[1].replace("PrivateTest", "PublicTest")
    write_csv(tmp_path / "fer2013new.csv", header, rows)
    with pytest.raises(DataError, match=r"fer2013new.csv, line 3: Usage: expected 'PrivateTest' .* got 'PublicTest'"):
        list(sources.FERPlus(tmp_path).records())


def test_folders_of_classes_in_folders_of_splits(tmp_path):
    for i, place in enumerate(("train/happy", "train/sadness", "val/happy", "val/happy/more")):
        write_picture(tmp_path / "in" / place / f"{i}.png", i)
    arguments = (tmp_path / "in", "--format", "folder", "--out", tmp_path / "set", "--crops")
    assert run(*arguments, "--levels", "split/emotion") == 0
    packed = PackedFaces.open(tmp_path / "set")
    assert packed.split.tolist() == ["train", "train", "validation", "validation"]
    assert [packed.classes("emotion")[i] for i in packed.labels["emotion"]] == ["happy", "sad", "happy", "happy"]
    found = survey(sources.Folder(tmp_path / "in", ("split", "mood"), {"mood": ("happy", "sadness")}))
    assert (found.pictures, found.subjects) == (4, {})


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
