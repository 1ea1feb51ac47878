"""Training on labelled faces, and measuring on those that training never saw.

Needs the ``photo`` extra, and ``torch`` for all that trains; measuring does without it. The data adapters read folders
of LFW, UTKFace and FER+; none of them is part of the package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cases import Cases, examine, predict
    from .datasets import FaceSet, load_ferplus, load_lfw, load_utkface
    from .evaluate import measure
    from .schedule import Budget, Recipe
    from .trainer import train

__all__ = [
    "Budget", "Cases", "FaceSet", "Recipe", "examine", "load_ferplus", "load_lfw", "load_utkface", "measure",
    "predict", "train",
]  # fmt: skip

_MODULES = {
    "cases": ("Cases", "examine", "predict"),
    "datasets": ("FaceSet", "load_ferplus", "load_lfw", "load_utkface"),
    "evaluate": ("measure",),
    "schedule": ("Budget", "Recipe"),
    "trainer": ("train",),
}


def __getattr__(name: str) -> Any:
    """Parts are imported when they are first used: only some of them need torch."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
