"""Who takes part, and how each is set up for its best: imported and run in the worker processes only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..weights import read_weights
from .inputs import Inputs, attribute_net

__all__ = ["CONTENDERS", "PEERS", "Contender", "Prepared"]

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready for one batch size.

    Args:
        call: what is timed; leaves its results where ``outputs`` finds them.
        outputs: results of the last call, by head, for the first batch of it.
        images: images per call.
        settings: what was chosen for it, in words.
    """

    call: Callable[[], object]
    outputs: Callable[[], Outputs]
    images: int
    settings: str


@dataclass(frozen=True)
class Contender:
    """One way to run the network.

    Args:
        group: rows of one group are one product in different settings; its best one stands for it.
        packages: distributions that it needs, the runtime itself first.
        prepare: (inputs, threads, batch) → Prepared.
        batched_only: takes no part at batch 1.
        needs_onnx: reads the ONNX models.
    """

    group: str
    packages: tuple[str, ...]
    prepare: Callable[[Inputs, int, int], Prepared]
    batched_only: bool = False
    needs_onnx: bool = False


def _ours(pixels: Callable[[Inputs, int], np.ndarray], form: str) -> Callable[[Inputs, int, int], Prepared]:
    def prepare(inputs: Inputs, threads: int, batch: int) -> Prepared:
        from ..forward import FastForward

        fast = FastForward.load(inputs.weights, dtype=inputs.dtype, threads=threads)
        array, last = pixels(inputs, batch), _Last()
        return Prepared(lambda: last.keep(fast(array)), last.get, batch, f"{form} input, {fast.dtype}, {fast.isa}")

    return prepare


def _onnxruntime(inputs: Inputs, threads: int, batch: int) -> Prepared:
    import onnxruntime as ort  # type: ignore[import, unused-ignore]

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Its threads spin for some milliseconds after a call (the default): fast while it runs, asleep by the next turn.
    session = ort.InferenceSession(str(inputs.onnx(batch)), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    array, last = inputs.float32(batch), _Last()
    return Prepared(
        lambda: last.keep(session.run(names, {"pixels": array})),
        lambda: dict(zip(names, last.get(), strict=True)),
        batch,
        "all graph optimisations, static batch",
    )


def _openvino(mode: str) -> Callable[[Inputs, int, int], Prepared]:
    def prepare(inputs: Inputs, threads: int, batch: int) -> Prepared:
        import openvino as ov  # type: ignore[import, unused-ignore]

        core = ov.Core()
        options = {"PERFORMANCE_HINT": mode, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(str(inputs.onnx(batch))), "CPU", options)
        names = [output.get_any_name() for output in compiled.outputs]
        array, last, settings = inputs.float32(batch), _Last(), f"hint {mode}, f32, static batch"
        if mode == "LATENCY":
            request = compiled.create_infer_request()

            def infer() -> None:
                request.infer({0: array}, share_inputs=True, share_outputs=True)

            def outputs() -> Outputs:
                return {name: request.get_output_tensor(i).data.copy() for i, name in enumerate(names)}

            return Prepared(infer, outputs, batch, settings)

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
        return Prepared(infer_all, lambda: dict(zip(names, last.get(), strict=True)), count * batch, settings)

    return prepare


def _torch(inputs: Inputs, threads: int, batch: int) -> Prepared:
    import torch

    torch.set_num_threads(threads)
    net: Any = attribute_net(read_weights(inputs.weights))
    net.to(memory_format=torch.channels_last)
    array, last = torch.from_numpy(inputs.float32(batch)), _Last()

    def call() -> None:
        with torch.inference_mode():
            last.keep(net(array.contiguous(memory_format=torch.channels_last)))

    return Prepared(call, lambda: _to_numpy(last.get()), batch, "eager, inference_mode, channels_last")


def _torch_compile(inputs: Inputs, threads: int, batch: int) -> Prepared:
    import torch
    import torch._inductor.config as inductor

    torch.set_num_threads(threads)
    inductor.freezing = True  # weights become constants; batch norm folds
    net: Any = attribute_net(read_weights(inputs.weights))
    net.to(memory_format=torch.channels_last)
    compiled: Any = torch.compile(net, dynamic=False)
    array, last = torch.from_numpy(inputs.float32(batch)), _Last()

    def call() -> None:
        with torch.no_grad():  # freezing does not take inference_mode
            last.keep(compiled(array.contiguous(memory_format=torch.channels_last)))

    return Prepared(call, lambda: _to_numpy(last.get()), batch, "compiled, frozen, channels_last")


def _to_numpy(outputs: dict[str, Any]) -> Outputs:
    return {name: value.numpy() for name, value in outputs.items()}


class _Last:
    """Results of the last call."""

    def __init__(self) -> None:
        self._value: Any = None

    def keep(self, value: object) -> None:
        self._value = value

    def get(self) -> Any:
        return self._value


_EXPORT = ("torch", "onnx", "onnxscript")

CONTENDERS: dict[str, Contender] = {
    "faceattr_fast": Contender("faceattr_fast", ("faceattr_fast",), _ours(Inputs.float32, "float32")),
    "faceattr_fast-uint8": Contender("faceattr_fast-uint8", ("faceattr_fast",), _ours(Inputs.uint8, "uint8")),
    "onnxruntime": Contender("onnxruntime", ("onnxruntime", *_EXPORT), _onnxruntime, needs_onnx=True),
    "openvino-latency": Contender("openvino", ("openvino", *_EXPORT), _openvino("LATENCY"), needs_onnx=True),
    "openvino-throughput": Contender(
        "openvino", ("openvino", *_EXPORT), _openvino("THROUGHPUT"), batched_only=True, needs_onnx=True
    ),
    "torch": Contender("torch", ("torch",), _torch),
    "torch-compile": Contender("torch-compile", ("torch",), _torch_compile),
}
"""By name. Those whose group is not ``faceattr_fast…`` are peers, chosen by group."""

PEERS: tuple[str, ...] = tuple(
    dict.fromkeys(c.group for c in CONTENDERS.values() if not c.group.startswith("faceattr_fast"))
)
