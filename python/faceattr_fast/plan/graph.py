"""The network as a graph of values, each with its linear definition.

There are two sorts. *Atoms* have a ReLU: the stem's output and the middle of every block. The others are *linear*:
the residual stream after each block's add, its mean over positions, the embedding and the logits. Nothing that reads
a linear value does more to it than a 1x1 convolution, a mean over positions or a matrix, and each of these composes
exactly with the value's own definition; :mod:`.rewrite` decides where that saves work.

A value is named by what it is and who owns it: ``x0`` the stem, ``m3`` and ``x3`` the middle and the stream of block
3, ``pooled``, ``embedding``, ``age.logits``; a head's own copies are ``emotion.m10`` and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..layers import TrunkPath, strided
from ..spec import BlockSpec, NetworkSpec
from .fold import FoldedLayer, fold_layer

__all__ = ["Graph", "Value"]

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Value:
    """``value = matrix · parent[::stride] + kernel ∗ mid + bias``; ReLU follows in a mid, a pooled value is the mean.

    Args:
        name: unique in its graph.
        kind: the stem, the middle of a block, the stream behind a block, its mean, or the result of a linear layer.
        depth: a value is computed from values of smaller depth only.
        side: positions per side; 1 for a vector.
        channels: per position.
        parent: what the definition reads through ``matrix``; None for the stem.
        stride: at which it reads ``parent``, and at which the 3x3 reads ``mid``.
        matrix: [channels, parent.channels]; None stands for the identity.
        mid: the block's atom that a stream reads through its 3x3.
        kernel: [channels, mid.channels, 3, 3]; the stem's is [channels, 3, 7, 7] and reads the pixels.
        bias: [channels] or None.
    """

    name: str
    kind: Literal["stem", "mid", "stream", "pooled", "linear"]
    depth: int
    side: int
    channels: int
    parent: Value | None = None
    stride: int = 1
    matrix: Array | None = None
    mid: Value | None = None
    kernel: Array | None = None
    bias: Array | None = None

    @property
    def is_atom(self) -> bool:
        return self.kind in ("stem", "mid")

    @property
    def is_vector(self) -> bool:
        return self.kind in ("pooled", "linear")

    def chain(self) -> Iterator[tuple[Value, Value]]:
        """(value, parent) from here on, as far as definitions can be expanded: up to a parent that is an atom."""
        value = self
        while value.parent is not None:
            yield value, value.parent
            if value.parent.is_atom:
                return
            value = value.parent


class Graph:
    """Values by name, made when first asked for, with what they are defined by."""

    def __init__(self, spec: NetworkSpec, tensors: Mapping[str, Array]) -> None:
        self.spec = spec
        self._tensors = tensors
        self._layers = {layer.prefix: layer for layer in spec.layers()}
        self._values: dict[str, Value] = {}

    def output(self, name: str) -> Value:
        """``embedding``, ``identity`` or the logits of a head. Raises ValueError for any other name."""
        if name == "embedding":
            return self._embedding(self.spec.path())
        if name == "identity":
            if self.spec.identities is None:
                raise ValueError("output 'identity' does not exist: this network has no identity layer")
            return self._linear("identity.logits", self._embedding(self.spec.path()), "heads.identity.fc")
        path = self.spec.path(self.spec.head(name))
        return self._linear(f"{name}.logits", self._embedding(path), path.fc)

    def trunk(self, name: str) -> Value:
        """A value of the trunk: ``x0``, ``m1``, ``x1``, … ``x{n}``, ``pooled`` or ``embedding``."""
        path, blocks = self.spec.path(), len(self.spec.blocks)
        if name == "embedding":
            return self._embedding(path)
        if name == "pooled":
            return self._pooled(path)
        kind, index = name[:1], int(name[1:]) if name[1:].isdecimal() else -1
        if kind == "x" and 0 <= index <= blocks:
            return self._stream(path, index)
        if kind == "m" and 1 <= index <= blocks:
            return self._mid(path, index, self._stream(path, index - 1))
        raise ValueError(
            f"value {name!r} does not exist: the trunk has x0 … x{blocks}, m1 … m{blocks}, pooled, embedding"
        )

    def _fold(self, prefix: str) -> FoldedLayer:
        return fold_layer(self._layers[prefix], self._tensors)

    def _stem(self, path: TrunkPath) -> Value:
        name = f"{_owner(path.stem, 'stem')}x0"
        if name not in self._values:
            layer, side = self._fold(f"{path.stem}.conv"), self.spec.pixels.size // 4
            self._values[name] = Value(
                name, "stem", depth=0, side=side, channels=len(layer.weight), kernel=layer.weight, bias=layer.bias
            )
        return self._values[name]

    def _mid(self, path: TrunkPath, index: int, stream: Value) -> Value:
        prefix = path.blocks[index - 1][0]
        name = f"{_owner(prefix, f'blocks.{index}')}m{index}"
        if name not in self._values:
            layer = self._fold(f"{prefix}.reduce")
            self._values[name] = Value(
                name, "mid", stream.depth + 1, stream.side, len(layer.weight),
                parent=stream, matrix=layer.weight[:, :, 0, 0], bias=layer.bias,
            )  # fmt: skip
        return self._values[name]

    def _stream(self, path: TrunkPath, count: int) -> Value:
        """The residual stream after the first ``count`` blocks."""
        stream = self._stem(path)
        for index, block in enumerate(self.spec.blocks[:count], start=1):
            stream = self._join(path, index, block, stream)
        return stream

    def _join(self, path: TrunkPath, index: int, block: BlockSpec, stream: Value) -> Value:
        prefix = path.blocks[index - 1][1]
        name = f"{_owner(prefix, f'blocks.{index}')}x{index}"
        if name not in self._values:
            mid, kernel = self._mid(path, index, stream), self._fold(f"{prefix}.expand").weight
            shortcut = self._fold(f"{prefix}.shortcut").weight[:, :, 0, 0] if block.projects else None
            self._values[name] = Value(
                name, "stream", mid.depth + 1, strided(stream.side, block.stride), block.out,
                parent=stream, stride=block.stride, matrix=shortcut, mid=mid, kernel=kernel,
            )  # fmt: skip
        return self._values[name]

    def _pooled(self, path: TrunkPath) -> Value:
        stream = self._stream(path, len(self.spec.blocks))
        name = f"{stream.name[: stream.name.rfind('.') + 1]}pooled"
        if name not in self._values:
            self._values[name] = Value(name, "pooled", stream.depth + 1, 1, stream.channels, parent=stream)
        return self._values[name]

    def _embedding(self, path: TrunkPath) -> Value:
        return self._linear(
            f"{_owner(path.bottleneck, 'bottleneck')}embedding", self._pooled(path), f"{path.bottleneck}.conv"
        )

    def _linear(self, name: str, parent: Value, prefix: str) -> Value:
        if name not in self._values:
            layer = self._fold(prefix)
            matrix = layer.weight.reshape(layer.weight.shape[:2])  # the bottleneck is stored as a 1x1 convolution
            self._values[name] = Value(
                name, "linear", parent.depth + 1, 1, len(matrix), parent=parent, matrix=matrix, bias=layer.bias
            )
        return self._values[name]


def _owner(prefix: str, local: str) -> str:
    """``heads.age.blocks.11`` → ``age.``, ``blocks.11`` → nothing."""
    return prefix.removesuffix(local).removeprefix("heads.")
