"""The depth search: folds keep groups together, cells resume, and a difference is found where there is one."""

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from networks import SMALL, random_net  # noqa: E402
from training_data import striped_faces, write_packed  # noqa: E402

from faceattr_fast import reference  # noqa: E402
from faceattr_fast.cli import main  # noqa: E402
from faceattr_fast.spec import NetworkSpec  # noqa: E402
from faceattr_fast.training import search as search_module  # noqa: E402
from faceattr_fast.training.depth import PAPER_GRID, DepthGrid, interval, t_quantile  # noqa: E402
from faceattr_fast.training.head_trainer import HeadRecipe  # noqa: E402
from faceattr_fast.training.search import Cell, Search, group_folds, run_search  # noqa: E402
from faceattr_fast.weights import copy_weights, read_weights  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FACES, FOLDS = 96, 4
CLASSES = {"ramp": ("up", "down"), "chance": ("heads", "tails")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One label that pixels show, and one that nothing shows; pairs of faces belong together; a few are for testing."""
    crops, kind = striped_faces(FACES)
    chance = np.random.default_rng(3).integers(0, 2, FACES)
    labels = {"ramp": np.array(CLASSES["ramp"])[kind], "chance": np.array(CLASSES["chance"])[chance]}
    return write_packed(
        tmp_path_factory.mktemp("packed") / "ramps", crops, CLASSES, labels,
        split=["train"] * 70 + ["validation"] * 18 + ["test"] * 8, groups=np.arange(FACES) // 2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """Weights whose embedding is the same for every face: nothing can be learned from it, but from what is before."""
    net = random_net(SMALL, 1)
    with torch.no_grad():
        net.bottleneck.conv.weight.zero_()
    path = tmp_path_factory.mktemp("weights") / "blind.safetensors"
    reference.save(net, path)
    return path


@pytest.fixture
def search(blind, folder, tmp_path):
    recipe = HeadRecipe(steps=50, batch=16, rate=5e-3)
    return Search(
        blind, (folder,), {"ramp": "softmax", "chance": "softmax"}, ("fc", "conv5"), tmp_path / "search",
        tmp_path / "cache", FOLDS, recipe,
    )  # fmt: skip


def test_quantiles_are_those_of_the_tables():
    for freedom, expected in ((1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (29, 2.04523)):
        assert t_quantile(0.975, freedom) == pytest.approx(expected, rel=1e-4)


def test_the_interval_counts_the_overlap_of_folds():
    values = np.array([0.1, 0.3, 0.2, 0.4, 0.5])
    mean, half = interval(values)
    assert mean == pytest.approx(0.3)
    assert half == pytest.approx(2.77645 * values.std(ddof=1) * np.sqrt(1 / 5 + 1 / 4), rel=1e-4)


def test_folds_keep_groups_together():
    groups = np.repeat(np.arange(30), np.random.default_rng(0).integers(1, 6, 30))
    fold = group_folds(groups, 5, seed=1)
    assert all(len(set(fold[groups == group])) == 1 for group in range(30))
    counts = np.bincount(fold, minlength=5)
    assert counts.max() - counts.min() <= 2
    assert np.array_equal(fold, group_folds(groups, 5, seed=1))
    assert not np.array_equal(fold, group_folds(groups, 5, seed=2))
    with pytest.raises(ValueError, match="need as many groups"):
        group_folds(np.array([0, 0, 1, 1]), 3)


def grid_of(**accuracy):
    """Heads at conv1, conv2, fc."""
    branches = ("conv1", "conv2", "fc")
    return DepthGrid(
        branches, {(head, b): np.array(rows[i]) for head, rows in accuracy.items() for i, b in enumerate(branches)}
    )


def test_the_latest_of_equals_is_chosen():
    steady = np.array([0.8, 0.81, 0.79, 0.8])
    noisy = np.array([0.05, -0.05, 0.04, -0.03])
    grid = grid_of(
        alike=(steady + 0.01, steady + noisy, steady + noisy[::-1]),
        deep=(steady, steady - 0.2 + noisy / 50, steady - 0.3 + noisy / 50),
        middle=(steady - 0.1, steady, steady - 0.1 + noisy / 20),
    )
    choices = {choice.head: choice for choice in grid.choices()}
    assert (choices["alike"].branch, choices["alike"].best) == ("fc", "conv1")
    assert choices["alike"].alike == ("conv1", "conv2", "fc")
    assert (choices["deep"].branch, choices["deep"].alike) == ("conv1", ("conv1",))
    assert choices["middle"].branch == "conv2"
    assert [choice.head for choice in grid.choices()] == ["deep", "middle", "alike"]
    summary = "\n".join(grid.summary())
    assert "conv1 is better by 0.0" in summary
    assert "cannot be told apart: conv1, conv2, fc" in summary
    assert "deep needs to re-learn more than middle" in summary
    assert "middle and alike cannot be told apart by depth" in summary
    assert "**0.800" in grid.table()


def test_the_paper_is_beside_ours(tmp_path):
    heads, branches = ("emotion", "gender"), tuple(PAPER_GRID)
    rng = np.random.default_rng(0)
    grid = DepthGrid(branches, {(head, b): rng.uniform(0.4, 0.6, 3) for head in heads for b in branches})
    table = grid.table()
    assert "(paper 0.68)" in table.splitlines()[3]
    assert table.splitlines()[3].startswith("| conv19 |")
    pytest.importorskip("matplotlib")
    grid.heat_map(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_a_difference_is_found_where_there_is_one(search, folder):
    lines = []
    grid, spec = run_search(search, report=lines.append)
    assert lines == ["88 faces, 16 cells, 0 of them done"]
    assert grid.branches == ("conv5", "fc")  # in the network's order
    assert grid.accuracy["ramp", "conv5"].mean() > 0.9
    assert grid.accuracy["ramp", "fc"].mean() < 0.7
    ramp, chance = grid.choice("ramp"), grid.choice("chance")
    assert (ramp.branch, ramp.alike) == ("conv5", ("conv5",))
    assert (chance.branch, chance.alike) == ("fc", ("conv5", "fc"))
    assert [(head.name, head.branch) for head in spec.heads[-2:]] == [("ramp", "conv5"), ("chance", "fc")]
    assert spec.head("ramp").labels == CLASSES["ramp"]
    # Each face that is not for testing is tested once.
    rows = np.concatenate([np.load(search.out / "cells" / f"ramp-fc-{fold}.npz")["rows"] for fold in range(FOLDS)])
    assert sorted(rows.tolist()) == list(range(88))


def test_a_killed_search_goes_on(search, monkeypatch):
    real, ran = search_module._Ground.run, []

    def run(ground, cell, folders):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(str(cell))
        real(ground, cell, folders)

    monkeypatch.setattr(search_module._Ground, "run", run)
    with pytest.raises(KeyboardInterrupt):
        run_search(search)
    first = list(ran)
    stamps = {name: (search.out / "cells" / f"{name}.npz").stat().st_mtime_ns for name in first}
    monkeypatch.setattr(search_module._Ground, "run", lambda g, c, f: (ran.append(str(c)), real(g, c, f)))
    grid, _ = run_search(search)
    assert len(ran) == len(set(ran)) == 16
    assert all((search.out / "cells" / f"{name}.npz").stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    again, _ = run_search(search)
    assert len(ran) == 16
    assert all(np.array_equal(again.accuracy[key], grid.accuracy[key]) for key in grid.accuracy)
    with pytest.raises(ValueError, match="other settings \\(recipe\\)"):
        run_search(Search(**{**vars(search), "recipe": HeadRecipe(steps=3)}))


def test_several_processes_give_the_same_cells(blind, folder, tmp_path):
    recipe = HeadRecipe(steps=20, batch=8)
    options = (("fc", "bottleneck"), tmp_path / "alone", tmp_path / "cache", 2, recipe)
    alone = Search(blind, (folder,), {"ramp": "softmax"}, *options)
    together = Search(**{**vars(alone), "out": tmp_path / "together"})
    run_search(alone)
    seen = []
    run_search(together, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for branch in ("fc", "bottleneck"):
        for fold in range(2):
            name = f"{Cell('ramp', branch, fold)}.npz"
            one, other = (np.load(out / "cells" / name) for out in (alone.out, together.out))
            assert np.array_equal(one["scores"], other["scores"])
            assert np.array_equal(one["rows"], other["rows"])


def test_what_is_no_accuracy_has_cells_of_its_own(search):
    few = {**vars(search), "branches": ("fc",), "heads": {"ramp": "softmax"}}
    softmax, _ = run_search(Search(**few))
    sigmoid, _ = run_search(Search(**{**few, "heads": {"ramp": "sigmoid"}}))
    assert len(list((search.out / "cells").iterdir())) == 2 * FOLDS
    assert (softmax.sigmoid, sigmoid.sigmoid) == ((), ("ramp",))
    grid = DepthGrid(("fc",), {("age", "fc"): np.array([0.5, 0.6])})
    assert "(paper" in grid.table()
    assert "(paper" not in dataclasses.replace(grid, sigmoid=("age",)).table()


def test_a_base_that_knows_the_answers_is_told(search, tmp_path):
    base = tmp_path / "base.safetensors"
    copy_weights(search.base, base, {"trained_on": [{"name": "ramps", "labels": ["ramp"]}]})
    few = {**vars(search), "base": base, "branches": ("fc",), "heads": {"ramp": "softmax"}}
    lines: list[str] = []
    run_search(Search(**few), report=lines.append)
    assert lines[0].startswith("note: the base has learned ramp from ramps's training faces")
    lines.clear()
    run_search(Search(**{**few, "splits": ("validation",), "out": tmp_path / "other"}), report=lines.append)
    assert not lines[0].startswith("note")


def test_faces_may_be_fewer_in_whole_groups(search):
    ground = search_module._Ground(Search(**{**vars(search), "most": 31}))
    wanted = np.flatnonzero(ground.wanted)
    assert len(wanted) == 30
    assert set(wanted // 2) == {row // 2 for row in wanted if row + 1 in wanted}
    assert wanted.max() < 88


def test_only_faces_of_the_splits_take_part(search):
    ground = search_module._Ground(Search(**{**vars(search), "splits": ("validation",)}))
    assert np.flatnonzero(ground.wanted).tolist() == list(range(70, 88))
    assert ground.settings() != search_module._Ground(search).settings()


def test_the_command_and_fine_tuning_what_it_found(blind, folder, tmp_path, capsys):
    out, cache = tmp_path / "search", tmp_path / "cache"
    base = ["--weights", str(blind), "--cache", str(cache), "--steps", "60", "--batch", "16", "--rate", "0.005"]
    arguments = ["search-depth", str(folder), *base, "--out", str(out), "--folds", "3", "--workers", "1"]
    assert main([*arguments, "--heads", "ramp", "--branches", "bottleneck,fc"]) == 0
    printed = capsys.readouterr().out
    assert "1. ramp: bottleneck, accuracy" in printed
    assert printed.startswith((out / "grid.md").read_text())
    assert json.loads((out / "grid.json").read_text())["choices"]["ramp"]["branch"] == "bottleneck"
    spec = NetworkSpec.from_json((out / "spec.json").read_text())
    assert spec.head("ramp").branch == "bottleneck"
    tuned = tmp_path / "tuned.safetensors"
    assert (
        main(["fine-tune", str(folder), *base, "--head", "ramp", "--spec", str(out / "spec.json"), "--out", str(tuned)])
        == 0
    )
    assert read_weights(tuned).spec == spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--heads", "hair"], "none of the sets has the label 'hair'"),
        (["--heads", "ramp", "--branches", "conv9"], "does not exist"),
        (["--heads", "ramp", "--branches", "top"], "branch must be"),
        (["--heads", "ramp", "--folds", "1"], "folds: expected at least 2"),
        (["--heads", "ramp", "--folds", "60"], "need as many groups"),
        (["--heads", "ramp", "--sigmoid", "chance"], "not among --heads"),
        (["--heads", "ramp", "--class-weights", "up=2"], "only 'balanced'"),
        (["--heads", ","], "at least one head"),
        (["--heads", "ramp", "--splits", "test"], "splits: expected train, validation or both, got ['test']"),
    ],
)
def test_what_is_wrong_is_said(blind, folder, tmp_path, capsys, options, message):
    branches = [] if "--branches" in options else ["--branches", "fc"]
    arguments = ["--weights", str(blind), "--out", str(tmp_path / "out"), *options, *branches]
    assert main(["search-depth", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err
