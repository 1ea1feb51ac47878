"""``faceattr train``: what is drawn, what a step does, what a run leaves; a killed run ends like an unbroken one."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from networks import head_error, normalise  # noqa: E402
from training_data import striped_faces, tiny_spec, write_packed  # noqa: E402

from faceattr_fast import FastForward, reference  # noqa: E402
from faceattr_fast.cli import main  # noqa: E402
from faceattr_fast.spec import AGE_LABELS, HeadSpec, StemSpec  # noqa: E402
from faceattr_fast.training import base, checkpoint, learner, recipes, trainer  # noqa: E402
from faceattr_fast.training.batches import BaseData, batches_of  # noqa: E402
from faceattr_fast.training.head_data import Faces  # noqa: E402
from faceattr_fast.training.parallel import Processes  # noqa: E402
from faceattr_fast.weights import read_weights  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

GENDER = ("female", "male")
ALONE = Processes(0, 1, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> list[Path]:
    """Faces with gender and age, the last third held out; six people of different brightness, with no label."""
    root = tmp_path_factory.mktemp("sets")
    crops, kind = striped_faces(72)
    person = np.arange(72) % 6
    bright = np.clip(crops.astype(int) + (person * 25 - 60)[:, None, None, None], 0, 255).astype(np.uint8)
    split = ["train"] * 48 + ["test"] * 24
    years = np.random.default_rng(0).integers(0, 70, 72)
    years[:4] = -1
    return [
        write_packed(
            root / "looks", crops, {"gender": GENDER, "age": AGE_LABELS},
            {"gender": np.where(np.arange(72) == 3, "", np.array(GENDER)[kind]), "age": [""] * 72},
            split=split, years=years,
        ),
        write_packed(
            root / "people", bright, {"gender": GENDER}, {"gender": [""] * 72}, split=split,
            subjects=[f"P{i}" for i in person], info={"terms": "drawn for tests, with names"},
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "spec.json"
    path.write_text(tiny_spec().to_json())
    return path


@pytest.fixture
def train(spec_file):
    """The command on these sets, and what its exit code has to be."""

    def run(sets, out, *options, code=0):
        arguments = ["train", *map(str, sets), "--spec", str(spec_file), "--out", str(out), "--threads", "1"]
        assert main([*arguments, *map(str, options)]) == code
        return out

    return run


def tiny_recipe(**changes) -> recipes.Recipe:
    return dataclasses.replace(recipes.small(32), **{"steps": 20, "phases": (recipes.Phase(1.0, 32, 12),), **changes})


def tiny_data(sets, recipe=None, **options) -> BaseData:
    faces = Faces.open(sets, **options)
    return BaseData(faces, base.heads_of(tiny_spec(), faces, None), recipe or tiny_recipe())


def tiny_learner(data, **options) -> learner.Learner:
    spec = dataclasses.replace(tiny_spec(), heads=tuple(head.head for head in data.heads))
    net = reference.FaceAttrNet(spec, seed=0)
    learner.initialise(net, 0)
    return learner.Learner(net, len(data.identities), data.recipe, 0, **options)


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_the_papers_rate_is_divided_by_four_every_10000_steps():
    paper = recipes.paper()
    assert [paper.rate_at(step) for step in (0, 9_999, 10_000, 29_999, 49_999)] == [
        0.1, 0.1, 0.1 / 4, 0.1 / 16, 0.1 / 256,
    ]  # fmt: skip
    assert (paper.optimiser, paper.phase(0).batch, paper.phase(49_999).size) == ("sgd", 400, 224)


def test_the_small_rate_warms_up_and_falls_to_zero():
    small = recipes.small()
    rates = np.array([small.rate_at(step) for step in range(small.steps)])
    peak = rates.argmax()
    assert rates[peak] == pytest.approx(small.rate)
    assert peak == pytest.approx(0.03 * small.steps, abs=1)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert np.allclose(np.diff(rates[peak:]), -small.rate / (0.97 * small.steps))
    assert rates[-1] == pytest.approx(small.rate / (0.97 * small.steps), rel=1e-9)
    assert [small.phase(step).size for step in (0, 2_799, 2_800, 4_199, 4_200, 6_999)] == [112, 112, 160, 160, 224, 224]


def test_the_papers_weights_are_gaussian(sets):
    net = reference.FaceAttrNet(dataclasses.replace(tiny_spec(), embedding=400), seed=3)
    assert net.bottleneck.conv.weight.var().item() == pytest.approx(0.01, rel=0.05)
    assert (net.bottleneck.bn.weight == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 1}, "recipe: unknown 'speed'; there are attributes, average"),
        ({"name": "mine"}, "unknown 'name'"),
        ({"jitter": {"shake": 1}}, "jitter: unknown 'shake'"),
        ({"phases": [{"until": 1.0, "size": 32}]}, "phases: .*batch"),
        ({"phases": [{"until": 0.5, "size": 32, "batch": 8}]}, r"phases: expected ends that rise from above 0 to 1"),
        ({"phases": [{"until": 1, "size": 32, "batch": 1}]}, "batch: expected an integer of at least 2, got 1"),
        ({"phases": 3}, "phases: expected a list of objects, got 3"),
        ({"mix": "looks"}, "mix: expected numbers by name, got 'looks'"),
        ({"jitter": {"turn": "far"}}, "turn: expected a number"),
        ({"jitter": {"shift": 0.1}}, "shift: expected two numbers"),
        ({"phases": [3]}, "phases: expected an object, got 3"),
        ({"rate": 0}, "rate: expected a number above 0, got 0"),
        ({"average": 1.0}, "average: expected a number of at least 0 and below 1, got 1.0"),
        ({"steps": "many"}, "steps: expected an integer of at least 1, got 'many'"),
        ({"optimiser": "adam"}, "optimiser: expected one of"),
        ({"mix": {"a": -1}}, "mix of 'a': expected a number above 0"),
    ],
)
def test_what_a_recipe_cannot_have(changes, message):
    with pytest.raises(ValueError, match=message):
        recipes.recipe_of("small", 224, changes)


def test_a_recipe_with_changes():
    recipe = recipes.recipe_of("paper", 64, {"rate": 0.5, "jitter": {"turn": 1.0, "shift": [0.1, 0.2]}})
    assert (recipe.name, recipe.rate, recipe.jitter.turn, recipe.jitter.shift) == ("paper", 0.5, 1.0, (0.1, 0.2))
    assert recipe.jitter.scale == 0.08
    assert recipe.phases == (recipes.Phase(1.0, 64, 400),)


# --- what a step sees -------------------------------------------------------------------------------------------------


def test_only_training_faces_that_teach_something_are_drawn(sets):
    data = tiny_data(sets)
    assert data.identities == ("P0", "P1", "P2", "P3", "P4", "P5")
    assert [head.head.name for head in data.heads] == ["gender", "age"]
    drawn = np.unique(np.concatenate([data.draw(0, step, 64) for step in range(40)]))
    nothing_known = {3}
    assert set(drawn) == set(range(48)) - nothing_known | set(range(72, 72 + 48))
    drawn = data.identity[data.draw(0, 0, 400)]
    assert set(drawn.tolist()) == {-1, 0, 1, 2, 3, 4, 5}
    with pytest.raises(ValueError, match="a label of gender, age or a person with 9 pictures"):
        tiny_data(sets, tiny_recipe(least_images=9))


def test_sets_have_their_shares(sets):
    data = tiny_data(sets, tiny_recipe(mix={"looks": 1.0, "people": 19.0}))
    counts = np.array([(data.draw(5, step, 10) < 72).sum() for step in range(400)])
    assert set(counts) == {0, 1}  # half a face a batch
    assert counts.mean() == pytest.approx(0.5, abs=0.1)
    with pytest.raises(
        ValueError, match=r"mix: expected a share of each of the sets \['looks', 'people'\], got \['x'\]"
    ):
        tiny_data(sets, tiny_recipe(mix={"x": 1.0}))


def test_a_batch_depends_on_seed_and_step_alone(sets):
    data = tiny_data(sets)
    whole = list(batches_of(data, 7, range(6), threads=2))
    assert len(whole) == 6
    (again,) = batches_of(data, 7, range(4, 5))
    assert torch.equal(again.crops, whole[4].crops)
    halves = [next(iter(batches_of(data, 7, range(4, 6), rank, 2))) for rank in range(2)]
    assert torch.equal(torch.cat([half.crops for half in halves]), again.crops)
    assert torch.equal(torch.cat([half.targets["age"] for half in halves]), again.targets["age"])
    assert torch.equal(torch.cat([half.identity for half in halves]), again.identity)
    assert not torch.equal(whole[3].crops, again.crops)
    (other,) = batches_of(data, 8, range(4, 5))
    assert not torch.equal(other.crops, again.crops)
    assert [len(part) for part in again.parts(5)] == [4, 4, 4]


def test_pixels_are_those_of_the_fast_forward():
    crops = striped_faces(3)[0]
    found = learner.pixels_of(torch.from_numpy(crops), tiny_spec()).numpy()
    assert np.array_equal(found, normalise(crops, tiny_spec()))


def test_the_spread_of_ages(sets):
    sharp, default = (
        next(head for head in tiny_data(sets, age_spread=spread).heads if head.head.name == "age").targets
        for spread in (0.01, None)
    )
    known = sharp[:72].any(1)
    assert known.sum() == 68
    assert sharp.max(1)[:72][known].mean() > default.max(1)[:72][known].mean() + 0.2
    with pytest.raises(ValueError, match="age_spread: expected a number of at least 0, got -1"):
        tiny_data(sets, age_spread=-1)


# --- what a step does -------------------------------------------------------------------------------------------------


class Neighbours:
    """Processes as threads: what all of them add is the sum."""

    def __init__(self, count):
        self.count, self.barrier, self.given = count, threading.Barrier(count, timeout=60), {}

    def process(self, rank):
        def add(values):
            self.given[rank] = values.clone()
            self.barrier.wait()
            values.copy_(sum(self.given[i] for i in range(self.count)))
            self.barrier.wait()
            return values

        process = Processes(rank, self.count, self.count, torch.device("cpu"))
        object.__setattr__(process, "add", add)
        return process


@pytest.mark.parametrize(("processes", "micro_batch"), [(1, 5), (2, None), (3, 2)])
def test_parts_and_processes_step_as_one_large_batch(sets, processes, micro_batch):
    """With batch norms that do not depend on the batch."""
    data = tiny_data(sets, tiny_recipe(optimiser="sgd", average=0.9))
    (whole,) = batches_of(data, 0, range(1))

    def step(process, batch, micro):
        loop = trainer._Loop(tiny_learner(data).eval(), data.recipe, process, micro)
        losses = loop.step(0, 0.05, batch)
        return loop.state(trainer.History())["learner"], losses

    expected, expected_losses = step(ALONE, whole, None)
    found = {}
    group = Neighbours(processes)

    def work(rank):
        (mine,) = batches_of(data, 0, range(1), rank, processes)
        found[rank] = step(ALONE if processes == 1 else group.process(rank), mine, micro_batch)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    start = tiny_learner(data).state_dict()
    for rank in range(processes):
        state, losses = found[rank]
        for name, (total, weight) in expected_losses.items():
            assert losses[name] == pytest.approx((total, weight), rel=1e-5)
        for name, value in expected.items():
            assert torch.allclose(state[name], value, rtol=1e-4, atol=1e-6), name
    assert not torch.equal(start["net.stem.conv.weight"], expected["net.stem.conv.weight"])
    assert not torch.equal(start["people"], expected["people"])


def test_a_head_learns_from_faces_that_have_its_label_alone(sets):
    data = tiny_data(sets)
    (batch,) = batches_of(data, 0, range(1))
    model = tiny_learner(data).eval()
    known = (batch.targets["gender"] != 0).any(1)
    assert 0 < known.sum() < len(batch)
    weights = model.weights(batch)
    assert weights["gender"].item() == pytest.approx(known.sum().item())
    assert weights["identity"].item() == (batch.identity >= 0).sum().item()
    some = dataclasses.replace(batch, crops=torch.where(known[:, None, None, None], batch.crops, 255 - batch.crops))
    first, second = model(batch), model(some)
    assert first["gender"].item() == pytest.approx(second["gender"].item(), rel=1e-6)
    assert first["identity"].item() != pytest.approx(second["identity"].item(), rel=1e-6)


def test_untrained_classes_take_no_part_and_answer_zero(tmp_path, train):
    crops, kind = striped_faces(24)
    classes = {"gender": ("female", "male")}
    folder = write_packed(tmp_path / "set", crops, classes, {"gender": np.array(GENDER)[kind]})
    spec = dataclasses.replace(tiny_spec(), heads=(HeadSpec("gender", 3, "fc", labels=("other", *GENDER)),))
    (tmp_path / "spec").write_text(spec.to_json())
    out = train([folder], tmp_path / "w", "--spec", tmp_path / "spec", "--steps", 3, "--batch", 8)
    weights = read_weights(out)
    assert weights.spec.head("gender").trained == (False, True, True)
    assert not weights.tensors["heads.gender.fc.weight"][0].any()
    assert weights.tensors["heads.gender.fc.weight"][1:].all()


def test_a_part_of_one_face_is_refused(sets):
    data = tiny_data(sets, tiny_recipe(phases=(recipes.Phase(1.0, 32, 5),)))
    for options, message in (
        ({"micro_batch": 1}, "micro_batch: expected at least 2"),
        ({"micro_batch": 2}, "micro_batch: 2 leaves a single face of a batch of 5"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.train(tiny_learner(data), data, ALONE, **options)
    with pytest.raises(ValueError, match="batch: 5 faces are fewer than 2 for each of 3 processes"):
        trainer.train(tiny_learner(data), data, dataclasses.replace(ALONE, count=3))


# --- a run ------------------------------------------------------------------------------------------------------------


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


# --- killed and resumed -----------------------------------------------------------------------------------------------


class Killed(Exception):  # noqa: N818
    """Instead of a signal: at a moment that the test chooses."""


def run_base(sets, out, kill_at=None, **options):
    """24 steps, with a checkpoint every 5; killed after a step."""

    def progress(step, steps):
        if step == kill_at:
            raise Killed

    run = checkpoint.TrainingRun(out.with_suffix(".checkpoint"), 5, out.with_suffix(".csv"), progress=progress)
    recipe = tiny_recipe(steps=24, phases=(recipes.Phase(0.5, 16, 12), recipes.Phase(1.0, 32, 8)))
    faces = Faces.open(sets)
    heads = base.heads_of(tiny_spec(), faces, None)
    return base.train_base(tiny_spec(), faces, heads, options.pop("recipe", recipe), out, ALONE, run=run, **options)


@pytest.fixture(scope="module")
def unbroken(sets, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "w.safetensors"
    run_base(sets, out)
    return out


def test_a_killed_run_ends_like_an_unbroken_one(sets, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "w.safetensors"
    for step in (3, 5, 14, 24):  # before the first checkpoint, after one, between two, after the last step
        with pytest.raises(Killed):
            run_base(sets, out, step)

    def no_disk(descriptor):
        raise Killed

    monkeypatch.setattr(checkpoint.os, "fsync", no_disk)  # while the file is written
    out.with_suffix(".checkpoint").unlink()
    with pytest.raises(Killed):
        run_base(sets, out)
    monkeypatch.undo()
    assert out.with_suffix(".checkpoint.part").exists()
    with pytest.raises(Killed):
        run_base(sets, out, 11)
    monkeypatch.setattr(base, "estimate_norms", lambda *_, **__: no_disk(0))  # after training
    with pytest.raises(Killed):
        run_base(sets, out)
    monkeypatch.undo()
    figures = run_base(sets, out)
    assert out.read_bytes() == unbroken.read_bytes()
    assert out.with_suffix(".csv").read_bytes() == unbroken.with_suffix(".csv").read_bytes()
    assert figures["images"] == 12 * 12 + 12 * 8


def test_the_checkpoint_of_another_run_is_refused(sets, tmp_path):
    out = tmp_path / "w.safetensors"
    with pytest.raises(Killed):
        run_base(sets, out, 7)
    for options, message in (
        ({"seed": 1}, r"with other data or options \(seed: 0, now 1\)"),
        ({"micro_batch": 4}, "micro-batch: None, now 4"),
        ({"recipe": tiny_recipe(steps=24)}, "recipe.phases"),
    ):
        with pytest.raises(ValueError, match=message):
            run_base(sets, out, **options)
    with pytest.raises(ValueError, match=r"sets\.people"):
        run_base(sets[:1], out)
    out.with_suffix(".checkpoint").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="is no checkpoint of this release"):
        run_base(sets, out)
    assert not out.exists()


def command(sets, spec_file, out, *options, steps=40):
    return ["-m", "faceattr_fast", "train", *map(str, sets), "--spec", str(spec_file), "--out", str(out), "--steps",
            str(steps), "--batch", "8", "--threads", "1", "--checkpoint-every", "8", *options]  # fmt: skip


def environment():
    """A process of its own finds the package where this one does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_sigkill(sets, spec_file, train, tmp_path):
    out = tmp_path / "w.safetensors"
    arguments = [sys.executable, *command(sets, spec_file, out, steps=60)]
    process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    left = tmp_path / "w.safetensors.checkpoint"
    deadline = time.monotonic() + 60
    while not left.exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = torch.load(left, weights_only=True)
    done = state["history"]["step"]
    assert 0 < done < 60
    options = ("--steps", 60, "--batch", 8)
    train(sets, out, *options, "--seed", 1, code=2)  # another run does not go on from there
    train(sets, out, *options)
    assert not left.exists()
    train(sets, tmp_path / "u.safetensors", *options)
    assert out.read_bytes() == (tmp_path / "u.safetensors").read_bytes()


TOGETHER = """
import os, sys
from faceattr_fast.cli import main
from faceattr_fast.training.batches import BaseData

def failing(ranks):
    calls = []
    def fail(self, *arguments):
        calls.append(None)
        if os.environ["RANK"] in ranks and len(calls) > 70:
            raise OSError("the disk is gone")
        return render(self, *arguments)
    return fail

def run(out, render):
    BaseData.render = render
    os.environ["MASTER_PORT"] = ports.pop()
    return main([*sys.argv[2:], "--out", out])

os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # each run meets anew, at a port of its own
render, ports = BaseData.render, sys.argv[1].split(",")
codes = run("u.safetensors", render), run("w.safetensors", failing("01")), run("w.safetensors", render)
print("codes", *codes, flush=True)
sys.exit(run("x.safetensors", failing("1")))
"""


def test_two_processes(sets, spec_file, tmp_path):
    """When both fail, they go on and end like an unbroken run; when one fails, that ends both."""
    pytest.importorskip("torch.distributed.run")
    (tmp_path / "together.py").write_text(TOGETHER)
    doors = [socket.create_server(("localhost", 0)) for _ in range(4)]
    ports = ",".join(str(door.getsockname()[1]) for door in doors)
    for door in doors:
        door.close()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "together.py"]
    done = subprocess.run(
        [*launch, ports, *command(sets, spec_file, "unused", steps=24)[2:]],
        env=environment(), capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.count("codes 0 2 0") == 2, done.stderr
    assert done.stdout.count("24 steps on 192 faces") == 2  # one of them prints
    assert (tmp_path / "w.safetensors").read_bytes() == (tmp_path / "u.safetensors").read_bytes()
    assert read_weights(tmp_path / "u.safetensors").metadata["training"]["steps"] == 24

    assert done.returncode != 0
    assert done.stderr.count("faceattr train: error: process 1: the disk is gone") == 2
    assert not (tmp_path / "x.safetensors").exists()
    assert torch.load(tmp_path / "x.safetensors.checkpoint", weights_only=True)["history"]["step"] in (8, 16)


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
