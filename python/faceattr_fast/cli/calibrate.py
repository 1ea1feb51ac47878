"""Choose thresholds of a head at a wanted rate of false positives, and write them into a copy of a weights file.

They are chosen on the validation split of packed sets, class by class, and measured on the test split where there is
one. FaceAnalyzer then leaves a face without a label where no class reaches its threshold. Tensors are copied byte for
byte.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .evaluate import examined_set, load_network, open_sets
from .usage import (
    UsageError,
    add_device_argument,
    add_dtype_argument,
    add_threads_argument,
    add_weights_argument,
    usage_errors,
    weights_path,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="packed set with a validation split")
    parser.add_argument("--head", required=True, metavar="NAME", help="such as ethnicity")
    parser.add_argument("--target-fpr", required=True, type=rate, metavar="RATE", help="such as 0.0103")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="weights file to write")
    add_weights_argument(parser)
    add_device_argument(parser)
    add_dtype_argument(parser)
    add_threads_argument(parser)


def rate(text: str) -> float:
    """An argparse type: above 0, below 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a rate above 0 and below 1, got {text!r}")
    return value


def run(arguments: argparse.Namespace) -> int:
    from ..photo import SENSITIVE_HEADS, SENSITIVE_LIMITS
    from ..training.evaluate import calibrated, operating_point
    from ..training.protocols import false_positive_room
    from ..weights import copy_weights

    weights = weights_path(arguments)
    if arguments.out.is_dir() or not arguments.out.absolute().parent.is_dir():  # before the work, not after it
        raise UsageError(f"--out {arguments.out} is a folder, or is in none that exists")
    arguments.heads = [arguments.head]
    with usage_errors():
        (packed,) = open_sets([arguments.data])
        if isinstance(packed, Path):
            raise UsageError(f"{packed} is no packed set")
        fast = load_network(weights, arguments, [packed])
        cases = examined_set(fast, packed, "validation")
        head = calibrated(fast.spec.head(arguments.head), cases, arguments.target_fpr)
        chosen = operating_point(head, cases)
    print(f"{'class':20} threshold  true positives  false positives")
    for name, row in chosen["classes"].items():
        true, false = row["true positive"], row["false positive"]
        print(f"{name:20} {row['threshold']:9.4f}  {_share(true):>14}  {_share(false):>15}")
        if not false_positive_room(false["n"], arguments.target_fpr):
            few = f"{false['n']} faces of other classes are too few to measure a rate of {arguments.target_fpr}"
            print(f"faceattr calibrate: {name}: {few}; none of them passes", file=sys.stderr)
    _print(f"validation, {chosen['n']:,} faces, by which they were chosen", chosen)
    entry: dict[str, Any] = {
        "target false positive rate": arguments.target_fpr, "data": cases.name, "dtype": fast.dtype,
        "validation": _brief(chosen),
    }  # fmt: skip
    if (packed.split == "test").any():
        with usage_errors():
            unseen = operating_point(head, examined_set(fast, packed, "test"))
        _print(f"test, {unseen['n']:,} faces, by which nothing was chosen", unseen)
        entry["test"] = _brief(unseen)
    assert head.thresholds is not None
    with usage_errors():
        earlier = fast.metadata.get("thresholds", {})
        changes = {"thresholds": {**earlier, head.name: entry}}
        copy_weights(weights, arguments.out, changes, {head.name: head.thresholds})
    print(f"{arguments.out}: thresholds of {head.name}")
    if head.name in SENSITIVE_HEADS:
        print(f"faceattr calibrate: {SENSITIVE_LIMITS}", file=sys.stderr)
    return 0


def _share(rate: dict[str, Any]) -> str:
    return "–" if rate["rate"] is None else f"{rate['rate']:.2%}"


def _brief(point: dict[str, Any]) -> dict[str, Any]:
    rates = {key: point[key]["rate"] for key in ("true positive", "false positive", "unlabelled")}
    return {"faces": point["n"], **rates, "accuracy of answers": point["answered"]["accuracy"]}


def _print(title: str, point: dict[str, Any]) -> None:
    true, false, none = (_share(point[key]) for key in ("true positive", "false positive", "unlabelled"))
    print(f"{title}: true positives {true}, false positives {false}, unlabelled {none}")
