"""Weights files: safetensors with the tensors of one spec and a JSON metadata entry ``faceattr``.

Everything is checked here, once: a network never starts with a missing, mis-shaped or non-finite tensor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save as serialize

from .errors import WeightsError
from .spec import NetworkSpec

__all__ = [
    "Weights",
    "check_tensors",
    "copy_weights",
    "parse_weights",
    "read_spec",
    "read_weights",
    "shipped_weights",
    "write_weights",
]

METADATA_KEY = "faceattr"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Weights:
    """Tensors of one network, float32; ``metadata`` is what the file says besides its spec."""

    spec: NetworkSpec
    tensors: Mapping[str, np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)


class _StoredTensors(Mapping[str, np.ndarray]):
    """Tensors as a file stores them: each is widened to float32 when it is asked for, and not kept in that form."""

    def __init__(self, entries: dict[str, dict[str, Any]], origin: str) -> None:
        for name, entry in entries.items():
            if entry["dtype"] not in _WIDEN:
                raise WeightsError(f"{origin}: tensor {name!r} has type {entry['dtype']}; expected F32, F16 or BF16")
        self._entries = entries

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        values: np.ndarray = _WIDEN[entry["dtype"]](entry["data"]).reshape(entry["shape"])
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


# Exact: every F16 and BF16 value is a float32 value.
_WIDEN: dict[str, Callable[[bytes], np.ndarray]] = {
    "F32": lambda data: np.frombuffer(data, "<f4"),
    "F16": lambda data: np.frombuffer(data, "<f2").astype(np.float32),
    "BF16": lambda data: (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32),
}


def shipped_weights() -> Path:
    """Path of the demonstration weights in the package (see its MODEL_CARD.md for what they can and cannot do)."""
    return Path(__file__).parent / "data" / "demo.safetensors"  # an extension module is never imported from an archive


def read_weights(path: str | PathLike[str]) -> Weights:
    """Read and check a weights file.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: damaged file, missing or extra tensor, wrong shape or type, non-finite value; all by name.
    """
    return parse_weights(Path(path).read_bytes(), str(path))


def parse_weights(data: bytes, origin: str) -> Weights:
    """The same from the bytes of a file; ``origin`` names it in messages."""
    spec, metadata = _parse_metadata(data, origin)
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except Exception as error:  # safetensors has one exception type for every kind of damage
        raise WeightsError(f"{origin}: damaged safetensors file: {error}") from error
    tensors = _StoredTensors(dict(entries), origin)
    check_tensors(spec, tensors, origin)
    return Weights(spec, tensors, metadata)


def read_spec(path: str | PathLike[str]) -> NetworkSpec:
    """The network of a weights file; its tensors are neither read nor checked. Errors as in :func:`read_weights`."""
    with open(path, "rb") as file:
        length = file.read(8)
        size = min(int.from_bytes(length, "little"), os.fstat(file.fileno()).st_size)
        return _parse_metadata(length + file.read(size), str(path))[0]


def _parse_metadata(data: bytes, origin: str) -> tuple[NetworkSpec, dict[str, Any]]:
    metadata = _metadata(data, origin)
    try:
        spec = NetworkSpec.from_json(json.dumps(metadata.pop("spec")))
    except KeyError:
        raise WeightsError(f"{origin}: metadata entry {METADATA_KEY!r} has no 'spec'") from None
    except ValueError as error:
        raise WeightsError(f"{origin}: the spec in the metadata is not valid: {error}") from error
    version = metadata.pop("format", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise WeightsError(f"{origin}: format version {version!r}, this release reads {FORMAT_VERSION}")
    return spec, metadata


def _metadata(data: bytes, origin: str) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise WeightsError(f"{origin}: damaged safetensors file: {len(data)} bytes, its header alone claims {length}")
    try:
        header = json.loads(data[8 : 8 + length])
        entry = header.get("__metadata__", {}).get(METADATA_KEY)
        metadata = None if entry is None else json.loads(entry)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{origin}: damaged safetensors header: {error}") from error
    if not isinstance(metadata, dict):
        raise WeightsError(f"{origin}: not a faceattr weights file: no {METADATA_KEY!r} object in its metadata")
    return metadata


def check_tensors(spec: NetworkSpec, tensors: Mapping[str, np.ndarray], origin: str) -> None:
    """Raise WeightsError unless ``tensors`` are exactly those of ``spec``, finite, no variance negative."""
    expected = spec.tensor_shapes()
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise WeightsError(f"{origin}: {len(missing)} tensors are missing: {_some(missing)}")
    extra = sorted(tensors.keys() - expected.keys())
    if extra:
        raise WeightsError(f"{origin}: {len(extra)} tensors do not belong to this network: {_some(extra)}")
    for name, shape in expected.items():
        value = tensors[name]
        if value.shape != shape:
            raise WeightsError(f"{origin}: tensor {name!r} has shape {tuple(value.shape)}; expected {shape}")
        if not np.isfinite(value).all():
            raise WeightsError(f"{origin}: tensor {name!r} has {int((~np.isfinite(value)).sum())} non-finite values")
        if name.endswith(".running_var") and (value < 0).any():
            raise WeightsError(f"{origin}: tensor {name!r} has negative variances")


def _some(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + (" …" if len(names) > 5 else "")


def write_weights(path: str | PathLike[str], weights: Weights, dtype: str = "float32") -> None:
    """Write a weights file; ``path`` is replaced only once the new file is complete.

    Args:
        path: file to write.
        weights: checked before anything is written.
        dtype: ``float32``, or ``float16`` (half the size; rounded).

    Raises:
        WeightsError: the tensors do not fit the spec.
        ValueError: another dtype, or a value that float16 cannot hold.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}")
    path = Path(os.path.realpath(path))  # a link stays a link
    check_tensors(weights.spec, weights.tensors, str(path))
    with np.errstate(over="ignore"):
        stored = {name: np.ascontiguousarray(value, dtype) for name, value in weights.tensors.items()}
    for name, value in stored.items():
        if not np.isfinite(value).all():
            raise ValueError(f"tensor {name!r} has values beyond the range of {dtype}")
    entry = {**weights.metadata, "format": FORMAT_VERSION, "spec": json.loads(weights.spec.to_json())}
    data = serialize(stored, metadata={METADATA_KEY: json.dumps(entry)})
    _replace(path, data)


def copy_weights(
    source: str | PathLike[str],
    path: str | PathLike[str],
    changes: Mapping[str, Any],
    thresholds: Mapping[str, tuple[float, ...]] | None = None,
) -> None:
    """Copy a weights file with other metadata: tensors byte for byte, of whatever type.

    Args:
        source: weights file; may be ``path`` itself.
        path: file to write, replaced only once the new one is complete.
        changes: entries of the metadata, which replace those of the same name; never ``spec`` or ``format``.
        thresholds: head → its thresholds, all that may change about the network.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: ``source`` is damaged.
        ValueError: ``changes`` hold what belongs to the tensors; there is no such head, or it has another number of
            classes.
    """
    if reserved := changes.keys() & {"spec", "format"}:
        raise ValueError(f"changes: {', '.join(sorted(reserved))} cannot be changed without the tensors")
    data = Path(source).read_bytes()
    spec = parse_weights(data, str(source)).spec
    for name, values in (thresholds or {}).items():
        head = replace(spec.head(name), thresholds=values)
        spec = replace(spec, heads=tuple(head if other.name == name else other for other in spec.heads))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    entry = _metadata(data, str(source)) | dict(changes)
    if thresholds:
        entry["spec"] = json.loads(spec.to_json())
    header["__metadata__"][METADATA_KEY] = json.dumps(entry)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    _replace(Path(os.path.realpath(path)), len(text).to_bytes(8, "little") + text + data[end:])


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")  # writers must not meet
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
