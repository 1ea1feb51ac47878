"""Time the network and other runtimes of the same network in one interleaved run."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from .output import open_output
from .progress import Progress
from .usage import UsageError, add_weights_argument, names, positive, usage_errors, weights_path

_DEFAULT_PEERS = ("onnxruntime", "openvino", "torch")

# Above this many CPUs used by others, the figures describe the neighbours as well.
_QUIET = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=_counts, default=(1, 32), metavar="N,N", help="batch sizes (default: 1,32)")
    parser.add_argument("--threads", type=_counts, metavar="N,N", help="default: the CPUs that this process may use")
    parser.add_argument("--dtype", default="float32", help="of faceattr_fast; peers run float32 (default: float32)")
    parser.add_argument(
        "--peers",
        type=names,
        metavar="A,B",
        help="among onnxruntime, openvino, torch, torch-compile; none (default: the first three, where installed)",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="timed per contender and setting (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the pixels and of the order of turns (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the record with every sample")
    add_weights_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..bench import Row, Settings, Summary, format_rows, run_benchmark
    from ..forward import FastForward
    from ..threads import thread_count

    weights = weights_path(arguments)
    peers = _DEFAULT_PEERS if arguments.peers is None else tuple(name for name in arguments.peers if name != "none")
    if arguments.json and not arguments.json.absolute().parent.is_dir():  # known now, not after the run
        raise UsageError(f"no such folder: {arguments.json.parent}")
    with usage_errors():
        threads = arguments.threads or (thread_count(None),)
        settings = Settings(arguments.batch, threads, arguments.dtype, peers, arguments.seconds, arguments.seed)
        FastForward.load(weights, dtype=arguments.dtype)  # a wrong file or format is known now, too
    with Progress(settings.rounds * len(threads), "rounds") as progress:
        record = run_benchmark(weights, settings, progress.show)
    rows = [Row(**{**row, "seconds": Summary(**row["seconds"])}) for row in record["rows"]]
    print(f"{_headline(record)}\n\n{format_rows(rows)}")
    _warn(record)
    if arguments.json:
        with open_output(arguments.json) as file:
            json.dump(record, file, indent=1)
    unasked = arguments.peers is None  # that a peer is not installed is an error only where it was asked for
    failed = [name for name, why in record["left_out"].items() if not (unasked and "not installed" in why)]
    return 1 if failed else 0


def _counts(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in names(text))


def _headline(record: dict[str, Any]) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    given, executed = record["multiply_adds_as_given"] / 1e6, record["products_executed"] / 1e6
    return (
        f"{machine['cpu']}, {machine['usable_cpus']} CPUs, {machine['isa_used']} of {machine['isa']}\n"
        f"{versions}, Python {machine['python']}\n"
        f"{given:.1f} M multiply-adds per image as given, {executed:.1f} M products executed by faceattr_fast"
    )


def _warn(record: dict[str, Any]) -> None:
    for name, why in record["left_out"].items():
        print(f"faceattr bench: {name} was left out: {why}", file=sys.stderr)
    turns = [turn for measured in record["measurements"] for turn in measured["turns"]]
    for who, key in (("other programs", "cpus_of_others"), ("contenders that were not being timed", "cpus_of_waiting")):
        load = statistics.median([turn[key] for turn in turns] or [0.0])
        if load > _QUIET:
            print(f"faceattr bench: {who} used {load:.1f} CPUs: measure again on a quiet machine", file=sys.stderr)
