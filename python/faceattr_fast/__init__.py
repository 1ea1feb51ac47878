"""One forward pass over a face crop: identity embedding, gender, age, ethnicity and emotion, on fused CPU kernels.

``FastForward`` runs the network, ``FaceAnalyzer`` takes it from a photo to typed results, ``reference`` is the same
network in PyTorch. Importing this package loads neither torch nor OpenCV.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .engine.device import DeviceArray
from .errors import DeviceError, WeightsError
from .forward import FastForward, Outputs
from .spec import BlockSpec, HeadSpec, NetworkSpec, PixelSpec, StemSpec
from .weights import shipped_weights

if TYPE_CHECKING:
    from . import reference
    from .photo import Face, FaceAnalyzer, align, similarity

__all__ = [
    "BlockSpec",
    "DeviceArray",
    "DeviceError",
    "Face",
    "FaceAnalyzer",
    "FastForward",
    "HeadSpec",
    "NetworkSpec",
    "Outputs",
    "PixelSpec",
    "StemSpec",
    "WeightsError",
    "align",
    "reference",
    "shipped_weights",
    "similarity",
]

_LAZY = {"Face": ".photo", "FaceAnalyzer": ".photo", "align": ".photo", "similarity": ".photo"}


def __getattr__(name: str) -> Any:
    """Parts that need an extra are imported when they are first used."""
    if name == "reference":
        try:
            return import_module(".reference", __name__)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError("faceattr_fast.reference needs PyTorch: pip install 'faceattr_fast[torch]'") from error
    if name == "__version__":
        return _version()
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("faceattr_fast")
    except PackageNotFoundError:  # run from a source tree
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
