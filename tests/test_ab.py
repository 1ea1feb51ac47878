"""benchmarks/ab.py: two versions of the package against each other."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from random_weights import one_block, random_tensors

import faceattr_fast as faf
from faceattr_fast.weights import Weights, write_weights

ROOT = Path(__file__).parents[1]
PACKAGE = Path(faf.__file__).parent

# A package that is as the API says, and calls the real one.
STAND_IN = """
import sys
sys.path.insert(0, {real!r})
del sys.modules["faceattr_fast"]
import faceattr_fast as real
class FastForward:
    @classmethod
    def load(cls, *arguments, **options):
        self = cls()
        self.fast = real.FastForward.load(*arguments, **options)
        return self
    def __call__(self, pixels):
        return {{name: value * {factor} for name, value in self.fast(pixels).items()}}
this = type(sys)("faceattr_fast")
this.FastForward, this.__file__ = FastForward, __file__
sys.modules["faceattr_fast"] = this
"""


@pytest.fixture(scope="module")
def ab():
    spec = importlib.util.spec_from_file_location("ab", ROOT / "benchmarks" / "ab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    spec = one_block(faf.HeadSpec("gender", 2, "fc"), stride=2, pixels=faf.PixelSpec(size=32))
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    write_weights(path, Weights(spec, random_tensors(spec)))
    return path


def stand_in(folder, factor):
    package = folder / "faceattr_fast"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN.format(real=str(PACKAGE.parent), factor=factor))
    return folder


def test_ratios_and_verdict(ab):
    turns = [{"A": [2.0, 4.0, 90.0], "B": [2.0]}] * 8 + [{"A": [3.0], "B": [1.0]}] * 3
    assert ab.ratios(turns).tolist() == [2.0] * 8 + [3.0] * 3
    faster = ab.summary(ab.ratios(turns))
    assert (faster["median"], faster["p90"]) == (2.0, 3.0)
    assert 1 < faster["low"] <= faster["median"] <= faster["high"]
    assert ab.verdict(faster) == "B is faster"
    assert ab.verdict(ab.summary(np.linspace(0.4, 0.6, 9))) == "B is slower"
    assert ab.verdict(ab.summary(np.linspace(0.9, 1.1, 9))) == "no difference to be seen"


def test_two_sides_take_turns(ab, weights, tmp_path):
    paths = {"A": PACKAGE.parent, "B": stand_in(tmp_path, 1.0)}
    rows = ab.compare(paths, weights, [1, 2], threads=1, seconds=0.05)
    assert [row["batch"] for row in rows] == [1, 2]
    for row in rows:
        assert len(row["turns"]) == 5
        assert all(turn["A"] and turn["B"] for turn in row["turns"])
        assert max(row["errors"].values()) < 1e-5
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    json.dumps(rows)


def test_a_side_that_computes_something_else_is_not_timed(ab, weights, tmp_path):
    paths = {"A": PACKAGE.parent, "B": stand_in(tmp_path, 1.001)}
    with pytest.raises(SystemExit, match=r"B computes something else at batch 1: error 1[.]0e-03"):
        ab.compare(paths, weights, [1], threads=1, seconds=0.05)


@pytest.fixture
def repository(tmp_path, monkeypatch, ab):
    """Two commits, and a cmake that makes a module of the tree's version or fails where the tree says so."""
    root, tools = tmp_path / "repository", tmp_path / "tools"
    (root / "python" / "faceattr_fast").mkdir(parents=True)
    tools.mkdir()
    cmake = tools / "cmake"
    cmake.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --build ]; then exit 0; fi\n'
        'mkdir -p "$4"; cp "$2/version" "$4/_core.so"\n'
        'if grep -q broken "$2/version"; then echo no compiler; exit 1; fi\n'
    )
    cmake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(ab, "ROOT", root)

    def git(*arguments):
        identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    for version in ("one", "broken"):
        (root / "version").write_text(version)
        (root / "python" / "faceattr_fast" / "__init__.py").write_text(version)
        git("add", "-A")
        git("commit", "-qm", version)
        git("tag", version)
    return root


def worktrees(root):
    return subprocess.run(["git", "-C", str(root), "worktree", "list"], capture_output=True, text=True).stdout.count(
        "\n"
    )


def test_a_commit_is_built_beside_the_work_tree(ab, repository, tmp_path):
    pytest.importorskip("pybind11")
    folder = tmp_path / "A"
    folder.mkdir()
    with ab.built("one", folder) as path:
        assert (path / "faceattr_fast" / "__init__.py").read_text() == "one"
        assert (path / "faceattr_fast" / "_core.so").read_text() == "one"
        assert worktrees(repository) == 2
    assert worktrees(repository) == 1


def test_a_commit_that_does_not_build_says_why(ab, repository, tmp_path):
    pytest.importorskip("pybind11")
    folder = tmp_path / "B"
    folder.mkdir()
    with pytest.raises(SystemExit, match="no compiler"), ab.built("broken", folder):
        pass
    assert worktrees(repository) == 1
