"""The training loop of one head on cached features.

A run is fixed in steps, and a step depends on its number and the seed alone: one that was killed gives the same weights
as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..reference.model import Head
from .augment import Jitter
from .checkpoint import TrainingRun, load_checkpoint, save_checkpoint, write_log
from .feature_cache import Features
from .head_data import HeadData
from .losses import head_loss
from .norms import averaging_norms

__all__ = ["HeadRecipe", "predict_head", "train_head"]

_LOG_EVERY = 50  # steps of one line of the log
_NORM_IMAGES, _NORM_BATCH = 2000, 64  # of the final batch-norm statistics
_PREDICTED = 256  # faces of one batch that is not trained on


@dataclass(frozen=True)
class HeadRecipe:
    """How a head is trained.

    Args:
        steps: of the optimiser.
        batch: faces of a step, drawn with replacement as the sets advise; at least 2.
        rate: highest learning rate: it warms up in a line over ``warm_up`` of the steps, then falls in a line to 0.
        optimiser: ``adamw``, or ``sgd`` with momentum 0.9.
        decay: weight decay of the weights; norms and biases have none.
        augmentations: jittered renderings of each training face beside the crop itself.
        jitter: of these.
        class_weights: None, "balanced", or factors by class.
    """

    steps: int = 2000
    batch: int = 128
    rate: float = 1e-3
    optimiser: Literal["adamw", "sgd"] = "adamw"
    decay: float = 0.05
    warm_up: float = 0.05
    augmentations: int = 0
    jitter: Jitter = field(default_factory=Jitter)
    class_weights: Mapping[str, float] | str | None = None

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 2), ("augmentations", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
        if not 0 < self.rate < float("inf"):
            raise ValueError(f"rate: expected a positive number, got {self.rate!r}")
        if self.optimiser not in ("adamw", "sgd"):
            raise ValueError(f"optimiser: expected 'adamw' or 'sgd', got {self.optimiser!r}")

    def rate_at(self, step: int) -> float:
        """Of steps from 0 on."""
        warm = max(1.0, self.warm_up * self.steps)
        return self.rate * min((step + 1) / warm, (self.steps - step) / max(1.0, self.steps - warm), 1.0)


def train_head(
    module: Head,
    data: HeadData,
    features: Features,
    rows: np.ndarray,
    draw: np.ndarray,
    recipe: HeadRecipe,
    seed: int = 0,
    factors: np.ndarray | None = None,
    run: TrainingRun | None = None,
) -> Head:
    """Train a head in place; it is in evaluation mode afterwards.

    Args:
        module: of :func:`new_head`.
        data: the head's targets over all faces.
        features: of the faces to train on; number i is face ``rows[i]`` of ``data``.
        rows: int [n].
        draw: float [n], how often to draw each, relative to the others.
        recipe: how.
        seed: of the draw.
        factors: float32 [classes] of the loss; None: 1 each.
        run: checkpoint and log.

    Raises:
        ValueError: the checkpoint is of another run.
        TrainingError: the loss or its gradient is not finite. The last checkpoint stays.
    """
    run = run or TrainingRun()
    factors = np.ones(data.head.classes, np.float32) if factors is None else factors
    weight, trained = torch.from_numpy(factors), torch.tensor(data.head.trained)
    optimiser = _optimiser(module, recipe)
    depends = {
        "head": asdict(data.head), "recipe": asdict(recipe), "seed": seed, "threads": torch.get_num_threads(),
        **run.depends,
    }  # fmt: skip
    step = 0
    losses: list[float] = []
    log: list[tuple[int, float, float]] = []
    if (state := load_checkpoint(run.checkpoint, depends)) is not None:
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        step, losses, log = state["step"], state["losses"], state["log"]
    upto = np.cumsum(draw / draw.sum())
    module.train()
    while step < recipe.steps:
        # A generator of its own for every step: its number is all there is to remember of the draw.
        rng = np.random.default_rng((seed, step))
        chosen = np.sort(np.searchsorted(upto, rng.random(recipe.batch), side="right").clip(max=len(rows) - 1))
        copies = rng.integers(0, features.copies, recipe.batch)
        targets = torch.from_numpy(data.targets[rows[chosen]])
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate_at(step)
        loss = head_loss(module(features.gather(chosen, copies)), targets, data.head.kind, trained, weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(module.parameters(), 5.0).item()
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm)):  # before it reaches the weights, or a checkpoint of them
            raise TrainingError(
                f"step {step + 1} of {data.head.name!r} at {data.head.branch}: the loss is {value}, its gradient "
                f"{norm} long; a lower rate may help"
            )
        optimiser.step()
        losses.append(value)
        step += 1
        if step % _LOG_EVERY == 0 or step == recipe.steps:
            log.append((step, recipe.rate_at(step - 1), float(np.mean(losses))))
            losses.clear()
            write_log(run.log, ("step", "rate", "loss"), log)
        if run.checkpoint is not None and (step % run.every == 0 or step == recipe.steps):
            state = {"module": module.state_dict(), "optimiser": optimiser.state_dict()}
            save_checkpoint(run.checkpoint, depends, {**state, "step": step, "losses": losses, "log": log})
        if run.progress is not None:
            run.progress(step, recipe.steps)
    _finish(module, features, trained, seed)
    return module


def _optimiser(module: nn.Module, recipe: HeadRecipe) -> torch.optim.Optimizer:
    decayed = [p for p in module.parameters() if p.ndim > 1]
    rest = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": rest, "weight_decay": 0.0}]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.99))


@torch.no_grad()
def _finish(module: Head, features: Features, trained: Tensor, seed: int) -> None:
    """Batch-norm statistics of crops without jitter; zeros where nothing was learned, rather than noise."""
    rows = np.random.default_rng(seed).permutation(len(features))[:_NORM_IMAGES]
    if len(rows) > 1:
        with averaging_norms(module):
            for part in np.array_split(rows, -(-len(rows) // _NORM_BATCH)):
                module(features.gather(np.sort(part)))
    module.eval()
    module.fc.weight[~trained] = 0.0
    module.fc.bias[~trained] = 0.0


@torch.no_grad()
def predict_head(module: Head, features: Features) -> np.ndarray:
    """Logits of the plain crops, float32 [n, classes]."""
    module.eval()
    starts = range(0, len(features), _PREDICTED)
    parts = [module(features.gather(np.arange(a, min(a + _PREDICTED, len(features))))).numpy() for a in starts]
    return np.concatenate(parts) if parts else np.empty((0, module.fc.out_features), np.float32)
