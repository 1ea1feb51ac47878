"""The script that makes the demonstration weights, on tiny data; the weights that are shipped."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from training_data import tiny_spec, write_data  # noqa: E402

from faceattr_fast import FastForward, cli  # noqa: E402
from faceattr_fast.photo.alignment import DEFAULT_TEMPLATE, CropTemplate  # noqa: E402
from faceattr_fast.spec import ETHNICITY_LABELS, HeadSpec, PixelSpec  # noqa: E402
from faceattr_fast.training import labels  # noqa: E402
from faceattr_fast.weights import read_weights, shipped_weights  # noqa: E402


def load_script(name):
    path = Path(__file__).parents[1] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return load_script("train_demo_weights")


@pytest.fixture
def tiny(tmp_path):
    """Options of a run with a tiny network, which reads crops of the true size."""
    spec = tiny_spec()
    ethnicity = HeadSpec("ethnicity", 9, "fc", labels=ETHNICITY_LABELS)
    spec = dataclasses.replace(spec, heads=(*spec.heads, ethnicity), pixels=PixelSpec())
    (tmp_path / "spec.json").write_text(spec.to_json())
    return ["--spec", str(tmp_path / "spec.json"), "--steps", "30", "--sizes", "32", "--batch", "16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data; the tests put weights and checkpoint beside it."""
    root = tmp_path_factory.mktemp("training")
    write_data(root / "data")
    return root


def run(script, folder, out, *options):
    """Weights file and log that a run of the script writes."""
    path = folder / out
    cache = folder / "cache"
    script.main(["--data", str(folder / "data"), "--out", str(path), "--cache", str(cache), "--threads", "1", *options])
    assert not list(folder.glob("*.part"))
    return read_weights(path), json.loads(path.with_suffix(".json").read_text())


@pytest.mark.usefixtures("one_torch_thread")
def test_the_script_writes_weights_with_their_metadata(script, tiny, folder, capsys, monkeypatch):
    monkeypatch.setattr(script, "HELD_OUT", 8)
    weights, log = run(script, folder, "w.safetensors", *tiny)
    assert weights.spec.head("ethnicity").trained == labels.TRAINED_ETHNICITIES
    assert CropTemplate.from_dict(weights.metadata["crop"]) == DEFAULT_TEMPLATE
    assert "not for commercial use" in weights.metadata["licence"]
    assert {entry["name"] for entry in weights.metadata["trained_on"]} == {"utkface", "lfw", "ferplus"}
    assert weights.metadata["version"] == log["version"]
    accuracy = weights.metadata["accuracy"]
    assert set(accuracy) == {"gender", "age", "age_error_years", "ethnicity", "emotion", "verification"}
    assert accuracy["verification"]["threshold"] == round(log["verification on lfw"]["threshold"], 4)
    assert log["faces"]["utkface"] == {"training": 30, "held out": 8}
    assert log["faces"]["ferplus"]["held out"] == 8
    assert log["training"]["origin"]["start"] == "random"
    assert log["training"]["recipe"]["mix"] == script.MIX
    assert log["training"]["parameters"] == weights.spec.count().parameters
    assert "before" not in log
    assert log["learned anew"] == {}

    # Scales for int8, from training faces; measured on the others.
    figure = log["int8 on utkface"]
    assert weights.metadata["int8"]["images"] == figure["images"] > 30
    assert figure["n"] == 8
    assert figure["heads"].keys() == {"embedding", *(head.name for head in weights.spec.heads)}
    assert figure["heads"]["embedding"]["agreement"] is None
    assert all(0 < head["error"] < 0.2 for head in figure["heads"].values())
    assert all(head["agreement"] >= 0.5 for name, head in figure["heads"].items() if name != "embedding")
    int8 = FastForward.load(folder / "w.safetensors", dtype="int8", threads=1)
    assert int8(np.zeros((1, 224, 224, 3), np.uint8)).keys() == figure["heads"].keys()

    # The command reads the threshold and gives a verdict, for a face and itself the right one.
    face, other = (str(folder / "data" / "lfw" / "images" / "P_5" / f"P_5_000{i}.png") for i in (1, 2))
    capsys.readouterr()
    for second in (face, other):
        options = [face, second, "--crops", "--threads", "1", "--weights", str(folder / "w.safetensors")]
        assert cli.main(["verify", "--json", *options]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["threshold"] == accuracy["verification"]["threshold"]
        assert answer["same"] is (second == face or answer["similarity"] >= answer["threshold"])
        assert cli.main(["verify", *options]) == 0
        assert f"the threshold {answer['threshold']:.3f}: taken for" in capsys.readouterr().out

    # Of this log, the card.
    card = folder / "CARD.md"
    load_script("model_card").main([str(folder / "w.json"), str(card)])
    text = card.read_text()
    assert f"| gender | UTKFace, held out | 8 | {100 * accuracy['gender']['value']:.1f} % |" in text
    assert f"In int8, with scales from {figure['images']} training faces" in text


@pytest.mark.usefixtures("one_torch_thread")
def test_heads_are_learned_anew_on_weights_that_are_there(script, tiny, folder, monkeypatch):
    """The second run takes the trunk of the first, whose log goes into the card as what came before."""
    monkeypatch.setattr(script, "HELD_OUT", 8)
    monkeypatch.setattr(script, "RELEARN", ["--steps", "20", "--batch", "8"])
    first, before = run(script, folder, "first.safetensors", *tiny)
    trained = folder / "cache" / "trained.safetensors"
    points = {head: first.spec.head(head).branch for head in ("age", "gender", "emotion")}
    again = {"age": points["age"], "gender": "conv2", "emotion": "fc"}
    wanted = ",".join(f"{head}@{branch}" for head, branch in again.items())
    options = ["--trained", str(trained), "--before", str(folder / "first.json"), "--relearn", wanted]
    weights, log = run(script, folder, "second.safetensors", *options, "--keep", "age,gender")

    for head, row in log["learned anew"].items():
        assert (row["branch"], row["anew at"], row["kept"]) == (points[head], again[head], head != "emotion")
    assert log["age on utkface"]["accuracy"] == pytest.approx(log["learned anew"]["age"]["accuracy anew"], abs=0.13)
    assert log["emotion on ferplus"]["accuracy"] == before["emotion on ferplus"]["accuracy"]
    assert weights.spec.head("gender").branch == "conv2"
    assert weights.spec.head("emotion").branch == points["emotion"]
    for name, value in read_weights(folder / "first.safetensors").tensors.items():
        kept = not name.startswith(("heads.age.", "heads.gender."))
        if kept:
            np.testing.assert_array_equal(weights.tensors[name], value, err_msg=name)
    assert any(
        not np.array_equal(weights.tensors[name], first.tensors[name])
        for name in weights.tensors
        if name.startswith("heads.age.")
    )

    card = folder / "CARD.md"
    log["training"]["origin"] = {"start": "first.safetensors"}
    (folder / "second.json").write_text(json.dumps(log))
    load_script("model_card").main([str(folder / "second.json"), str(card)])
    text = " ".join(card.read_text().split())
    assert f"`first.safetensors`, which had seen {before['training']['images']:,} crops" in text
    assert f"| gender | {points['gender']} |" in text
    assert "at conv2 |" not in text
    assert "| conv2 |" in text


def test_an_error_of_a_command_ends_the_script(script, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        script.main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert "faceattr prepare: error:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_shipped_weights_say_what_they_are():
    assert shipped_weights().stat().st_size < 13e6
    weights = read_weights(shipped_weights())
    assert weights.spec.identities is None
    assert weights.spec.head("ethnicity").trained == labels.TRAINED_ETHNICITIES
    assert CropTemplate.from_dict(weights.metadata["crop"]) == DEFAULT_TEMPLATE
    assert {"licence", "trained_on", "accuracy", "version"} <= weights.metadata.keys()
    card = (shipped_weights().parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    for figure in ("gender", "ethnicity", "emotion"):
        assert f"{100 * weights.metadata['accuracy'][figure]['value']:.1f} %" in card
    log = json.loads((Path(__file__).parents[1] / "docs" / "demo_weights.json").read_text(encoding="utf-8"))
    assert log["version"] == weights.metadata["version"]
    assert log["parameters"] == weights.spec.count().parameters
    assert load_script("model_card").model_card(log) == card
