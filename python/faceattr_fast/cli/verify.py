"""Compare the faces of two pictures: the cosine of their embeddings, and what it means."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .usage import UsageError, add_analyzer_arguments, load_analyzer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..photo import FaceAnalyzer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A", help="picture; the largest face counts")
    parser.add_argument("b", type=Path, metavar="B", help="picture; the largest face counts")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_analyzer_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..photo import similarity

    for path in (arguments.a, arguments.b):
        if not path.is_file():
            raise UsageError(f"no such file: {path}")
    analyzer = load_analyzer(arguments, ["embedding"])
    try:
        a, b = (_embedding(analyzer, path, arguments.crops) for path in (arguments.a, arguments.b))
        cosine = similarity(a, b)
    except Exception as error:  # a picture that cannot be read, or has no face: whatever it is, no traceback
        print(f"faceattr verify: {error}", file=sys.stderr)
        return 1
    figures = verification(analyzer.fast.metadata)
    if arguments.json:
        threshold = figures.get("threshold")
        same = None if threshold is None else cosine >= threshold
        print(json.dumps({"similarity": cosine, "threshold": threshold, "same": same}))
    else:
        print(f"similarity {cosine:.3f}\n{meaning(cosine, figures)}")
    return 0


def verification(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a weights file says about verification: numbers ``value``, ``n`` and ``threshold``, a string ``data``.

    A file may say anything; what is not of its type is left out.
    """
    accuracy = metadata.get("accuracy")
    figures = accuracy.get("verification") if isinstance(accuracy, Mapping) else None
    if not isinstance(figures, Mapping):
        return {}
    kept: dict[str, Any] = {}
    for name in ("value", "n", "threshold"):
        number = figures.get(name)
        if isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number):
            kept[name] = number
    if isinstance(figures.get("data"), str):
        kept["data"] = figures["data"]
    return kept


def meaning(cosine: float, figures: Mapping[str, Any]) -> str:
    """One sentence: a verdict where the weights come with a threshold, none otherwise."""
    measured = ""
    if "value" in figures:
        pairs = f" of {figures['n']:,} pairs" if "n" in figures else ""
        data = f" ({figures['data']})" if "data" in figures else ""
        measured = f"these weights tell {figures['value']:.1%}{pairs} right{data}"
    threshold = figures.get("threshold")
    if threshold is None:
        text = "1: the same direction, 0: nothing in common; these weights state no threshold, so there is no verdict"
        return f"{text}\n{measured}" if measured else text
    side, verdict = ("at or above", "the same person") if cosine >= threshold else ("below", "different people")
    text = f"{side} the threshold {threshold:.3f}: taken for {verdict}"
    return f"{text}\n{measured}" if measured else text


def _embedding(analyzer: FaceAnalyzer, path: Path, crop: bool) -> NDArray[np.float32]:
    """Of the largest face, which comes first."""
    faces = analyzer.predict_crops([path]) if crop else analyzer.predict(path)
    if not faces:
        raise ValueError(f"{path}: no face found")
    embedding = faces[0].embedding
    assert embedding is not None  # it is what the analyzer was loaded for
    return embedding
