"""Training on labelled faces, and measuring on those that training never saw.

Needs the ``train`` extra; packing and measuring do without its torch. :func:`prepare` packs the pictures of a source
(:mod:`.sources`) into a folder, :class:`PackedFaces` reads it, :func:`examine_packed` and :func:`measure` say how well
a network knows it; no data set is part of the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .cases import Cases, examine, examine_packed, predict
from .datasets import FaceSet
from .evaluate import measure
from .packed import PackedFaces
from .prepare import PrepareOptions, prepare
from .recipes import Recipe

if TYPE_CHECKING:
    from .base import train_base

__all__ = [
    "Cases", "FaceSet", "PackedFaces", "PrepareOptions", "Recipe", "examine", "examine_packed", "measure",
    "predict", "prepare", "train_base",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What trains is imported when it is first used: it loads torch."""
    if name == "train_base":
        from .base import train_base

        return train_base
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
