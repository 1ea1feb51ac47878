"""The PyTorch reference: the network as a trainable module, oracle of every fast path. Needs the ``torch`` extra."""

from .model import FaceAttrNet, load, save

__all__ = ["FaceAttrNet", "load", "save"]
