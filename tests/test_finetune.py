"""Fine-tuning: exactly the promised tensors change, a killed run ends like an unbroken one, a head learns its task."""

import csv
import json
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from networks import SMALL, head_error, normalise, random_net  # noqa: E402
from training_data import striped_faces, write_packed  # noqa: E402

from faceattr_fast import FastForward, WeightsError, reference  # noqa: E402
from faceattr_fast.cli import main  # noqa: E402
from faceattr_fast.spec import HeadSpec  # noqa: E402
from faceattr_fast.training import feature_cache, finetune, head_trainer  # noqa: E402
from faceattr_fast.training.augment import render  # noqa: E402
from faceattr_fast.training.head_data import Faces, HeadData, class_weights  # noqa: E402
from faceattr_fast.training.packed import PackedFaces  # noqa: E402
from faceattr_fast.weights import copy_weights, read_weights  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

CLASSES = {"ramp": ("up", "down", "sideways"), "traits": ("dark", "noisy")}
QUICK = head_trainer.HeadRecipe(steps=6, batch=8)


@pytest.fixture(scope="module")
def crops():
    return striped_faces(96)[0]


@pytest.fixture(scope="module")
def folder(crops, tmp_path_factory):
    """Ramps, of which the last dozen is held out; "sideways" never occurs; traits are any number of two."""
    kind = striped_faces(96)[1]
    traits = np.stack([kind, 1 - kind], 1).astype(np.float32)
    traits[::5] = 0
    return write_packed(
        tmp_path_factory.mktemp("packed") / "ramps", crops, CLASSES,
        {"ramp": np.where(np.arange(96) == 5, "", np.array(CLASSES["ramp"])[kind]), "traits": [""] * 96},
        split=["train"] * 72 + ["validation"] * 12 + ["test"] * 12, groups=np.arange(96) // 2,
        targets={"traits": traits},
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def faces(folder):
    return Faces.open([folder])


def test_the_features_are_those_of_the_fast_forward(small_file, folder, faces, crops, tmp_path):
    fast = FastForward.load(small_file)
    sources = faces.sources(np.arange(96) % 3 == 0)
    done = []
    found = feature_cache.open_features(
        fast, "0", sources, "conv4", tmp_path, augmentations=1, report=lambda d, n: done.append((d, n))
    )
    assert done[-1] == (64, 64)
    assert len(found) == 32
    inputs = found.gather(np.array([1, 31]), np.array([0, 1]))
    expected = fast.features(crops[[3]], "conv4")
    assert inputs.keys() == expected.keys() == {"mid", "block_input"}
    for name, value in expected.items():
        assert np.array_equal(inputs[name][0].permute(1, 2, 0).numpy(), value[0])
    assert not np.array_equal(inputs["mid"][1].permute(1, 2, 0).numpy(), fast.features(crops[[93]], "conv4")["mid"][0])


def test_a_killed_cache_is_continued_with_the_same_values(small_file, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "_BATCH", 4)
    monkeypatch.setattr(feature_cache, "_EVERY", 2)
    fast = FastForward.load(small_file)
    sources = faces.sources(np.arange(96) < 20)

    def stop(done, total):
        if done == 28:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        feature_cache.open_features(fast, "0", sources, "fc", tmp_path / "a", augmentations=1, report=stop)
    seen = []
    again = feature_cache.open_features(
        fast, "0", sources, "fc", tmp_path / "a", augmentations=1, report=lambda done, total: seen.append(done)
    )
    assert seen[0] == 28  # 24 were on disk
    whole = feature_cache.open_features(fast, "0", sources, "fc", tmp_path / "b", augmentations=1)
    for copy in (0, 1):
        rows = np.arange(20)
        assert torch.equal(again.gather(rows, copy)["embedding"], whole.gather(rows, copy)["embedding"])
    seen.clear()
    feature_cache.open_features(
        fast, "0", sources, "fc", tmp_path / "a", augmentations=1, report=lambda done, total: seen.append(done)
    )
    assert seen == [40]  # nothing was computed
    other = feature_cache.open_features(fast, "1", sources, "fc", tmp_path / "a")
    assert other.folders != again.folders


@pytest.mark.parametrize("branch", SMALL.branches)
def test_exactly_the_promised_tensors_change(small_file, faces, cache, tmp_path, branch):
    out = tmp_path / "out.safetensors"
    finetune.fine_tune(small_file, faces, "ramp", branch, out, cache, recipe=QUICK)
    before, after = read_weights(small_file), read_weights(out)
    own = {name for name in after.tensors if name.startswith("heads.ramp.")}
    assert own == after.tensors.keys() - before.tensors.keys()
    for name, value in before.tensors.items():
        assert np.array_equal(after.tensors[name].view(np.uint32), value.view(np.uint32)), name
    fresh = finetune.new_head(before.spec, after.spec.head("ramp"), 0).state_dict()
    same = {n for n in own if np.array_equal(after.tensors[n], fresh[n.removeprefix("heads.ramp.")].numpy())}
    assert not same
    assert after.spec.heads[:-1] == before.spec.heads
    net = reference.load(out).double()
    pixels = faces.packed[0].crops[:16]
    with torch.no_grad():
        expected = net(torch.from_numpy(normalise(np.asarray(pixels), net.spec).astype(np.float64)))["ramp"].numpy()
    found = FastForward.load(out, heads=["ramp"])(np.asarray(pixels))["ramp"]
    assert head_error(found, expected) < 2e-6


@pytest.mark.parametrize(("branch", "optimiser"), [("conv3", "adamw"), ("fc", "sgd")])
def test_a_killed_run_ends_like_an_unbroken_one(small_file, faces, cache, tmp_path, branch, optimiser):
    recipe = head_trainer.HeadRecipe(steps=120, batch=8, optimiser=optimiser, augmentations=1)
    (tmp_path / "whole").mkdir()

    def train(folder, progress=None):
        run = head_trainer.TrainingRun(folder / "checkpoint", every=7, log=folder / "log.csv", progress=progress)
        finetune.fine_tune(small_file, faces, "ramp", branch, folder / "out", cache, recipe=recipe, run=run)

    def stop(at):
        def progress(step, steps):
            if step == at:
                raise KeyboardInterrupt

        return progress

    train(tmp_path / "whole")
    for at in (3, 61, 119):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, stop(at))
        assert not (tmp_path / "out").exists()
    resumed = []
    train(tmp_path, lambda step, steps: resumed.append(step))
    assert resumed[0] == 120
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole" / "out").read_bytes()
    assert (tmp_path / "log.csv").read_text() == (tmp_path / "whole" / "log.csv").read_text()
    with (tmp_path / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["50", "100", "120"]
    run = head_trainer.TrainingRun(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="of a run with other data"):
        finetune.fine_tune(small_file, faces, "ramp", branch, tmp_path / "x", cache, recipe=recipe, seed=1, run=run)


def test_a_separable_task_is_learned(small_file, folder, cache, tmp_path, capsys):
    out = tmp_path / "ramp.safetensors"
    code = main([
        "fine-tune", str(folder), "--weights", str(small_file), "--head", "ramp", "--branch", "conv5", "--steps", "150",
        "--batch", "16", "--augmentations", "1", "--class-weights", "balanced", "--threads", "1", "--out", str(out),
        "--cache", str(cache), "--rate", "0.003",
    ])  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    figures = json.loads(out.with_suffix(".json").read_text())
    assert figures["images"] == 71  # one face has no label
    assert figures["accuracy"]["validation"]["value"] >= 0.9
    assert figures["accuracy"]["test"] == {"value": figures["accuracy"]["test"]["value"], "n": 12,
                                           "data": "ramps, test split"}  # fmt: skip
    assert f"{figures['accuracy']['test']['value']:.1%} of 12 right" in printed.out
    weights = read_weights(out)
    assert weights.spec.head("ramp") == HeadSpec(
        "ramp", 3, "conv5", labels=CLASSES["ramp"], trained=(True, True, False)
    )
    assert weights.metadata["licence"] == "Apache-2.0; drawn for tests"
    assert weights.metadata["trained_on"] == [
        {"name": "ramps", "images": 71, "labels": ["ramp"], "branch": "conv5", "terms": "drawn for tests"}
    ]
    assert weights.metadata["accuracy"]["ramp"] == figures["accuracy"]["test"]
    assert weights.metadata["fine_tuned"]["ramp"]["branch"] == "conv5"
    assert {path.name for path in tmp_path.iterdir()} == {"ramp.safetensors", "ramp.json", "ramp.csv"}
    # What was never seen answers nothing, and what was measured is what the file gives.
    logits = FastForward.load(out, heads=["ramp"])(PackedFaces.open(folder).crops[84:])["ramp"]
    assert (logits[:, 2] == 0).all()
    right = logits[:, :2].argmax(1) == np.arange(84, 96) % 2
    assert round(right.mean(), 4) == figures["accuracy"]["test"]["value"]


def test_several_labels_at_once(small_file, faces, cache, tmp_path):
    recipe = head_trainer.HeadRecipe(steps=150, batch=16, rate=3e-3, class_weights={"dark": 2.0})
    figures = finetune.fine_tune(
        small_file, faces, "traits", "conv5", tmp_path / "out", cache, kind="sigmoid", recipe=recipe
    )
    assert figures["accuracy"]["validation"]["value"] >= 0.9
    assert read_weights(tmp_path / "out").spec.head("traits").kind == "sigmoid"


def test_a_head_goes_on_from_what_there_is(small_file, faces, cache, tmp_path):
    first = tmp_path / "first"
    finetune.fine_tune(small_file, faces, "ramp", "conv5", first, cache, recipe=QUICK)
    weights = read_weights(first)
    head = weights.spec.head("ramp")
    own = finetune.new_head(weights.spec, head, 0, "head", weights).state_dict()
    trunk = finetune.new_head(weights.spec, head, 0, "trunk", weights).state_dict()
    assert np.array_equal(own["blocks.3.reduce.weight"], weights.tensors["heads.ramp.blocks.3.reduce.weight"])
    assert np.array_equal(own["fc.bias"], weights.tensors["heads.ramp.fc.bias"])
    assert np.array_equal(trunk["blocks.3.bn.running_var"], weights.tensors["blocks.3.bn.running_var"])
    assert not np.array_equal(trunk["fc.weight"], own["fc.weight"])
    with pytest.raises(ValueError, match="cannot begin one at fc"):
        finetune.fine_tune(first, faces, "ramp", "fc", tmp_path / "x", cache, start="head", recipe=QUICK)
    # A head of the same name is replaced where it was, and the others keep their tensors.
    finetune.fine_tune(first, faces, "ramp", "fc", tmp_path / "x", cache, recipe=QUICK)
    again = read_weights(tmp_path / "x")
    assert [h.name for h in again.spec.heads] == [h.name for h in weights.spec.heads]
    assert {n for n in again.tensors if n.startswith("heads.ramp.")} == {"heads.ramp.fc.weight", "heads.ramp.fc.bias"}


def test_scales_of_other_layers_are_not_kept_and_float16_changes_no_trunk(small_file, faces, cache, tmp_path, crops):
    source = tmp_path / "int8"
    FastForward.from_module(random_net(SMALL, 1), calibration=crops[:4]).save(source)
    finetune.fine_tune(source, faces, "ramp", "fc", tmp_path / "out", cache, recipe=QUICK)
    assert "int8" not in read_weights(tmp_path / "out").metadata
    with pytest.raises(ValueError, match="float16 would round the frozen tensor"):
        finetune.fine_tune(small_file, faces, "ramp", "fc", tmp_path / "x", cache, recipe=QUICK, dtype="float16")
    reference.save(reference.load(small_file), tmp_path / "half", dtype="float16")
    finetune.fine_tune(tmp_path / "half", faces, "ramp", "fc", tmp_path / "out", cache, recipe=QUICK, dtype="float16")
    before, after = read_weights(tmp_path / "half"), read_weights(tmp_path / "out")
    assert all(np.array_equal(after.tensors[name], value) for name, value in before.tensors.items())


def test_thresholds_of_the_head_that_is_replaced_are_not_kept(small_file, faces, cache, tmp_path):
    first = tmp_path / "first.safetensors"
    finetune.fine_tune(small_file, faces, "ramp", "fc", first, cache, recipe=QUICK)
    copy_weights(first, tmp_path / "calibrated", {"thresholds": {"ramp": {"rate": 0.1}, "mood": {"rate": 0.2}}})
    finetune.fine_tune(tmp_path / "calibrated", faces, "ramp", "fc", tmp_path / "out", cache, recipe=QUICK)
    assert read_weights(tmp_path / "out").metadata["thresholds"] == {"mood": {"rate": 0.2}}


def test_class_weights_and_targets(faces):
    data = HeadData.of(faces, "ramp", "fc", labels=("down", "sideways", "up"))
    assert data.head.trained == (True, False, True)
    assert data.labels[:6].tolist() == [2, 0, 2, 0, 2, -1]
    assert not data.targets[5].any()
    np.testing.assert_allclose(data.targets[0], [0.025, 0, 0.975], atol=1e-6)
    train = faces.split == "train"
    balanced = class_weights(data, train, "balanced")
    np.testing.assert_allclose(balanced[[0, 2]] * data.targets[train].sum(0)[[0, 2]], 71 / 2, rtol=1e-5)
    assert class_weights(data, train, {"up": 3.0}).tolist() == [1, 1, 3]
    logits = torch.tensor([[0.0, 50.0, 1.0]], requires_grad=True)
    trained = torch.tensor(data.head.trained)
    loss = head_trainer.head_loss(
        logits, torch.tensor([[0.25, 0.0, 0.75]]), "softmax", trained, torch.tensor([1.0, 1.0, 3])
    )
    share = np.exp([0, 1]) / np.exp([0, 1]).sum()
    assert loss.item() == pytest.approx(-(0.25 * np.log(share[0]) + 2.25 * np.log(share[1])) / 2.5, rel=1e-6)
    loss.backward()
    assert logits.grad[0, 1] == 0
    sigmoid = head_trainer.head_loss(
        torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 0.0]]), "sigmoid", torch.tensor([True, True]),
        torch.tensor([2.0, 5.0]),
    )  # fmt: skip
    assert sigmoid.item() == pytest.approx((2 * np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head", "hair", "--branch", "fc"], "none of the sets has the label 'hair'"),
        (["--head", "ramp", "--branch", "conv9"], "does not exist: this network has conv0"),
        (["--head", "ramp"], "say where the new one branches"),
        (["--head", "ramp", "--branch", "fc", "--labels", "up,left"], r"classes \['down', 'sideways'\]"),
        (["--head", "ramp", "--branch", "fc", "--classes", "4"], "ramp has 3: up, down, sideways"),
        (["--head", "ramp", "--branch", "fc", "--class-weights", "left=2"], "not 'left'"),
        (["--head", "ramp", "--branch", "fc", "--class-weights", "up"], "CLASS=NUMBER"),
        (["--head", "ramp", "--branch", "fc", "--init-from", "head"], "no head named 'ramp'"),
        (["--head", "ramp", "--branch", "fc", "--batch", "1"], "batch: expected an integer of at least 2"),
        (["--head", "ramp", "--branch", "fc", "--rate", "0"], "rate: expected a positive number"),
        (["--head", "ramp", "--branch", "fc", "--smoothing", "1"], "smoothing"),
        (["--head", "ramp", "--spec", "no-such.json"], "no-such.json"),
        (
            ["--head", "ramp", "--branch", "fc", "--rate", "1e30", "--steps", "9"],
            "of 'ramp' at fc: the loss is .* a lower rate may help",
        ),
    ],
)
def test_what_is_wrong_is_said(small_file, folder, cache, tmp_path, capsys, options, message):
    out = tmp_path / "out"
    code = 1 if "1e30" in options else 2
    assert main(["fine-tune", str(folder), "--weights", str(small_file), *options, "--out", str(out)]) == code
    assert not out.exists()
    assert re.search(message, capsys.readouterr().err)


def test_other_wrong_input(small_file, folder, tmp_path, capsys):
    out = str(tmp_path / "out")
    arguments = ["--weights", str(small_file), "--head", "ramp", "--branch", "fc", "--out", out]
    assert main(["fine-tune", str(tmp_path), *arguments]) == 2
    assert "is no packed set" in capsys.readouterr().err
    assert main(["fine-tune", str(folder), str(folder), *arguments]) == 2
    assert "different names" in capsys.readouterr().err
    assert main(["fine-tune", str(folder), *arguments[:-1], str(tmp_path / "a" / "b")]) == 2
    (tmp_path / "bad").write_bytes(b"no weights")
    with pytest.raises(WeightsError):
        finetune.fine_tune(tmp_path / "bad", Faces.open([folder]), "ramp", "fc", tmp_path / "x", tmp_path)
    alone = write_packed(tmp_path / "alone", striped_faces(8)[0], {"ramp": ("up", "down")}, {"ramp": ["up"] * 8})
    with pytest.raises(ValueError, match=r"have of its classes only \['up'\]"):
        HeadData.of(Faces.open([alone]), "ramp", "fc")


def test_crops_are_those_that_the_weights_expect(small_net, tmp_path):
    crop = {"points": [[1.0, 2.0]] * 5, "border": "zero"}
    reference.save(small_net, tmp_path / "base", metadata={"crop": crop})
    labels = {"ramp": ["up", "down"] * 4}
    for border in ("zero", "replicate"):
        info = {"kind": "aligned", "crop": {**crop, "border": border, "margin": 0}}
        write_packed(tmp_path / border, striped_faces(8)[0], {"ramp": ("up", "down")}, labels, info=info)
    options = ("ramp", "fc", tmp_path / "out", tmp_path / "cache")
    finetune.fine_tune(tmp_path / "base", Faces.open([tmp_path / "zero"]), *options, recipe=QUICK)
    with pytest.raises(ValueError, match="border is replicate, expected zero"):
        finetune.fine_tune(tmp_path / "base", Faces.open([tmp_path / "replicate"]), *options, recipe=QUICK)


def test_sets_are_joined_by_the_names_of_their_classes(folder, tmp_path, small_file, cache):
    other = write_packed(
        tmp_path / "other", striped_faces(8, seed=1)[0], {"ramp": ("down", "up")}, {"ramp": ["up", "down"] * 4},
        groups=[0, 0, 1, 1, 2, 2, 3, 3],
    )  # fmt: skip
    blank = write_packed(tmp_path / "blank", striped_faces(4)[0], {"hair": ("red",)}, {"hair": ["red"] * 4})
    faces = Faces.open([blank, folder, other])
    data = HeadData.of(faces, "ramp", "fc", labels=("up", "down", "sideways"))
    assert data.labels[:4].tolist() == [-1] * 4
    assert data.labels[-8:].tolist() == [0, 1] * 4
    assert not set(faces.groups[-8:]) & set(faces.groups[:-8])
    sources = faces.sources(data.known)
    assert [source.packed.info["name"] for source in sources] == ["ramps", "other"]
    features = feature_cache.open_features(FastForward.load(small_file), "0", sources, "fc", cache)
    rows = np.flatnonzero(data.known)
    assert len(features) == len(rows) == 103
    crop = render(faces.sets[2], np.array([1]), 32)
    expected = FastForward.load(small_file).features(crop, "fc")["embedding"][0]
    number = int(np.flatnonzero(rows == 4 + 96 + 1)[0])
    assert np.array_equal(features.gather(np.array([0, number]))["embedding"][1].numpy(), expected)
