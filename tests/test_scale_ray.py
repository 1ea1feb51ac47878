"""Ray, on two CPUs: workers are killed, and what comes out is what would have come out."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ray = pytest.importorskip("ray", reason="Ray is not installed (the extra 'ray')")
pytest.importorskip("pyarrow", reason="Ray Data needs pyarrow (the extra 'ray')")

from networks import SMALL, random_net  # noqa: E402
from test_scale import EXAMPLES, statuses, write_photos  # noqa: E402
from training_data import striped_faces, write_packed  # noqa: E402

from faceattr_fast import reference  # noqa: E402
from faceattr_fast.cli import main  # noqa: E402
from faceattr_fast.training.head_trainer import HeadRecipe  # noqa: E402
from faceattr_fast.training.search import Search, run_search  # noqa: E402

PATIENCE = 150  # seconds; other programs may have the CPUs
# Nothing leaves the machine, nothing is written to the home folder, and a full machine is not Ray's to judge.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_memory_monitor_refresh_ms": "0"}


def ray_processes(name, ancestor):
    """Processes below ``ancestor`` that are Ray workers busy with, or made for, ``name``."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):  # it has ended
            continue
    found = []
    for process, title in titles.items():
        above = process
        while above not in (ancestor, 0):
            above = parents.get(above, 0)
        if above == ancestor and title.startswith("ray::") and name in title:
            found.append(process)
    return found


def send(processes, number):
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Of two CPUs: the only one that is started, since to start one takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init("local", num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
        patch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        yield
        ray.shutdown()


def kill_in_the_middle(out, driver):
    """Kill every worker while one of them has scored some photos of a part and not all; returns the part's number."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and driver.poll() is None:
        for tries in (out / "_job").glob("*.tries"):
            workers = ray_processes("MapBatches(Worker)", os.getpid())
            send(workers, signal.SIGSTOP)
            try:
                begun = len(tries.read_text().split()) > 3
            except FileNotFoundError:
                begun = False
            if begun and workers and not (out / f"part-{int(tries.stem):06}.parquet").exists():
                send(workers, signal.SIGKILL)
                return int(tries.stem)
            send(workers, signal.SIGCONT)
        time.sleep(0.01)
    raise AssertionError(f"no worker was met in the middle of a part; the driver's exit code is {driver.poll()}")


def test_scoring_loses_nothing_when_workers_are_killed(tmp_path):
    expected = write_photos(tmp_path / "photos", 60)
    out = tmp_path / "scores"
    command = [sys.executable, str(EXAMPLES / "score_with_ray.py"), str(tmp_path / "photos"), "--out", str(out)]
    command += ["--workers", "2", "--batch", "20"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as driver:
        try:
            killed = kill_in_the_middle(out, driver)
            code = driver.wait(PATIENCE)
        finally:
            driver.kill()
    printed = (tmp_path / "log").read_text()
    assert code == 0, printed
    assert statuses(out) == expected
    assert f"part {killed}: 16 ok, 2 no_face, 2 damaged" in printed
    assert "in this run: 48 ok, 6 no_face, 6 damaged" in printed
    assert [path.name for path in (out / "_job").iterdir()] == ["parts.jsonl"]
    again = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (again.returncode, again.stdout) == (0, "0 parts to score\n"), again.stderr


@pytest.fixture
def search(tmp_path):
    """Of a head at two branch points on two folds, here."""
    base = tmp_path / "base.safetensors"
    reference.save(random_net(SMALL, 1), base)
    crops, kind = striped_faces(64)
    names = np.array(("up", "down"))[kind]
    folder = write_packed(tmp_path / "ramps", crops, {"ramp": ("up", "down")}, {"ramp": names})
    options = (("fc", "conv5"), tmp_path / "here", tmp_path / "cache", 2, HeadRecipe(steps=60, batch=16))
    return Search(base, (folder,), {"ramp": "softmax"}, *options)


def test_a_search_on_ray_finds_the_same_though_a_worker_is_killed(search, tmp_path):
    grid, spec = run_search(search)
    there = Search(**{**vars(search), "out": tmp_path / "there"})
    killed = []

    def kill_one():
        """Once some cell is done: the worker that has another one."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not killed:
            done = any((there.out / "cells").glob("*.npz"))
            busy = ray_processes("_run_in_task", os.getpid()) if done else []
            send(busy[:1], signal.SIGKILL)
            killed.extend(busy[:1])
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        seen = []
        found, found_spec = run_search(there, 2, on="ray", progress=lambda done, total: seen.append((done, total)))
    finally:
        killed.append(0)
        killer.join()
    assert killed[0], "no worker was met while it had a cell"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found_spec == spec
    assert all(np.array_equal(found.accuracy[key], grid.accuracy[key]) for key in grid.accuracy)
    for path in (search.out / "cells").iterdir():
        with np.load(path) as one, np.load(there.out / "cells" / path.name) as other:
            assert all(np.array_equal(one[name], other[name]) for name in ("rows", "scores"))


def test_an_error_of_a_cell_on_ray_is_that_error(search, tmp_path):
    broken = Search(**{**vars(search), "recipe": HeadRecipe(steps=60, batch=16, class_weights={"sideways": 2.0})})
    with pytest.raises(ValueError, match=r"^class_weights: ramp has the classes \['up', 'down'\], not 'sideways'"):
        run_search(broken, 2, on="ray")
    with pytest.raises(ValueError, match="on: expected one of"):
        run_search(search, on="Ray")


def test_the_command_runs_on_ray(search, tmp_path, capsys):
    arguments = ["search-depth", str(search.data[0]), "--weights", str(search.base), "--out", str(tmp_path / "out")]
    arguments += ["--heads", "ramp", "--branches", "fc", "--folds", "2", "--steps", "5", "--batch", "8"]
    assert main([*arguments, "--cache", str(tmp_path / "cache"), "--on", "ray", "--workers", "2"]) == 0
    assert "1. ramp: fc, accuracy" in capsys.readouterr().out
