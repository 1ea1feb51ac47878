"""WebDataset shards: tar files of pictures and their labels, for sets too large for single files."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...photo.image import load_image
from ..tables import DataError
from .record import Record, Source, landmarks_of
from .values import find_columns, read_values

__all__ = ["Shards"]

_PICTURES = ("jpg", "jpeg", "png", "webp", "bmp")


class Shards(Source):
    """Tar files in which the files of one sample share a name: ``0001.jpg`` with ``0001.json``.

    The JSON object has the entries that :class:`.table.Table` finds in columns. They are read from the first to the
    last, one sample in memory at a time.

    Args:
        path: a folder of ``*.tar`` files, one such file, or a pattern such as ``faces-{000..127}.tar``.
        columns: as for a table.
        classes: as for a table.

    Raises:
        FileNotFoundError: there is no shard.
        ImportError: webdataset is not installed.
    """

    listed = False

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, str] | None = None,
        classes: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__()
        try:
            from webdataset.shardlists import expand_urls
        except ImportError as error:
            raise ImportError("reading shards needs webdataset: pip install 'faceattr_fast[train]'") from error
        self.name = path.resolve().name.partition("{")[0].removesuffix(".tar").strip("-_.") or "shards"
        self.shards = sorted(path.glob("*.tar")) if path.is_dir() else [Path(name) for name in expand_urls(str(path))]
        if missing := [str(shard) for shard in self.shards if not shard.is_file()]:
            raise FileNotFoundError(f"no such shard: {', '.join(missing[:5])}")
        if not self.shards:
            raise FileNotFoundError(f"{path} holds no shard, *.tar")
        self.columns, self.classes = dict(columns or {}), dict(classes or {})

    def settings(self) -> dict[str, Any]:
        return {"columns": self.columns, "classes": {head: list(names) for head, names in self.classes.items()}}

    def records(self) -> Iterator[Record]:
        for shard in self.shards:
            samples = _samples(shard)
            while True:
                try:
                    sample = next(samples, None)
                except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
                    # The samples behind the damage cannot be found: they are lost, other shards are not.
                    why = str(error.args[0] if error.args else error).strip("'\"").partition(" @ ")[0]
                    reason = f"damaged: the shard cannot be read on: {why}"
                    yield Record(shard.name, partial(load_image, shard), reason=reason)
                    break
                if sample is None:
                    break
                if any(ending in sample for ending in _PICTURES):
                    yield self._record(shard, sample)

    def _record(self, shard: Path, sample: dict[str, Any]) -> Record:
        where = f"{shard}, sample {sample['__key__']}"
        ending = next(ending for ending in _PICTURES if ending in sample)
        row: dict[str, str] = {}
        if "json" in sample:
            try:
                plain = json.load(io.BytesIO(sample["json"]))
                row = {str(name): "" if value is None else str(value) for name, value in plain.items()}
            except (ValueError, AttributeError) as error:
                raise DataError(f"{where}: json: expected an object, got {sample['json'][:80]!r}") from error
        columns = find_columns(row, self.columns, where)
        return Record(
            f"{shard.name}/{sample['__key__']}.{ending}",
            partial(load_image, sample[ending]),
            landmarks=landmarks_of(row, where),
            **vars(read_values(row, columns, self.classes, where)),
        )


def _samples(shard: Path) -> Iterator[dict[str, Any]]:
    """Raw bytes by ending of each sample, in the order of the file."""
    import webdataset

    # One process reads all of it, in order: shards are shared out to workers in training, not here.
    return iter(webdataset.WebDataset(str(shard), shardshuffle=False, nodesplitter=None, workersplitter=None))
