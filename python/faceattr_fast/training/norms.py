"""Batch-norm statistics after training: of the very crops that the network will see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..reference import FaceAttrNet
from .batches import BaseData, batches_of
from .learner import pixels_of

__all__ = ["averaging_norms", "estimate_norms", "limit_variances"]


@torch.no_grad()
def estimate_norms(
    net: FaceAttrNet, data: BaseData, seed: int, images: int = 2000, batch: int = 50, threads: int = 1
) -> None:
    """Set the batch-norm statistics to those of training crops without jitter, at the true size.

    Args:
        net: on any device.
        data: training faces, drawn as in training.
        seed: of the draw, which goes on behind the last step.
        images: how many at most; no more than there are to train on.
        batch: at a time.
        threads: that render.
    """
    place = next(net.parameters()).device
    first, at_a_time = data.recipe.steps, data.recipe.phases[-1].batch
    steps = range(first, first - (-min(images, int(data.used.sum())) // at_a_time))
    with averaging_norms(net):
        for faces in batches_of(data, seed, steps, threads=threads, plain=net.spec.pixels.size):
            for part in faces.parts(batch):
                net(pixels_of(part.crops.to(place), net.spec))


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
