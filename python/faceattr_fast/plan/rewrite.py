"""From a network to its plan, as given or rewritten.

The exact rewrite: a value that is read only through linear layers need not be formed. Whoever reads a linear value
reads it either as it is formed or as what it is made of, with composed weights (W, C, S matrices, x the stream, m a
mid, ∗t a 3x3 at stride t):

    W (C ∗t m + S x[::t])       = (W C) ∗t m + (W S) x[::t]
    (C ∗t m)[::s]               = C ∗(s·t) m
    mean(C ∗t m)                = C · (the means of what each of its nine taps reads)

All of this is exact in real arithmetic. Where it saves work is found on the graph, by dimensions alone: which values
are formed, whole or only on the grid that their readers use, so that the multiply-adds of the network are fewest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..spec import NetworkSpec
from .expansion import Site, choose_as_given, choose_fewest
from .fusion import fuse
from .graph import Graph
from .lowering import lower, tensor_shapes
from .phases import Plan

__all__ = ["build_features_plan", "build_plan"]


def build_plan(
    spec: NetworkSpec,
    tensors: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    *,
    rewrite: bool = True,
    taps: Mapping[str, str] | None = None,
) -> Plan:
    """The phases that compute ``outputs`` and nothing else.

    Args:
        spec: the network.
        tensors: its weights by their names in a file.
        outputs: among ``embedding``, ``identity`` and the heads' names.
        rewrite: False runs the network as given: every value formed, nothing fused.
        taps: further results by name, each a value of the trunk that is kept whole: ``x0`` (the stem), ``m3`` and
            ``x3`` (the middle of block 3 and the stream behind it), ``pooled``, ``embedding``.

    Raises:
        ValueError: there is no such output or value, or nothing to compute.
    """
    graph, taps = Graph(spec, tensors), taps or {}
    values = {name: graph.output(name) for name in outputs} | {name: graph.trunk(tap) for name, tap in taps.items()}
    if not values:
        raise ValueError("outputs must not be empty: expected 'embedding', 'identity' or names of heads")
    # In one order whatever the order of the request, so that equal requests become equal plans.
    order = ["embedding", "identity", *(head.name for head in spec.heads), *sorted(taps)]
    sites = [Site(values[name]) for name in order if name in values]
    choices = (choose_fewest if rewrite else choose_as_given)(spec, sites)
    phases, located = lower(choices, values)
    parts: dict[str, tuple[tuple[str, int], ...]] = {}
    if rewrite:
        phases, located, parts = fuse(phases, located)
    return Plan(
        spec, tensor_shapes(phases, spec.pixels.size // 4), tuple(phases), located, rewritten=rewrite, parts=parts
    )


def build_features_plan(
    spec: NetworkSpec, tensors: Mapping[str, np.ndarray], branch: str, rewrite: bool = True
) -> Plan:
    """What a head at ``branch`` reads, as outputs of a plan.

    An odd convolution reads ``block_input``; an even one ``mid`` (after ReLU) and, for its shortcut, ``block_input``;
    the bottleneck reads ``pooled``; fc reads ``embedding``.

    Raises:
        ValueError: there is no such branch, or it is conv0, which reads the pixels.
    """
    index = spec.branch_index(branch)
    name = spec.branches[index]
    if name == "conv0":
        raise ValueError("branch 'conv0' reads the pixels; no plan computes them")
    if name == "bottleneck":
        taps = {"pooled": "pooled"}
    elif name == "fc":
        taps = {"embedding": "embedding"}
    elif index % 2:
        taps = {"block_input": f"x{index // 2}"}
    else:
        taps = {"mid": f"m{index // 2}", "block_input": f"x{index // 2 - 1}"}
    return build_plan(spec, tensors, (), rewrite=rewrite, taps=taps)
