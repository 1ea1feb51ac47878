"""The training loop of the base network: trunk and heads at once, from faces that each know some of the labels.

A run is fixed in steps, and a step depends on its number, the seed and the number of processes alone: one that was
killed gives the same weights as one that was not. What it does when is the recipe's business (:mod:`.recipes`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..errors import TrainingError
from .batches import BaseData, Batch, batches_of
from .checkpoint import TrainingRun, load_checkpoint, save_checkpoint, write_log
from .learner import Learner
from .parallel import Processes
from .recipes import Recipe

__all__ = ["History", "Line", "train"]

_LOG_EVERY = 50  # steps of one line of the log

Line = dict[str, Any]
"""Of the log: step, side of the crops, rate, images so far, and the mean of each loss since the line before."""


@dataclass
class History:
    """What has happened so far.

    Args:
        step: steps done.
        images: faces seen.
        seconds: that the steps took, whatever was in between.
        losses: sum and weight of each loss since the last line.
        lines: of the log.
    """

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    losses: dict[str, list[float]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)


def train(
    learner: Learner,
    data: BaseData,
    processes: Processes,
    seed: int = 0,
    micro_batch: int | None = None,
    threads: int = 1,
    run: TrainingRun | None = None,
    watch: Callable[[Line], None] | None = None,
) -> tuple[Learner, History]:
    """Train in place.

    Args:
        learner: on the device of this process.
        data: of which its recipe takes faces.
        processes: that train together; each takes its part of every batch.
        seed: of the draw.
        micro_batch: most faces that pass through the network at a time on a process; gradients add up to those of the
            whole batch, but batch norms see the parts. None: all of them.
        threads: that render faces.
        run: checkpoint and log.
        watch: called with each line of the log.

    Returns:
        The moving average where the recipe has one, else ``learner`` (batch-norm statistics are to be estimated anew,
        :func:`.estimate_norms`), and what happened.

    Raises:
        ValueError: the checkpoint is of another run, or the batch is too small for the processes.
        TrainingError: a loss or a gradient is not finite. The last checkpoint stays.
    """
    recipe, run = data.recipe, run or TrainingRun()
    _check_batches(recipe, processes, micro_batch)
    learner.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    loop = _Loop(learner, recipe, processes, micro_batch)
    history = History()
    # The leader speaks for all: times of copied files and numbers of threads may differ from machine to machine.
    if (state := load_checkpoint(run.checkpoint, run.depends if processes.leads else None)) is not None:
        history = loop.resume(state)
    processes.wait()  # nobody writes what another still reads
    steps = range(history.step, recipe.steps)
    began = time.monotonic()
    for step, batch in zip(steps, batches_of(data, seed, steps, processes.rank, processes.count, threads), strict=True):
        phase, rate = recipe.phase(step), recipe.rate_at(step)
        for name, (total, weight) in loop.step(step, rate, batch).items():
            sums = history.losses.setdefault(name, [0.0, 0.0])
            sums[0], sums[1] = sums[0] + total, sums[1] + weight
        history.step, history.images = step + 1, history.images + phase.batch
        now = time.monotonic()
        history.seconds, began = history.seconds + now - began, now
        last = history.step == recipe.steps
        if history.step % _LOG_EVERY == 0 or last:
            line = _line(history, phase.size, rate)
            if processes.leads:
                write_log(run.log, list(line), [list(entry.values()) for entry in history.lines])
            if watch is not None:
                watch(line)
        if run.checkpoint is not None and (history.step % run.every == 0 or last) and processes.leads:
            save_checkpoint(run.checkpoint, run.depends, loop.state(history))
        if run.progress is not None:
            run.progress(history.step, recipe.steps)
    return loop.result, history


def _check_batches(recipe: Recipe, processes: Processes, micro_batch: int | None) -> None:
    """Every part must hold two faces: the bottleneck's norm has one value a face."""
    if micro_batch is not None and micro_batch < 2:
        raise ValueError(f"micro_batch: expected at least 2, got {micro_batch}")
    least = min(phase.batch for phase in recipe.phases)
    if least // processes.count < 2:
        raise ValueError(f"batch: {least} faces are fewer than 2 for each of {processes.count} processes")
    for phase in recipe.phases:
        share = phase.batch // processes.count
        if micro_batch is not None and share // -(-(share + 1) // micro_batch) < 2:
            raise ValueError(
                f"micro_batch: {micro_batch} leaves a single face of a batch of {phase.batch}: take one more"
            )


class _Loop:
    """The state of a run, and how a step changes it."""

    def __init__(self, learner: Learner, recipe: Recipe, processes: Processes, micro_batch: int | None) -> None:
        self.learner, self.recipe, self.processes, self.micro_batch = learner, recipe, processes, micro_batch
        self.average = copy.deepcopy(learner) if recipe.average else None
        self.optimiser = _optimiser(learner, recipe)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=learner.precision == torch.float16)

    @property
    def result(self) -> Learner:
        return self.learner if self.average is None else self.average

    def step(self, number: int, rate: float, batch: Batch) -> dict[str, tuple[float, float]]:
        """One step of the optimiser; sum and weight of each loss before it, over all processes."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        place = self.processes.device
        batch = batch.to(place)
        weights = self.learner.weights(batch)
        names = list(weights)
        total = self.processes.add(torch.stack([weights[name] for name in names]))
        # Divided by the weight of all faces of the step, wherever they are: gradients of parts and processes add up to
        # that of the whole batch. Less than one face's worth of targets does not count as one face.
        factors = torch.tensor([self.recipe.loss_weights.get(name, 1.0) for name in names], device=place)
        factors = factors / total.clamp(min=1.0)
        sums = torch.zeros(len(names), device=place)
        self.optimiser.zero_grad(set_to_none=True)
        for part in batch.parts(self.micro_batch or len(batch)):
            found = self.learner(part)
            losses = torch.stack([found[name] for name in names])
            self.scaler.scale((losses * factors).sum()).backward()  # type: ignore[no-untyped-call]
            sums += losses.detach()
        self.processes.add(sums)
        result = dict(zip(names, zip(sums.tolist(), total.tolist(), strict=True), strict=True))
        if bad := [name for name, (value, _) in result.items() if not abs(value) < float("inf")]:
            raise TrainingError(f"step {number + 1}: the loss of {', '.join(bad)} is not finite; a lower rate may help")
        self._update(number)
        return result

    def _update(self, number: int) -> None:
        self.processes.add_all([p.grad for p in self.learner.parameters() if p.grad is not None])
        self.scaler.unscale_(self.optimiser)
        limit = float("inf") if self.recipe.clip is None else self.recipe.clip
        norm = nn.utils.clip_grad_norm_(self.learner.net.parameters(), limit)
        # With float16 such a gradient means that the scale was too large: the step is left out and the scale lowered.
        if not self.scaler.is_enabled() and not norm.isfinite():
            raise TrainingError(f"step {number + 1}: the gradient is not finite; a lower rate may help")
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            _move(self.average, self.learner, 1 - min(self.recipe.average, (number + 1) / (number + 11)))

    def state(self, history: History) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": vars(history),
        }

    def resume(self, state: dict[str, Any]) -> History:
        self.learner.load_state_dict(state["learner"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        return History(**state["history"])


def _optimiser(learner: Learner, recipe: Recipe) -> torch.optim.Optimizer:
    decayed = [p for p in learner.net.parameters() if p.ndim > 1]
    rest = [p for p in learner.net.parameters() if p.ndim <= 1]
    people = [] if learner.people is None else [learner.people]
    groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": [*rest, *people], "weight_decay": 0.0}]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.99))


@torch.no_grad()
def _move(average: nn.Module, learner: nn.Module, share: float) -> None:
    """Move the average towards the learner by a share of the way."""
    means, values = average.state_dict().values(), learner.state_dict().values()
    pairs = list(zip(means, values, strict=True))
    floating = [(mean, value) for mean, value in pairs if mean.is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in floating], [value for _, value in floating], share)
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)


def _line(history: History, size: int, rate: float) -> Line:
    """A new line of the log; the sums begin anew."""
    losses = {name: total / weight if weight else None for name, (total, weight) in history.losses.items()}
    history.losses.clear()
    history.lines.append({"step": history.step, "size": size, "rate": rate, "images": history.images, **losses})
    return history.lines[-1]
