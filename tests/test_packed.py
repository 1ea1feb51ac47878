"""Packed sets: what is written is read again, a killed writer goes on where it was, and damage is named."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

from faceattr_fast.spec import AGE_LABELS, EMOTION_LABELS, GENDER_LABELS
from faceattr_fast.training import augment
from faceattr_fast.training.labels import age_targets
from faceattr_fast.training.packed import PackedFaces
from faceattr_fast.training.packing import Entry, PackedWriter
from faceattr_fast.training.tables import DataError

SIDE = 24
CLASSES = {"gender": GENDER_LABELS, "age": AGE_LABELS, "emotion": EMOTION_LABELS}
INFO = {"name": "drawn", "version": "1", "kind": "aligned", "split": "by subject", "crop": {"margin": 4}}


def crops(count):
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def entry(i):
    votes = {"emotion": [0.25, 0, 0, 0, 0, 0, 0.75]} if i % 3 == 0 else {}
    age = {"age": "21-24"} if i % 2 else {}
    return Entry(
        f"{i}.png", subject=f"P {i // 2}" if i < 6 else "", years=(-1, 22, 0, 22)[i % 4], targets=votes,
        labels={"gender": GENDER_LABELS[i % 2], **age} if i != 4 else age, hash=f"{i:064x}",
    )  # fmt: skip


def write(folder, count=8, dropped=None, **options):
    """A set of ``count`` faces with a skipped picture after the third; what is there already is not written again."""
    with PackedWriter(folder, SIDE, {"source": "drawn"}, **options) as writer:
        items = [(entry(i), crop) for i, crop in enumerate(crops(count))]
        items.insert(3, (Entry("bad.png", "damaged: no picture"), None))
        for one, crop in items[writer.written :]:
            writer.skip(one.file, one.reason) if crop is None else writer.add(one, crop)
        split = np.array(["train", "train", "train", "train", "validation", "validation", "test", "test"])
        return writer.finish(split, np.arange(count) // 2, CLASSES, INFO, dropped)


def test_what_is_written_is_read(tmp_path):
    folder = write(tmp_path / "set")
    packed = PackedFaces.open(folder)
    assert np.array_equal(packed.crops, crops(8))
    assert isinstance(packed.crops, np.memmap)
    assert not packed.crops.flags.writeable
    assert packed.files == [f"{i}.png" for i in range(8)]
    assert packed.subjects.tolist() == ["P 0", "P 0", "P 1", "P 1", "P 2", "P 2", "", ""]
    assert packed.split.tolist()[3:6] == ["train", "validation", "validation"]
    assert packed.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert packed.years.tolist() == [-1, 22, 0, 22] * 2
    assert packed.labels["gender"].tolist() == [0, 1, 0, 1, -1, 1, 0, 1]
    assert packed.labels["age"].tolist() == [-1, AGE_LABELS.index("21-24")] * 4
    assert (packed.labels["emotion"] == -1).all()
    assert packed.targets.keys() == {"emotion"}
    assert packed.targets["emotion"][3].tolist() == [0.25, 0, 0, 0, 0, 0, 0.75]
    assert packed.targets["emotion"].any(1).tolist() == [i % 3 == 0 for i in range(8)]
    assert packed.info["counts"] == {"faces": 8, "subjects": 3, "train": 4, "validation": 2, "test": 2}
    assert packed.info["skipped"] == {"damaged": 1}
    assert packed.classes("gender") == GENDER_LABELS
    assert (folder / "skipped.csv").read_text().splitlines() == ["file,reason", "bad.png,damaged: no picture"]
    files = {path.name for path in folder.iterdir()}
    assert files == {"crops.npy", "faces.csv", "skipped.csv", "targets.npz", "set.json"}
    assert not list(tmp_path.glob("*.part"))


def test_faces_may_be_left_out_at_the_end(tmp_path):
    packed = PackedFaces.open(write(tmp_path / "set", dropped={1: "rare: 1 image", 6: "copy: of 7.png"}))
    kept = [0, 2, 3, 4, 5, 7]
    assert np.array_equal(packed.crops, crops(8)[kept])
    assert packed.files == [f"{i}.png" for i in kept]
    assert packed.split.tolist() == ["train", "train", "train", "validation", "validation", "test"]
    assert packed.targets["emotion"].any(1).tolist() == [i % 3 == 0 for i in kept]
    assert packed.info["skipped"] == {"rare": 1, "damaged": 1, "copy": 1}


@pytest.mark.parametrize("written", [0, 2, 3, 4, 7])
@pytest.mark.parametrize("torn", ["nothing", "journal", "crops"])
def test_a_killed_writer_goes_on_where_it_was(tmp_path, monkeypatch, written, torn):
    monkeypatch.setattr("faceattr_fast.training.packing._EVERY", 1)
    whole = write(tmp_path / "whole")
    writer = PackedWriter(tmp_path / "set", SIDE, {"source": "drawn"})
    items = [(entry(i), crop) for i, crop in enumerate(crops(8))]
    items.insert(3, (Entry("bad.png", "damaged: no picture"), None))
    for one, crop in items[:written]:
        writer.skip(one.file, one.reason) if crop is None else writer.add(one, crop)
    del writer  # as if killed
    part = tmp_path / "set.part"
    if torn == "journal":  # half a line, half a crop
        with (part / "journal.jsonl").open("ab") as file:
            file.write(b'{"file": "half')
        with (part / "crops.raw").open("ab") as file:
            file.write(b"x" * 100)
    if torn == "crops" and written:  # the disk kept the journal and lost a crop
        with (part / "crops.raw").open("r+b") as file:
            file.truncate(max(0, file.seek(0, 2) - 5))
    folder = write(tmp_path / "set")
    for name in ("crops.npy", "faces.csv", "skipped.csv", "set.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    one, other = PackedFaces.open(folder), PackedFaces.open(whole)
    assert all(np.array_equal(one.targets[head], other.targets[head]) for head in other.targets)


def test_a_writer_killed_in_its_last_steps_leaves_a_complete_set(tmp_path, monkeypatch):
    def killed(part, folder):
        (part / "journal.jsonl").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("faceattr_fast.training.packing._publish", killed)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert PackedWriter.complete(tmp_path / "set")
    assert np.array_equal(PackedFaces.open(tmp_path / "set").crops, crops(8))
    assert not PackedWriter.complete(tmp_path / "none")


def test_what_a_writer_refuses(tmp_path):
    write(tmp_path / "set")
    with pytest.raises(FileExistsError, match="set is there already"):
        write(tmp_path / "set")
    with PackedWriter(tmp_path / "other", SIDE, {"source": "a"}) as writer:
        writer.add(entry(0), crops(1)[0])
        with pytest.raises(ValueError, match=r"uint8 \(24, 24, 3\), got uint8 \(24, 23, 3\)"):
            writer.add(entry(1), crops(1)[0][:, :23])
    with pytest.raises(DataError, match=r"begun with other settings .*source: 'a', now 'b'"):
        PackedWriter(tmp_path / "other", SIDE, {"source": "b"})
    with PackedWriter(tmp_path / "other", SIDE, {"source": "b"}, restart=True) as writer:
        assert writer.written == 0


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: replace(d / "faces.csv", ",male", ",mann"), r"faces.csv, line 3: gender: expected one of .*'mann'"),
        (lambda d: replace(d / "faces.csv", "validation", "valid"), r"line 6: split: expected one of .*got 'valid'"),
        (lambda d: replace(d / "faces.csv", ",22,", ",22.5,"), r"line 3: years: expected a whole number, got '22.5'"),
        (lambda d: replace(d / "faces.csv", "subject", "person"), r"expected the columns \['subject'\]"),
        (lambda d: replace(d / "faces.csv", "7.png", "7.png,8"), "line 9: expected 8 columns"),
        (lambda d: replace(d / "set.json", '"format": 1', '"format": 9'), "set of format 1, got 9"),
        (lambda d: replace(d / "set.json", '"name"', '"nom"'), r"set.json: expected the entries \['name'\]"),
        (lambda d: (d / "set.json").write_text("{"), "set.json: "),
        (lambda d: (d / "crops.npy").write_bytes(b"x" * 300), "crops.npy: "),
        (lambda d: np.save(d / "crops.npy", np.zeros((8, 4, 5, 3), np.uint8)), r"expected uint8 \[N, S, S, 3\]"),
        (lambda d: np.save(d / "crops.npy", crops(7)), "8 rows for 7 crops"),
        (lambda d: np.savez(d / "targets.npz", emotion=np.zeros((8, 6), np.float32)), r"emotion: expected float32"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    folder = write(tmp_path / "set")
    damage(folder)
    with pytest.raises(DataError, match=message):
        PackedFaces.open(folder)


def test_a_missing_set_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no packed set"):
        PackedFaces.open(tmp_path)
    folder = write(tmp_path / "set")
    (folder / "faces.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"faces\.csv"):
        PackedFaces.open(folder)


def test_the_face_set_has_the_softest_targets_and_balanced_weights(tmp_path):
    packed = PackedFaces.open(write(tmp_path / "set"))
    faces = packed.face_set(smoothing=0.1, trust={"gender": 0.5}, balance={"subject": 1.0})
    assert faces.name == "drawn"
    assert faces.train.tolist() == [True] * 4 + [False] * 4
    assert faces.margin == 4 / 16
    assert np.allclose(faces.targets["gender"][1], [0.025, 0.475])
    assert not faces.targets["gender"][4].any()
    assert np.allclose(faces.targets["age"][1], age_targets(np.array([22]))[0])
    assert not faces.targets["age"][0].any()
    assert np.allclose(faces.targets["emotion"][3], [0.25, 0, 0, 0, 0, 0, 0.75])
    assert np.ptp(faces.weights) == 0  # two faces each, and the two of nobody
    assert faces.people.tolist()[-1] == ""
    assert packed.face_set(train=("train", "validation")).train.sum() == 6
    plain = augment.render(faces, np.arange(3), 16)
    assert np.array_equal(plain, crops(3)[:, 4:-4, 4:-4])
    with pytest.raises(ValueError, match=r"train: expected some of .*'dev'"):
        packed.face_set(train=("dev",))
    with pytest.raises(ValueError, match=r"not \['race'\]"):
        packed.face_set(balance={"race": 1.0})


def test_a_set_advises_how_to_train_on_it(tmp_path):
    folder = write(tmp_path / "set")
    info = json.loads((folder / "set.json").read_text())
    info["training"] = {"smoothing": 0.2, "trust": {"gender": 2.0}, "balance": {"gender": 1.0}, "zoom": [0.9, 1.2]}
    (folder / "set.json").write_text(json.dumps(info))
    faces = PackedFaces.open(folder).face_set()
    assert faces.zoom == (0.9, 1.2)
    assert np.allclose(faces.targets["gender"][0], [1.8, 0.2])
    assert faces.weights[4] == pytest.approx(4 * faces.weights[1])  # one of nobody knows, four men
    assert PackedFaces.open(folder).face_set(balance={}).weights.tolist() == [1.0] * 8
    # Advice for a source as a whole, of which this set lacks a label.
    info["training"] |= {"trust": {"gender": 2.0, "race": 0.5}, "balance": {"race": 1.0}}
    (folder / "set.json").write_text(json.dumps(info))
    faces = PackedFaces.open(folder).face_set()
    assert np.allclose(faces.targets["gender"][0], [1.8, 0.2])
    assert faces.weights.tolist() == [1.0] * 8


def test_an_interrupt_within_a_commit_shifts_no_crop(tmp_path, monkeypatch):
    """The crops of the commit lie twice in the file if it is begun again; the journal would not know."""
    folder, real, calls = tmp_path / "set", np.ascontiguousarray, []

    def interrupted(crop):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(crop)

    monkeypatch.setattr("faceattr_fast.training.packing._EVERY", 3)
    with monkeypatch.context() as patch:
        patch.setattr("faceattr_fast.training.packing.np.ascontiguousarray", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(folder)
    assert np.array_equal(PackedFaces.open(write(folder)).crops, crops(8))
