"""Training the base network: recipes, what a step sees and what it does."""

import dataclasses
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from base_training import ALONE, GENDER, tiny_data, tiny_learner, tiny_recipe  # noqa: E402
from networks import normalise  # noqa: E402
from training_data import striped_faces, tiny_spec, write_packed  # noqa: E402

from faceattr_fast import reference  # noqa: E402
from faceattr_fast.spec import HeadSpec  # noqa: E402
from faceattr_fast.training import learner, recipes, trainer  # noqa: E402
from faceattr_fast.training.batches import batches_of  # noqa: E402
from faceattr_fast.training.parallel import Processes  # noqa: E402
from faceattr_fast.weights import read_weights  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


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
