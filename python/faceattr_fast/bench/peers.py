"""The other runtimes, each set up for its best: run in the worker processes only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..weights import read_weights
from .inputs import Inputs, attribute_net
from .prepared import Last, Outputs, Prepared
from .quantised import UnsupportedError, qdq_settings

__all__ = ["onnxruntime", "openvino", "torch_compile", "torch_eager"]


def onnxruntime(inputs: Inputs, dtype: str, threads: int, batch: int) -> Prepared:
    import onnxruntime as ort  # type: ignore[import, unused-ignore]

    if dtype == "bfloat16":
        raise UnsupportedError("it has no bfloat16 convolution for CPUs")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Its threads spin for some milliseconds after a call (the default): fast while it runs, asleep by the next turn.
    session = ort.InferenceSession(str(inputs.onnx(dtype, batch)), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    array, last = inputs.batch("float32", batch), Last()
    return Prepared(
        lambda: last.keep(session.run(names, {"pixels": array})),
        lambda: dict(zip(names, last.get(), strict=True)),
        array,
        batch,
        "all graph optimisations, static batch" + (f", {qdq_settings()}" if dtype == "int8" else ""),
    )


def openvino(mode: str) -> Callable[[Inputs, str, int, int], Prepared]:
    def prepare(inputs: Inputs, dtype: str, threads: int, batch: int) -> Prepared:
        import openvino as ov  # type: ignore[import, unused-ignore]

        core = ov.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if dtype == "bfloat16" and "BF16" not in capabilities:
            raise UnsupportedError(f"on this CPU it offers {', '.join(capabilities)}")
        # What int8 leaves in floating point stays float32: the layers of the model say which they are.
        precision = "bf16" if dtype == "bfloat16" else "f32"
        options = {"PERFORMANCE_HINT": mode, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
        compiled = core.compile_model(core.read_model(str(inputs.onnx(dtype, batch))), "CPU", options)
        names = [output.get_any_name() for output in compiled.outputs]
        array, last = inputs.batch("float32", batch), Last()
        settings = f"hint {mode}, {qdq_settings() if dtype == 'int8' else precision}, static batch"
        if mode == "LATENCY":
            request = compiled.create_infer_request()

            def infer() -> None:
                request.infer({0: array}, share_inputs=True, share_outputs=True)

            def outputs() -> Outputs:
                return {name: request.get_output_tensor(i).data.copy() for i, name in enumerate(names)}

            return Prepared(infer, outputs, array, batch, settings)

        queue = ov.AsyncInferQueue(compiled)  # as many requests at once as the runtime holds best
        count = 2 * len(queue)  # each finishes twice per call: a call's ragged end weighs less

        def done(request: Any, _: object) -> None:
            last.keep([request.get_output_tensor(i).data.copy() for i in range(len(names))])

        queue.set_callback(done)

        def infer_all() -> None:
            for _ in range(count):
                queue.start_async({0: array}, share_inputs=True)
            queue.wait_all()

        settings += f", {len(queue)} requests at once"
        return Prepared(infer_all, lambda: dict(zip(names, last.get(), strict=True)), array, count * batch, settings)

    return prepare


def torch_eager(inputs: Inputs, dtype: str, threads: int, batch: int) -> Prepared:
    import torch

    torch.set_num_threads(threads)
    net = _module(inputs, dtype)
    if dtype == "int8":
        net, engine = _quantised(net, inputs)
        how = f"eager, FX quantisation for {engine}, calibrated at load"
    else:
        how = "eager, inference_mode"
    net.to(memory_format=torch.channels_last)
    return _torch(net, torch.inference_mode, inputs, dtype, batch, f"{how}, channels_last")


def torch_compile(inputs: Inputs, dtype: str, threads: int, batch: int) -> Prepared:
    import torch
    import torch._inductor.config as inductor

    if dtype == "int8":
        raise UnsupportedError("its int8 needs the quantiser of another package, torchao")
    torch.set_num_threads(threads)
    inductor.freezing = True  # weights become constants; batch norm folds
    net = _module(inputs, dtype)
    net.to(memory_format=torch.channels_last)
    compiled: Any = torch.compile(net, dynamic=False)
    # Freezing does not take inference_mode.
    return _torch(compiled, torch.no_grad, inputs, dtype, batch, "compiled, frozen, channels_last")


def _module(inputs: Inputs, dtype: str) -> Any:
    if dtype == "bfloat16" and not _convolves_bfloat16():
        raise UnsupportedError("its bfloat16 convolutions need AVX-512")
    net: Any = attribute_net(read_weights(inputs.weights("float32")))
    return net.bfloat16() if dtype == "bfloat16" else net


def _convolves_bfloat16() -> bool:
    """Whether oneDNN does; PyTorch's own loops would run anywhere, many times slower than float32."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _quantised(net: Any, inputs: Inputs) -> tuple[Any, str]:
    """Static quantisation with torch's own settings for this machine, and which they are."""
    import torch

    try:
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
    except ImportError as error:  # announced for a later version
        raise UnsupportedError("this version has no quantiser of its own any more") from error

    engine = torch.backends.quantized.engine
    crops = torch.from_numpy(inputs.calibration()[:].copy())
    observed = prepare_fx(net, get_default_qconfig_mapping(engine), (crops[:1],))
    with torch.inference_mode():
        for crop in crops:
            observed(crop[None])
        return convert_fx(observed), engine


def _torch(net: Any, mode: Callable[[], Any], inputs: Inputs, dtype: str, batch: int, settings: str) -> Prepared:
    """``net`` on the float32 array that everyone reads: its conversion is part of the call."""
    import torch

    array, last = inputs.batch("float32", batch), Last()
    pixels = torch.from_numpy(array)
    form = torch.bfloat16 if dtype == "bfloat16" else torch.float32

    def call() -> None:
        with mode():
            last.keep(net(pixels.to(form, memory_format=torch.channels_last)))

    def outputs() -> Outputs:
        return {name: value.float().numpy() for name, value in last.get().items()}

    return Prepared(call, outputs, array, batch, settings)
