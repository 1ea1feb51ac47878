"""What the user got wrong, and the options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeviceError, WeightsError
from ..formats import DTYPES

if TYPE_CHECKING:
    from ..photo import FaceAnalyzer

__all__ = [
    "QUIET",
    "UsageError",
    "add_analyzer_arguments",
    "add_detector_arguments",
    "add_threads_argument",
    "add_weights_argument",
    "counts",
    "load_analyzer",
    "names",
    "positive",
    "usage_errors",
    "weights_path",
]

#: Above this many CPUs used by others, the figures describe the neighbours as well.
QUIET = 0.1


class UsageError(Exception):
    """An argument, or a file that it names, is wrong: exit code 2 and this message."""


def names(text: str) -> list[str]:
    """An argparse type: ``a,b`` → [a, b]."""
    return [name for name in (part.strip() for part in text.split(",")) if name]


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """An argparse type: ``1,32`` → (1, 32)."""
    return tuple(positive(part) for part in names(text))


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights file (default: the one in the package)")


def add_threads_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--threads", type=positive, metavar="N", help="default: the CPUs that this process may use")


def add_detector_arguments(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--detector", default="auto", choices=("auto", "yunet", "haar"), help="default: auto")
    parser.add_argument("--detector-model", type=Path, metavar="FILE", help="YuNet's model file")
    parser.add_argument("--crops", action="store_true", help="the pictures are cropped faces: use no detector")


def add_analyzer_arguments(parser: argparse.ArgumentParser) -> None:
    """Network and detector."""
    add_weights_argument(parser)
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--dtype", metavar="FORMAT", help=f"{', '.join(DTYPES)} (default: float32 on the CPU)")
    add_threads_argument(parser)
    add_detector_arguments(parser)


def weights_path(arguments: argparse.Namespace) -> Path:
    """The weights file of the arguments; it exists."""
    from ..weights import shipped_weights

    path: Path = arguments.weights or shipped_weights()
    if not path.is_file():
        raise UsageError(f"no weights file {path}" + ("" if arguments.weights else "; give one with --weights"))
    return path


def load_analyzer(arguments: argparse.Namespace, heads: list[str] | None, sensitive: bool = False) -> FaceAnalyzer:
    """The analyzer of the arguments; UsageError where a part of it is wrong or not there."""
    from ..photo import DetectorError, FaceAnalyzer

    weights = weights_path(arguments)
    with usage_errors(DetectorError):
        return FaceAnalyzer.load(
            weights=weights,
            sensitive=sensitive,
            detector=_NoDetector() if arguments.crops else arguments.detector,
            detector_model=arguments.detector_model,
            device=arguments.device,
            dtype=arguments.dtype,
            threads=arguments.threads,
            heads=heads,
        )


@contextmanager
def usage_errors(*more: type[Exception]) -> Iterator[None]:
    """What goes wrong while options are taken up is the options' fault."""
    kinds: tuple[type[Exception], ...] = (WeightsError, DeviceError, ValueError, TypeError, OSError, ImportError, *more)
    try:
        yield
    except kinds as error:
        raise UsageError(str(error)) from error


class _NoDetector:
    """Stands where crops are given: no detector has to be there for them."""

    name = "none"

    def detect(self, image: Any) -> list[Any]:
        raise RuntimeError("these pictures are crops: they need no detector")
