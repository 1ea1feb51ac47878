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
from .usage import (
    QUIET,
    UsageError,
    add_device_argument,
    add_weights_argument,
    counts,
    names,
    usage_errors,
    weights_path,
)

_DEFAULT_PEERS = ("onnxruntime", "openvino", "torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=counts, default=(1, 32), metavar="N,N", help="batch sizes (default: 1,32)")
    parser.add_argument("--threads", type=counts, metavar="N,N", help="default: the CPUs that this process may use")
    parser.add_argument(
        "--dtype",
        type=names,
        default=("float32",),
        metavar="A,B",
        help="float32, bfloat16, int8, mixed, on CUDA float16; each for everyone who has it here (default: float32)",
    )
    parser.add_argument(
        "--peers",
        type=names,
        metavar="A,B",
        help="among onnxruntime, openvino, torch, torch-compile; none (default: the first three, where installed)",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="timed per contender and setting (default: 5)")
    parser.add_argument(
        "--crops",
        type=Path,
        metavar="PATH",
        help="face crops to measure errors on and calibrate int8 with: a folder of pictures or a uint8 .npy file"
        " (default: synthetic ones)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the crops and of the order of turns (default: 0)")
    parser.add_argument(
        "--price-per-core-hour", type=float, metavar="X", help="of a CPU core; adds the cost of a million images"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the record with every sample")
    add_device_argument(parser)
    add_weights_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..bench import Settings, format_peaks, format_rows, format_starts, read_crops, rows_of, run_benchmark
    from ..engine.threads import thread_count
    from ..forward import FastForward
    from ..photo.image import ImageError

    weights = weights_path(arguments)
    peers = _DEFAULT_PEERS if arguments.peers is None else tuple(name for name in arguments.peers if name != "none")
    if arguments.json and not arguments.json.absolute().parent.is_dir():  # known now, not after the run
        raise UsageError(f"no such folder: {arguments.json.parent}")
    if arguments.json and arguments.json.is_dir():
        raise UsageError(f"--json {arguments.json} is a folder")
    with usage_errors(ImageError):
        threads = arguments.threads or (thread_count(None),)
        settings = Settings(
            batches=arguments.batch,
            threads=threads,
            dtypes=tuple(arguments.dtype),
            peers=peers,
            seconds=arguments.seconds,
            seed=arguments.seed,
            device=arguments.device,
            price_per_core_hour=arguments.price_per_core_hour,
        )
        pixels = FastForward.load(weights, device=arguments.device).spec.pixels  # a wrong file is known now, too
        crops = arguments.crops and read_crops(arguments.crops, pixels, settings.batches, settings.seed)
    with Progress(settings.rounds * len(threads), "rounds") as progress:
        record = run_benchmark(weights, settings, crops, progress.show)
    parts = (_headline(record), format_peaks(record), format_rows(rows_of(record)), format_starts(record))
    print("\n\n".join(parts))
    _warn(record)
    if arguments.json:
        with open_output(arguments.json) as file:
            json.dump(record, file, indent=1)
    # Not to be there is an error only of those who were asked for, and who are there in no format at all.
    asked = {"faceattr_fast", *(peers if arguments.peers is not None else ())}
    return 1 if record["left_out"] or asked - {row["group"] for row in record["rows"]} else 0


def _headline(record: dict[str, Any]) -> str:
    machine, device = record["machine"], record["settings"]["device"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)
    given, executed = record["multiply_adds_as_given"] / 1e6, record["products_executed"] / 1e6
    return (
        f"{machine['cpu']}, {machine['usable_cpus']} CPUs, {machine['isa_used']} of {machine['isa']}\n"
        f"{versions}, Python {machine['python']}\n"
        f"{given:.1f} M multiply-adds per image as given, {executed:.1f} M products executed by faceattr_fast"
        + ("" if device == "cpu" else f" on the CPU; here it runs on {device}, from and to arrays of the host")
    )


def _warn(record: dict[str, Any]) -> None:
    for how, key in (("was left out", "left_out"), ("is skipped", "skipped")):
        for name, why in record[key].items():
            print(f"faceattr bench: {name} {how}: {why}", file=sys.stderr)
    turns = [turn for measured in record["measurements"] for turn in measured["turns"]]
    for who, key in (("other programs", "cpus_of_others"), ("contenders that were not being timed", "cpus_of_waiting")):
        load = statistics.median([turn[key] for turn in turns] or [0.0])
        if load > QUIET:
            print(f"faceattr bench: {who} used {load:.1f} CPUs: measure again on a quiet machine", file=sys.stderr)
