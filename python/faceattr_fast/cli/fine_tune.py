"""Train one head of a network on packed sets; everything before its branch point stays as it is, bit by bit.

The trunk runs once over the faces, by the fast forward, and what it gives is kept on disk: further runs at the same
branch point begin at once. A run that was killed goes on where it was, with the same result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .progress import Progress
from .usage import (
    UsageError,
    add_threads_argument,
    add_weights_argument,
    check_outputs,
    log_beside,
    names,
    positive,
    usage_errors,
    weights_path,
)

if TYPE_CHECKING:
    from ..training.head_trainer import HeadRecipe

__all__ = [
    "add_arguments", "add_recipe_arguments", "add_softness_arguments", "cache_of", "check_smoothing", "count",
    "recipe_of", "run",
]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", type=Path, metavar="DATA", help="packed set (faceattr prepare)")
    parser.add_argument("--head", required=True, metavar="NAME", help="label to learn; a head of that name is replaced")
    parser.add_argument("--branch", metavar="LAYER", help="conv0 … conv{2n}, bottleneck or fc; default: as in --spec")
    parser.add_argument("--spec", type=Path, metavar="FILE", help="network as JSON (faceattr search-depth): its branch")
    parser.add_argument("--labels", type=names, metavar="A,B,…", help="classes in order (default: the set's)")
    parser.add_argument("--classes", type=positive, metavar="N", help="how many there must be")
    parser.add_argument("--kind", choices=("softmax", "sigmoid"), help="one class or any number (default: softmax)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="weights file to write")
    parser.add_argument("--init-from", default="random", choices=("random", "trunk", "head"),
                        help="what the new layers begin as (default: random)")  # fmt: skip
    parser.add_argument("--file-dtype", default="float32", choices=("float32", "float16"), help="default: float32")
    parser.add_argument("--restart", action="store_true", help="throw away what a killed run left behind")
    add_weights_argument(parser)
    add_recipe_arguments(parser)
    add_threads_argument(parser)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """How heads are trained."""
    parser.add_argument("--steps", type=positive, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--batch", type=positive, default=128, metavar="N", help="faces of a step (default: 128)")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate (default: 0.001)")
    parser.add_argument("--optimiser", default="adamw", choices=("adamw", "sgd"), help="default: adamw")
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay (default: 0.05)")
    parser.add_argument("--augmentations", type=count, default=0, metavar="K",
                        help="jittered renderings of each face to train on beside the crop (default: 0)")  # fmt: skip
    parser.add_argument("--class-weights", metavar="balanced|A=2,…", help="factors of the loss (default: 1 each)")
    add_softness_arguments(parser)
    parser.add_argument("--seed", type=count, default=0, metavar="N", help="default: 0")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="of features (default: in FACEATTR_CACHE)")
    parser.add_argument("--cache-dtype", default="float32", choices=("float32", "float16"), help="default: float32")


def add_softness_arguments(parser: argparse._ActionsContainer) -> None:
    """How targets are made of labels."""
    parser.add_argument("--smoothing", type=float, help="of hard labels, 0 to 1 (default: what the set advises)")
    parser.add_argument("--age-spread", type=float, metavar="X",
                        help="of ages in years, whose targets are bells of σ = 0.5 + X * years (default: what the set "
                        "advises, else 0.08)")  # fmt: skip


def check_smoothing(arguments: argparse.Namespace) -> None:
    if arguments.smoothing is not None and not 0 <= arguments.smoothing < 1:
        raise UsageError(f"--smoothing: expected a number from 0 to below 1, got {arguments.smoothing}")


def run(arguments: argparse.Namespace) -> int:
    weights = weights_path(arguments)
    check_outputs(arguments.out, arguments.spec, weights)
    with usage_errors():
        from ..training.checkpoint import TrainingRun
        from ..training.finetune import fine_tune
        from ..training.head_data import Faces
        from ..weights import read_spec

        recipe = recipe_of(arguments)
        branch, labels, kind = _head_of(arguments, read_spec(weights))
        faces = Faces.open(arguments.data, arguments.smoothing, arguments.age_spread)
        set_threads(arguments.threads)
        checkpoint = arguments.out.with_name(arguments.out.name + ".checkpoint")
        if arguments.restart:
            checkpoint.unlink(missing_ok=True)
        with Progress(1, "") as progress:
            figures = fine_tune(
                weights, faces, arguments.head, branch, arguments.out, cache_of(arguments),
                labels=labels, kind=kind, start=arguments.init_from, recipe=recipe, seed=arguments.seed,
                dtype=arguments.file_dtype, storage=arguments.cache_dtype, threads=arguments.threads,
                run=TrainingRun(
                    checkpoint, log=log_beside(arguments.out, ".csv"), progress=progress.meter("steps", "training")
                ),
                computing=progress.meter("faces", "running the trunk"),
            )  # fmt: skip
    log = log_beside(arguments.out, ".json")
    partial = log.with_name(log.name + ".part")
    partial.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    os.replace(partial, log)
    checkpoint.unlink(missing_ok=True)
    print(f"{arguments.out}: {arguments.head} at {figures['branch']}, trained on {figures['images']} faces")
    for split, found in figures["accuracy"].items():
        print(f"{split}: {found['value']:.1%} of {found['n']} right ({found['data']})")
    if not figures["accuracy"]:
        print("not measured: the sets hold out no face with this label")
    return 0


def _head_of(arguments: argparse.Namespace, base: Any) -> tuple[str, list[str] | None, Any]:
    """Branch, labels and kind: as the options say, else as the head of that name has them in --spec or the weights."""
    from ..spec import NetworkSpec

    spec = base if arguments.spec is None else NetworkSpec.from_json(arguments.spec.read_text(encoding="utf-8"))
    known = next((head for head in spec.heads if head.name == arguments.head), None)
    if arguments.spec is not None and known is None:
        raise UsageError(f"--spec {arguments.spec} has no head {arguments.head!r}")
    branch = arguments.branch or (known.branch if known else None)
    if branch is None:
        raise UsageError(f"--branch: the weights have no head {arguments.head!r}: say where the new one branches")
    base.branch_index(branch)
    labels = arguments.labels or (list(known.labels) if known and known.labels else None)
    if arguments.classes is not None:
        found = labels or _classes(arguments)
        if len(found) != arguments.classes:
            raise UsageError(f"--classes {arguments.classes}: {arguments.head} has {len(found)}: {', '.join(found)}")
    return branch, labels, arguments.kind or (known.kind if known else "softmax")


def _classes(arguments: argparse.Namespace) -> list[str]:
    from ..training.packed import PackedFaces

    for folder in arguments.data:
        if arguments.head in (found := PackedFaces.open(folder).info["classes"]):
            return list(found[arguments.head])
    raise UsageError(f"--head: none of the sets has the label {arguments.head!r}")


def recipe_of(arguments: argparse.Namespace) -> HeadRecipe:
    """The recipe of the arguments; ValueError where a part of it is wrong."""
    from ..training.head_trainer import HeadRecipe

    check_smoothing(arguments)
    return HeadRecipe(
        steps=arguments.steps, batch=arguments.batch, rate=arguments.rate, optimiser=arguments.optimiser,
        decay=arguments.decay, augmentations=arguments.augmentations,
        class_weights=_class_weights(arguments.class_weights),
    )  # fmt: skip


def _class_weights(text: str | None) -> dict[str, float] | str | None:
    if text is None or text == "balanced":
        return text
    factors = {}
    for part in names(text):
        label, equals, number = part.rpartition("=")
        try:
            factors[label] = float(number)
        except ValueError:
            equals = ""
        if not equals or not math.isfinite(factors[label]):
            raise UsageError(f"--class-weights: expected 'balanced' or CLASS=NUMBER,…, got {part!r}")
    return factors


def count(text: str) -> int:
    """An argparse type: an integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def cache_of(arguments: argparse.Namespace) -> Path:
    """Folder of the features."""
    from ..cache import cache_folder

    folder: Path | None = arguments.cache
    return folder or cache_folder() / "features"


def set_threads(threads: int | None) -> None:
    """Torch's, for this process; as many as the fast forward takes."""
    import torch

    from ..engine.threads import thread_count

    torch.set_num_threads(thread_count(threads))
