"""Joint training of the trunk and every head, and the measurements on faces that training never saw.

Needs the ``torch`` and ``photo`` extras. The data adapters read folders of LFW, UTKFace and FER+; none of them is part
of the package.
"""

from .datasets import FaceSet, load_ferplus, load_lfw, load_utkface
from .evaluate import accuracy_report, predict
from .schedule import Budget, Recipe
from .trainer import train

__all__ = [
    "Budget", "FaceSet", "Recipe", "accuracy_report", "load_ferplus", "load_lfw", "load_utkface", "predict", "train",
]  # fmt: skip
