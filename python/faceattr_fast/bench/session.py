"""The run itself: worker processes, shuffled turns, the record."""

from __future__ import annotations

import datetime
import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..forward import FastForward
from ..weights import read_spec
from .contenders import CONTENDERS, PEERS
from .inputs import Crops, Inputs, synthetic_crops, write_inputs
from .machine import PROVIDERS, describe_machine, installed
from .quantised import UnsupportedError, write_int8_onnx, write_int8_weights
from .report import make_rows
from .settings import Settings
from .source import source_version
from .turns import Absent, Entry, Report, Run

__all__ = ["run_benchmark"]


def run_benchmark(
    weights: Path, settings: Settings, crops: Crops | None = None, report: Report = lambda rounds, line: None
) -> dict[str, Any]:
    """Measure ``faceattr_fast`` and its peers.

    Args:
        weights: weights file; its values do not matter for the speed.
        settings: what is measured.
        crops: what is classified; None: synthetic ones, which say little about the accuracy of narrow formats.
        report: called whenever something happens.

    Returns:
        The record, plain data for JSON: machine, versions, settings, rows and every sample behind them; ``peaks`` of
        the machine, ``starts`` (load time and memory) and ``profiles`` (phases of ours). ``skipped`` says by contender
        and dtype who could not take part: not installed, or without that format here; ``left_out`` who failed, or has
        results that are wrong.
    """
    description = FastForward.load(weights, threads=1).describe()
    absent = Absent()
    entries = list(_present(settings, absent))
    if crops is None:
        crops = synthetic_crops(read_spec(weights).pixels, settings.batches, settings.seed)
    results: dict[str, list[dict[str, Any]]] = {"peaks": [], "starts": [], "profiles": [], "measurements": []}
    with tempfile.TemporaryDirectory(prefix="faceattr-bench-") as folder:
        inputs = Inputs(Path(folder), settings.device)
        report(0, "writing crops and models, computing float64 results")
        onnx = any(CONTENDERS[entry.contender].model == "onnx" for entry in entries)
        reference = write_inputs(inputs, weights, crops, settings.batches, onnx)
        _write_int8(inputs, entries, settings, absent)
        for i, threads in enumerate(settings.threads):
            run = Run(inputs, entries, threads, settings, reference, absent, report, i * settings.rounds)
            for name, found in run.measure().items():
                results[name] += found
    packages = {CONTENDERS[entry.contender].packages[0] for entry in entries} - {"faceattr_fast"} | {"numpy"}
    source = source_version()
    return {
        "format": 2,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": source["commit"],
        "machine": describe_machine() | {"isa_used": description.isa},
        "versions": {"faceattr_fast": source["version"]} | {name: installed((name,)) for name in sorted(packages)},
        "settings": asdict(settings),
        "crops": crops.describe(),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "plan": description.hash,
        "multiply_adds_as_given": description.multiply_adds_as_given,
        "products_executed": description.products,
        "skipped": absent.skipped,
        "left_out": absent.left_out,
        "rows": [
            asdict(row)
            for row in make_rows(
                results["measurements"], description.multiply_adds_as_given, settings.price_per_core_hour
            )
        ],
        **results,
    }


def _present(settings: Settings, absent: Absent) -> Iterable[Entry]:
    """Those that take part: ours, and the peers asked for whose packages are installed."""
    for name, contender in CONTENDERS.items():
        if contender.group in PEERS and contender.group not in settings.peers:
            continue
        if contender.batched_only and max(settings.batches) == 1:
            continue
        for dtype in filter(contender.has, settings.dtypes):
            missing = [p for p in contender.needs(dtype) if not _installed(p)]
            if missing:
                what = f"{', '.join(missing)} not installed: pip install 'faceattr_fast[bench]'"
                absent.add(Entry(name, dtype), UnsupportedError(what))
            else:
                yield Entry(name, dtype)


def _installed(package: str) -> bool:
    return package == "faceattr_fast" or installed(PROVIDERS.get(package, (package,))) is not None


def _write_int8(inputs: Inputs, entries: Iterable[Entry], settings: Settings, absent: Absent) -> None:
    """The files that entries in int8 or mixed read; who reads one that cannot be made is absent."""
    readers: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.dtype in ("int8", "mixed"):
            readers.setdefault(CONTENDERS[entry.contender].model, []).append(entry)
    for model, whose in readers.items():
        try:
            if model == "weights":
                write_int8_weights(inputs)
            elif model == "onnx":
                write_int8_onnx(inputs, settings.batches)
        except Exception as error:  # of a quantiser: theirs alone who need it
            for entry in whose:
                absent.add(entry, error)
