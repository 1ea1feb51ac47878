"""A plan as a torch module and as a function of JAX: what peers compile, as given or rewritten, norms folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faceattr_fast.plan.phases import LinearHead, Plan, SegmentedConv, ShiftedMeans, Stem
from faceattr_fast.plan.rewrite import build_plan
from faceattr_fast.weights import Weights

__all__ = ["PlanNet", "jax_function", "plan_of"]


def plan_of(weights: Weights, rewrite: bool) -> Plan:
    """The embedding and all attributes, in floats."""
    names = ["embedding", *(head.name for head in weights.spec.heads)]
    return build_plan(weights.spec, weights.tensors, names, rewrite=rewrite)


class PlanNet(nn.Module):
    """``forward`` takes normalised pixels [N, 3, S, S] and returns a dict of the plan's outputs.

    Segments that convolve alike are one convolution over their channels.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self._names: dict[int, str] = {}
        for i, phase in enumerate(plan.phases):
            for key, array in _arrays(phase).items():
                self.register_buffer(f"p{i}_{key}", torch.from_numpy(np.array(array, np.float64)).float())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for i, phase in enumerate(self.plan.phases):
            get = lambda key, i=i: getattr(self, f"p{i}_{key}")  # noqa: E731
            match phase:
                case Stem():
                    y = F.conv2d(x, get("weight"), get("bias"), stride=2, padding=3)
                    tensors[phase.dst] = F.relu(F.max_pool2d(y, 2))
                case SegmentedConv():
                    tensors[phase.dst] = self._conv(phase, tensors, get)
                case ShiftedMeans():
                    tensors[phase.dst] = _means(phase, tensors[phase.src])
                case LinearHead():
                    y = get("bias")
                    for j, (src, weight) in enumerate(phase.inputs):
                        y = y + F.linear(tensors[src][:, : weight.shape[1]], get(f"weight{j}"))
                    tensors[phase.dst] = y
                case _:
                    raise TypeError(f"{type(phase).__name__} is no phase of floats")
        return {name: tensors[o.tensor][:, o.start : o.start + o.count] for name, o in self.plan.outputs.items()}

    def _conv(self, phase: SegmentedConv, tensors: dict[str, Tensor], get: Callable[[str], Tensor]) -> Tensor:
        bias = None if phase.bias is None else get("bias")
        total: Tensor | None = None
        for (kernel, stride), segments in _alike(phase).items():
            parts = [tensors[s.src][:, s.start : s.start + s.count] for s in segments]
            read = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
            y = F.conv2d(read, get(f"weight_{kernel}_{stride}"), bias, stride=stride, padding=kernel // 2)
            total, bias = y if total is None else total + y, None
        assert total is not None
        if phase.residual is not None:
            total = total + tensors[phase.residual]
        return F.relu(total) if phase.relu else total


def _arrays(phase: Any) -> dict[str, np.ndarray]:
    match phase:
        case Stem():
            return {"weight": phase.weight, "bias": phase.bias}
        case SegmentedConv():
            arrays = {f"weight_{kernel}_{stride}": np.concatenate([s.weight for s in segments], 1)
                      for (kernel, stride), segments in _alike(phase).items()}  # fmt: skip
            return arrays if phase.bias is None else {**arrays, "bias": phase.bias}
        case LinearHead():
            return {**{f"weight{j}": weight for j, (_, weight) in enumerate(phase.inputs)}, "bias": phase.bias}
        case _:
            return {}


def _alike(phase: SegmentedConv) -> dict[tuple[int, int], list[Any]]:
    groups: dict[tuple[int, int], list[Any]] = {}
    for segment in phase.segments:
        groups.setdefault((segment.kernel, segment.stride), []).append(segment)
    return groups


def _means(phase: ShiftedMeans, src: Tensor) -> Tensor:
    read, pad, stride = src[:, phase.start : phase.start + phase.count], phase.kernel // 2, phase.stride
    height, width = read.shape[2:]
    padded = F.pad(read, (pad, pad, pad, pad))
    taps = [padded[:, :, ky : ky + height : stride, kx : kx + width : stride].mean((2, 3))
            for ky in range(phase.kernel) for kx in range(phase.kernel)]  # fmt: skip
    return torch.cat(taps, 1)


def jax_function(plan: Plan, dtype: Any) -> tuple[Callable[[Any, Any], Any], Any]:
    """(parameters, pixels [N, S, S, 3]) → outputs, in NHWC as XLA likes it; and the parameters."""
    import jax.numpy as jnp
    from jax import lax

    def array(key: str, value: np.ndarray) -> Any:
        value = np.asarray(value, np.float32)
        return jnp.asarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value, dtype)

    parameters = [{key: array(key, value) for key, value in _arrays(phase).items()} for phase in plan.phases]

    def conv(x: Any, weight: Any, stride: int) -> Any:
        pad = weight.shape[0] // 2
        return lax.conv_general_dilated(
            x, weight, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def run(parameters: Any, x: Any) -> Any:
        tensors: dict[str, Any] = {}
        for p, phase in zip(parameters, plan.phases, strict=True):
            match phase:
                case Stem():
                    y = conv(x, p["weight"], 2) + p["bias"]
                    n, height, width, channels = y.shape
                    y = y.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
                    tensors[phase.dst] = jnp.maximum(y, 0)
                case SegmentedConv():
                    y = p.get("bias", 0) if phase.residual is None else tensors[phase.residual] + p.get("bias", 0)
                    for (kernel, stride), segments in _alike(phase).items():
                        parts = [tensors[s.src][..., s.start : s.start + s.count] for s in segments]
                        y = y + conv(jnp.concatenate(parts, -1), p[f"weight_{kernel}_{stride}"], stride)
                    tensors[phase.dst] = jnp.maximum(y, 0) if phase.relu else y
                case ShiftedMeans():
                    pad, stride = phase.kernel // 2, phase.stride
                    read = tensors[phase.src][..., phase.start : phase.start + phase.count]
                    height, width = read.shape[1:3]
                    padded = jnp.pad(read, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
                    taps = [padded[:, ky : ky + height : stride, kx : kx + width : stride].mean((1, 2))
                            for ky in range(phase.kernel) for kx in range(phase.kernel)]  # fmt: skip
                    tensors[phase.dst] = jnp.concatenate(taps, -1)
                case LinearHead():
                    tensors[phase.dst] = p["bias"] + sum(
                        tensors[src][:, : weight.shape[1]] @ p[f"weight{j}"].T
                        for j, (src, weight) in enumerate(phase.inputs)
                    )
        return {name: tensors[o.tensor][:, o.start : o.start + o.count] for name, o in plan.outputs.items()}

    return run, parameters
