"""What a frozen trunk gives at a branch point, computed once by the fast forward and kept on disk.

A cache is a folder of arrays [copies, faces, …] in the layout of ``FastForward.features``: copy 0 is the crop as it is,
the others are jittered renderings of it. Its name is a hash of all that its values depend on, so that a cache is either
the right one or not there. A run that was killed is continued where it was.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..forward import FastForward
from .augment import Jitter, render
from .datasets import FaceSet
from .packed import PackedFaces

__all__ = ["STORAGE", "Features", "Source", "open_features", "set_digest"]

STORAGE = ("float32", "float16")
_BATCH = 32  # images of one call: enough for every grouped phase, and 19 MB of pixels as floats
_EVERY = 32  # batches between two commits to the disk

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Source:
    """Faces of one packed set that features are wanted of.

    Args:
        packed: the set.
        faces: the same as the renderer takes it.
        rows: int [n], which faces.
    """

    packed: PackedFaces
    faces: FaceSet
    rows: np.ndarray

    def digest(self) -> str:
        """Hash of the set and of the rows."""
        rows = np.ascontiguousarray(self.rows, "<i8").tobytes()
        return hashlib.sha256(set_digest(self.packed).encode() + rows).hexdigest()


def set_digest(packed: PackedFaces) -> str:
    """Hash of a set's description; its crops count by the size and time of their file, not by content."""
    stat = (packed.folder / "crops.npy").stat()
    hasher = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    for path in (packed.folder / name for name in ("set.json", "faces.csv", "targets.npz")):
        hasher.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    return hasher.hexdigest()


class Features:
    """Features of the faces of one or several sources, one after the other.

    Args:
        folders: of the caches, which are complete, one per source.

    Attributes:
        copies: renderings of each face.
        folders: as given: a process of its own opens the same features by them.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._parts = [
            {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))} for folder in folders
        ]
        first = [next(iter(part.values())) for part in self._parts]
        self.copies = min(array.shape[0] for array in first)
        self._starts = np.cumsum([0, *(array.shape[1] for array in first)])
        self._chosen = np.arange(self._starts[-1])

    def __len__(self) -> int:
        return len(self._chosen)

    def subset(self, numbers: np.ndarray) -> Features:
        """Features of some of these faces, by number, on the same arrays."""
        subset = copy.copy(self)
        subset._chosen = self._chosen[numbers]
        return subset

    def gather(self, rows: np.ndarray, copies: np.ndarray | int = 0) -> dict[str, Tensor]:
        """float32 inputs of a head, NCHW in shape, channels last in memory.

        Args:
            rows: int [n] numbers of faces.
            copies: int [n], which rendering of each.
        """
        rows, copies = self._chosen[rows], np.broadcast_to(copies, len(rows))
        part = np.searchsorted(self._starts, rows, side="right") - 1
        gathered = {}
        for name, array in self._parts[0].items():
            values = np.empty((len(rows), *array.shape[2:]), np.float32)
            for i, arrays in enumerate(self._parts):
                mine = np.flatnonzero(part == i)
                values[mine] = arrays[name][copies[mine], rows[mine] - self._starts[i]]
            tensor = torch.from_numpy(values)
            gathered[name] = tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else _as_read(name, tensor)
        return gathered


def _as_read(name: str, tensor: Tensor) -> Tensor:
    """A bottleneck reads maps, if of one pixel; a linear layer reads vectors."""
    return tensor[:, :, None, None] if name == "pooled" else tensor


def open_features(
    fast: FastForward,
    sha256: str,
    sources: Sequence[Source],
    branch: str,
    folder: Path,
    *,
    augmentations: int = 0,
    jitter: Jitter | None = None,
    seed: int = 0,
    storage: str = "float32",
    report: Report | None = None,
) -> Features:
    """The features of all sources at a branch point; what is not in the cache is computed.

    Args:
        fast: the network whose trunk is frozen.
        sha256: of its weights file.
        sources: faces of packed sets.
        branch: any branch point of the network.
        folder: of all caches.
        augmentations: jittered renderings beside the crop itself.
        jitter: of these; None: the trainer's.
        seed: of the jitter.
        storage: ``float32``, or ``float16``, which takes half the disk.
        report: called with faces done and faces in all.
    """
    if storage not in STORAGE:
        raise ValueError(f"storage: expected one of {STORAGE}, got {storage!r}")
    jitter = jitter or Jitter()
    total = sum(len(source.rows) for source in sources) * (1 + augmentations)
    done, folders = 0, []
    for source in sources:
        settings = {
            "weights": sha256, "branch": branch, "data": source.digest(), "network": fast.describe().hash,
            "isa": fast.isa, "dtype": fast.dtype, "storage": storage, "size": fast.spec.pixels.size,
        }  # fmt: skip
        if augmentations:
            settings |= {"copies": augmentations, "seed": seed, "zoom": source.faces.zoom, "jitter": asdict(jitter)}
        path = folder / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]
        start = done
        with _alone(path):
            if not path.is_dir():
                for step in _compute(fast, source, branch, path, 1 + augmentations, jitter, seed, storage):
                    if report is not None:
                        report(start + step, total)
        done += len(source.rows) * (1 + augmentations)
        if report is not None:
            report(done, total)
        folders.append(path)
    return Features(folders)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Another process that wants the same cache waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compute(
    fast: FastForward, source: Source, branch: str, path: Path, copies: int, jitter: Jitter, seed: int, storage: str
) -> Iterator[int]:
    """Fill the cache; yields how many renderings are done."""
    part, count, size = path.with_name(path.name + ".part"), len(source.rows), fast.spec.pixels.size
    part.mkdir(exist_ok=True)
    progress = part / "done"
    done = int(progress.read_text()) if progress.exists() else 0
    shapes = fast.features(np.zeros((1, size, size, 3), np.uint8), branch)
    arrays = {
        name: np.lib.format.open_memmap(
            part / f"{name}.npy", "r+" if progress.exists() else "w+", storage, (copies, count, *value.shape[1:])
        )
        for name, value in shapes.items()
    }
    if not done and hasattr(os, "posix_fallocate"):
        # A full disk is to be met here: writing to a mapped file for which there is no room kills the process.
        for name in arrays:
            with (part / f"{name}.npy").open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    for step, start in enumerate(range(done, copies * count, _BATCH), start=1):
        numbers = np.arange(start, min(start + _BATCH, copies * count))
        which, row = np.divmod(numbers, count)
        crops = np.concatenate(
            [_rendering(source, int(r), int(c), size, jitter, seed) for r, c in zip(row, which, strict=True)]
        )
        for name, values in fast.features(crops, branch).items():
            limit = np.finfo(storage).max  # float16 ends at 65504; a residual stream may be beyond it
            arrays[name][which, row] = np.clip(values, -limit, limit)
        if step % _EVERY == 0:
            _commit(arrays, progress, start + len(numbers))
        yield start + len(numbers)
    _commit(arrays, progress, copies * count)
    progress.unlink()
    os.replace(part, path)


def _rendering(source: Source, row: int, copy: int, size: int, jitter: Jitter, seed: int) -> np.ndarray:
    """One rendering; its jitter depends on seed, face and copy alone, not on where a run was interrupted."""
    face = source.rows[row : row + 1]
    if copy == 0:
        return render(source.faces, face, size)
    return render(source.faces, face, size, jitter, np.random.default_rng((seed, int(face[0]), copy)))


def _commit(arrays: dict[str, np.memmap], progress: Path, done: int) -> None:
    """Values first: the number says that they are there."""
    for array in arrays.values():
        array.flush()
    partial = progress.with_name("done.new")
    partial.write_text(str(done))
    os.replace(partial, progress)
