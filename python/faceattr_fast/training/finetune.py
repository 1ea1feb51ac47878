"""Training one head on a frozen trunk: everything from its branch point on is learned, nothing before it changes.

The trunk runs once (:mod:`.feature_cache`); what is trained (:mod:`.head_trainer`) is the head's own copy of the layers
behind the branch point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..forward import FastForward
from ..reference.model import Head
from ..spec import HeadSpec, NetworkSpec
from ..weights import Weights, read_weights, write_weights
from .checkpoint import Progress, TrainingRun
from .feature_cache import Features, open_features
from .head_data import Faces, HeadData, class_weights
from .head_trainer import HeadRecipe, predict_head, train_head
from .learner import initialise
from .record import joined_terms, trained_on

__all__ = ["STARTS", "fine_tune", "new_head", "with_head"]

STARTS = ("random", "trunk", "head")

Report = Callable[[str], None]


def new_head(spec: NetworkSpec, head: HeadSpec, seed: int, start: str = "random", base: Weights | None = None) -> Head:
    """A head's module to be trained.

    Args:
        spec: the network that the head is added to.
        head: its branch point is one of ``spec``.
        seed: of random weights.
        start: ``random``: as the trainer begins; ``trunk``: copies of the trunk's layers, and a random linear layer;
            ``head``: the base's own head of that name.
        base: tensors for ``trunk`` and ``head``.

    Raises:
        ValueError: the base has no such head, or one of another shape.
    """
    module = Head(spec, head.classes, spec.branch_index(head.branch))
    initialise(module, seed)
    if start == "random":
        return module.train()
    if base is None or start not in STARTS:
        raise ValueError(f"start: expected one of {STARTS}, and weights to take it from, got {start!r}")
    prefix = ""
    if start == "head":
        own = base.spec.head(head.name)
        if (own.branch, own.class_labels) != (head.branch, head.class_labels):
            raise ValueError(
                f"start: the weights have {head.name!r} at {own.branch} with {list(own.class_labels)}, which cannot "
                f"begin one at {head.branch} with {list(head.class_labels)}"
            )
        prefix = f"heads.{head.name}."
    state = {
        name: torch.from_numpy(np.array(base.tensors[prefix + name]))
        for name in _stored(module)
        if start == "head" or not name.startswith("fc.")
    }
    module.load_state_dict(state, strict=False)
    return module.train()


def _stored(module: nn.Module) -> list[str]:
    """Names of the tensors that a weights file has of a module."""
    return [name for name in module.state_dict() if not name.endswith("num_batches_tracked")]


def with_head(base: Weights, head: HeadSpec, module: Head) -> Weights:
    """The base's weights with this head in place of the one of its name, or behind the others; all else as it was."""
    others = base.spec.heads
    place = [other.name for other in others].index(head.name) if head.name in {h.name for h in others} else len(others)
    spec = replace(base.spec, heads=(*others[:place], head, *others[place + 1 :]))
    prefix = f"heads.{head.name}."
    tensors = {name: base.tensors[name] for name in base.tensors if not name.startswith(prefix)}
    state = module.state_dict()
    tensors |= {prefix + name: state[name].detach().cpu().numpy() for name in _stored(module)}
    return Weights(spec, tensors, base.metadata)


def fine_tune(
    base: Path,
    faces: Faces,
    name: str,
    branch: str,
    out: Path,
    cache: Path,
    *,
    labels: Sequence[str] | None = None,
    kind: Literal["softmax", "sigmoid"] = "softmax",
    start: str = "random",
    recipe: HeadRecipe | None = None,
    seed: int = 0,
    dtype: str = "float32",
    storage: str = "float32",
    threads: int | None = None,
    run: TrainingRun | None = None,
    computing: Progress | None = None,
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """Train one head on the training split, measure it on the others and write the weights with it.

    Args:
        base: weights file whose trunk is frozen.
        faces: of packed sets.
        name, branch, labels, kind: of the head, as :meth:`.HeadData.of` takes them.
        out: weights file to write.
        cache: folder of features.
        start: as :func:`new_head` takes it.
        recipe, seed, run: of the training.
        dtype: of the file: float32, or float16 where the trunk's values are float16 values already.
        storage: of the features.
        threads: of the fast forward.
        computing: called with renderings done and in all while the trunk runs.
        report: called with a line now and then.

    Returns:
        What was trained on, and accuracy per split.

    Raises:
        ValueError: as :meth:`.HeadData.of`, crops of another template, or float16 would change
            the trunk.
    """
    recipe = recipe or HeadRecipe()
    weights = read_weights(base)
    faces.check_crops(weights.metadata)
    data = HeadData.of(faces, name, branch, labels=labels, kind=kind)
    module = new_head(weights.spec, data.head, seed, start, weights)
    if dtype == "float16":
        _check_float16(weights, f"heads.{name}.")
    train = data.known & (faces.split == "train")
    factors = class_weights(data, train, recipe.class_weights)
    sha256 = hashlib.sha256(base.read_bytes()).hexdigest()
    fast = FastForward(weights, heads=["embedding"], threads=threads)

    def features_of(wanted: np.ndarray, augmentations: int) -> Features:
        return open_features(
            fast, sha256, faces.sources(wanted), data.head.branch, cache, augmentations=augmentations,
            jitter=recipe.jitter, seed=seed, storage=storage, report=computing,
        )  # fmt: skip

    features = features_of(train, recipe.augmentations)
    rows = np.flatnonzero(train)
    report(f"{name} at {data.head.branch}: {len(rows)} faces to train on")
    digest = hashlib.sha256(data.targets[rows].tobytes() + faces.weights[rows].tobytes()).hexdigest()
    run = replace(
        run or TrainingRun(),
        depends={"features": [folder.name for folder in features.folders], "targets": digest, "start": start,
                 "factors": factors.tolist()},
    )  # fmt: skip
    train_head(module, data, features, rows, faces.weights[rows], recipe, seed, factors, run)
    figures: dict[str, Any] = {
        "head": name, "branch": data.head.branch, "kind": kind, "classes": list(data.head.class_labels),
        "trained": list(data.head.trained or ()), "start": start, "seed": seed, "recipe": asdict(recipe),
        "base": sha256, "sets": faces.names(train), "images": len(rows), "accuracy": {},
    }  # fmt: skip
    for split in ("validation", "test"):
        held_out = data.known & (faces.split == split)
        if held_out.any():
            scores = data.scores(predict_head(module, features_of(held_out, 0)), np.flatnonzero(held_out))
            if (known := ~np.isnan(scores)).any():
                figures["accuracy"][split] = {
                    "value": round(float(scores[known].mean()), 4), "n": int(known.sum()),
                    "data": f"{', '.join(faces.names(held_out))}, {split} split",
                }  # fmt: skip
    result = with_head(weights, data.head, module)
    write_weights(out, replace(result, metadata=_metadata(weights, faces, train, figures)), dtype)
    return figures


def _check_float16(weights: Weights, prefix: str) -> None:
    for name, value in weights.tensors.items():
        with np.errstate(over="ignore"):
            if not name.startswith(prefix) and not np.array_equal(value.astype(np.float16), value):
                raise ValueError(f"dtype: float16 would round the frozen tensor {name!r}: write float32")


def _metadata(weights: Weights, faces: Faces, train: np.ndarray, figures: dict[str, Any]) -> dict[str, Any]:
    """What the base says of itself, but for what the new head changes."""
    metadata = {key: value for key, value in weights.metadata.items() if key != "int8"}  # scales of other layers
    name = figures["head"]
    if isinstance(thresholds := metadata.get("thresholds"), dict):  # chosen on the head that is replaced
        metadata["thresholds"] = {head: entry for head, entry in thresholds.items() if head != name}
    metadata["licence"] = joined_terms(weights.metadata, faces, train)
    labels = {source.packed.info["name"]: [name] for source in faces.sources(train)}
    metadata["trained_on"] = trained_on(weights.metadata, faces, train, labels, branch=figures["branch"])
    accuracy = weights.metadata.get("accuracy")
    accuracy = dict(accuracy) if isinstance(accuracy, dict) else {}
    for stale in (name, *(("age_error_years",) if name == "age" else ())):
        accuracy.pop(stale, None)
    measured = figures["accuracy"].get("test") or figures["accuracy"].get("validation")
    metadata["accuracy"] = accuracy | ({name: measured} if measured else {})
    metadata["fine_tuned"] = {
        **(weights.metadata.get("fine_tuned") or {}),
        name: {key: figures[key] for key in ("branch", "base", "sets", "images", "start", "seed")},
    }
    return metadata
