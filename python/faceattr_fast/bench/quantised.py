"""What int8 needs before it runs: the network calibrated on crops, for ``faceattr_fast`` and as an ONNX model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DeviceError
from ..formats.dtypes import INT8_KEY
from ..forward import FastForward
from ..weights import copy_weights, read_weights
from .inputs import Inputs, attribute_net

__all__ = ["UnsupportedError", "qdq_settings", "write_int8_onnx", "write_int8_weights"]


class UnsupportedError(RuntimeError):
    """This number format is not for this contender, or not on this machine; the message says why."""


def _multiplies_int8() -> bool:
    """Whether this CPU has instructions that multiply int8 and add in 32 bits.

    Without them, x86 runtimes add pairs of products in 16 bits (vpmaddubsw), which saturates: weights then have to stay
    within 7 bits.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_vnni", "avx_vnni", "asimddp"))


def write_int8_weights(inputs: Inputs) -> None:
    """A copy of the weights file with scales from the calibration crops.

    Raises:
        UnsupportedError: the package does not run this network in int8, or not here.
    """
    weights = read_weights(inputs.weights("float32"))
    try:
        fast = FastForward(weights, dtype="int8", calibration=inputs.calibration())
    except (ValueError, DeviceError) as error:
        raise UnsupportedError(str(error)) from error
    copy_weights(inputs.weights("float32"), inputs.weights("int8"), {INT8_KEY: fast.metadata[INT8_KEY]})


def qdq_settings() -> str:
    """How :func:`write_int8_onnx` quantises, in words."""
    return "QDQ, u8 activations, s8 weights per channel" + ("" if _multiplies_int8() else " in 7 bits")


def write_int8_onnx(inputs: Inputs, batches: Sequence[int]) -> None:
    """One quantised model, per batch size a copy that has it built in: ONNX Runtime's static quantisation."""
    import onnx
    from onnxruntime import quantization  # type: ignore[import, unused-ignore]
    from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import, unused-ignore]
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed  # type: ignore[import, unused-ignore]

    from ..export import export_onnx

    plain, whole = inputs.onnx("float32", None), inputs.onnx("int8", None)
    export_onnx(attribute_net(read_weights(inputs.weights("float32"))), plain)
    quant_pre_process(str(plain), str(plain), skip_symbolic_shape=True)
    logging.disable(logging.WARNING)  # it asks for a step that has been done
    try:
        quantization.quantize_static(
            str(plain),
            str(whole),
            _reader(quantization.CalibrationDataReader, inputs.calibration()),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,  # u8 x s8, which x86 has instructions for
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=not _multiplies_int8(),
        )
    finally:
        logging.disable(logging.NOTSET)
    for batch in set(batches):
        model = onnx.load(whole)
        make_dim_param_fixed(model.graph, "N", batch)
        onnx.save(model, inputs.onnx("int8", batch))


def _reader(base: type, pixels: np.ndarray) -> Any:
    class Reader(base):  # type: ignore[misc]
        """One crop after the other."""

        def __init__(self) -> None:
            self._crops = iter(pixels)

        def get_next(self) -> dict[str, np.ndarray] | None:
            crop = next(self._crops, None)
            return None if crop is None else {"pixels": np.array(crop[None])}

    return Reader()
