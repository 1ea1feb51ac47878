"""The layers of a spec, one by one: names, shapes, parameters and multiply-adds; and the path from pixels to a head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .spec import BlockSpec, NetworkSpec

__all__ = ["BN_EPS", "BN_TENSORS", "Count", "Layer", "TrunkPath", "enumerate_layers"]

BN_EPS = 1e-5
BN_TENSORS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer with the batch norm behind it, if any.

    ``branch`` is its place in the paper's numbering; ``out_h`` and ``out_w`` are its output in pixels.
    """

    prefix: str
    branch: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    out_h: int
    out_w: int
    norm: str | None = None
    linear: bool = False

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels) + (() if self.linear else (self.kernel, self.kernel))

    @property
    def parameters(self) -> int:
        weight = self.out_channels * self.in_channels * self.kernel**2
        return weight + (self.out_channels if self.linear else 0) + (2 * self.out_channels if self.norm else 0)

    @property
    def multiply_adds(self) -> int:
        return self.out_channels * self.in_channels * self.kernel**2 * self.out_h * self.out_w

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {f"{self.prefix}.weight": self.weight_shape}
        if self.linear:
            shapes[f"{self.prefix}.bias"] = (self.out_channels,)
        if self.norm:
            shapes |= {f"{self.norm}.{name}": (self.out_channels,) for name in BN_TENSORS}
        return shapes


class Count:
    """Totals over :attr:`layers`; ``parameters`` and ``multiply_adds`` are integers, per image."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers = layers
        self.parameters = sum(layer.parameters for layer in layers)
        self.multiply_adds = sum(layer.multiply_adds for layer in layers)

    def __repr__(self) -> str:
        return f"Count(parameters={self.parameters:,}, multiply_adds={self.multiply_adds:,}, layers={len(self.layers)})"

    def __str__(self) -> str:
        rows = [f"{'layer':40} {'parameters':>12} {'multiply-adds':>15}"]
        rows += [f"{layer.prefix:40} {layer.parameters:12,} {layer.multiply_adds:15,}" for layer in self.layers]
        return "\n".join([*rows, f"{'total':40} {self.parameters:12,} {self.multiply_adds:15,}"])


@dataclass(frozen=True)
class TrunkPath:
    """Name prefixes of the tensors that one output reads, from the stem to the bottleneck.

    ``blocks[i - 1]`` is the pair (prefix of the 1x1 and its norm, prefix of the 3x3 and the shortcut) of block i. They
    differ where a head branches at an even convolution: it shares the block's 1x1 and has its own 3x3.
    """

    stem: str
    blocks: tuple[tuple[str, str], ...]
    bottleneck: str
    fc: str

    @classmethod
    def build(cls, block_count: int, own: str, branch_index: int) -> TrunkPath:
        def owner(index: int) -> str:  # layers from the branch point on are the head's own copies
            return own if index >= branch_index else ""

        return cls(
            stem=f"{owner(0)}stem",
            blocks=tuple(
                (f"{owner(2 * i - 1)}blocks.{i}", f"{owner(2 * i)}blocks.{i}") for i in range(1, block_count + 1)
            ),
            bottleneck=f"{owner(2 * block_count + 1)}bottleneck",
            fc=f"{own}fc",
        )


def strided(size: int, stride: int) -> int:
    """Output side of a 1x1, or of a 3x3 with padding 1: ceil(size / stride)."""
    return -(-size // stride)


def _path_layers(spec: NetworkSpec, path: TrunkPath) -> Iterator[Layer]:
    """Every layer on a path to the embedding, shared ones included."""
    size = spec.pixels.size // 2
    yield Layer(f"{path.stem}.conv", "conv0", 3, spec.stem.out, 7, 2, size, size, norm=f"{path.stem}.bn")
    size //= 2
    for i, (block, (reduce, expand)) in enumerate(zip(spec.blocks, path.blocks, strict=True), start=1):
        out = strided(size, block.stride)
        yield Layer(f"{reduce}.reduce", f"conv{2 * i - 1}", block.in_, block.mid, 1, 1, size, size, norm=f"{reduce}.bn")
        yield Layer(f"{expand}.expand", f"conv{2 * i}", block.mid, block.out, 3, block.stride, out, out)
        if block.projects:
            yield _shortcut(block, expand, i, out)
        size = out
    yield Layer(
        f"{path.bottleneck}.conv",
        "bottleneck",
        spec.trunk_channels,
        spec.embedding,
        1,
        1,
        1,
        1,
        norm=f"{path.bottleneck}.bn",
    )


def _shortcut(block: BlockSpec, prefix: str, index: int, out: int) -> Layer:
    return Layer(f"{prefix}.shortcut", f"conv{2 * index}", block.in_, block.out, 1, block.stride, out, out)


def enumerate_layers(spec: NetworkSpec) -> tuple[Layer, ...]:
    layers = {layer.prefix: layer for layer in _path_layers(spec, spec.path())}
    if spec.identities is not None:
        fc = Layer("heads.identity.fc", "fc", spec.embedding, spec.identities, 1, 1, 1, 1, linear=True)
        layers[fc.prefix] = fc
    for head in spec.heads:
        path = spec.path(head)
        layers |= {layer.prefix: layer for layer in _path_layers(spec, path)}
        layers[path.fc] = Layer(path.fc, "fc", spec.embedding, head.classes, 1, 1, 1, 1, linear=True)
    return tuple(layers.values())
