"""Splits, data sets, crops and the trainer, on faces that the tests draw themselves."""

import dataclasses
import functools
import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from faceattr_fast import reference  # noqa: E402
from faceattr_fast.photo.alignment import DEFAULT_TEMPLATE, CropTemplate  # noqa: E402
from faceattr_fast.spec import (  # noqa: E402
    AGE_LABELS,
    EMOTION_LABELS,
    ETHNICITY_LABELS,
    BlockSpec,
    HeadSpec,
    NetworkSpec,
    PixelSpec,
    StemSpec,
)
from faceattr_fast.training import augment, datasets, embedding, evaluate, labels, splits, trainer  # noqa: E402

COLUMNS = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]


# --- splits -----------------------------------------------------------------------------------------------------------


def drawn_face(rng: np.random.Generator, side: int = 64, male: bool = True) -> np.ndarray:
    """A smooth random picture; a 'man' is brighter below than above."""
    picture = cv2.resize(rng.uniform(0, 255, (6, 6, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
    ramp = np.linspace(-110, 110, side)[:, None, None] * (1 if male else -1)
    return np.clip(picture + ramp, 0, 255).astype(np.uint8)


def test_near_duplicates_are_found_and_kept_on_one_side():
    rng = np.random.default_rng(0)
    originals = np.stack([drawn_face(rng) for _ in range(30)])
    copies = np.stack([
        np.clip(cv2.resize(cv2.resize(p, (40, 40)), (64, 64)).astype(int) + 20, 0, 255).astype(np.uint8)
        for p in originals[:10]
    ])  # fmt: skip
    groups = splits.duplicate_groups(splits.difference_hash(np.concatenate([originals, copies])))
    assert (groups[30:] == groups[:10]).all()
    assert len(np.unique(groups)) == 30
    held = splits.split_groups(groups, 12, seed=3)
    assert 8 <= held.sum() <= 12
    assert not set(groups[held]) & set(groups[~held])
    assert np.array_equal(held, splits.split_groups(groups, 12, seed=3))


def test_chains_of_duplicates_are_one_group():
    bits = np.zeros((4, 64), bool)
    bits[1, :3] = bits[2, :6] = True
    bits[3] = True
    groups = splits.duplicate_groups(bits, most=3)
    assert groups[0] == groups[1] == groups[2] != groups[3]


# --- data sets --------------------------------------------------------------------------------------------------------


def write_csv(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


LANDMARK_HEADER = "file,score,x,y,w,h,eyeA_x,eyeA_y,eyeB_x,eyeB_y,nose_x,nose_y,mouthA_x,mouthA_y,mouthB_x,mouthB_y"
LANDMARKS = "0.9,0,0,64,64,20,22,44,22,32,34,23,46,41,46"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Folders of three tiny data sets as the adapters expect them, one picture damaged."""
    root = tmp_path_factory.mktemp("data")
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
    return root


@pytest.fixture(scope="module")
def sets(data, tmp_path_factory) -> list[datasets.FaceSet]:
    cache = tmp_path_factory.mktemp("cache")
    return [
        datasets.load_utkface(data / "utkface", cache, held_out=8, report=lambda line: None),
        datasets.load_lfw(data / "lfw", cache, report=lambda line: None),
        datasets.load_ferplus(data / "ferplus", report=lambda line: None),
    ]


def test_a_damaged_picture_is_reported_and_skipped_and_crops_are_packed_once(data, tmp_path):
    lines: list[str] = []
    faces = datasets.load_utkface(data / "utkface", tmp_path, held_out=8, report=lines.append)
    assert sum("skipped u7.png" in line for line in lines) == 1
    assert len(faces) == 38  # less the damaged one and the one without landmarks
    assert "u7.png" not in faces.names
    assert "u9.png" not in faces.names
    lines.clear()
    again = datasets.load_utkface(data / "utkface", tmp_path, held_out=8, report=lines.append)
    assert not any("aligning" in line for line in lines)
    assert np.array_equal(again.pictures, faces.pictures)


def test_utkface_labels(sets):
    with_name = dict(zip(sets[0].names, range(len(sets[0])), strict=True))
    row = with_name["u11.png"]  # written with age 22, gender code 1, race code 1
    found = {head: int(values[row]) for head, values in sets[0].labels.items()}
    assert found == {"gender": 0, "ethnicity": ETHNICITY_LABELS.index("black"), "age": AGE_LABELS.index("21-24")}
    others = with_name["u4.png"]
    assert sets[0].labels["ethnicity"][others] == labels.UNKNOWN
    assert not sets[0].targets["ethnicity"][others].any()
    assert len(sets[0].held_out) == 8


def test_lfw_people_are_on_one_side(sets):
    lfw = sets[1]
    assert not set(lfw.people[lfw.train]) & set(lfw.people[~lfw.train])
    assert set(lfw.people[~lfw.train]) == {"P_5", "P_6"}
    assert lfw.labels["gender"][lfw.people == "P_1"].tolist() == [0] * 4
    assert (lfw.labels["emotion"] != labels.UNKNOWN).sum() == 1


def test_ferplus_test_split_is_whole_and_its_copies_do_not_train(sets):
    ferplus = sets[2]
    assert len(ferplus.held_out) == 8
    assert "f0" not in ferplus.names
    assert ferplus.extra["copies"] == 1
    assert ferplus.extra["test ties"] >= 1


# --- crops ------------------------------------------------------------------------------------------------------------


def test_plain_render_is_the_crop(sets):
    faces = sets[0]
    crops = augment.render(faces, np.arange(3), 224)
    assert np.array_equal(crops, faces.pictures[:3, 16:-16, 16:-16])
    grey = augment.render(sets[2], np.arange(2), 48)
    assert np.array_equal(grey[..., 0], sets[2].pictures[:2, :, :, 0])
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_jitter_flips_half_and_depends_on_the_seed_alone(sets):
    still = augment.Jitter(shift=(0, 0), scale=0, turn=0, grey=0, blur=0, erase=0)
    chosen = np.zeros(60, int)
    crops = augment.render(sets[0], chosen, 64, still, np.random.default_rng(0)).astype(float)
    plain = augment.render(sets[0], chosen[:1], 64)[0].astype(float)

    def alike(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    flipped = [alike(crop, plain[:, ::-1]) > alike(crop, plain) for crop in crops]
    assert 15 < sum(flipped) < 45
    full = augment.Jitter()
    first, second = (augment.render(sets[0], chosen, 64, full, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


# --- training ---------------------------------------------------------------------------------------------------------


def tiny_spec() -> NetworkSpec:
    heads = (
        HeadSpec("gender", 2, "fc", labels=("female", "male")),
        HeadSpec("age", 14, "conv4", labels=AGE_LABELS),
        HeadSpec("emotion", 7, "conv3", labels=EMOTION_LABELS),
    )
    return NetworkSpec(
        StemSpec(8), ((BlockSpec(8, 8, 16, 2), BlockSpec(16, 8, 16, 1)),), 12, heads, pixels=PixelSpec(size=32)
    )


@pytest.mark.usefixtures("one_torch_thread")
def test_a_short_run_lowers_the_loss(sets, tmp_path):
    net = reference.FaceAttrNet(tiny_spec(), seed=0)
    trainer.initialise(net, 0)
    recipe = trainer.Recipe((trainer.Phase(1.0, 32, 24),), rate=5e-3, jitter=augment.Jitter(erase=0), warm_up=1e-9)
    lines: list[str] = []
    averaged, figures = trainer.train(
        net, sets, trainer.Budget(60), recipe, checkpoint=tmp_path / "c.pt", report=lines.append, most_steps=100
    )
    first, last = figures["log"]
    assert len(lines) == 2
    assert figures["people"] == 6  # those of folds 1-5, four pictures each
    assert last["gender"] < 0.8 * first["gender"]
    assert last["identity"] < first["identity"]
    trainer.estimate_norms(averaged, sets, images=60, batch=12)
    outputs = evaluate.predict(averaged, sets[0], sets[0].held_out)
    report = evaluate.accuracy_report(outputs["gender"], sets[0].labels["gender"][sets[0].held_out], ("female", "male"))
    assert report["accuracy"] >= 0.75

    resumed = reference.FaceAttrNet(tiny_spec(), seed=1)
    _, figures = trainer.train(
        resumed, sets, trainer.Budget(60), recipe, checkpoint=tmp_path / "c.pt", resume=True, most_steps=100
    )
    assert torch.equal(resumed.state_dict()["stem.conv.weight"], net.state_dict()["stem.conv.weight"])


def test_budget_does_not_count_a_pause_but_ends_by_the_wall_limit(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(trainer.time, "monotonic", lambda: clock[0])
    budget = trainer.Budget(minutes=1, wall_minutes=10)
    for _ in range(10):
        clock[0] += 1
        budget.step()
    assert budget.progress == pytest.approx(10 / 60)
    clock[0] += 560
    budget.step()
    assert budget.progress < 20 / 60  # a pause, counted as a few steps
    seen = [budget.progress]
    while budget.progress < 1:
        clock[0] += 1
        budget.step()
        seen.append(budget.progress)
    assert clock[0] == pytest.approx(600, abs=1)  # 30 s are left of the wall limit, 45 s of the step time
    assert max(np.diff(seen)) < 0.05  # no leap at the end


def test_the_schedule_warms_up_and_falls():
    recipe = trainer.Recipe()
    rates = [recipe.rate_at(p) for p in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(recipe.rate)
    assert rates[0] < 0.1 * recipe.rate
    assert rates[-1] < 0.01 * recipe.rate
    assert [recipe.phase(p).size for p in (0.0, 0.999, 1.0)][1:] == [224, 224]


def test_unknown_labels_give_no_loss():
    outputs = {"gender": torch.zeros(3, 2, requires_grad=True)}
    trainer._losses(outputs, {"gender": torch.tensor([[1.0, 0], [0, 0], [0, 0]])})["gender"].backward()
    gradient = outputs["gender"].grad
    assert gradient[0].abs().sum() > 0
    assert not gradient[1:].any()


def test_verification_chooses_its_threshold_on_the_other_splits():
    rng = np.random.default_rng(0)
    same = np.arange(400) % 2 == 0
    cosines = np.where(same, 0.6, 0.2) + rng.normal(0, 0.01, 400)
    report = evaluate.verification(cosines, same, np.arange(400) // 2 % 10)
    assert report["accuracy"] > 0.99
    assert report["area under curve"] == 1
    chance = evaluate.verification(rng.normal(size=400), same, np.arange(400) // 2 % 10)
    assert 0.35 < chance["accuracy"] < 0.65


def test_whitening_makes_the_scatter_within_people_round():
    rng = np.random.default_rng(0)
    people = np.repeat([f"p{i}" for i in range(300)], 4)
    within = rng.normal(0, 1, (1200, 5)) * [10, 1, 1, 1, 0.3]
    faces = np.repeat(rng.normal(0, 1, (300, 5)), 4, axis=0) + within + 7
    matrix, mean = embedding.within_person_whitening(faces, people, ridge=0.0)
    scatter = np.cov(within @ matrix.T, rowvar=False)
    assert np.allclose(scatter, np.eye(5) * scatter[0, 0], atol=0.15)
    assert np.allclose(mean, 7, atol=0.5)
    with pytest.raises(ValueError, match="two pictures"):
        embedding.within_person_whitening(faces[::4], people[::4])


def test_a_transformed_embedding_is_the_map_of_the_old_and_attributes_stay():
    net = reference.FaceAttrNet(tiny_spec(), seed=0)
    trainer.initialise(net, 0)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.normal(0, 1, (40, 3, 32, 32)).astype(np.float32))
    for _ in range(20):
        net(pixels)  # moves the running statistics
    net.eval()
    with torch.no_grad():
        before = {name: value.numpy() for name, value in net(pixels).items()}
        matrix, mean = np.eye(12) + 0.2 * rng.normal(size=(12, 12)), rng.normal(size=12)
        embedding.transform_embedding(net, matrix, mean, before["embedding"].astype(np.float64))
        after = {name: value.numpy() for name, value in net(pixels).items()}
        assert np.allclose(after["embedding"], (before["embedding"] - mean) @ matrix.T, atol=1e-4)
        for head in ("gender", "age", "emotion"):
            assert np.allclose(after[head], before[head], atol=1e-4)
        # The norm's statistics are those of its input, so that training can go on from here.
        net.bottleneck.bn.train()
        trained = net(pixels)["embedding"].numpy()
        expected = after["embedding"] - after["embedding"].mean(0)
        assert np.allclose(trained - trained.mean(0), expected, rtol=0.05, atol=0.02)


def test_limited_variances_fit_float16_and_change_nothing(tmp_path):
    net = reference.FaceAttrNet(tiny_spec(), seed=0)
    trainer.initialise(net, 0)
    with torch.no_grad():
        net.heads["emotion"].bottleneck.conv.weight.mul_(1000)
        net.blocks["1"].reduce.weight[2].mul_(300)
    pixels = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (40, 3, 32, 32)).astype(np.float32))
    for _ in range(60):
        net(pixels)
    net.eval()
    with pytest.raises(ValueError, match="float16"):
        reference.save(net, tmp_path / "w.safetensors", dtype="float16")
    before = net(pixels)
    trainer.limit_variances(net)
    after = net(pixels)
    reference.save(net, tmp_path / "w.safetensors", dtype="float16")
    for name, value in before.items():
        assert torch.allclose(after[name], value, rtol=1e-4, atol=1e-4)


# --- the script -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[1] / "scripts" / "train_demo_weights.py"
    spec = importlib.util.spec_from_file_location("train_demo_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("one_torch_thread")
def test_the_script_writes_weights_with_their_metadata(script, data, tmp_path, monkeypatch):
    spec = tiny_spec()
    ethnicity = HeadSpec("ethnicity", 9, "fc", labels=ETHNICITY_LABELS, trained=labels.TRAINED_ETHNICITIES)
    spec = dataclasses.replace(spec, heads=(*spec.heads, ethnicity))
    monkeypatch.setattr(script, "demo_spec", lambda: spec)
    monkeypatch.setattr(script, "Recipe", lambda: trainer.Recipe((trainer.Phase(1.0, 32, 16),)))
    monkeypatch.setattr(script, "load_utkface", functools.partial(datasets.load_utkface, held_out=8))
    out = tmp_path / "w.safetensors"
    script.main(["--data", str(data), "--out", str(out), "--minutes", "0.01", "--threads", "1"])
    from faceattr_fast.weights import read_weights

    weights = read_weights(out)
    assert weights.spec.head("ethnicity").trained == labels.TRAINED_ETHNICITIES
    assert CropTemplate.from_dict(weights.metadata["crop"]) == DEFAULT_TEMPLATE
    assert "not for commercial use" in weights.metadata["licence"]
    assert {entry["name"] for entry in weights.metadata["trained_on"]} == {"utkface", "lfw", "ferplus"}
    assert weights.metadata["version"]
    expected = {"gender", "age", "age_error_years", "ethnicity", "emotion", "verification"}
    assert set(weights.metadata["accuracy"]) == expected
    assert out.with_suffix(".json").exists()
    assert not list(tmp_path.glob("*.part"))


def test_the_demo_network_is_the_papers(script):
    spec = script.demo_spec()
    assert spec.count().parameters == 5_858_752
    assert spec.head("ethnicity").trained.count(True) == 4
    assert all(spec.head("gender").trained)


def test_shipped_weights_say_what_they_are():
    from faceattr_fast.weights import read_weights, shipped_weights

    assert shipped_weights().stat().st_size < 13e6
    weights = read_weights(shipped_weights())
    assert weights.spec.identities is None
    assert weights.spec.head("ethnicity").trained == labels.TRAINED_ETHNICITIES
    assert CropTemplate.from_dict(weights.metadata["crop"]) == DEFAULT_TEMPLATE
    assert {"licence", "trained_on", "accuracy", "version"} <= weights.metadata.keys()
    card = (shipped_weights().parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    for figure in ("gender", "ethnicity", "emotion"):
        assert f"{100 * weights.metadata['accuracy'][figure]['value']:.1f} %" in card
