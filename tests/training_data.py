"""Three tiny data sets of faces that are drawn here, and a network for them: shared by the tests of training."""

from pathlib import Path

import numpy as np
import pytest

from faceattr_fast.spec import AGE_LABELS, EMOTION_LABELS, BlockSpec, HeadSpec, NetworkSpec, PixelSpec, StemSpec

cv2 = pytest.importorskip("cv2")

COLUMNS = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]


def tiny_spec() -> NetworkSpec:
    heads = (
        HeadSpec("gender", 2, "fc", labels=("female", "male")),
        HeadSpec("age", 14, "conv4", labels=AGE_LABELS),
        HeadSpec("emotion", 7, "conv3", labels=EMOTION_LABELS),
    )
    return NetworkSpec(
        StemSpec(8), ((BlockSpec(8, 8, 16, 2), BlockSpec(16, 8, 16, 1)),), 12, heads, pixels=PixelSpec(size=32)
    )


def drawn_face(rng: np.random.Generator, side: int = 64, male: bool = True) -> np.ndarray:
    """A smooth random picture; a 'man' is brighter below than above."""
    picture = cv2.resize(rng.uniform(0, 255, (6, 6, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
    ramp = np.linspace(-110, 110, side)[:, None, None] * (1 if male else -1)
    return np.clip(picture + ramp, 0, 255).astype(np.uint8)


def write_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), drawn_face(np.random.default_rng(seed))[..., ::-1])


def write_csv(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


LANDMARK_HEADER = "file,score,x,y,w,h,eyeA_x,eyeA_y,eyeB_x,eyeB_y,nose_x,nose_y,mouthA_x,mouthA_y,mouthB_x,mouthB_y"
LANDMARKS = "0.9,0,0,64,64,20,22,44,22,32,34,23,46,41,46"


def write_data(root: Path) -> None:
    """Folders of three tiny data sets as the adapters expect them, one picture damaged."""
    rng = np.random.default_rng(0)
    (root / "utkface" / "images").mkdir(parents=True)
    rows, points = [], []
    for i in range(40):
        code = i % 2
        cv2.imwrite(str(root / "utkface" / "images" / f"u{i}.png"), drawn_face(rng, male=code == 0))
        rows.append(f"u{i}.png,{i * 2},{code},{i % 5}")
        points.append(f"u{i}.png,{LANDMARKS}")
    (root / "utkface" / "images" / "u7.png").write_bytes(b"not a picture")
    points[9] = "u9.png,0" + "," * 14  # no face found
    write_csv(root / "utkface" / "labels.csv", "file,age,gender,race", rows)
    write_csv(root / "utkface" / "landmarks5.csv", LANDMARK_HEADER, points)

    people, points = [], []
    for person in range(8):
        folder = root / "lfw" / "images" / f"P_{person}"
        folder.mkdir(parents=True)
        people.append(f"{person % 7 + 1},P_{person},4")
        for image in range(1, 5):
            cv2.imwrite(str(folder / f"P_{person}_{image:04d}.png"), drawn_face(rng))
            points.append(f"P_{person}/P_{person}_{image:04d}.png,{LANDMARKS}")
    write_csv(root / "lfw" / "people.csv", "fold,person,images", people)
    write_csv(root / "lfw" / "landmarks5.csv", LANDMARK_HEADER, points)
    write_csv(root / "lfw" / "gender.csv", "person,gender", ["P_0,male", "P_1,female"])
    write_csv(root / "lfw" / "emotion.csv", "image,emotion", ["P_0_0001.png,happiness", "P_0_0002.png,contempt"])
    pairs = [f"6,P_5,1,P_{other},2,{int(other == 5)}" for other in (5, 6)] * 3
    write_csv(root / "lfw" / "pairs.csv", "fold,person_a,image_a,person_b,image_b,same", pairs)

    (root / "ferplus").mkdir()
    pictures = np.stack([drawn_face(rng, 48)[:, :, 0] for _ in range(30)])
    pictures[0] = pictures[29]  # a training copy of a test picture
    votes = rng.multinomial(10, [0.2, 0.3, 0.1, 0.1, 0.1, 0.05, 0.05, 0.04, 0.03, 0.03], 30).astype(np.uint8)
    votes[29] = [5, 5] + [0] * 8
    np.savez(
        root / "ferplus" / "ferplus_48x48.npz", x=pictures, votes=votes, split=(np.arange(30) >= 22).astype(np.uint8),
        name=np.array([f"f{i}" for i in range(30)]), vote_columns=np.array(COLUMNS),
    )  # fmt: skip


def face_sets(data: Path, packed: Path) -> list:
    """The three of :func:`write_data` as the trainer takes them."""
    from faceattr_fast.training.prepare import PrepareOptions, prepare
    from faceattr_fast.training.sources import LFW, FERPlus, UTKFace

    sources = [
        (UTKFace(data / "utkface"), PrepareOptions(test=8)),
        (LFW(data / "lfw"), None),
        (FERPlus(data / "ferplus"), None),
    ]
    return [
        prepare(source, packed / source.name, options, report=lambda line: None).face_set()
        for source, options in sources
    ]


def write_packed(folder: Path, crops: np.ndarray, classes: dict, labels: dict, **columns) -> Path:
    """A packed set of these crops; a label of "" is unknown.

    Args:
        folder: to write.
        crops: uint8 [N, S, S, 3].
        classes: name of a label to names of its classes.
        labels: name of a label to [N] names of classes.
        columns: split, groups, subjects, years, targets (label to [N, classes]), info.
    """
    from faceattr_fast.training.packing import Entry, PackedWriter

    count = len(crops)
    targets = columns.get("targets", {})
    with PackedWriter(folder, crops.shape[1], {}) as writer:
        for i, crop in enumerate(crops):
            soft = {name: [float(v) for v in rows[i]] for name, rows in targets.items() if np.any(rows[i])}
            known = {name: str(values[i]) for name, values in labels.items() if values[i]}
            who, years = columns.get("subjects", [""] * count)[i], columns.get("years", [-1] * count)[i]
            writer.add(Entry(f"{i}.png", subject=str(who), years=int(years), labels=known, targets=soft), crop)
        return writer.finish(
            np.asarray(columns.get("split", ["train"] * count)),
            np.asarray(columns.get("groups", np.arange(count))),
            classes,
            {"name": folder.name, "version": "1", "kind": "tight", "split": "drawn", "crop": {"margin": 0},
             "terms": "drawn for tests"} | columns.get("info", {}),
        )  # fmt: skip


def striped_faces(count: int, side: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of noise, every other one brighter below than above: uint8 [N, S, S, 3] and [N] 0 or 1."""
    rng = np.random.default_rng(seed)
    kind = np.arange(count) % 2
    ramp = np.linspace(-80, 80, side)[None, :, None, None] * (2 * kind - 1)[:, None, None, None]
    return np.clip(rng.normal(127, 25, (count, side, side, 3)) + ramp, 0, 255).astype(np.uint8), kind
