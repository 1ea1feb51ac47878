"""Batch norm folded into the convolution before it, in float64.

In evaluation mode ``bn(W ∗ x) = (γ/√(σ² + ε)) W ∗ x + (β - μ γ/√(σ² + ε))``: another convolution, with a bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..layers import BN_EPS, Layer

__all__ = ["FoldedLayer", "fold_layer"]

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class FoldedLayer:
    """``weight`` [oc, ic, kernel, kernel] or, of a linear layer, [oc, ic]; ``bias`` [oc] or None. float64."""

    weight: Array
    bias: Array | None


def fold_layer(layer: Layer, tensors: Mapping[str, Array]) -> FoldedLayer:
    """One layer of ``spec.layers()`` with its norm folded in; ``tensors`` by their names in a weights file."""
    weight = tensors[f"{layer.prefix}.weight"].astype(np.float64)
    if layer.linear:
        return FoldedLayer(weight, tensors[f"{layer.prefix}.bias"].astype(np.float64))
    if layer.norm is None:
        return FoldedLayer(weight, None)
    gamma, beta, mean, variance = (
        tensors[f"{layer.norm}.{name}"].astype(np.float64) for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + BN_EPS)
    return FoldedLayer(weight * scale[:, None, None, None], beta - mean * scale)
