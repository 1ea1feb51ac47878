"""Say what this installation runs on: CPU, GPU, kernels, weights, detector, optional packages.

Exit code 1 if the network cannot run; anything optional may be missing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeviceError
from .usage import UsageError, add_weights_argument

if TYPE_CHECKING:
    from ..weights import Weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..weights import shipped_weights

    if arguments.weights and not arguments.weights.is_file():
        raise UsageError(f"no weights file {arguments.weights}")
    problems: list[str] = []
    _print("versions", _versions())
    _print("cpu", _cpu(problems))
    _print("cuda", _cuda(problems))
    weights = _load(arguments.weights or shipped_weights(), problems)
    _print("kernels", _kernels(weights, problems))
    _print("algorithms", [_algorithms()])
    _print("weights", _weights(arguments.weights or shipped_weights(), weights))
    _print("detector", [_detector()])
    _print("optional packages", _packages())
    _print("problems", problems or ["none"])
    return 1 if problems else 0


def _print(title: str, lines: Iterator[str] | list[str]) -> None:
    print(title)
    for line in lines:
        print(f"  {line}", flush=True)


def _versions() -> Iterator[str]:
    import numpy
    import safetensors

    from .. import __version__

    yield f"faceattr_fast {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield f"numpy {numpy.__version__}, safetensors {safetensors.__version__}"


def _cpu(problems: list[str]) -> Iterator[str]:
    from ..machine import cpu_model

    yield cpu_model()
    forced = os.environ.get("FACEATTR_ISA")
    yield f"instruction sets detected: {_detected()}" + (f"; FACEATTR_ISA={forced}" if forced else "")
    try:
        yield f"threads: {_threads()}"
    except ValueError as error:
        problems.append(str(error))
        yield f"threads: {error}"


def _cuda(problems: list[str]) -> Iterator[str]:
    """What the build has, what the machine has, and whether they meet; a machine without a GPU has no problem."""
    from .. import _core
    from ..engine.device import GPU_ENVIRONMENT, driver_version, find_cuda, is_gpu_choice

    has = "has the CUDA backend" if hasattr(_core, "_cuda") else "has no CUDA backend: it was made without nvcc"
    yield f"this build {has}"
    yield driver_version() or "no NVIDIA driver is loaded"
    choice = os.environ.get(GPU_ENVIRONMENT)
    if choice:
        yield f"{GPU_ENVIRONMENT}={choice}"
    try:
        devices, _ = find_cuda(0).module.devices()
    except DeviceError as error:
        if choice and not is_gpu_choice(choice):
            problems.append(str(error))
        yield f"not usable: {error}"
        return
    for i, (name, major, minor) in enumerate(devices):
        old = "" if major >= 8 else "; too old: the kernels need 8.0"
        yield f"cuda:{i}: {name}, compute capability {major}.{minor}{old}"


def _detected() -> str:
    """``scalar`` is one name for what every CPU of an architecture has, so say what that is here."""
    from .. import _core

    detected = _core.detected_isa()
    baseline = {"x86_64": "SSE2", "aarch64": "NEON, fused multiply-adds"}.get(platform.machine())
    return f"scalar ({baseline})" if detected == "scalar" and baseline else detected


def _threads() -> str:
    from ..engine.threads import thread_count

    count = thread_count(None)
    if os.environ.get("FACEATTR_NUM_THREADS"):
        return f"{count}, from FACEATTR_NUM_THREADS"
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    reason = "the CPUs that this process may use" if count == affinity else "the CPU quota of this container"
    return f"{count}, {reason} ({affinity} of {os.cpu_count()} CPUs)"


def _load(path: Path, problems: list[str]) -> Weights | None:
    from ..weights import read_weights

    try:
        return read_weights(path)
    except (OSError, ValueError) as error:
        problems.append(f"weights: {error}")
        return None


def _kernels(weights: Weights | None, problems: list[str]) -> Iterator[str]:
    """Per family, those that these weights use; without weights, those that the paper's network would."""
    import numpy as np

    from ..forward import FastForward
    from ..spec import NetworkSpec
    from ..weights import Weights

    if weights is None:
        spec = NetworkSpec.paper(identities=None)
        weights = Weights(spec, {name: np.zeros(shape, np.float32) for name, shape in spec.tensor_shapes().items()})
    try:
        description = FastForward(weights).describe()
    except (RuntimeError, ValueError) as error:
        problems.append(f"network: {error}")
        yield f"none: {error}"
        return
    yield f"instruction set chosen: {description.isa}; {description.dtype}"
    kinds: dict[str, set[str]] = {}
    for phase in description.phases:
        kinds.setdefault(phase.kind, set()).add(phase.kernel)
    for kind, kernels in kinds.items():
        yield f"{kind:14} {', '.join(sorted(kernels))}"
    given, executed = description.multiply_adds_as_given / 1e6, description.products / 1e6
    yield f"{given:.1f} M multiply-adds as given, {executed:.1f} M products executed; plan {description.hash[:12]}"


def _algorithms() -> str:
    """What chooses them: what is wrong with it is among the problems of the kernels."""
    from .. import _core
    from ..tuning.file import TUNE_ENVIRONMENT, default_tune_file, read_choices

    forced = os.environ.get("FACEATTR_ALGORITHM")
    if forced:
        return f"FACEATTR_ALGORITHM={forced}"
    file = default_tune_file()
    if file is None:
        return f"by rule; {TUNE_ENVIRONMENT}=off" if os.environ.get(TUNE_ENVIRONMENT) else "by rule"
    try:
        choices = read_choices(file.path, os.environ.get("FACEATTR_ISA") or _core.detected_isa())
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and not file.named:
            return f"by rule; {file.path}, which 'faceattr tune' writes, is not there"
        return f"{TUNE_ENVIRONMENT}: {error}" if file.named else f"by rule; {error}"
    if not choices:
        return f"by rule; {file.path} has nothing for this CPU, instruction set and version"
    counts = ", ".join(f"{dtype}: {len(shapes)}" for dtype, shapes in choices.items())
    return f"as measured, for some shapes of convolution ({counts}), otherwise by rule; {file.path}"


def _weights(path: Path, weights: Weights | None) -> Iterator[str]:
    if weights is None:
        yield f"{path}: not usable, see problems"
        return
    yield f"{path} ({path.stat().st_size / 1e6:.1f} MB)"
    yield f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    metadata = weights.metadata
    yield f"version {metadata.get('version', 'not stated')}, licence {_text(metadata.get('licence', 'not stated'))}"
    yield f"int8: {_int8(weights)}"
    for data in _list(metadata.get("trained_on")):
        yield f"trained on {_text(data)}"
    for head in weights.spec.heads:
        missing = [label for label, known in zip(head.class_labels, head.trained or (), strict=False) if not known]
        untrained = f"; no training data for {', '.join(missing)}" if missing else ""
        yield f"head {head.name}: {head.classes} classes{untrained}"
    accuracy = metadata.get("accuracy")
    if not isinstance(accuracy, Mapping) or not accuracy:
        yield "accuracy: not stated"
        return
    for name, figure in accuracy.items():
        yield f"accuracy, {name}: {_text(figure)}"


def _int8(weights: Weights) -> str:
    from ..formats.dtypes import INT8_KEY, int8_ranges

    if INT8_KEY not in weights.metadata:
        return "no scales; 'faceattr quantize' makes them"
    try:
        int8_ranges(weights)
    except ValueError as error:
        return str(error)
    images = weights.metadata[INT8_KEY].get("images")
    return f"scales from {images} faces" if isinstance(images, int) else "scales"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(value: Any) -> str:
    """Metadata on one line, whatever its shape."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return " ".join(str(value).split())


def _detector() -> str:
    from ..photo import DetectorError, YuNetDetector, find_detector
    from ..photo.detectors import YUNET_ENVIRONMENT

    try:
        detector = find_detector("auto")
    except (DetectorError, OSError, ImportError) as error:
        return f"none: {error}"
    if not isinstance(detector, YuNetDetector):
        better = "'faceattr predict --detector yunet' fetches a better one (230 KB)"
        return f"{detector.name}: bundled with OpenCV; no YuNet model is at hand, {better}"
    model = os.environ.get(YUNET_ENVIRONMENT)
    return f"{detector.name}: its model is " + (f"{model}, from {YUNET_ENVIRONMENT}" if model else "in the cache")


def _packages() -> Iterator[str]:
    from ..bench.machine import OPTIONAL, installed

    for name, distributions, extra in OPTIONAL:
        found = installed(distributions)
        yield f"{name:12} {found or f'missing: pip install {chr(39)}faceattr_fast[{extra}]{chr(39)}'}"
