"""Who takes part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import DeviceError, WeightsError
from . import peers
from .inputs import Inputs
from .prepared import Last, Prepared
from .quantised import UnsupportedError
from .traffic import phase_bytes

__all__ = ["CONTENDERS", "PEERS", "Contender"]


@dataclass(frozen=True)
class Contender:
    """One way to run the network.

    Args:
        group: rows of one group are one product in different settings; its best one stands for it.
        packages: distributions that it needs, the runtime itself first.
        prepare: (inputs, dtype, threads, batch) → Prepared; UnsupportedError where it does not have that dtype.
        model: what it reads.
        batched_only: takes no part at batch 1.
    """

    group: str
    packages: tuple[str, ...]
    prepare: Callable[[Inputs, str, int, int], Prepared]
    model: Literal["weights", "onnx", "module"] = "weights"
    batched_only: bool = False

    def has(self, dtype: str) -> bool:
        """Whether there is such a format among those that it could have: mixed is a choice of this package's own, and
        peers run on the CPU, where float16 is no format for speed."""
        return dtype not in ("mixed", "float16") or self.model == "weights"

    def needs(self, dtype: str) -> tuple[str, ...]:
        """Distributions for this format."""
        return (*self.packages, "onnxruntime") if dtype == "int8" and self.model == "onnx" else self.packages


def _ours(form: str) -> Callable[[Inputs, str, int, int], Prepared]:
    def prepare(inputs: Inputs, dtype: str, threads: int, batch: int) -> Prepared:
        from ..forward import FastForward

        try:
            fast = FastForward.load(inputs.weights(dtype), device=inputs.device, dtype=dtype, threads=threads)
        except WeightsError:
            raise
        except (ValueError, DeviceError) as error:
            raise UnsupportedError(str(error)) from error
        array, last = inputs.batch(form, batch), Last()
        settings = f"{form} input, {fast.dtype}, {fast.isa}"
        if form != "float32":
            return Prepared(lambda: last.keep(fast(array)), last.get, array, batch, settings)

        def plan() -> dict[str, Any]:
            told = fast.describe().to_dict()
            for phase, planned in zip(told["phases"], fast._plan.phases, strict=True):
                phase["bytes"] = phase_bytes(fast._plan, planned)
            return told

        def profile() -> list[float]:
            return [phase.seconds or 0.0 for phase in fast.profile(array[:1]).phases]

        return Prepared(lambda: last.keep(fast(array)), last.get, array, batch, settings, plan, profile)

    return prepare


_EXPORT = ("torch", "onnx", "onnxscript")

CONTENDERS: dict[str, Contender] = {
    "faceattr_fast": Contender("faceattr_fast", ("faceattr_fast",), _ours("float32")),
    "faceattr_fast-uint8": Contender("faceattr_fast-uint8", ("faceattr_fast",), _ours("uint8")),
    "onnxruntime": Contender("onnxruntime", ("onnxruntime", *_EXPORT), peers.onnxruntime, "onnx"),
    "openvino-latency": Contender("openvino", ("openvino", *_EXPORT), peers.openvino("LATENCY"), "onnx"),
    "openvino-throughput": Contender(
        "openvino", ("openvino", *_EXPORT), peers.openvino("THROUGHPUT"), "onnx", batched_only=True
    ),
    "torch": Contender("torch", ("torch",), peers.torch_eager, "module"),
    "torch-compile": Contender("torch-compile", ("torch",), peers.torch_compile, "module"),
}
"""By name. Those whose group is not ``faceattr_fast…`` are peers, chosen by group."""

PEERS: tuple[str, ...] = tuple(
    dict.fromkeys(c.group for c in CONTENDERS.values() if not c.group.startswith("faceattr_fast"))
)
