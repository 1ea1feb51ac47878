"""Is commit B faster than commit A? Both are built here and timed in one interleaved run on this machine.

python benchmarks/ab.py A B [--batch 1,32] [--threads 1] [--seconds 10] [--json FILE]

A and B: anything that git names as a commit; `$(git stash create)` is the work tree as it is, HEAD HEAD shows how far
the machine's noise reaches. Each is built in a worktree of its own and runs in processes of its own, through nothing
but FastForward.load and a call. Both have to compute the network: their outputs are compared with float64 first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from faceattr_fast.bench.inputs import Inputs, synthetic_crops, write_inputs
from faceattr_fast.bench.machine import describe_machine
from faceattr_fast.bench.process import Worker, measured_turn
from faceattr_fast.bench.quantised import write_int8_weights
from faceattr_fast.bench.report import DTYPES, head_errors
from faceattr_fast.bench.turns import TOLERANCE
from faceattr_fast.weights import read_spec, shipped_weights

ROOT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("ab_worker.py")
TURN_SECONDS = 0.4


@contextmanager
def built(commit: str, folder: Path) -> Iterator[Path]:
    """The folder to import the package of this commit from."""
    tree = folder / "tree"
    subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", tree, commit], check=True)
    try:
        build = folder / "build"
        pybind11 = _output(sys.executable, "-m", "pybind11", "--cmakedir")
        configure = ["cmake", "-S", tree, "-B", build, "-G", "Ninja", f"-Dpybind11_DIR={pybind11}"]
        with (folder / "build.log").open("w") as log:
            for command in ([*configure, f"-DPython_EXECUTABLE={sys.executable}"], ["cmake", "--build", build]):
                if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
                    raise SystemExit(f"{commit} does not build:\n{(folder / 'build.log').read_text()[-3000:]}")
        (module,) = build.glob("_core*.so")
        module.rename(tree / "python" / "faceattr_fast" / module.name)
        yield tree / "python"
    finally:
        subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)


def ratios(turns: Sequence[dict[str, Sequence[float]]]) -> np.ndarray:
    """How many times as fast B was as A, per round: medians of turns that were neighbours in time."""
    return np.array([np.median(turn["A"]) / np.median(turn["B"]) for turn in turns])


def summary(values: np.ndarray) -> dict[str, float]:
    """Median, spread of the rounds, and where their median lies with 95 % confidence (bootstrap)."""
    p10, median, p90 = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    drawn = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975)).tolist()
    return {"median": median, "p10": p10, "p90": p90, "low": low, "high": high}


def verdict(figures: dict[str, float]) -> str:
    """In words; a difference is one that the confidence interval has on one side."""
    if figures["low"] <= 1 <= figures["high"]:
        return "no difference to be seen"
    return "B is faster" if figures["median"] > 1 else "B is slower"


def compare(
    paths: dict[str, Path],
    weights: Path,
    batches: Sequence[int],
    threads: int,
    seconds: float,
    dtype: str = "float32",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure the packages in ``paths`` against each other.

    Args:
        paths: of A and B, folders to import from.
        seconds: per batch size, for each of the two.

    Returns:
        Per batch size: errors against float64, samples of every round, summary of the ratios.

    Raises:
        SystemExit: one of them computes something else.
        WorkerError: one of them fails.
    """
    with tempfile.TemporaryDirectory(prefix="faceattr-ab-") as name, ExitStack() as stack:
        inputs = Inputs(Path(name))
        reference = write_inputs(
            inputs, weights, synthetic_crops(read_spec(weights).pixels, batches, seed), batches, False
        )
        if dtype in ("int8", "mixed"):
            write_int8_weights(inputs)
        workers = {}
        errors: dict[str, dict[int, float]] = {}
        for side, path in paths.items():
            job = {"folder": name, "weights": str(inputs.weights(dtype)), "dtype": dtype, "batches": list(batches)}
            log = inputs.folder / f"{side}.log"
            workers[side] = Worker([str(WORKER)], {**job, "name": side}, threads, log, [str(path)])
            stack.callback(workers[side].stop)
            answer = workers[side].start()
            if not Path(answer["package"]).resolve().is_relative_to(path.resolve()):
                raise SystemExit(f"{side} imported {answer['package']}, not what was built for it")
            errors[side] = {}
            for batch in batches:
                with np.load(inputs.folder / f"{side}-batch{batch}.npz") as outputs:
                    found = head_errors(outputs, {head: value[:batch] for head, value in reference.items()})
                errors[side][batch] = max(found.values())
                if errors[side][batch] > TOLERANCE[dtype]:
                    raise SystemExit(
                        f"{side} computes something else at batch {batch}: error {errors[side][batch]:.1e}"
                    )
        rounds = max(5, round(seconds / TURN_SECONDS))
        turns: dict[int, list[dict[str, Any]]] = {batch: [] for batch in batches}
        shuffle = random.Random(seed).shuffle
        for _ in range(rounds):
            for batch in batches:
                order = list(workers)
                shuffle(order)
                turn = {}
                for side in order:
                    answer = measured_turn(workers[side], workers.values(), batch=batch, seconds=seconds / rounds)
                    turn[side] = answer["seconds_per_image"]
                turns[batch].append(turn)
    return [
        {
            "batch": batch,
            "threads": threads,
            "dtype": dtype,
            "errors": {side: errors[side][batch] for side in paths},
            "medians": {side: float(np.median([s for turn in turns[batch] for s in turn[side]])) for side in paths},
            "ratio": summary(ratios(turns[batch])),
            "turns": turns[batch],
        }
        for batch in batches
    ]


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs=2, metavar="COMMIT")
    parser.add_argument("--batch", type=_counts, default=[1, 32])
    parser.add_argument("--threads", type=_counts, default=[1])
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--seconds", type=float, default=10.0, help="per commit, batch size and number of threads")
    parser.add_argument("--weights", type=Path, default=shipped_weights(), help="a file that both commits read")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    commits = {
        side: _output("git", "-C", str(ROOT), "rev-parse", "--verify", f"{commit}^{{commit}}")
        for side, commit in zip("AB", arguments.commits, strict=True)
    }
    with tempfile.TemporaryDirectory(prefix="faceattr-ab-") as name, ExitStack() as stack:
        paths = {}
        for side, commit in commits.items():
            folder = Path(name, side)
            folder.mkdir()
            paths[side] = stack.enter_context(built(commit, folder))
        rows = []
        for threads in arguments.threads:
            rows += compare(paths, arguments.weights, arguments.batch, threads, arguments.seconds, arguments.dtype)
    machine = describe_machine()
    print(f"{machine['cpu']}, {machine['usable_cpus']} CPUs, {os.environ.get('FACEATTR_ISA') or machine['isa']}")
    for side, commit in commits.items():
        print(f"{side} {commit[:12]} {_output('git', '-C', str(ROOT), 'log', '-1', '--format=%s', commit)}")
    for row in rows:
        a, b, ratio = row["medians"]["A"] * 1e3, row["medians"]["B"] * 1e3, row["ratio"]
        print(
            f"batch {row['batch']}, {row['threads']} threads, {row['dtype']}: A {a:.3f} ms, B {b:.3f} ms per image;"
            f" B runs {ratio['median']:.3f}x as fast (80 % of rounds {ratio['p10']:.3f} - {ratio['p90']:.3f},"
            f" median with 95 % confidence {ratio['low']:.3f} - {ratio['high']:.3f}): {verdict(ratio)};"
            f" errors {row['errors']['A']:.0e}, {row['errors']['B']:.0e}"
        )
    if arguments.json:
        record = {"commits": commits, "machine": machine, "rows": rows}
        arguments.json.write_text(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
