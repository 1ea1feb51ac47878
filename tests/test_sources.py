"""Every format that faceattr prepare reads: tables, shards, folders, and data sets as they are published."""

import io
import json
import tarfile

import numpy as np
import pytest

pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from training_data import LANDMARK_HEADER, LANDMARKS, drawn_face, write_csv, write_picture  # noqa: E402

from faceattr_fast import cli  # noqa: E402
from faceattr_fast.training import sources  # noqa: E402
from faceattr_fast.training.packed import PackedFaces  # noqa: E402
from faceattr_fast.training.prepare import PrepareOptions, prepare, survey  # noqa: E402
from faceattr_fast.training.tables import DataError  # noqa: E402


def run(*arguments):
    return cli.main(["prepare", *map(str, arguments)])


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
