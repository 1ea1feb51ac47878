"""The reference network as an ONNX file, for other runtimes. Needs the ``onnx`` extra."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np

from .forward import check_heads
from .weights import METADATA_KEY

if TYPE_CHECKING:
    from .reference import FaceAttrNet

__all__ = ["check_onnx", "export_onnx", "require_onnx"]

_OPSET = 18  # what torch's exporter is written for: it would convert to any other


def require_onnx() -> None:
    """Raise ImportError, naming the extra, unless everything that :func:`export_onnx` needs is installed."""
    missing = [name for name in ("torch", "onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX export needs {', '.join(missing)}: pip install 'faceattr_fast[onnx]'")


def export_onnx(
    net: FaceAttrNet,
    path: str | PathLike[str],
    heads: Sequence[str] | None = None,
    batch: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write ``net``, as it is in evaluation mode, as one ONNX file.

    Input ``pixels``: float32 [N, 3, S, S], normalised as ``net.spec.pixels`` says; outputs named as the heads, float32.
    The file's metadata entry ``faceattr`` is JSON with the spec (labels among it) and ``metadata``.

    Args:
        net: the reference module.
        path: file to write.
        heads: outputs, ``embedding`` and ``identity`` among them; None: the embedding and every attribute.
        batch: N; None: any.
        metadata: further keys of the metadata entry.

    Raises:
        ImportError: torch, onnx or onnxscript is not installed.
        WeightsError: a head that the network does not have.
    """
    require_onnx()
    import torch

    outputs = check_heads(net.spec, heads)
    size = net.spec.pixels.size
    # Tracing takes a size of 1 for a constant, so the example of a free batch has two images.
    example = torch.zeros(batch or 2, 3, size, size)
    training = net.training
    with _quiet():
        try:
            program = torch.onnx.export(
                _with_outputs(net.eval(), outputs),
                (example,),
                dynamo=True,
                opset_version=_OPSET,
                input_names=["pixels"],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},) if batch is None else None,
                verbose=False,
            )
        finally:
            net.train(training)
    assert program is not None  # None comes only from the exporter that dynamo=True replaces
    entry = {"spec": json.loads(net.spec.to_json()), **(metadata or {})}
    program.model.metadata_props[METADATA_KEY] = json.dumps(entry)
    program.save(fspath(path), external_data=False)


def check_onnx(net: FaceAttrNet, path: str | PathLike[str], tolerance: float = 1e-4) -> float | None:
    """Run the file and the module on the same random pixels, for one image and for two.

    Returns:
        The worst ‖onnx − module‖₂ / ‖module‖₂ of an output; None where onnxruntime is not installed.

    Raises:
        RuntimeError: it is above ``tolerance``, or not a number.
    """
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime  # type: ignore[import, unused-ignore]
    import torch

    session = onnxruntime.InferenceSession(fspath(path), providers=["CPUExecutionProvider"])
    size = net.spec.pixels.size
    worst = 0.0
    for batch in (1, 2):
        pixels = np.random.default_rng(batch).uniform(-1, 1, (batch, 3, size, size)).astype(np.float32)
        outputs = dict(zip((o.name for o in session.get_outputs()), session.run(None, {"pixels": pixels}), strict=True))
        training = net.training
        with torch.inference_mode():
            reference = net.eval()(torch.from_numpy(pixels))
        net.train(training)
        for name, output in outputs.items():
            expected = reference[name].numpy()
            error = float(np.linalg.norm(output - expected) / max(np.linalg.norm(expected), np.finfo(np.float32).tiny))
            if not error <= tolerance:
                raise RuntimeError(f"onnxruntime does not agree with the module: {name} is off by {error:.1e}")
            worst = max(worst, error)
    return worst


def _with_outputs(net: FaceAttrNet, names: Sequence[str]) -> Any:
    """``net`` with a tuple for a result: ONNX outputs have an order, and only what is listed is computed."""
    from torch import Tensor, nn

    class Selected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
            outputs = self.net(pixels)
            return tuple(outputs[name] for name in names)

    return Selected()


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its own deprecations and of every step; none of that is for the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
