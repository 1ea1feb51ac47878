"""Measure once which algorithm is the fastest for each convolution on this machine; what is loaded later uses that.

Never required: without it a rule chooses. Run it while the machine does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..formats.dtypes import DTYPES
from .output import open_output
from .progress import Progress
from .usage import (
    QUIET,
    UsageError,
    add_threads_argument,
    add_weights_argument,
    counts,
    names,
    usage_errors,
    weights_path,
)

if TYPE_CHECKING:
    from ..plan.phases import Plan
    from ..tuning.file import Json, TuneFile
    from ..tuning.measure import Tuning


_FORMATS = DTYPES["cpu"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights_argument(parser)
    parser.add_argument(
        "--dtype", type=names, default=["float32"], metavar="A,B", help=f"{', '.join(_FORMATS)} (default: float32)"
    )
    parser.add_argument("--heads", type=names, metavar="A,B", help="results that are computed (default: all heads)")
    add_threads_argument(parser)
    parser.add_argument(
        "--batch", type=counts, default=(1, 32), metavar="N,N", help="batch sizes, which count alike (default: 1,32)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write or to add to (default: the one that FACEATTR_TUNE names, or tune.json in the cache folder)",
    )


def run(arguments: argparse.Namespace) -> int:
    from .. import _core
    from ..engine.threads import thread_count
    from ..tuning.file import machine_key, merge_tuning
    from ..tuning.measure import ROUNDS, tune_plan

    if os.environ.get("FACEATTR_ALGORITHM"):
        raise UsageError("FACEATTR_ALGORITHM is set and goes before all that is tuned: unset it first")
    isa, batches = os.environ.get("FACEATTR_ISA", ""), tuple(dict.fromkeys(arguments.batch))
    key = machine_key(isa or _core.detected_isa())
    if not batches:
        raise UsageError("--batch: expected at least one batch size")
    file = _target(arguments.out)
    document = _read(file)  # before the work: what is wrong is known now
    with usage_errors():
        threads = thread_count(arguments.threads)
        plans = _plans(arguments, key["isa"])
    print(f"{key['cpu']}, {key['isa']}, {threads} thread{'s' if threads > 1 else ''}")
    before = _times()
    for dtype, plan in plans.items():
        with Progress(2 * ROUNDS, "rounds") as progress, usage_errors():

            def report(done: int, what: str, dtype: str = dtype, progress: Progress = progress) -> None:
                progress.show(done, f"{dtype}: {what}")

            tuning = tune_plan(plan, threads, isa, batches, report=report)
        document = merge_tuning(document, key, dtype, tuning.entries(threads, batches))
        with open_output(file.path) as stream:
            json.dump(document, stream, indent=1)
        print(f"\n{_table(dtype, tuning, batches)}", flush=True)
    print(f"\n{file.path}: {_use(file)}")
    elapsed, busy = (after - start for after, start in zip(_times(), before, strict=True))
    if busy > QUIET * elapsed:
        used = f"other programs used {busy / elapsed:.1f} CPUs"
        print(f"faceattr tune: {used}: tune again on a quiet machine", file=sys.stderr)
    return 0


def _times() -> tuple[float, float]:
    """Seconds by the clock, and of CPU time that went to other programs."""
    from ..machine import machine_cpu_seconds

    return time.perf_counter(), machine_cpu_seconds() - time.process_time()


def _target(out: Path | None) -> TuneFile:
    """The file to write, in a folder that exists."""
    from ..tuning.file import TuneFile, cached_tune_file, default_tune_file

    with usage_errors(RuntimeError):
        file = TuneFile(out, named=True) if out else default_tune_file() or cached_tune_file()
        if not file.named:
            file.path.parent.mkdir(parents=True, exist_ok=True)
    if file.path.is_dir() or not file.path.absolute().parent.is_dir():
        raise UsageError(f"{file.path} is a folder, or is in none that exists")
    return file


def _read(file: TuneFile) -> Json | None:
    """What is in the file already; nothing that a user named is overwritten unless this command wrote it."""
    from ..tuning.file import read_tunings

    try:
        return read_tunings(file.path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        if file.named:
            raise UsageError(f"{error}; it is not overwritten: remove it or name another file") from error
        print(f"faceattr tune: {error}; it is written anew", file=sys.stderr)
        return None


def _plans(arguments: argparse.Namespace, isa: str) -> dict[str, Plan]:
    """By format, the plan without its algorithms."""
    from ..formats.dtypes import format_plan
    from ..forward import check_heads
    from ..plan.rewrite import build_plan
    from ..weights import read_weights

    unknown = [dtype for dtype in arguments.dtype if dtype not in _FORMATS]
    if unknown or not arguments.dtype:
        raise UsageError(f"--dtype: expected some of {', '.join(_FORMATS)}, got {', '.join(unknown) or 'none'}")
    weights = read_weights(weights_path(arguments))
    plan = build_plan(weights.spec, weights.tensors, check_heads(weights.spec, arguments.heads))
    return {dtype: format_plan(plan, weights, dtype, isa) for dtype in arguments.dtype}


def _table(dtype: str, tuning: Tuning, batches: Sequence[int]) -> str:
    from ..tuning.measure import ROUNDS

    if not tuning.convolutions:
        return f"{dtype}: there is one algorithm for each convolution, and nothing to choose"
    header = [f"{f'batch {batch}':>10}" for batch in batches]
    rows = [["phases", "by rule", *header, "tuned", *header]]
    for conv in tuning.convolutions:
        other = conv.algorithm if conv.algorithm != conv.rule else None
        tuned = [other, *_cells(conv.seconds[other])] if other else []
        rows.append([" ".join(conv.phases), conv.rule, *_cells(conv.seconds[conv.rule]), *tuned])
    rows.append(["whole network", "", *_cells(tuning.by_rule), *(["", *_cells(tuning.tuned)] if tuning.tuned else [])])
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "\n".join([f"{dtype}: microseconds per image, medians of {ROUNDS} rounds", *lines, _verdict(tuning)])


def _cells(seconds: Sequence[float]) -> list[str]:
    return [f"{value * 1e6:10.1f}" for value in seconds]


def _verdict(tuning: Tuning) -> str:
    replaced = sum(conv.algorithm != conv.rule for conv in tuning.convolutions)
    if replaced:
        return f"{replaced} of the rule's {len(tuning.convolutions)} choices replaced"
    if tuning.tuned:
        return "the network as a whole was no faster with other choices: the rule's stay"
    return "nothing is faster than the rule's choices, beyond the noise"


def _use(file: TuneFile) -> str:
    from ..tuning.file import TUNE_ENVIRONMENT, default_tune_file

    in_force = default_tune_file()
    if in_force is not None and in_force.path.absolute() == file.path.absolute():
        return "networks that are loaded from now on use it"
    return f"not used unless {TUNE_ENVIRONMENT} names it"
