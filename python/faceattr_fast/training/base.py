"""From packed sets to the weights of a base network: data, training, statistics, and what the file says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..forward import FastForward
from ..photo.alignment import DEFAULT_TEMPLATE
from ..reference import FaceAttrNet
from ..reference.model import tensors_of
from ..spec import HeadSpec, NetworkSpec
from ..weights import Weights, parse_weights, write_weights
from .batches import BaseData
from .cases import predict
from .checkpoint import TrainingRun
from .embedding import transform_embedding, within_person_whitening
from .feature_cache import set_digest
from .head_data import Faces
from .learner import Learner, initialise
from .norms import estimate_norms, limit_variances
from .parallel import Processes
from .recipes import Recipe
from .record import joined_terms, trained_on
from .trainer import History, Line, train

__all__ = ["Origin", "heads_of", "train_base"]

_WHITENED = 3500  # faces that the scatter within people is measured on

Report = Callable[[str], None]


@dataclass(frozen=True)
class Origin:
    """A weights file that training begins from.

    Args:
        name: of the file.
        sha256: of its bytes.
        weights: what it holds.
    """

    name: str
    sha256: str
    weights: Weights

    @classmethod
    def read(cls, path: Path) -> Origin:
        """Raises OSError or WeightsError."""
        data = path.read_bytes()
        return cls(path.name, hashlib.sha256(data).hexdigest(), parse_weights(data, str(path)))


def heads_of(spec: NetworkSpec, faces: Faces, wanted: Sequence[str] | None) -> tuple[HeadSpec, ...]:
    """The heads of a network that are to learn.

    Args:
        spec: of the network.
        faces: of the sets.
        wanted: names; None: every head that a set has labels for.

    Raises:
        ValueError: no such head, or no set has its label.
    """
    labels = {name for packed in faces.packed for name in packed.info["classes"]}
    if wanted is None:
        return tuple(head for head in spec.heads if head.name in labels)
    for name in wanted:
        spec.head(name)
        if name not in labels:
            raise ValueError(f"heads: none of the sets has the label {name!r}; they have {sorted(labels)}")
    return tuple(head for head in spec.heads if head.name in wanted)


def train_base(
    spec: NetworkSpec,
    faces: Faces,
    heads: Sequence[HeadSpec],
    recipe: Recipe,
    out: Path,
    processes: Processes,
    *,
    origin: Origin | None = None,
    seed: int = 0,
    micro_batch: int | None = None,
    precision: str = "float32",
    threads: int = 1,
    dtype: str = "float32",
    keep_identities: bool = False,
    run: TrainingRun | None = None,
    watch: Callable[[Line], None] | None = None,
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """Train a base network on the training split of packed sets and write its weights.

    Args:
        spec: of the network; its own heads and identities do not matter.
        faces: of the sets.
        heads: to learn (:func:`heads_of`), beside identities.
        recipe: how.
        out: weights file to write.
        processes: that train together.
        origin: weights to begin from; None: random ones. Heads that it lacks begin as random ones.
        seed: of random weights, the draw and the jitter.
        micro_batch, watch: as :func:`.train` takes them.
        precision: of the network's layers in training: float32, bfloat16 or float16.
        threads: that render; torch's own are what they are.
        dtype: of the file: float32 or float16.
        keep_identities: write the people's vectors of a ``cosine`` recipe as an identity layer.
        run: checkpoint, log and progress.
        report: called with a line now and then.

    Returns:
        What was trained on, how, and the log; the same on every process.

    Raises:
        ValueError: nobody to identify where the recipe has an identity layer, weights that do not fit, or as
            :class:`.BaseData` and :func:`.train`.
        TrainingError: losses are not finite any more.
    """
    before = {} if origin is None else origin.weights.metadata
    faces.check_crops(before)
    crop = _crop(faces)
    data = BaseData(faces, heads, recipe)
    if recipe.identity == "linear" and not data.identities:
        raise ValueError(f"identity: the sets have not two people with {recipe.least_images} training pictures")
    learner, note = _learner(spec, data, seed, origin, precision)
    learner.to(processes.device)
    report(_summary(data, learner.net.spec))
    run = replace(
        run or TrainingRun(), depends=_depends(data, learner, seed, origin, micro_batch, processes, precision)
    )
    trained, history = train(learner, data, processes, seed, micro_batch, threads, run, watch)
    figures = _figures(data, trained.net.spec, recipe, seed, history, note, processes, precision, micro_batch)
    if not processes.leads:
        return figures
    report("estimating batch-norm statistics")
    estimate_norms(trained.net, data, seed, threads=threads)
    net = _finished(trained, data, keep_identities and not trained.net.spec.identities)
    if recipe.whiten:
        report("whitening the embedding" if _whiten(net, data, seed) else "nobody has two pictures: no whitening")
    limit_variances(net)
    write_weights(out, Weights(net.spec, tensors_of(net), _metadata(data, net.spec, crop, before, figures)), dtype)
    return figures


def _crop(faces: Faces) -> dict[str, Any]:
    """The template that the crops of all sets were cut by."""
    crops = [{k: v for k, v in packed.info["crop"].items() if k != "margin"} for packed in faces.packed]
    template = next(filter(None, crops), DEFAULT_TEMPLATE.to_dict())  # pictures taken as they are may name none
    for packed, crop in zip(faces.packed, crops, strict=True):
        if crop and crop != template:
            raise ValueError(f"{packed.folder} was aligned by another template than the sets before it")
    return template


def _learner(
    spec: NetworkSpec, data: BaseData, seed: int, origin: Origin | None, precision: str
) -> tuple[Learner, dict[str, Any]]:
    """What is trained, and what its weights are at the beginning."""
    recipe, people = data.recipe, len(data.identities)
    identities = people if recipe.identity == "linear" and people else None
    spec = replace(spec, heads=tuple(head.head for head in data.heads), identities=identities)
    net = FaceAttrNet(spec, seed)
    if recipe.initialisation == "residual":
        initialise(net, seed)
    note: dict[str, Any] = {"start": "random", "initialisation": recipe.initialisation}
    if origin is not None:
        note = _begin(net, data, origin)
    return Learner(net, people, recipe, seed, getattr(torch, precision)), note


def _begin(net: FaceAttrNet, data: BaseData, origin: Origin) -> dict[str, Any]:
    """Take over what the origin has of this network."""
    theirs, spec = origin.weights.spec, net.spec
    for name in ("stem", "stages", "embedding", "pixels"):
        if getattr(theirs, name) != getattr(spec, name):
            raise ValueError(
                f"init: {origin.name} is another network: {name} is {getattr(theirs, name)}, expected "
                f"{getattr(spec, name)}"
            )
    mine = {head.name: head for head in spec.heads}
    taken = []
    for head in theirs.heads:
        if head.name not in mine:
            continue
        wanted = mine[head.name]
        if (head.branch, head.class_labels, head.kind) != (wanted.branch, wanted.class_labels, wanted.kind):
            raise ValueError(
                f"init: {origin.name} has {head.name!r} as {head.kind} at {head.branch} over "
                f"{list(head.class_labels)}, expected {wanted.kind} at {wanted.branch} over {list(wanted.class_labels)}"
            )
        taken.append(head.name)
    if spec.identities is not None and origin.weights.metadata.get("identities") == list(data.identities):
        taken.append("identity")
    state = {
        name: torch.from_numpy(np.array(value))
        for name, value in origin.weights.tensors.items()
        if not name.startswith("heads.") or name.split(".")[1] in taken
    }
    net.load_state_dict(state, strict=False)  # heads that the origin lacks keep their random weights
    says = {
        key: origin.weights.metadata[key] for key in ("version", "training", "seed") if key in origin.weights.metadata
    }
    return {"start": origin.name, "sha256": origin.sha256, "heads": taken, "says": says}


def _summary(data: BaseData, spec: NetworkSpec) -> str:
    parts = [f"{source.packed.info['name']} {len(source.rows)}" for source in data.faces.sources(data.used)]
    learned = [head.name for head in spec.heads]
    learned += [f"{len(data.identities)} people"] if data.identities else []
    return f"faces to train on: {', '.join(parts)}; to learn: {', '.join(learned)}"


def _depends(
    data: BaseData, learner: Learner, seed: int, origin: Origin | None, micro_batch: int | None, processes: Processes,
    precision: str,
) -> dict[str, Any]:  # fmt: skip
    """All that the weights at any step depend on."""
    targets = hashlib.sha256(data.faces.weights.tobytes() + data.identity.tobytes() + data.used.tobytes())
    for head in data.heads:
        targets.update(head.targets.tobytes())
    return {
        "sets": {packed.info["name"]: set_digest(packed) for packed in data.faces.packed},
        "targets": targets.hexdigest(),
        "network": learner.net.spec.to_json(),
        "recipe": asdict(data.recipe),
        "init": None if origin is None else origin.sha256,
        "seed": seed,
        "micro-batch": micro_batch,
        "precision": precision,
        "device": processes.device.type,
        "processes": processes.count,
        "threads": torch.get_num_threads(),
    }


def _figures(
    data: BaseData, spec: NetworkSpec, recipe: Recipe, seed: int, history: History, origin: Mapping[str, Any],
    processes: Processes, precision: str, micro_batch: int | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "parameters": spec.count().parameters,
        "heads": {head.name: {"branch": head.branch, "trained": list(head.trained or ())} for head in spec.heads},
        "people": len(data.identities),
        "sets": {source.packed.info["name"]: len(source.rows) for source in data.faces.sources(data.used)},
        "recipe": asdict(recipe),
        **data.faces.softness,
        "seed": seed,
        "micro_batch": micro_batch,
        "origin": dict(origin),
        "steps": history.step,
        "images": history.images,
        "minutes": round(history.seconds / 60, 2),
        "threads": torch.get_num_threads(),
        "processes": processes.count,
        "device": processes.device.type,
        "precision": precision,
        "log": history.lines,
    }


# Of the figures, what the weights file itself says.
_TOLD = (
    "recipe", "smoothing", "age_spread", "micro_batch", "steps", "images", "people", "origin", "precision",
)  # fmt: skip


@torch.no_grad()
def _finished(learner: Learner, data: BaseData, keep_identities: bool) -> FaceAttrNet:
    """The network on the CPU, in evaluation mode, with the people's vectors as its identity layer if they are kept."""
    net = learner.net.cpu().eval()
    for head in net.spec.heads:
        # What nothing was learned of: zeros rather than noise.
        untrained = ~torch.tensor(head.trained)
        fc = net.heads[head.name].fc
        fc.weight[untrained], fc.bias[untrained] = 0.0, 0.0
    if keep_identities and learner.people is not None:
        wider = FaceAttrNet(replace(net.spec, identities=len(data.identities)), seed=0)
        wider.load_state_dict(net.state_dict(), strict=False)
        vectors = torch.nn.functional.normalize(learner.people.cpu())
        wider.heads["identity"].fc.weight.copy_(data.recipe.identity_scale * vectors)
        wider.heads["identity"].fc.bias.zero_()
        net = wider.eval()
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it


def _whiten(net: FaceAttrNet, data: BaseData, seed: int) -> bool:
    """Turn the embedding so that cosines tell people apart better; logits stay. False: nobody has two pictures."""
    subjects = np.concatenate([packed.subjects for packed in data.faces.packed])
    rows = np.flatnonzero(data.used & (subjects != ""))
    _, person, counts = np.unique(subjects[rows], return_inverse=True, return_counts=True)
    rows = np.random.default_rng(seed).permutation(rows[counts[person] > 1])[:_WHITENED]
    wanted = np.zeros(len(subjects), bool)
    wanted[rows] = True
    names, repeated = np.unique(subjects[wanted], return_counts=True)
    if not (repeated > 1).any() or len(names) < 2:
        return False
    fast = FastForward.from_module(net)
    parts = [predict(fast, source.faces, source.rows)["embedding"] for source in data.faces.sources(wanted)]
    embedding = np.concatenate(parts).astype(np.float64)
    matrix, mean = within_person_whitening(embedding, subjects[wanted])
    transform_embedding(net, matrix, mean, embedding)
    return True


def _metadata(
    data: BaseData, spec: NetworkSpec, crop: dict[str, Any], before: Mapping[str, Any], figures: Mapping[str, Any]
) -> dict[str, Any]:
    """What the weights file says of itself."""
    learned = {}
    for packed, rows in zip(data.faces.packed, data.faces.rows(data.used), strict=True):
        labels = [head.head.name for head in data.heads if head.known[rows].any()]
        learned[packed.info["name"]] = labels + (["identity"] if (data.identity[rows] >= 0).any() else [])
    metadata = {
        "licence": joined_terms(before, data.faces, data.used),
        "crop": crop,
        "seed": figures["seed"],
        "trained_on": trained_on(before, data.faces, data.used, learned),
        "training": {key: figures[key] for key in _TOLD},
    }
    if spec.identities is not None:
        metadata["identities"] = list(data.identities)
    return metadata
