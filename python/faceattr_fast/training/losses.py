"""Losses as sums over faces and the weight that each is divided by.

A step's faces come in several parts, on several processes: sums of parts add up to those of the whole, means do not.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["cosine_loss_sum", "head_loss", "head_loss_sum", "head_loss_weight"]


def head_loss_sum(logits: Tensor, targets: Tensor, kind: str, trained: Tensor, factors: Tensor | None = None) -> Tensor:
    """Soft cross entropy (softmax), or one per class (sigmoid); classes without training data take no part.

    Args:
        logits, targets: [n, classes]; faces whose targets are all 0 give no loss.
        kind: of the head.
        trained: which classes are: [classes] booleans, or their numbers.
        factors: [classes]: of a class (softmax), of a yes to it (sigmoid); None: 1 each.
    """
    known = targets.any(1, keepdim=True)
    logits, targets = logits[:, trained], targets[:, trained]
    weight = 1.0 if factors is None else factors[trained]
    if kind == "sigmoid":
        return -((targets * F.logsigmoid(logits) * weight + (1 - targets) * F.logsigmoid(-logits)) * known).sum()
    return -(targets * weight * F.log_softmax(logits, 1)).sum()


def head_loss_weight(targets: Tensor, kind: str, trained: Tensor, factors: Tensor | None = None) -> Tensor:
    """What :func:`head_loss_sum` is a sum over: questions (sigmoid), or the weight of targets (softmax)."""
    if kind == "sigmoid":
        return (targets.any(1).sum() * targets[:, trained].shape[1]).float()
    # Targets sum to a face's weight: the mean is over that, so that a batch of doubtful faces steps as far as others.
    return (targets if factors is None else targets * factors)[:, trained].sum()


def head_loss(logits: Tensor, targets: Tensor, kind: str, trained: Tensor, factors: Tensor | None = None) -> Tensor:
    """The mean, with the arguments of :func:`head_loss_sum`."""
    weight = head_loss_weight(targets, kind, trained, factors)
    return head_loss_sum(logits, targets, kind, trained, factors) / weight.clamp(min=1e-6)


def cosine_loss_sum(embedding: Tensor, people: Tensor, identity: Tensor, scale: float, margin: float) -> Tensor:
    """Softmax cross entropy over scaled cosines to a vector per person, that of the person less a margin.

    Args:
        embedding: [n, E].
        people: [people, E].
        identity: int [n]; -1 gives no loss.
    """
    cosines = F.normalize(embedding) @ F.normalize(people).T
    cosines = cosines - margin * F.one_hot(identity.clamp(min=0), len(people))
    return F.cross_entropy(scale * cosines, identity, reduction="sum", ignore_index=-1)
