"""What a network is, as data: stem, stages of residual blocks, embedding, heads and the points where they branch.

The preset :meth:`NetworkSpec.paper` follows "Deep Architectures for Face Attributes" (Baumgartner & Culpepper, 2016),
section 2; the paper prints its widths only in part, the rest is reconstruction (docs/architecture.md says which).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

import numpy as np

from .layers import Count, Layer, TrunkPath, enumerate_layers

__all__ = ["BlockSpec", "HeadSpec", "NetworkSpec", "PixelSpec", "StemSpec"]

_HEAD_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED_HEAD_NAMES = ("embedding", "identity")

GENDER_LABELS = ("female", "male")
EMOTION_LABELS = ("happy", "sad", "angry", "surprised", "disgusted", "scared", "neutral")
# Adience's eight age groups and the years between them: a reconstruction of the paper's fourteen bins.
AGE_LABELS = (
    "0-2", "3", "4-6", "7", "8-14", "15-20", "21-24", "25-32", "33-37", "38-43", "44-47", "48-53", "54-59", "60+",
)  # fmt: skip
# "60+" has no upper end: ten years past its start, about the mean age of grown-ups beyond it in photo collections.
_OPEN_BIN_YEARS = 10.0

# The paper prints the first eight; the ninth follows the stock-photo scheme it uses (reconstruction).
ETHNICITY_LABELS = (
    "black", "east-asian", "hispanic", "middle-eastern", "pacific-islander", "south-asian", "south-east-asian", "white",
    "native-american",
)  # fmt: skip


# Far beyond any real network; they keep a spec from a damaged file from asking for absurd amounts of memory.
_MAX_CHANNELS = 1 << 20
_MAX_STRIDE = 1 << 10
_MAX_SIZE = 1 << 13
_MAX_PIXEL_MAGNITUDE = 1e30  # of mean and scale; float32 holds it


def _count(owner: str, name: str, value: Any, most: int = _MAX_CHANNELS) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"{owner}: {name} must be an integer from 1 to {most}, got {value!r}")
    return value


def _entries(owner: str, name: str, value: Any, kind: Any, what: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        raise ValueError(f"{owner}: {name} must be a sequence, got the string {value!r}")
    entries = tuple(value) if isinstance(value, Iterable) else None
    if entries is None or not all(isinstance(entry, kind) for entry in entries):
        raise ValueError(f"{owner}: {name} must be a sequence of {what}, got {value!r}")
    return entries


@dataclass(frozen=True)
class PixelSpec:
    """How pixels become numbers: ``x = (pixel - mean) / scale`` per RGB channel, in 0..255 units.

    ``size`` is the side of the square crop in pixels; the stem divides it by four.
    """

    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    scale: tuple[float, float, float] = (127.5, 127.5, 127.5)
    size: int = 224

    def __post_init__(self) -> None:
        for name in ("mean", "scale"):
            given = _entries("PixelSpec", name, getattr(self, name), Real, "numbers")
            if len(given) != 3 or not all(abs(v) <= _MAX_PIXEL_MAGNITUDE for v in given):
                raise ValueError(f"PixelSpec: {name} must be three finite numbers (RGB), got {given!r}")
            object.__setattr__(self, name, tuple(float(v) for v in given))
        if not all(abs(v) >= 1 / _MAX_PIXEL_MAGNITUDE for v in self.scale):
            raise ValueError(f"PixelSpec: scale must not contain 0, got {self.scale!r}")
        if _count("PixelSpec", "size", self.size, _MAX_SIZE) % 4:
            raise ValueError(f"PixelSpec: size must be a multiple of 4 (stem and pool halve it), got {self.size}")


@dataclass(frozen=True)
class StemSpec:
    """conv0: 7x7 convolution with stride 2 to ``out`` channels, batch norm, ReLU, 2x2 max pool."""

    out: int = 32

    def __post_init__(self) -> None:
        _count("StemSpec", "out", self.out)


@dataclass(frozen=True)
class BlockSpec:
    """1x1 to ``mid`` channels, batch norm, ReLU, 3x3 with ``stride`` to ``out`` channels, plus the shortcut."""

    in_: int
    mid: int
    out: int
    stride: int = 1

    def __post_init__(self) -> None:
        for name in ("in_", "mid", "out"):
            _count("BlockSpec", name, getattr(self, name))
        _count("BlockSpec", "stride", self.stride, _MAX_STRIDE)

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a 1x1 convolution (shapes differ) instead of the identity."""
        return self.in_ != self.out or self.stride != 1


@dataclass(frozen=True)
class HeadSpec:
    """One attribute: its classes and the layer from which on it has its own copy of the network.

    Args:
        name: key of the result; ``[a-z][a-z0-9_]*``, neither ``embedding`` nor ``identity``.
        classes: number of logits.
        branch: ``conv0`` … ``conv{2n}``, ``bottleneck`` (alias ``conv-bn320``) or ``fc``.
        kind: ``softmax`` (one label) or ``sigmoid`` (each class on its own).
        labels: one string per class, or None for ``"0"``, ``"1"``, …
        thresholds: probability from which on a class may become the label, per class, or None for no thresholds.
        trained: which classes had training data, per class (a single bool stands for all); None means all.
    """

    name: str
    classes: int
    branch: str
    kind: Literal["softmax", "sigmoid"] = "softmax"
    labels: tuple[str, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    trained: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _HEAD_NAME.fullmatch(self.name):
            raise ValueError(f"HeadSpec: name must match [a-z][a-z0-9_]*, got {self.name!r}")
        if self.name in _RESERVED_HEAD_NAMES:
            raise ValueError(f"HeadSpec: name {self.name!r} is reserved")
        owner = f"HeadSpec {self.name!r}"
        _count(owner, "classes", self.classes)
        if self.kind not in ("softmax", "sigmoid"):
            raise ValueError(f"{owner}: kind must be 'softmax' or 'sigmoid', got {self.kind!r}")
        object.__setattr__(self, "branch", canonical_branch(self.branch))
        if isinstance(self.trained, bool):
            object.__setattr__(self, "trained", (self.trained,) * self.classes)
        for name, kind, what, convert in (
            ("labels", object, "labels", str),
            ("thresholds", Real, "numbers", float),
            ("trained", (int, np.bool_), "truth values", bool),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            value = tuple(convert(v) for v in _entries(owner, name, value, kind, what))
            if len(value) != self.classes:
                raise ValueError(f"{owner}: {name} needs {self.classes} entries, one per class, got {len(value)}")
            object.__setattr__(self, name, value)
        # Just above 1 is how a class is never answered.
        if self.thresholds is not None and not all(0 <= threshold <= 1.001 for threshold in self.thresholds):
            raise ValueError(f"{owner}: thresholds must be probabilities, got {self.thresholds}")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"{owner}: labels must differ from each other, got {self.labels}")

    @property
    def class_labels(self) -> tuple[str, ...]:
        return self.labels if self.labels is not None else tuple(str(i) for i in range(self.classes))


def years_of_label(label: str) -> float | None:
    """Years that stand for an age label: ``"8-14"`` 11, ``"3"`` 3, ``"60+"`` 70; None for anything else."""
    match = re.fullmatch(r"(\d+)(?:-(\d+)|(\+))?", label)
    if match is None:
        return None
    low = float(match[1])
    if match[3]:
        return low + _OPEN_BIN_YEARS
    return (low + float(match[2])) / 2 if match[2] else low


def canonical_branch(branch: str) -> str:
    """``conv7``, ``bottleneck``, ``fc``; the paper's ``conv-bn320`` is ``bottleneck``."""
    if branch == "conv-bn320":
        return "bottleneck"
    if isinstance(branch, str) and (branch in ("bottleneck", "fc") or re.fullmatch(r"conv(0|[1-9]\d*)", branch)):
        return branch
    raise ValueError(f"branch must be 'conv0' … 'conv{{2n}}', 'bottleneck' or 'fc', got {branch!r}")


def _paper_stages() -> tuple[tuple[BlockSpec, ...], ...]:
    return (
        (BlockSpec(32, 64, 128, 1),),  # b
        (BlockSpec(128, 64, 128, 2), BlockSpec(128, 64, 256, 2)),  # c
        (BlockSpec(256, 128, 256, 1),) * 6,  # d
        (BlockSpec(256, 128, 256, 2),),  # e
        (BlockSpec(256, 128, 512, 1),),  # f
    )


def _paper_heads() -> tuple[HeadSpec, ...]:
    return (
        HeadSpec("gender", 2, "fc", labels=GENDER_LABELS),
        HeadSpec("ethnicity", 9, "fc", labels=ETHNICITY_LABELS),
        HeadSpec("emotion", 7, "conv19", labels=EMOTION_LABELS),
        HeadSpec("age", 14, "conv22", labels=AGE_LABELS),
    )


@dataclass(frozen=True)
class NetworkSpec:
    """A whole network: one trunk and any set of heads, each at its own branch point.

    Args:
        stem: conv0.
        stages: residual blocks, grouped as the paper groups them (b … f); only their order has meaning.
        embedding: width of the bottleneck, the identity embedding.
        heads: the attributes.
        identities: classes of the identity layer of the base network, or None for no identity layer.
        pixels: normalisation and side of the input crop.

    Raises:
        ValueError: a part does not fit its neighbour; the message names it, what was expected and what came.
    """

    stem: StemSpec = StemSpec()
    stages: tuple[tuple[BlockSpec, ...], ...] = field(default_factory=_paper_stages)
    embedding: int = 320
    heads: tuple[HeadSpec, ...] = ()
    identities: int | None = None
    pixels: PixelSpec = PixelSpec()

    def __post_init__(self) -> None:
        owner = "NetworkSpec"
        for name, expected in (("stem", StemSpec), ("pixels", PixelSpec)):
            if not isinstance(getattr(self, name), expected):
                raise ValueError(f"{owner}: {name} must be a {expected.__name__}, got {getattr(self, name)!r}")
        stages = _entries(owner, "stages", self.stages, Iterable, "stages, each a sequence of BlockSpec")
        stages = tuple(_entries(owner, f"stage {i}", stage, BlockSpec, "BlockSpec") for i, stage in enumerate(stages))
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "heads", _entries(owner, "heads", self.heads, HeadSpec, "HeadSpec"))
        _count("NetworkSpec", "embedding", self.embedding)
        if self.identities is not None:
            _count("NetworkSpec", "identities", self.identities)
        channels = self.stem.out
        for i, block in enumerate(self.blocks, start=1):
            if block.in_ != channels:
                raise ValueError(
                    f"NetworkSpec: block {i} expects {block.in_} channels, the layer before gives {channels}"
                )
            channels = block.out
        seen: set[str] = set()
        for head in self.heads:
            if head.name in seen:
                raise ValueError(f"NetworkSpec: two heads are named {head.name!r}")
            seen.add(head.name)
            self.branch_index(head.branch)

    @classmethod
    def paper(
        cls, identities: int | None = 10_000, heads: tuple[HeadSpec, ...] | None = None, pixels: PixelSpec | None = None
    ) -> NetworkSpec:
        """The network of the paper; ``heads=None`` stands for its four (gender, ethnicity, emotion, age)."""
        return cls(
            heads=_paper_heads() if heads is None else heads,
            identities=identities,
            pixels=PixelSpec() if pixels is None else pixels,
        )

    @property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """All residual blocks in order; block ``i`` of the tensor names is ``blocks[i - 1]``."""
        return tuple(block for stage in self.stages for block in stage)

    @property
    def trunk_channels(self) -> int:
        """Width of the last block's output, which the global average pool reads."""
        return self.blocks[-1].out if self.blocks else self.stem.out

    @property
    def branches(self) -> tuple[str, ...]:
        """Every branch point, from the input on."""
        return (*(f"conv{i}" for i in range(2 * len(self.blocks) + 1)), "bottleneck", "fc")

    def branch_index(self, branch: str) -> int:
        """Position of a branch point: i for ``conv{i}``, then the bottleneck and the linear layer."""
        branch = canonical_branch(branch)
        try:
            return self.branches.index(branch)
        except ValueError:
            last = 2 * len(self.blocks)
            raise ValueError(
                f"branch {branch!r} does not exist: this network has conv0 … conv{last}, bottleneck, fc"
            ) from None

    def head(self, name: str) -> HeadSpec:
        for head in self.heads:
            if head.name == name:
                return head
        raise ValueError(f"no head named {name!r}: this network has {', '.join(h.name for h in self.heads) or 'none'}")

    def path(self, head: HeadSpec | None = None) -> TrunkPath:
        """Which tensors the pixels meet on their way to ``head`` (None: to the embedding)."""
        if head is None:
            return TrunkPath.build(len(self.blocks), "", len(self.branches))
        return TrunkPath.build(len(self.blocks), f"heads.{head.name}.", self.branch_index(head.branch))

    def layers(self) -> tuple[Layer, ...]:
        """Every layer that has parameters, trunk first, then each head's own copies."""
        return enumerate_layers(self)

    def count(self) -> Count:
        """Parameters (conv, linear, norm; no running statistics) and multiply-adds of conv and linear layers."""
        return Count(self.layers())

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a weights file of this network."""
        return {name: shape for layer in self.layers() for name, shape in layer.tensor_shapes().items()}

    def to_json(self) -> str:
        return json.dumps(_to_plain(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> NetworkSpec:
        """The inverse of :meth:`to_json`; raises ValueError for anything else."""
        try:
            plain = json.loads(text)
            return cls(
                stem=StemSpec(**plain["stem"]),
                stages=tuple(tuple(BlockSpec(**block) for block in stage) for stage in plain["stages"]),
                embedding=plain["embedding"],
                heads=tuple(HeadSpec(**head) for head in plain["heads"]),
                identities=plain["identities"],
                pixels=PixelSpec(**plain["pixels"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, json.JSONDecodeError) as error:
            raise ValueError(f"not the JSON of a NetworkSpec: {error!r}") from error


def _to_plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {name: _to_plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple):
        return [_to_plain(v) for v in value]
    return value
