"""Joint training of the trunk and every head, and the measurements on faces that training never saw.

Needs the ``train`` extra. :func:`prepare` packs the pictures of a source (:mod:`.sources`) into a folder,
:class:`PackedFaces` reads it; no data set is part of the package.
"""

from .datasets import FaceSet
from .evaluate import accuracy_report, predict
from .packed import PackedFaces
from .prepare import PrepareOptions, prepare
from .schedule import Budget, Recipe
from .trainer import train

__all__ = [
    "Budget", "FaceSet", "PackedFaces", "PrepareOptions", "Recipe", "accuracy_report", "predict", "prepare", "train",
]  # fmt: skip
