"""Training the base network that is killed, in one process or several, ends like an unbroken run."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from base_training import ALONE, tiny_recipe  # noqa: E402
from training_data import tiny_spec  # noqa: E402

from faceattr_fast.training import base, checkpoint, recipes  # noqa: E402
from faceattr_fast.training.head_data import Faces  # noqa: E402
from faceattr_fast.weights import read_weights  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")


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
