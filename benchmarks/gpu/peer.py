"""Steps: other runtimes of the same network, each at its best that is known here, on the same pixels.

All take normalised pixels as float16 in the layout that they like, on the device already: unlike this package, which
reads bytes, they have no conversion to do. All compute the embedding and all attributes, norms folded into
convolutions.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from faceattr_fast.weights import Weights, read_weights

from .network import pool, require_inputs, torch_cuda
from .ours import BATCHES, FEW, is_right, measure
from .record import clocks
from .store import Folder, SkippedError, Step
from .timing import time_host

__all__ = ["run"]


def run(folder: Folder, step: Step, what: str) -> None:
    torch = torch_cuda()
    weights = read_weights(require_inputs(folder).weights("float32"))
    step.set(clocks_before=clocks())
    {
        "eager": lambda: _eager(torch, folder, step, weights),
        "compile": lambda: _compiled(torch, folder, step, weights, rewrite=False),
        "compile-rewritten": lambda: _compiled(torch, folder, step, weights, rewrite=True),
        "jax": lambda: _jax(folder, step, weights),
        "tensorrt": lambda: _tensorrt(torch, folder, step, weights),
    }[what]()
    step.set(clocks_after=clocks())


def _eager(torch: Any, folder: Folder, step: Step, weights: Weights) -> None:
    torch.backends.cudnn.benchmark = True  # its fastest algorithm for each shape
    net = _net(torch, weights, rewrite=False)
    for batch in BATCHES:
        _torch(torch, folder, step, net, {"contender": "torch", "form": "as given", "dtype": "float16", "batch": batch})


def _compiled(torch: Any, folder: Folder, step: Step, weights: Weights, rewrite: bool) -> None:
    import torch._inductor.config as inductor

    inductor.freezing = True  # weights become constants
    net, form = _net(torch, weights, rewrite), "rewritten" if rewrite else "as given"
    for batch in FEW:
        torch._dynamo.reset()
        # Its own graphs would copy pixels and results; the caller's graph is measured instead.
        compiled = torch.compile(net, mode="max-autotune-no-cudagraphs", dynamic=False)
        row = {
            "contender": "torch-compile",
            "form": form,
            "dtype": "float16",
            "batch": batch,
            "settings": "max-autotune, frozen",
        }
        _torch(torch, folder, step, compiled, row)


def _net(torch: Any, weights: Weights, rewrite: bool) -> Any:
    from .plan_net import PlanNet, plan_of

    return PlanNet(plan_of(weights, rewrite)).eval().cuda().half().to(memory_format=torch.channels_last)


def _torch(torch: Any, folder: Folder, step: Step, net: Any, row: dict[str, Any]) -> None:
    pixels = torch.from_numpy(pool(folder, "float32", row["batch"])).cuda().half()
    sets = [pixels.roll(i, 0).contiguous(memory_format=torch.channels_last) for i in range(4)]
    results: list[dict[str, Any]] = [{} for _ in sets]

    def call(i: int) -> None:
        with torch.no_grad():
            results[i] = net(sets[i])  # of a graph: where each replay leaves them

    measure(torch, folder, step, row, [lambda i=i: call(i) for i in range(len(sets))], lambda: results[0])


def _jax(folder: Folder, step: Step, weights: Weights) -> None:
    if find_spec("jax") is None:
        raise SkippedError("not measured: jax is not installed")
    import jax

    if jax.default_backend() != "gpu":
        raise SkippedError(f"not measured: jax runs on {jax.default_backend()}")
    from .plan_net import jax_function, plan_of

    run_plan, parameters = jax_function(plan_of(weights, rewrite=False), jax.numpy.float16)
    for batch in FEW:
        x = jax.numpy.asarray(pool(folder, "float32", batch).transpose(0, 2, 3, 1), jax.numpy.float16)
        compiled = jax.jit(run_plan).lower(parameters, x).compile()
        row = {"contender": "jax", "form": "as given", "dtype": "float16", "batch": batch, "how": "call",
               "settings": "compiled ahead"}  # fmt: skip
        results = {name: np.asarray(value, np.float32) for name, value in compiled(parameters, x).items()}
        if not is_right(folder, step, row, results):
            continue
        times = time_host(lambda c=compiled, x=x: jax.block_until_ready(c(parameters, x)), 1)
        step.add("rows", {**row, "clock": "host", "seconds": times})
        # Calls are queued: of 20 in a row, the device works on one while the host prepares the next.
        times = time_host(lambda c=compiled, x=x: jax.block_until_ready([c(parameters, x) for _ in range(20)]), 2)
        each = {key: value / 20 if key != "calls" else value for key, value in times.items()}
        step.add("rows", {**row, "clock": "device, back to back", "seconds": each})


def _tensorrt(torch: Any, folder: Folder, step: Step, weights: Weights) -> None:
    if find_spec("tensorrt") is None:
        raise SkippedError("not measured: tensorrt is not installed")
    import tensorrt as trt  # type: ignore[import, unused-ignore]

    from faceattr_fast.bench.inputs import attribute_net
    from faceattr_fast.export import export_onnx

    logger = trt.Logger(trt.Logger.WARNING)
    for batch in FEW:
        path = Path(folder.inputs / f"batch{batch}.onnx")
        export_onnx(attribute_net(weights), path, batch=batch)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(path.read_bytes()):
            raise SkippedError(f"not measured: {parser.get_error(0)}")
        config = builder.create_builder_config()
        config.set_flag(trt.BuilderFlag.FP16)
        engine = trt.Runtime(logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))
        context = engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        outputs = {name: torch.empty(tuple(engine.get_tensor_shape(name)), device="cuda")
                   for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT}  # fmt: skip
        for name, value in outputs.items():
            context.set_tensor_address(name, value.data_ptr())
        pixels = torch.from_numpy(pool(folder, "float32", batch)).cuda()

        def call(context: Any = context, pixels: Any = pixels) -> None:
            context.set_tensor_address("pixels", pixels.data_ptr())
            context.execute_async_v3(torch.cuda.current_stream().cuda_stream)

        row = {"contender": "tensorrt", "form": "as given", "dtype": "float16", "batch": batch,
               "settings": f"{trt.__version__}, float32 pixels"}  # fmt: skip
        measure(torch, folder, step, row, [call], lambda outputs=outputs: outputs)
