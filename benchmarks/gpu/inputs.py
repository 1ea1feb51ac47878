"""Step: what all later steps share: fresh weights and pixels, drawn from the run's seed, and their float64 results."""

from __future__ import annotations

import numpy as np

from faceattr_fast.bench.inputs import Inputs, synthetic_crops, write_inputs
from faceattr_fast.bench.machine import describe_machine
from faceattr_fast.bench.quantised import write_int8_weights
from faceattr_fast.spec import BlockSpec, HeadSpec, NetworkSpec, PixelSpec, StemSpec
from faceattr_fast.weights import Weights, write_weights

from .network import POOL
from .store import Folder, Step, is_emulated

__all__ = ["network_spec", "random_weights", "run"]


def run(folder: Folder, step: Step) -> None:
    spec = network_spec()
    folder.inputs.mkdir(parents=True, exist_ok=True)
    path = folder.inputs / "weights.safetensors"
    write_weights(path, random_weights(spec, folder.seed))
    crops = synthetic_crops(spec.pixels, [POOL], folder.seed)
    inputs = Inputs(folder.inputs)
    reference = write_inputs(inputs, path, crops, [POOL], onnx=False)
    np.savez(folder.inputs / "reference.npz", **reference)
    write_int8_weights(inputs)
    step.set(machine=describe_machine(), crops=crops.describe(),
             norms={name: float(np.linalg.norm(value)) for name, value in reference.items()})  # fmt: skip


def network_spec() -> NetworkSpec:
    """The paper's; for the emulator one that it runs in a moment, with all kinds of blocks and heads."""
    if not is_emulated():
        return NetworkSpec.paper(identities=None)
    return NetworkSpec(
        StemSpec(8),
        ((BlockSpec(8, 6, 12, 1),), (BlockSpec(12, 5, 12, 1), BlockSpec(12, 8, 20, 2))),
        embedding=10,
        heads=(HeadSpec("mood", 3, "conv3"), HeadSpec("hat", 4, "bottleneck"), HeadSpec("pose", 5, "fc")),
        identities=None,
        pixels=PixelSpec(size=32),
    )


def random_weights(spec: NetworkSpec, seed: int) -> Weights:
    """Such that activations stay near 1, and every norm moves and scales its channels."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("running_var"):
            return rng.uniform(0.5, 2, shape)
        if name.endswith("bn.weight"):
            return rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
        if len(shape) == 1:  # biases, running means
            return rng.normal(0, 0.3, shape)
        return rng.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape)

    return Weights(spec, {name: draw(name, shape).astype(np.float32) for name, shape in spec.tensor_shapes().items()})
