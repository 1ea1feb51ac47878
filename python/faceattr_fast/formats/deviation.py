"""How far the results of one number format lie from those of another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..spec import NetworkSpec

__all__ = ["Deviation", "deviations"]


@dataclass(frozen=True)
class Deviation:
    """``error``: ‖found − exact‖₂ / ‖exact‖₂ over all faces. ``agreement``: the share of equal answers, 0 … 1.

    A softmax head's answer is its class of the largest logit, a sigmoid head's the sign of each logit; what is no head
    (embedding, identity) has None.
    """

    error: float
    agreement: float | None


def deviations(
    spec: NetworkSpec, found: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]
) -> dict[str, Deviation]:
    """By result; ``found`` and ``exact`` hold the same results of the same faces, one at least."""
    kinds = {head.name: head.kind for head in spec.heads}
    return {name: _deviation(kinds.get(name), found[name], exact[name]) for name in exact}


def _deviation(kind: str | None, found: np.ndarray, exact: np.ndarray) -> Deviation:
    distance, length = float(np.linalg.norm(found - exact)), float(np.linalg.norm(exact))
    error = distance / length if length else math.inf if distance else 0.0
    if kind is None:
        return Deviation(error, None)
    same = (found > 0) == (exact > 0) if kind == "sigmoid" else found.argmax(1) == exact.argmax(1)
    return Deviation(error, float(same.mean()))
