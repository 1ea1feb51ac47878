"""What the user got wrong, and the options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeviceError, WeightsError
from ..formats.dtypes import DTYPES

if TYPE_CHECKING:
    from ..photo import FaceAnalyzer

__all__ = [
    "QUIET",
    "UsageError",
    "add_analyzer_arguments",
    "add_detector_arguments",
    "add_device_argument",
    "add_dtype_argument",
    "add_threads_argument",
    "add_weights_argument",
    "check_outputs",
    "counts",
    "load_analyzer",
    "log_beside",
    "names",
    "positive",
    "usage_errors",
    "weights_path",
]

#: Above this many CPUs used by others, the figures describe the neighbours as well.
QUIET = 0.1


class UsageError(Exception):
    """An argument, or a file that it names, is wrong: exit code 2 and this message."""


def log_beside(out: Path, suffix: str) -> Path:
    """FILE.safetensors → FILE.json; of any other name all is kept: base-0.1 and base-0.2 have logs of their own."""
    return out.with_suffix(suffix) if out.suffix == ".safetensors" else out.with_name(out.name + suffix)


def check_outputs(out: Path, *inputs: Path | None) -> None:
    """What training writes, a weights file and logs beside it, is possible and overwrites nothing that it reads."""
    if out.is_dir() or not out.absolute().parent.is_dir():  # before the work, not after it
        raise UsageError(f"--out {out} is a folder, or is in none that exists")
    written = {path.resolve() for path in (out, log_beside(out, ".csv"), log_beside(out, ".json"))}
    for path in inputs:
        if path is not None and path.resolve() in written:
            raise UsageError(f"--out {out} would overwrite {path}, which is read: give another name")


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


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (default: cpu)")


def add_dtype_argument(parser: argparse.ArgumentParser) -> None:
    formats = "; ".join(f"on {kind}: {', '.join(names)}" for kind, names in DTYPES.items())
    parser.add_argument("--dtype", metavar="FORMAT", help=f"{formats} (default: the first)")


def add_detector_arguments(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--detector", default="auto", choices=("auto", "yunet", "haar"), help="default: auto")
    parser.add_argument("--detector-model", type=Path, metavar="FILE", help="YuNet's model file")
    parser.add_argument("--crops", action="store_true", help="the pictures are cropped faces: use no detector")


def add_analyzer_arguments(parser: argparse.ArgumentParser) -> None:
    """Network and detector."""
    add_weights_argument(parser)
    add_device_argument(parser)
    add_dtype_argument(parser)
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
    from ..photo.detectors import NoDetector

    weights = weights_path(arguments)
    with usage_errors(DetectorError):
        return FaceAnalyzer.load(
            weights=weights,
            sensitive=sensitive,
            detector=NoDetector() if arguments.crops else arguments.detector,
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
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            raise UsageError("this command needs PyTorch: pip install 'faceattr_fast[train]'") from error
        raise UsageError(str(error)) from error
