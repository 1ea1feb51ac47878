"""Measure a network on labelled faces: attributes, groups, identities, verification.

DATA is a packed set (faceattr prepare), or a CSV table of pictures of cropped faces: the column file, and any of
subject, years and the heads' names. The report is a folder: report.json, report.md, and plots with the extra [plots].
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import replacing
from .progress import Progress
from .usage import (
    UsageError,
    add_device_argument,
    add_dtype_argument,
    add_threads_argument,
    add_weights_argument,
    names,
    usage_errors,
    weights_path,
)

if TYPE_CHECKING:
    from ..forward import FastForward
    from ..training.cases import Cases
    from ..training.packed import PackedFaces


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", type=Path, metavar="DATA", help="packed set, or CSV table of cropped faces")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for the report")
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test", "all"),
        help="of packed sets; all: nothing of them was trained on (default: test)",
    )  # fmt: skip
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="also verification: LFW's pairs.txt, or a CSV table")
    parser.add_argument("--allow-missing", action="store_true", help="leave out pairs whose pictures are in no DATA")
    parser.add_argument("--heads", type=names, metavar="A,B", help="heads to measure (default: all that have labels)")
    parser.add_argument("--no-plots", action="store_true", help="figures only")
    add_weights_argument(parser)
    add_device_argument(parser)
    add_dtype_argument(parser)
    add_threads_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..photo import SENSITIVE_HEADS, SENSITIVE_LIMITS
    from ..training.evaluate import check_complete, measure, verification_report
    from ..training.pairs import read_pairs

    weights = weights_path(arguments)
    with usage_errors():
        arguments.out.mkdir(parents=True, exist_ok=True)
        pairs = read_pairs(arguments.pairs) if arguments.pairs else None
        sets = open_sets(arguments.data)
        fast = load_network(weights, arguments, sets)
    packed = [data for data in sets if not isinstance(data, Path)]
    if pairs is not None and not arguments.allow_missing and len(packed) == len(sets):
        with usage_errors():  # now, not after hours of measuring
            check_complete(pairs, [file for data in packed for file in data.files])
    report: dict[str, Any] = {"weights": about(weights, fast), "split": arguments.split, "sets": []}
    identities = fast.metadata.get("identities")
    examined = []
    for data in sets:
        with usage_errors():
            cases = examined_set(fast, data, arguments.split)
            report["sets"].append(measure(fast.spec, cases, identities))
        examined.append(cases)
    if pairs is not None:
        with usage_errors():
            report["verification"] = verification_report(examined, pairs, arguments.allow_missing)
    if not any(section["heads"] or "identity" in section for section in report["sets"]) and pairs is None:
        raise UsageError("nothing to measure: the data has no label of this network's heads and no names of people")
    if any(name in SENSITIVE_HEADS for section in report["sets"] for name in section["heads"]):
        report["limits of use"] = SENSITIVE_LIMITS
    write(report, arguments.out, not arguments.no_plots)
    summarise(report)
    print(f"{arguments.out / 'report.md'}")
    return 0


def open_sets(paths: Sequence[Path]) -> list[PackedFaces | Path]:
    """Packed sets, opened, and tables of pictures; their names differ."""
    from ..training.packed import PackedFaces

    sets: list[PackedFaces | Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"no such file or folder: {path}")
        sets.append(PackedFaces.open(path) if path.is_dir() else path)
    titles = [data.stem if isinstance(data, Path) else data.info["name"] for data in sets]
    if twice := {title for title in titles if titles.count(title) > 1}:
        raise UsageError(f"two sets are named {', '.join(sorted(twice))}: measure them one after the other")
    return sets


def load_network(weights: Path, arguments: argparse.Namespace, sets: Sequence[PackedFaces | Path]) -> FastForward:
    """The network with the outputs that the data can measure, or those of ``--heads``."""
    from ..forward import FastForward
    from ..weights import read_spec

    spec = read_spec(weights)
    labels = {label for data in sets if not isinstance(data, Path) for label in data.labels}
    tables = any(isinstance(data, Path) for data in sets)
    heads = [head.name for head in spec.heads if tables or head.name in labels]
    if arguments.heads is not None:
        heads = [spec.head(name).name for name in arguments.heads]
    identity = ["identity"] if spec.identities is not None else []
    return FastForward.load(
        weights,
        device=arguments.device,
        dtype=arguments.dtype,
        threads=arguments.threads,
        heads=["embedding", *identity, *heads],
    )


def examined_set(fast: FastForward, data: PackedFaces | Path, split: str) -> Cases:
    """Run a set through the network, with a bar."""
    from ..training.cases import examine_packed, examine_pictures

    if isinstance(data, Path):
        with Progress(None, "faces") as progress:
            return examine_pictures(fast, data, progress.step)
    total = len(data) if split == "all" else int((data.split == split).sum())
    with Progress(total, "faces") as progress:
        return examine_packed(fast, data, split, progress.step)


def about(weights: Path, fast: FastForward) -> dict[str, Any]:
    """Which file was measured."""
    entry = {"file": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "dtype": fast.dtype}
    return entry | {key: fast.metadata[key] for key in ("version", "licence") if key in fast.metadata}


def write(report: dict[str, Any], folder: Path, with_plots: bool) -> None:
    """Every file of the report, each of them whole."""
    from ..training.report import markdown, plots, to_json

    drawn = plots(report) if with_plots else {}
    for name, draw in drawn.items():
        with replacing(folder / name) as temporary:
            draw(temporary)
    if with_plots and not drawn:
        print("faceattr evaluate: no plots: pip install 'faceattr_fast[plots]'", file=sys.stderr)
    for name, text in (("report.json", to_json(report)), ("report.md", markdown(report, list(drawn)))):
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def summarise(report: dict[str, Any]) -> None:
    """A line per figure that counts."""
    for section in report["sets"]:
        for name, head in section["heads"].items():
            if head["n"]:
                print(f"{section['name']}: {name} {head['accuracy']:.2%} of {head['n']:,} faces")
        if section.get("identity", {}).get("top 1", {}).get("accuracy") is not None:
            identity = section["identity"]
            print(f"{section['name']}: identity {identity['top 1']['accuracy']:.2%}, {identity['method']}")
    if "verification" in report:
        found = report["verification"]
        print(f"verification {found['accuracy']:.2%} ± {found['standard error']:.2%} of {found['n']:,} pairs")
