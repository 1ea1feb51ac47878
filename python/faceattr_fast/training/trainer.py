"""The joint multi-task trainer: trunk and heads at once, from faces that each know some of the labels.

What it does when is the schedule's business (:mod:`.schedule`).
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..reference import FaceAttrNet
from ..spec import NetworkSpec
from .augment import render
from .datasets import FaceSet
from .schedule import Budget, Recipe

__all__ = ["estimate_norms", "initialise", "limit_variances", "pixels_of", "train"]


@torch.no_grad()
def initialise(net: nn.Module, seed: int, expand_scale: float = 0.25) -> None:
    """He initialisation with small 3x3s: nothing normalises the residual stream; full blocks would blow it up."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            gain = {"expand": math.sqrt(2) * expand_scale, "shortcut": 1.0}.get(name.rpartition(".")[2], math.sqrt(2))
            fan_in = module.weight[0].numel()
            module.weight.normal_(0.0, gain / math.sqrt(fan_in), generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0.0, 0.3 / math.sqrt(module.in_features), generator=generator)
            module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def pixels_of(crops: np.ndarray, spec: NetworkSpec) -> Tensor:
    """uint8 [N, S, S, 3] as the network's float32 [N, 3, S, S], channels last in memory."""
    mean, scale = (np.array(values, np.float32) for values in (spec.pixels.mean, spec.pixels.scale))
    return torch.from_numpy((crops - mean) / scale).permute(0, 3, 1, 2)


class _Batches:
    """Draws a mixed batch: per data set its share, by its weights, with replacement."""

    def __init__(self, sets: list[FaceSet], recipe: Recipe, spec: NetworkSpec, seed: int) -> None:
        self.sets, self.recipe, self.spec = sets, recipe, spec
        self.rng = np.random.default_rng(seed)
        self.indices = [np.flatnonzero(faces.train) for faces in sets]
        for faces, index in zip(sets, self.indices, strict=True):
            if not len(index):
                raise ValueError(f"{faces.name}: no picture is left for training")
        weights = [faces.weights[index] for faces, index in zip(sets, self.indices, strict=True)]
        self.chances = [weight / weight.sum() for weight in weights]
        self.identities, self.identity = self._identities()

    def _identities(self) -> tuple[int, list[np.ndarray]]:
        """Number of people that are classes, and per data set the class of each picture, -1 for none."""
        counts: Counter[str] = Counter()
        for faces in self.sets:
            if faces.people is not None:
                counts.update(faces.people[faces.train].tolist())
        counts.pop("", None)  # nobody known
        chosen = sorted(person for person, count in counts.items() if count >= self.recipe.least_images)
        number = {person: i for i, person in enumerate(chosen)}
        return len(chosen), [
            np.array([number.get(person, -1) for person in faces.people.tolist()])
            if faces.people is not None
            else np.full(len(faces), -1)
            for faces in self.sets
        ]

    def draw(self, size: int, batch: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Pixels, targets per head (zero rows where unknown), identity classes (-1 where none)."""
        shares = np.array([self.recipe.shares.get(faces.name, 1.0) for faces in self.sets])
        sizes = np.maximum(1, np.rint(batch * shares / shares.sum())).astype(int)
        crops, identity = [], []
        targets: dict[str, list[np.ndarray]] = {head.name: [] for head in self.spec.heads}
        for i, (faces, count) in enumerate(zip(self.sets, sizes, strict=True)):
            chosen = self.rng.choice(self.indices[i], count, p=self.chances[i])
            crops.append(render(faces, chosen, size, self.recipe.jitter, self.rng))
            identity.append(self.identity[i][chosen])
            for head in self.spec.heads:
                known = faces.targets.get(head.name)
                targets[head.name].append(
                    np.zeros((count, head.classes), np.float32) if known is None else known[chosen]
                )
        return (
            pixels_of(np.concatenate(crops), self.spec),
            {name: torch.from_numpy(np.concatenate(rows)) for name, rows in targets.items()},
            torch.from_numpy(np.concatenate(identity)),
        )


def _losses(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """Soft cross entropy per head, averaged over the weight of the faces that know its label."""
    return {
        name: -(target * F.log_softmax(outputs[name], 1)).sum() / target.sum().clamp(min=1.0)
        for name, target in targets.items()
    }


def _identity_loss(embedding: Tensor, people: Tensor, identity: Tensor, recipe: Recipe) -> Tensor:
    """Softmax over cosines to a vector per person, with a margin: verification compares cosines too."""
    rows = torch.nonzero(identity >= 0).flatten()
    if not len(rows):
        return embedding.sum() * 0
    cosines = F.normalize(embedding[rows]) @ F.normalize(people).T
    cosines = cosines - recipe.identity_margin * F.one_hot(identity[rows], len(people))
    return F.cross_entropy(recipe.identity_scale * cosines, identity[rows])


def train(
    net: FaceAttrNet,
    sets: list[FaceSet],
    budget: Budget,
    recipe: Recipe | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    again: bool = False,
    origin: str = "random weights",
    report: Callable[[str], None] = print,
    most_steps: int | None = None,
) -> tuple[FaceAttrNet, dict[str, Any]]:
    """Train ``net`` in place on the training pictures of ``sets``.

    Args:
        net: a network without identity layer; the people's vectors are the trainer's own and not kept.
        sets: each face gives loss only to the heads whose label it has.
        budget: of time; the schedule follows it.
        seed: of the drawing of batches. The same steps follow from the same seed, but their number from the time.
        checkpoint: file for the state, written every four minutes; None for none.
        resume: go on from the checkpoint, but for the optimiser's moments, which start anew. One whose schedule has
            ended is not trained any more.
        again: with ``resume``, begin a new schedule at its start, from the checkpoint's weights.
        origin: what ``net`` holds, for the record; of no account with ``resume``.
        report: takes a line of progress every 50 steps.
        most_steps: stop after so many steps.

    Returns:
        The moving average of the network (its batch-norm statistics are to be estimated anew, :func:`estimate_norms`),
        and figures: steps, images, people, the losses over time, and the runs that led here, each with what it started
        from, the steps before it, its minutes and its settings.

    Raises:
        FileNotFoundError: there is no checkpoint to resume from.
        ValueError: ``resume`` without ``checkpoint``, or with another seed than that of the runs before.
    """
    recipe = recipe or Recipe()
    batches = _Batches(sets, recipe, net.spec, seed)
    net.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    generator = torch.Generator().manual_seed(seed)
    people = nn.Parameter(torch.randn(batches.identities, net.spec.embedding, generator=generator))
    optimiser = _optimiser(net, people, recipe)
    averaged = FaceAttrNet(net.spec, seed=0)
    averaged.load_state_dict(net.state_dict())
    figures: dict[str, Any] = {"steps": 0, "images": 0, "people": batches.identities, "log": [], "runs": []}
    if resume:
        figures = _load_checkpoint(checkpoint, net, averaged, people, budget, seed)
        batches.rng = np.random.default_rng((seed, figures["steps"]))  # not the faces of the first run again
        origin = "checkpoint"
        if again:
            budget.progress, origin = 0.0, "checkpoint, new schedule"

    def done() -> bool:
        return budget.over or figures["steps"] == most_steps

    if not (resume and done()):  # what only measures a checkpoint is no run
        run = {"start": origin, "steps before": figures["steps"], "minutes": 0.0, "threads": torch.get_num_threads()}
        figures["runs"].append(run | {"seed": seed, "recipe": asdict(recipe)})
    if done():
        report(f"no training: {budget.progress:.0%} of the schedule are done, and no time or no step is left")
        return averaged, figures
    sums: Counter[str] = Counter()
    saved = time.monotonic()

    while not done():
        phase, rate = recipe.phase(budget.progress), recipe.rate_at(budget.progress)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = batches.draw(phase.size, phase.batch)
        sums.update(_step(net, people, optimiser, batch, recipe))
        figures["steps"] += 1
        figures["images"] += len(batch[0])
        _average(averaged, net, min(recipe.average, figures["steps"] / (figures["steps"] + 10)))
        budget.step()
        figures["runs"][-1]["minutes"] = round(budget.used / 60, 2)
        if figures["steps"] % 50 == 0:
            line = {name: round(value / 50, 4) for name, value in sums.items()}
            sums.clear()
            step, progress = figures["steps"], budget.progress
            figures["log"].append({"step": step, "progress": round(progress, 4), "size": phase.size, **line})
            report(
                f"{time.strftime('%H:%M:%S')} {progress:6.1%} step {step} {phase.size} px rate {rate:.1e} "
                + " ".join(f"{name} {value:.3f}" for name, value in line.items())
            )
            if checkpoint is not None and time.monotonic() - saved > 240:
                _save_checkpoint(checkpoint, net, averaged, people, budget, figures)
                saved = time.monotonic()
                budget.skip()
    if checkpoint is not None:
        _save_checkpoint(checkpoint, net, averaged, people, budget, figures)
    return averaged, figures


def _optimiser(net: FaceAttrNet, people: Tensor, recipe: Recipe) -> torch.optim.Optimizer:
    decayed = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": [*rest, people], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.99))


def _step(
    net: FaceAttrNet, people: Tensor, optimiser: torch.optim.Optimizer, batch: tuple[Any, ...], recipe: Recipe
) -> dict[str, float]:
    """One step of the optimiser on pixels, targets and identities; the losses before it."""
    pixels, targets, identity = batch
    outputs = net(pixels)
    losses = _losses(outputs, targets)
    if len(people):
        losses["identity"] = _identity_loss(outputs["embedding"], people, identity, recipe)
    total = torch.stack([recipe.loss_weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
    optimiser.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    optimiser.step()
    return {name: loss.item() for name, loss in losses.items()}


@torch.no_grad()
def _average(averaged: nn.Module, net: nn.Module, keep: float) -> None:
    for mean, value in zip(averaged.state_dict().values(), net.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - keep)
        else:
            mean.copy_(value)


def _save_checkpoint(
    path: Path, net: FaceAttrNet, averaged: FaceAttrNet, people: Tensor, budget: Budget, figures: dict[str, Any]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    state = {"net": net.state_dict(), "averaged": averaged.state_dict(), "people": people.detach()}
    torch.save({**state, "progress": budget.progress, "figures": figures}, partial)
    os.replace(partial, path)


def _load_checkpoint(
    path: Path | None, net: FaceAttrNet, averaged: FaceAttrNet, people: Tensor, budget: Budget, seed: int
) -> dict[str, Any]:
    """The figures of the checkpoint; everything else of it goes into the arguments."""
    if path is None:
        raise ValueError("resume: expected a checkpoint to resume from, got None")
    state = torch.load(path, weights_only=True)
    figures: dict[str, Any] = state["figures"]
    if "runs" not in figures:  # written before runs were recorded, when all of them started from random weights
        figures["runs"] = [{"start": "random weights", "steps before": 0}]
    seeds = {run.get("seed", seed) for run in figures["runs"]} - {seed}
    if seeds:  # the seed also says which faces are held out: another would measure on faces that were trained on
        raise ValueError(f"seed: the checkpoint {path} was trained with {seeds.pop()}, got {seed}")
    net.load_state_dict(state["net"])
    averaged.load_state_dict(state["averaged"])
    people.data.copy_(state["people"])
    budget.progress = state["progress"]
    return figures


@torch.no_grad()
def estimate_norms(net: FaceAttrNet, sets: list[FaceSet], images: int = 2000, batch: int = 50, seed: int = 0) -> None:
    """Set the batch-norm statistics to those of training crops without jitter, at the true size, in equal parts."""
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(faces.train))[: -(-images // len(sets))] for faces in sets]
    part = -(-batch // len(sets))
    with averaging_norms(net):
        for start in range(0, min(len(index) for index in chosen), part):
            crops = [
                render(f, i[start : start + part], net.spec.pixels.size) for f, i in zip(sets, chosen, strict=True)
            ]
            net(pixels_of(np.concatenate(crops), net.spec))


@contextmanager
def averaging_norms(net: nn.Module) -> Iterator[None]:
    """Within it, batch norms take the plain average over the batches that they see; in evaluation mode afterwards."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    net.train()
    yield
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
    net.eval()


@torch.no_grad()
def limit_variances(net: FaceAttrNet, deviation: float = 8.0) -> None:
    """Scale down convolutions before a batch norm whose output has grown large, so that float16 can hold its variance.

    The norm divides by the deviation, so the network gives the same; powers of two keep the weights' own rounding too.
    """
    state: dict[str, torch.Tensor] = dict(net.state_dict())  # shares its memory with the module
    for name, variance in state.items():
        if not name.endswith("bn.running_var"):
            continue
        norm = name.removesuffix(".running_var")
        prefix = norm.removesuffix("bn")
        weight = state[f"{prefix}reduce.weight" if f"{prefix}reduce.weight" in state else f"{prefix}conv.weight"]
        scale = torch.exp2(-torch.ceil(torch.log2(variance.sqrt() / deviation)).clamp(min=0))
        weight.mul_(scale[:, None, None, None])
        state[f"{norm}.running_mean"].mul_(scale)
        variance.mul_(scale**2)
