"""Training on labelled faces, and measuring on those that training never saw.

Needs the ``train`` extra; packing and measuring do without its torch. :func:`.prepare.prepare` packs the pictures of a
source (:mod:`.sources`) into a folder, :class:`PackedFaces` reads it; no data set is part of the package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cases import Cases, examine, predict
    from .datasets import FaceSet
    from .evaluate import measure
    from .packed import PackedFaces
    from .prepare import PrepareOptions
    from .schedule import Budget, Recipe
    from .trainer import train

__all__ = [
    "Budget", "Cases", "FaceSet", "PackedFaces", "PrepareOptions", "Recipe", "examine", "measure", "predict", "train",
]  # fmt: skip

_MODULES = {
    "cases": ("Cases", "examine", "predict"),
    "datasets": ("FaceSet",),
    "evaluate": ("measure",),
    "packed": ("PackedFaces",),
    "prepare": ("PrepareOptions",),
    "schedule": ("Budget", "Recipe"),
    "trainer": ("train",),
}


def __getattr__(name: str) -> Any:
    """Parts are imported when they are first used: only some of them need torch."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
