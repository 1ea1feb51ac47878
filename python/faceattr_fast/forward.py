"""The fast forward pass: weights in, plan built and packed once, then pixels → outputs through the C++ engine."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _core
from .describe import Description, describe_phases
from .engine.arrays import as_pixels
from .engine.backend import compile_for_cuda, compile_plan
from .engine.cuda import CudaNetwork
from .engine.device import cuda_index, find_cuda
from .engine.network import CpuNetwork, Network, output_shapes
from .engine.threads import thread_count
from .errors import WeightsError
from .formats.dtypes import DTYPES, format_plan, with_int8_ranges
from .plan.algorithms import choose_algorithms
from .plan.phases import Plan
from .plan.rewrite import build_features_plan, build_plan
from .spec import NetworkSpec, canonical_branch
from .tuning.file import Overrides, current_overrides
from .weights import Weights, check_tensors, parse_weights, write_weights

if TYPE_CHECKING:
    from .reference import FaceAttrNet

__all__ = ["FastForward", "Outputs", "check_heads"]


class Outputs(dict[str, Any]):
    """Results by name: ``embedding`` [N, E], raw logits [N, classes] per head; float32.

    numpy arrays, or :class:`DeviceArray` where the pixels were in GPU memory.
    """

    def __repr__(self) -> str:
        return "Outputs(" + ", ".join(f"{name}={value.dtype}{list(value.shape)}" for name, value in self.items()) + ")"


class FastForward:
    """One network, compiled for this machine. Immutable; call it from any number of threads.

    Built by :meth:`load` or :meth:`from_module`. Survives fork (not on CUDA) and pickles. On the CPU the bits of a
    result depend on the network, heads, ``rewrite``, instruction set and tuned algorithms only: not on batch size,
    threads or callers.

    Attributes:
        spec: the network.
        heads: names of the results, in order.
        metadata: what the weights file says besides its spec (crop template, licence, what it was trained on, …).
        device, dtype, threads, isa: what it runs on; on CUDA, isa is the architecture, and threads mean nothing.
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
        _source: _Source | None = None,
        _overrides: Overrides | None = None,
    ) -> None:
        if not isinstance(weights, Weights):
            raise TypeError(f"weights: expected Weights, got {type(weights).__name__}; FastForward.load reads a file")
        self._source = _source
        self.spec: NetworkSpec = weights.spec
        index = cuda_index(device)
        self.device = device
        self.dtype = _check_dtype(dtype, "cpu" if index is None else "cuda")
        self._cuda = None if index is None else find_cuda(index)
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
        self._plan, self._network = self._compile(build_plan(self.spec, weights.tensors, self.heads, rewrite=rewrite))
        _core.trim_memory()  # composing weights in float64 took several times what the engine keeps
        self.isa: str = self._network.facts(1).isa
        self._features: dict[str, Network] = {}
        self._hash: str | None = None

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
            device: ``cpu``, ``cuda`` (the same as ``cuda:0``) or ``cuda:N``.
            dtype: on the CPU ``float32``, ``bfloat16``, ``int8``, or ``mixed``, which is int8 where that saves time and
                costs little, and float32 elsewhere; on CUDA ``float16``, ``bfloat16``, ``int8``, ``float32`` (slow).
                None: the first of them. For int8 and mixed the file needs scales (``faceattr quantize``).
            heads: results wanted, ``embedding`` and ``identity`` among them; None: the embedding and every attribute.
                Only what is listed is computed.
            threads: per call; None: FACEATTR_NUM_THREADS, or the CPUs that this process may use.
            rewrite: run the exact rewrite (fewer multiply-adds); False: the network layer by layer, as given.

        Raises:
            FileNotFoundError: no such file.
            WeightsError: damaged file, tensors that do not fit, or a head that the file does not have.
            DeviceError: device or instruction set that is not there; says what was found.
            TypeError, ValueError: any other wrong argument.
        """
        if not isinstance(path, (str, PathLike)):
            raise TypeError(f"path: expected a string or path, got {type(path).__name__}")
        weights, source = _read(path)
        return cls(
            weights,
            device=device, dtype=dtype, heads=heads, threads=threads, rewrite=rewrite,
            _source=source,
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

    def __call__(self, pixels: Any, out: Mapping[str, Any] | None = None, stream: Any = None) -> Outputs:
        """Run the network.

        Args:
            pixels: uint8 [N, S, S, 3] RGB, or float32 [N, 3, S, S] normalised as ``spec.pixels`` says; any N ≥ 0;
                numpy, torch or any producer of ``__dlpack__`` or, on CUDA, ``__cuda_array_interface__``. C-contiguous
                arrays are not copied.
            out: arrays to write to, one C-contiguous float32 array per result, all on the host or all on the network's
                GPU; None: new ones, where the pixels are.
            stream: of CUDA, an address or an object with ``cuda_stream``. None: the stream that the pixels are on, as
                their producer says, torch's current one for a torch tensor, else the default. It has no meaning for
                arrays of the host.

        Returns:
            Results by name. An image with a non-finite pixel gets NaN in all of them; other images keep their bits.
            Those in GPU memory are under way: the stream writes them. Arrays of the host are complete.

        Raises:
            TypeError, ValueError, DeviceError: the message names the argument, what was expected and what came.
        """
        return Outputs(self._network(pixels, out, stream))

    def features(self, pixels: Any, branch: str) -> Outputs:
        """What a head that branches at ``branch`` reads, for training it on a frozen trunk.

        Args:
            pixels: as in a call.
            branch: ``conv1`` … ``conv{2n}``, ``bottleneck`` or ``fc``; ``conv0`` gives the normalised pixels.

        Returns:
            float32 NHWC arrays: ``block_input`` at an odd convolution; ``mid`` (after ReLU) and ``block_input`` (for
            the shortcut) at an even one; ``pooled`` [N, C] at the bottleneck; ``embedding`` [N, E] at fc.
        """
        branch = canonical_branch(branch)
        self.spec.branch_index(branch)  # raises for a branch that this network does not have
        if branch == "conv0":
            array, back = self._network.to_host(pixels)
            return Outputs(pixels=back(_normalised_nhwc(array, self.spec)))
        return Outputs(self._features_network(branch)(pixels, None, None))

    def _features_network(self, branch: str) -> Network:
        # No lock: it could be held for ever in a forked child. Two first callers may both build; one result is kept.
        cached = self._features.get(branch)
        if cached is None:
            rewrite = self._options["rewrite"]
            plan = build_features_plan(self.spec, self._weights.tensors, branch, rewrite=rewrite)
            cached = self._features.setdefault(branch, self._compile(plan)[1])
            del plan
            _core.trim_memory()
        return cached

    def _choose(self, plan: Plan) -> Plan:
        """With number formats and algorithms."""
        forced, tuned = self._overrides
        plan = format_plan(plan, self._weights, self.dtype, self._forced_isa, forced)
        return plan if self._cuda else choose_algorithms(plan, forced, tuned, self._forced_isa)

    def _compile(self, plan: Plan) -> tuple[Plan, Network]:
        plan = self._choose(plan)
        described = plan.without_weights()  # which the engine packs
        size, shapes = self.spec.pixels.size, output_shapes(described)
        if self._cuda is not None:
            return described, CudaNetwork(compile_for_cuda(plan, self._cuda), self._cuda, size, shapes)
        return described, CpuNetwork(compile_plan(plan, self.threads, self._forced_isa), size, shapes)

    def describe(self) -> Description:
        """The plan: per phase kernel, shapes and multiply-adds; device, instruction set, threads; its hash.

        On CUDA the kernels are those of one image.
        """
        return self._describe(None, 1)

    def profile(self, pixels: Any) -> Description:
        """The same with seconds per phase and image: of one run over ``pixels``.

        On the CPU all threads work on one image at a time, on CUDA a phase works on all images.
        """
        seconds, images = self._network.profile(pixels)
        return self._describe([s / images for s in seconds], images)

    def _describe(self, seconds: list[float] | None, images: int) -> Description:
        facts = self._network.facts(images)
        return Description(
            device=self.device,
            dtype=self.dtype,
            isa=self.isa,
            threads=self.threads,
            rewritten=self._plan.rewritten,
            hash=self._plan_hash(),
            multiply_adds_as_given=_as_given(self.spec, self.heads),
            multiply_adds=self._plan.multiply_adds(),
            products=self._plan.products(),
            weight_bytes=facts.weight_bytes,
            arena_bytes=facts.arena_bytes,
            first_grouped=next((p.dst for p in self._plan.phases[facts.first_grouped :]), None),
            group_images=facts.group_images,
            phases=describe_phases(self._plan, facts.kernels, None if self._cuda else self._overrides, seconds),
        )

    def _plan_hash(self) -> str:
        """Of the plan with its weights, which is made once more: nobody else needs it, and hashing takes time."""
        if self._hash is None:
            plan = build_plan(self.spec, self._weights.tensors, self.heads, rewrite=self._options["rewrite"])
            self._hash = self._choose(plan).hash()
            del plan
            _core.trim_memory()
        return self._hash

    def _file_sha256(self) -> str | None:
        """Of the weights file; None where there is none, or no longer the one that was read."""
        if self._source is None:
            return None
        try:
            data = Path(self._source.path).read_bytes()
        except OSError:
            return None
        return _sha256(data) if _Source.of(self._source.path, data) == self._source else None

    def __repr__(self) -> str:
        threads = f", {self.threads} threads" if self._cuda is None else ""
        return f"FastForward({', '.join(self.heads)}; {self.device} {self.dtype}, {self.isa}{threads})"

    def __reduce__(self) -> tuple[Any, ...]:
        options = {**self._options, "_overrides": self._overrides}
        sha256 = self._file_sha256()
        if self._source is None or sha256 is None:
            return _from_weights, (self._weights, options)
        return _from_file, (self._source.path, sha256, options)


class _Source(NamedTuple):
    """A weights file, and what tells whether it has changed since it was read."""

    path: str
    size: int
    crc: int

    @classmethod
    def of(cls, path: str, data: bytes) -> _Source:
        return cls(path, len(data), zlib.crc32(data))


def _read(path: str | PathLike[str]) -> tuple[Weights, _Source]:
    data = Path(path).read_bytes()
    return parse_weights(data, str(path)), _Source.of(os.path.abspath(path), data)


def _sha256(data: bytes) -> str:
    import hashlib  # only here: Plan.hash

    return hashlib.sha256(data).hexdigest()


def _from_weights(weights: Weights, options: dict[str, Any]) -> FastForward:
    return FastForward(weights, **options)


def _from_file(path: str, sha256: str, options: dict[str, Any]) -> FastForward:
    data = Path(path).read_bytes()
    if _sha256(data) != sha256:
        raise WeightsError(f"{path}: the file has changed since this object was pickled")
    return FastForward(parse_weights(data, path), **options, _source=_Source.of(path, data))


def _check_dtype(dtype: str | None, kind: str) -> str:
    formats = DTYPES[kind]
    if dtype is None:
        return formats[0]
    if isinstance(dtype, str) and dtype in formats:
        return dtype
    where = "CUDA" if kind == "cuda" else "the CPU"
    raise ValueError(f"dtype: expected None or one of {', '.join(formats)} on {where}, got {dtype!r}")


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
