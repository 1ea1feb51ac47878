"""Runs the steps, each in a process of its own, and puts what they found into one record."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from .store import ROOT, FailedError, Folder, SkippedError, Step, is_emulated, write_json

__all__ = ["LIMITS", "main"]

# Steps in order, with their time limits in seconds. These are more than ten minutes in all: what the first steps leave
# is for the last ones.
LIMITS = {
    "record": 15,
    "build": 150,
    "inputs": 40,
    "conformance": 20,
    "ceilings": 30,
    "correctness": 75,
    "ours": 75,
    "sanitizer-memcheck": 30,
    "sanitizer-racecheck": 30,
    "sanitizer-synccheck": 30,
    "sanitizer-initcheck": 30,
    "peer-eager": 40,
    "peer-compile": 150,
    "peer-compile-rewritten": 120,
    "peer-jax": 60,
    "peer-tensorrt": 60,
    "profile": 70,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu_check.py", description=import_module("__main__").__doc__ or __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for everything that is written")
    parser.add_argument("--steps", default=",".join(LIMITS), help="some of: %(default)s; 'peer' means all of peer-…")
    parser.add_argument("--minutes", type=float, default=10, help="for all steps together (10)")
    parser.add_argument("--one", choices=LIMITS, help=argparse.SUPPRESS)  # this process is a step's
    arguments = parser.parse_args(argv)
    folder = Folder(arguments.out.resolve())
    if arguments.one:
        return _run_here(arguments.one, folder)
    try:
        steps = _chosen(arguments.steps)
        run = _start(folder)
    except ValueError as error:
        parser.error(str(error))
    print(f"seed {run['seed']}, {run['gpu'] or 'no GPU'}, commit {run['commit']}", flush=True)
    deadline = time.monotonic() + 60 * arguments.minutes
    for name in steps:
        _run_step(name, folder, deadline)
        write_json(folder.path / f"{record_name(run)}.json", collect(folder))
    record = collect(folder)
    from gpu_results import record_text  # of benchmarks/

    print(record_text(record))
    print(f"record: {folder.path / record_name(run)}.json")
    return 0 if all(record["steps"][name]["status"] in ("done", "skipped") for name in steps) else 1


def _chosen(names: str) -> list[str]:
    """In the order of LIMITS."""
    wanted = names.split(",")
    for want in wanted:
        if not any(name == want or name.startswith(f"{want}-") for name in LIMITS):
            raise ValueError(f"--steps: expected some of {', '.join(LIMITS)}, got {want!r}")
    return [name for name in LIMITS if any(name == want or name.startswith(f"{want}-") for want in wanted)]


def _start(folder: Folder) -> dict[str, Any]:
    """What all steps share: of an earlier call into the same folder, if it was of this machine and source.

    Raises:
        ValueError: it was not; figures of two machines must not meet in one record.
    """
    gpu = (
        "emulated"
        if is_emulated()
        else (_output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", "0"]))
    )
    now = {"gpu": gpu, "commit": _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40",
                                          "--exclude=*"]), "host": os.uname().nodename}  # fmt: skip
    if (folder.path / "run.json").is_file():
        run = folder.run
        changed = [f"{key} {run[key]} became {now[key]}" for key in now if run[key] != now[key]]
        if changed:
            raise ValueError(f"OUT: {folder.path} is of another machine or source: {', '.join(changed)}")
        return run
    run = {**now, "seed": secrets.randbits(32), "time": datetime.now(UTC).isoformat(timespec="seconds")}
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.path / "run.json", run)
    return run


def _output(command: list[str]) -> str | None:
    """The first line that a command prints; None: it is not there, or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0] or None


def record_name(run: dict[str, Any]) -> str:
    """``<gpu>-<date>-<hash>``."""
    gpu = re.sub(r"[^a-z0-9]+", "-", (run["gpu"] or "no GPU").lower().removeprefix("nvidia ")).strip("-")
    return f"{gpu}-{run['time'][:10]}-{(run['commit'] or 'unknown')[:12]}"


def collect(folder: Folder) -> dict[str, Any]:
    """The record: what every step that ran has found."""
    paths = {name: folder.step(name) for name in LIMITS}
    steps = {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}
    run = folder.run
    return {"format": 1, "kind": "gpu", **{key: run[key] for key in ("time", "gpu", "commit", "seed")}, "steps": steps}


def _run_step(name: str, folder: Folder, deadline: float) -> None:
    """Ends with a status in the step's file, whatever happens to its process."""
    # On the emulator nothing is measured, and a machine that tests may be slow.
    limit = min(LIMITS[name] * (10 if is_emulated() else 1), deadline - time.monotonic())
    step = Step(folder.step(name))
    step.set(status="skipped", why="no time was left")
    if limit >= 1:
        step.set(status="running")
        log = folder.path / "steps" / f"{name}.log"
        environment = os.environ.copy()
        if folder.package.is_dir():
            environment["PYTHONPATH"] = os.pathsep.join(
                filter(None, [str(folder.package), os.environ.get("PYTHONPATH")])
            )
        started = time.monotonic()
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), str(folder.path), "--one", name],
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
                start_new_session=True,
            )  # fmt: skip
            ended = _wait(process, limit)
        step.data = _read(folder.step(name))
        if not ended:
            step.set(status="timed out", why=f"not done after {limit:.0f} s")
        elif step.data["status"] == "running":
            step.set(status="failed", why=f"ended with {process.returncode}: {log.read_text(errors='replace')[-1500:]}")
        step.set(seconds=round(time.monotonic() - started, 1))
    why = step.data.get("why", "")
    print(f"{name}: {step.data['status']}{f': {why}' if why else ''}", flush=True)


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def _wait(process: subprocess.Popen[bytes], limit: float) -> bool:
    """False: it had to be killed, with all that it started."""
    try:
        process.wait(limit)
        return True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def _run_here(name: str, folder: Folder) -> int:
    """The step itself: ``run(folder, step)`` of its module, or with ``module-what``, ``run(folder, step, what)``."""
    module, _, what = name.partition("-")
    step = Step(folder.step(name))
    step.set(status="running")
    try:
        import_module(f"gpu.{module}").run(folder, step, *([what] if what else []))
    except SkippedError as error:
        step.set(status="skipped", why=str(error))
    except FailedError as error:
        step.set(status="failed", why=str(error))
    except Exception as error:  # any: the others go on
        traceback.print_exc()
        step.set(status="failed", why=f"{type(error).__name__}: {error}")
    else:
        step.set(status="done")
    return 0
