"""The fast forward pass: weights in, plan built and packed once, then pixels → outputs through the C++ engine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .algorithms import choose_algorithms
from .arrays import as_outputs, as_pixels
from .backend import compile_plan
from .describe import Description, describe_phases
from .errors import DeviceError, WeightsError
from .formats import DTYPES, format_plan, with_int8_ranges
from .plan import LinearHead, Plan, ShiftedMeans
from .rewrite import build_features_plan, build_plan
from .spec import NetworkSpec, canonical_branch
from .threads import thread_count
from .tune_file import Overrides, current_overrides
from .weights import Weights, check_tensors, parse_weights, write_weights

if TYPE_CHECKING:
    from .reference import FaceAttrNet

__all__ = ["DTYPES", "FastForward", "Outputs", "check_heads"]


class Outputs(dict[str, np.ndarray]):
    """Results by name: ``embedding`` [N, E], raw logits [N, classes] per head; float32."""

    def __repr__(self) -> str:
        return "Outputs(" + ", ".join(f"{name}={value.dtype}{list(value.shape)}" for name, value in self.items()) + ")"


class FastForward:
    """One network, compiled for this machine. Immutable; call it from any number of threads.

    Built by :meth:`load` or :meth:`from_module`. Survives fork and pickles. On the CPU the bits of a result depend on
    the network, heads, ``rewrite``, instruction set and tuned algorithms only: not on batch size, threads or callers.

    Attributes:
        spec: the network.
        heads: names of the results, in order.
        metadata: what the weights file says besides its spec (crop template, licence, what it was trained on, …).
        device, dtype, threads, isa: what it runs on.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        dtype: str | None = None,
        heads: Sequence[str] | None = None,
        threads: int | None = None,
        rewrite: bool = True,
        calibration: Any = None,
        _source: tuple[str, str] | None = None,
        _overrides: Overrides | None = None,
    ) -> None:
        self._source = _source  # (path, SHA-256) of the file, for pickling
        self.spec: NetworkSpec = weights.spec
        self.device = _check_device(device)
        self.dtype = _check_dtype(dtype)
        self.heads = check_heads(self.spec, heads)
        self.threads = thread_count(threads)
        if not isinstance(rewrite, bool):
            raise TypeError(f"rewrite: expected a bool, got {type(rewrite).__name__}")
        self._options: dict[str, Any] = {
            "device": device, "dtype": dtype, "heads": self.heads, "threads": threads, "rewrite": rewrite,
        }  # fmt: skip
        self._forced_isa = os.environ.get("FACEATTR_ISA", "")
        # A pickle brings its own, so that it computes the same bits wherever it is loaded.
        self._overrides = _overrides or current_overrides(self._forced_isa or _core.detected_isa(), self.dtype)
        if calibration is not None:
            pixels = as_pixels(calibration, self.spec.pixels.size, "calibration")
            weights = with_int8_ranges(weights, pixels, self.threads, self._forced_isa)
        self._weights = weights
        self.metadata: Mapping[str, Any] = weights.metadata
        self._plan, self._engine = self._compile(build_plan(self.spec, weights.tensors, self.heads, rewrite=rewrite))
        _core.trim_memory()  # composing weights in float64 took several times what the engine keeps
        self.isa: str = self._engine.isa
        self._features: dict[str, tuple[Plan, _core.Engine]] = {}

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        device: str = "cpu",
        dtype: str | None = None,
        heads: Sequence[str] | None = None,
        threads: int | None = None,
        rewrite: bool = True,
    ) -> FastForward:
        """Read a weights file and compile its network.

        Args:
            path: safetensors file.
            device: ``cpu``.
            dtype: ``float32`` (None is the same), ``bfloat16``, ``int8``, or ``mixed``, which is int8 where that
                saves time and costs little, and float32 elsewhere; for both the file needs scales
                (``faceattr quantize``).
            heads: results wanted, ``embedding`` and ``identity`` among them; None: the embedding and every attribute.
                Only what is listed is computed.
            threads: per call; None: FACEATTR_NUM_THREADS, or the CPUs that this process may use.
            rewrite: run the exact rewrite (fewer multiply-adds); False: the network layer by layer, as given.

        Raises:
            FileNotFoundError: no such file.
            WeightsError: damaged file, tensors that do not fit, or a head that the file does not have.
            DeviceError: device or instruction set that is not there.
            TypeError, ValueError: any other wrong argument.
        """
        if not isinstance(path, (str, PathLike)):
            raise TypeError(f"path: expected a string or path, got {type(path).__name__}")
        weights, sha256 = _read(path)
        return cls(
            weights,
            device=device, dtype=dtype, heads=heads, threads=threads, rewrite=rewrite,
            _source=(os.path.abspath(path), sha256),
        )  # fmt: skip

    @classmethod
    def from_module(
        cls,
        net: FaceAttrNet,
        device: str = "cpu",
        dtype: str | None = None,
        heads: Sequence[str] | None = None,
        threads: int | None = None,
        rewrite: bool = True,
        metadata: Mapping[str, Any] | None = None,
        calibration: Any = None,
    ) -> FastForward:
        """Compile the torch reference as it is now, with its running statistics; options as in :meth:`load`.

        Args:
            calibration: sample pixels, in a form that calls take, from which the scales for ``int8`` are made;
                :meth:`save` writes them.
        """
        from .reference.model import FaceAttrNet, tensors_of

        if not isinstance(net, FaceAttrNet):
            raise TypeError(f"net: expected a reference.FaceAttrNet, got {type(net).__name__}")
        tensors = {name: np.array(value) for name, value in tensors_of(net).items()}
        check_tensors(net.spec, tensors, "module")
        weights = Weights(net.spec, tensors, dict(metadata or {}))
        return cls(
            weights,
            device=device, dtype=dtype, heads=heads, threads=threads, rewrite=rewrite, calibration=calibration,
        )  # fmt: skip

    def save(self, path: str | PathLike[str], dtype: str = "float32") -> None:
        """Write the original tensors, not the rewritten ones, and the metadata, int8 scales among it.

        Args:
            dtype: of the file, ``float32`` or ``float16``; a file for int8 is of these too.
        """
        write_weights(path, self._weights, dtype=dtype)

    def __call__(self, pixels: Any, out: Mapping[str, np.ndarray] | None = None) -> Outputs:
        """Run the network.

        Args:
            pixels: uint8 [N, S, S, 3] RGB, or float32 [N, 3, S, S] normalised as ``spec.pixels`` says; any N ≥ 0;
                numpy, torch or any ``__dlpack__`` producer. C-contiguous arrays are not copied.
            out: arrays to write to, one C-contiguous float32 array per result; None: new ones.

        Returns:
            Results by name. An image with a non-finite pixel gets NaN in all of them; other images keep their bits.

        Raises:
            TypeError, ValueError, DeviceError: the message names the argument, what was expected and what came.
        """
        array = as_pixels(pixels, self.spec.pixels.size)
        shapes = _output_shapes(self._plan, len(array))
        if out is None:
            arrays = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        else:
            arrays = as_outputs(out, shapes, array)
        self._engine.run(array, list(arrays.values()))
        return Outputs(arrays)

    def features(self, pixels: Any, branch: str) -> Outputs:
        """What a head that branches at ``branch`` reads, for training it on a frozen trunk.

        Args:
            pixels: as in a call.
            branch: ``conv1`` … ``conv{2n}``, ``bottleneck`` or ``fc``; ``conv0`` gives the normalised pixels.

        Returns:
            float32 NHWC arrays: ``block_input`` at an odd convolution; ``mid`` (after ReLU) and ``block_input`` (for
            the shortcut) at an even one; ``pooled`` [N, C] at the bottleneck; ``embedding`` [N, E] at fc.
        """
        array = as_pixels(pixels, self.spec.pixels.size)
        branch = canonical_branch(branch)
        self.spec.branch_index(branch)  # raises for a branch that this network does not have
        if branch == "conv0":
            return Outputs(pixels=_normalised_nhwc(array, self.spec))
        plan, engine = self._features_engine(branch)
        arrays = {name: np.empty(shape, np.float32) for name, shape in _output_shapes(plan, len(array)).items()}
        engine.run(array, list(arrays.values()))
        return Outputs(arrays)

    def _features_engine(self, branch: str) -> tuple[Plan, _core.Engine]:
        # No lock: it could be held for ever in a forked child. Two first callers may both build; one result is kept.
        cached = self._features.get(branch)
        if cached is None:
            rewrite = self._options["rewrite"]
            compiled = self._compile(build_features_plan(self.spec, self._weights.tensors, branch, rewrite=rewrite))
            cached = self._features.setdefault(branch, compiled)
            _core.trim_memory()
        return cached

    def _compile(self, plan: Plan) -> tuple[Plan, _core.Engine]:
        isa, forced = self._forced_isa or _core.detected_isa(), self._overrides.forced
        plan = format_plan(plan, self._weights, self.dtype, isa, forced)
        plan = choose_algorithms(plan, forced, self._overrides.tuned)
        engine = compile_plan(plan, self.threads, self._forced_isa)
        return plan.without_weights(), engine  # which the engine has packed

    def describe(self) -> Description:
        """The plan: per phase kernel, shapes and multiply-adds; device, instruction set, threads; its hash."""
        return self._describe(None)

    def profile(self, pixels: Any) -> Description:
        """The same with seconds per phase and image: one run over ``pixels``, all threads on one image at a time."""
        array = as_pixels(pixels, self.spec.pixels.size)
        if len(array) == 0:
            raise ValueError("pixels: profiling needs at least one image")
        arrays = [np.empty(shape, np.float32) for shape in _output_shapes(self._plan, len(array)).values()]
        self._engine.run(array[:1], [a[:1] for a in arrays])  # warm up: threads, memory
        return self._describe([s / len(array) for s in self._engine.profile(array, arrays)])

    def _describe(self, seconds: list[float] | None) -> Description:
        return Description(
            device=self.device,
            dtype=self.dtype,
            isa=self.isa,
            threads=self.threads,
            rewritten=self._plan.rewritten,
            hash=self._plan.hash(),
            multiply_adds_as_given=_as_given(self.spec, self.heads),
            multiply_adds=self._plan.multiply_adds(),
            products=self._plan.products(),
            weight_bytes=self._engine.weight_bytes,
            arena_bytes=self._engine.arena_bytes,
            first_grouped=next((p.dst for p in self._plan.phases[self._engine.first_grouped :]), None),
            group_images=self._engine.group_images,
            phases=describe_phases(self._plan, self._engine.kernels, self._overrides, seconds),
        )

    def __repr__(self) -> str:
        return f"FastForward({', '.join(self.heads)}; {self.device} {self.dtype}, {self.isa}, {self.threads} threads)"

    def __reduce__(self) -> tuple[Any, ...]:
        options = {**self._options, "_overrides": self._overrides}
        if self._source is None:
            return _from_weights, (self._weights, options)
        return _from_file, (*self._source, options)


def _read(path: str | PathLike[str]) -> tuple[Weights, str]:
    """A weights file and its SHA-256."""
    data = Path(path).read_bytes()
    return parse_weights(data, str(path)), hashlib.sha256(data).hexdigest()


def _from_weights(weights: Weights, options: dict[str, Any]) -> FastForward:
    return FastForward(weights, **options)


def _from_file(path: str, sha256: str, options: dict[str, Any]) -> FastForward:
    weights, found = _read(path)
    if found != sha256:
        raise WeightsError(f"{path}: the file has changed since this object was pickled")
    return FastForward(weights, **options, _source=(path, sha256))


def _check_device(device: str) -> str:
    if not isinstance(device, str):
        raise TypeError(f"device: expected a string, got {type(device).__name__}")
    if device == "cpu":
        return device
    kind, _, index = device.partition(":")
    if device == "cuda" or (kind == "cuda" and index.isdecimal()):
        raise DeviceError(f"device {device!r} is not available: this build has no CUDA backend; use 'cpu'")
    raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:N', got {device!r}")


def _check_dtype(dtype: str | None) -> str:
    if dtype is None:
        return "float32"
    if isinstance(dtype, str) and dtype in DTYPES:
        return dtype
    raise ValueError(f"dtype: expected None or one of {', '.join(DTYPES)} on the CPU, got {dtype!r}")


def check_heads(spec: NetworkSpec, heads: Sequence[str] | None) -> tuple[str, ...]:
    known = ("embedding", *(head.name for head in spec.heads), *(("identity",) if spec.identities is not None else ()))
    if heads is None:
        return tuple(name for name in known if name != "identity")
    if isinstance(heads, (str, bytes)) or not isinstance(heads, Iterable):
        raise TypeError(f"heads: expected a sequence of names, got {type(heads).__name__} {heads!r}")
    heads = tuple(heads)
    if not all(isinstance(name, str) for name in heads):
        raise TypeError(f"heads: expected names, got {list(heads)!r}")
    if not heads:
        raise ValueError(f"heads: expected at least one of {', '.join(known)}")
    for name in heads:
        if name not in known:
            raise WeightsError(f"heads: these weights have no head {name!r}; they have {', '.join(known)}")
    if len(set(heads)) != len(heads):
        raise ValueError(f"heads: a name is listed twice: {', '.join(heads)}")
    return heads


def _output_shapes(plan: Plan, images: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    vectors = {phase.dst for phase in plan.phases if isinstance(phase, (ShiftedMeans, LinearHead))}
    for name, output in plan.outputs.items():
        shape = plan.tensors[output.tensor]
        spatial = () if output.tensor in vectors else (shape.height, shape.width)
        shapes[name] = (images, *spatial, output.count)
    return shapes


def _normalised_nhwc(array: np.ndarray, spec: NetworkSpec) -> np.ndarray:
    if array.dtype == np.float32:
        result = array.transpose(0, 2, 3, 1).copy()
        result[~np.isfinite(array).all((1, 2, 3))] = np.nan  # as every other result
        return result
    mean, scale = np.array(spec.pixels.mean, np.float32), np.array(spec.pixels.scale, np.float32)
    return (array.astype(np.float32) - mean) / scale


def _as_given(spec: NetworkSpec, heads: Sequence[str]) -> int:
    """Multiply-adds of the layers that the listed results need, nothing rewritten."""
    needed: set[str] = set()
    for name in heads:
        path = spec.path(None if name in ("embedding", "identity") else spec.head(name))
        needed |= {path.stem, path.bottleneck, *(prefix for pair in path.blocks for prefix in pair)}
        needed |= set() if name == "embedding" else {f"heads.{name}.fc"}
    return sum(
        layer.multiply_adds
        for layer in spec.layers()
        if (layer.prefix in needed if layer.linear else layer.prefix.rpartition(".")[0] in needed)
    )
