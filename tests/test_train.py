"""``faceattr train`` from sets to a file, and what goes wrong."""

import dataclasses
import json
import re
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from base_training import GENDER  # noqa: E402
from networks import head_error, normalise  # noqa: E402
from training_data import striped_faces, tiny_spec, write_packed  # noqa: E402

from faceattr_fast import FastForward, reference  # noqa: E402
from faceattr_fast.cli import main  # noqa: E402
from faceattr_fast.spec import HeadSpec, StemSpec  # noqa: E402
from faceattr_fast.training import learner  # noqa: E402
from faceattr_fast.weights import read_weights  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def test_the_small_recipe_from_sets_to_a_file(sets, train, tmp_path, capsys):
    out = train(sets, tmp_path / "w.safetensors", "--steps", 90, "--batch", 16, "--rate", 0.004, "--keep-identities",
                "--mix", "looks=2,people=1")  # fmt: skip
    assert not list(tmp_path.glob("*.checkpoint")) + list(tmp_path.glob("*.part"))
    assert "90 steps on 1440 faces" in capsys.readouterr().out
    weights = read_weights(out)
    assert [head.name for head in weights.spec.heads] == ["gender", "age"]  # no set has emotions
    says = weights.metadata
    assert says["licence"] == "drawn for tests; drawn for tests, with names"
    assert [(entry["name"], entry["images"], entry["labels"]) for entry in says["trained_on"]] == [
        ("looks", 47, ["gender", "age"]), ("people", 48, ["identity"]),
    ]  # fmt: skip
    assert says["identities"] == [f"P{i}" for i in range(6)]
    assert says["training"]["origin"] == {"start": "random", "initialisation": "residual"}
    assert says["training"]["recipe"]["mix"] == {"looks": 2.0, "people": 1.0}
    assert (says["training"]["steps"], says["seed"], says["crop"]["size"]) == (90, 0, 224)

    figures = json.loads(out.with_suffix(".json").read_text())
    first, last = figures["log"]
    assert (first["step"], first["images"], last["step"]) == (50, 800, 90)
    assert last["gender"] < 0.7 * first["gender"]
    assert last["identity"] < first["identity"]
    rows = out.with_suffix(".csv").read_text().splitlines()
    assert rows[0] == "step,size,rate,images,gender,age,identity"
    assert [row.split(",")[0] for row in rows[1:]] == ["50", "90"]

    # The fast forward agrees with the module, and knows faces that training never saw.
    fast = FastForward.load(out, heads=["embedding", "identity", "gender", "age"])
    net = reference.load(out).double()
    crops, kind = striped_faces(72)
    with torch.no_grad():
        expected = net(torch.from_numpy(normalise(crops[48:], weights.spec)).double())
    found = fast(crops[48:])
    for name in ("embedding", "identity", "gender", "age"):
        assert head_error(found[name], expected[name].numpy()) <= 2e-6, name
    assert np.mean(found["gender"].argmax(1) == kind[48:]) >= 0.9

    # The people's vectors went along with the whitened embedding: the layer knows them.
    people = np.load(sets[1] / "crops.npy")[48:]
    assert np.mean(fast(people)["identity"].argmax(1) == np.arange(48, 72) % 6) >= 0.7


def test_the_papers_recipe_from_sets_to_a_file(sets, train, tmp_path):
    out = train([sets[1]], tmp_path / "w.safetensors", "--recipe", "paper", "--steps", 40, "--batch", 24,
                "--micro-batch", 8, "--file-dtype", "float16")  # fmt: skip
    weights = read_weights(out)
    assert (weights.spec.identities, weights.spec.heads) == (6, ())
    assert weights.metadata["training"]["recipe"]["optimiser"] == "sgd"
    assert main(["evaluate", str(sets[1]), "--weights", str(out), "--out", str(tmp_path), "--no-plots"]) == 0
    (section,) = json.loads((tmp_path / "report.json").read_text())["sets"]
    assert section["identity"]["method"] == "identity layer"
    assert section["identity"]["top 1"]["accuracy"] >= 0.7

    # From there on, a head beside identities.
    more = train(sets, tmp_path / "m.safetensors", "--recipe", "paper", "--steps", 2, "--batch", 8, "--rate", 1e-9,
                 "--heads", "gender", "--init", out)  # fmt: skip
    found = read_weights(more)
    assert [head.name for head in found.spec.heads] == ["gender"]
    for name in ("stem.conv.weight", "heads.identity.fc.weight"):
        assert np.allclose(found.tensors[name], weights.tensors[name], atol=1e-6)
    origin = found.metadata["training"]["origin"]
    assert (origin["start"], origin["heads"]) == ("w.safetensors", ["identity"])
    assert origin["says"]["training"]["steps"] == 40
    assert [entry["name"] for entry in found.metadata["trained_on"]] == ["people", "looks", "people"]


def test_options_change_the_phases(sets, train, tmp_path):
    (tmp_path / "config").write_text(json.dumps({"jitter": None, "loss_weights": {"age": 0.5}, "rate": 5}))
    out = train(sets, tmp_path / "w", "--steps", 8, "--sizes", "16,32", "--parts", "3,1", "--batch", "4,8", "--rate",
                0.001, "--config", tmp_path / "config", "--precision", "bfloat16", "--heads", "age")  # fmt: skip
    says = read_weights(out).metadata["training"]
    assert says["recipe"]["phases"] == [
        {"until": 0.75, "size": 16, "batch": 4}, {"until": 1.0, "size": 32, "batch": 8},
    ]  # fmt: skip
    assert (says["recipe"]["jitter"], says["recipe"]["rate"], says["precision"]) == (None, 0.001, "bfloat16")
    assert says["images"] == 6 * 4 + 2 * 8


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(sets, train, tmp_path, monkeypatch, capsys):
    forward, calls = learner.Learner.forward, []

    def broken(self, batch):
        calls.append(None)
        sums = forward(self, batch)
        return sums | {"age": sums["age"] * float("nan")} if len(calls) == 7 else sums

    monkeypatch.setattr(learner.Learner, "forward", broken)
    options = ("--steps", 20, "--batch", 8, "--checkpoint-every", 3)
    out = train(sets, tmp_path / "w.safetensors", *options, code=1)
    assert "step 7: the loss of age is not finite; a lower rate may help" in capsys.readouterr().err
    assert not out.exists()
    assert torch.load(tmp_path / "w.safetensors.checkpoint", weights_only=True)["history"]["step"] == 6
    monkeypatch.undo()
    train(sets, out, *options)  # from there on
    train(sets, tmp_path / "u.safetensors", *options)
    assert out.read_bytes() == (tmp_path / "u.safetensors").read_bytes()


@pytest.fixture(scope="module")
def wrong(sets, tmp_path_factory):
    """What an option in braces stands for."""
    root = tmp_path_factory.mktemp("wrong")
    crops = striped_faces(8)[0]
    write_packed(root / "held-out", crops, {"gender": GENDER}, {"gender": list(GENDER) * 4}, split=["test"] * 8)
    write_packed(root / "hats", crops, {"hat": ("no", "yes")}, {"hat": ["no", "yes"] * 4})
    other = dataclasses.replace(tiny_spec(), heads=(HeadSpec("gender", 2, "bottleneck", labels=GENDER),))
    reference.save(reference.FaceAttrNet(other, seed=0), root / "elsewhere")
    wide = dataclasses.replace(other.paper(None, ()), stem=StemSpec(32))
    reference.save(reference.FaceAttrNet(wide, seed=0), root / "wide")
    (root / "damaged").write_bytes(b"no weights")
    (root / "list").write_text("[]")
    (root / "typo").write_text('{"stepz": 3}')
    names = ("held-out", "hats", "elsewhere", "wide", "damaged", "list", "typo")
    return {"looks": sets[0], "people": sets[1], **{name: root / name for name in names}, "nowhere": root / "a" / "b"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{held-out}"], r"head 'gender': the faces to train on have of its classes only \[\]"),
        (["{looks}", "{looks}"], "the sets must have different names"),
        (["{nowhere}"], "is no packed set"),
        (["{hats}"], "hats: no face of the training split has a person with 3 pictures, of at least two people"),
        (["{looks}", "{hats}"], "hats: no face of the training split has a label of gender, age"),
        (["{looks}", "--heads", "hat"], "no head named 'hat'"),
        (["{looks}", "--heads", "emotion"], "heads: none of the sets has the label 'emotion'; they have"),
        (
            ["{looks}", "--recipe", "paper", "--heads", "gender"],
            "identity: the sets have not two people with 3 training pictures",
        ),
        (["{looks}", "--init", "{elsewhere}"], "init: elsewhere has 'gender' as softmax at bottleneck"),
        (["{looks}", "--init", "{wide}"], "init: wide is another network: stem is"),
        (["{looks}", "--init", "{damaged}"], "damaged"),
        (["{looks}", "--init", "{nowhere}"], "No such file"),
        (["{looks}", "--config", "{list}"], "expected a JSON object"),
        (["{looks}", "--config", "{typo}"], "recipe: unknown 'stepz'"),
        (["{looks}", "--out", "{nowhere}"], "is a folder, or is in none that exists"),
        (["{looks}", "--config", "{typo}", "--out", "{typo}"], "would overwrite .*typo, which is read"),
        (["{looks}", "--precision", "float16"], "needs --device cuda"),
        (["{looks}", "--smoothing", "2"], "--smoothing: expected a number from 0"),
        (["{looks}", "--age-spread", "-1"], "age_spread: expected a number of at least 0"),
        (["{looks}", "--mix", "looks"], "--mix: expected numbers, got 'looks'"),
        (["{looks}", "--mix", "faces=1"], "mix: expected a share of each of the sets"),
        (["{looks}", "--sizes", "16,32", "--batch", "4,4,4"], "equally many phases, got 2, 2 and 3"),
        (["{looks}", "--parts", "1,0,1"], "--parts: expected positive numbers"),
        (["{looks}", "--rate", "nan"], "rate: expected a number above 0, got nan"),
        (["{looks}", "--micro-batch", "1"], "micro_batch: expected at least 2"),
    ],
)
def test_what_is_wrong_is_said(wrong, spec_file, tmp_path, capsys, options, message):
    out = tmp_path / "out"
    texts = [option.format_map({name: str(path) for name, path in wrong.items()}) for option in options]
    assert main(["train", "--out", str(out), "--spec", str(spec_file), "--steps", "2", *texts]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(sets, train, tmp_path, capsys):
    train(sets, tmp_path / "out", "--device", "cuda", code=2)
    assert "1 process(es) here need as many CUDA devices, this torch finds 0" in capsys.readouterr().err


def test_tensorboard(sets, train, tmp_path, monkeypatch, capsys):
    options = ("--steps", 2, "--batch", 4, "--log-dir", tmp_path / "events")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        train(sets, tmp_path / "out", *options, code=2)
    assert "--log-dir needs the package tensorboard" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(sets, tmp_path / "out", *options)
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert {"rate", "loss/gender", "loss/age", "loss/identity"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss/age")] == [2]
