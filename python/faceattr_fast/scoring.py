"""Very many photos to Parquet files: a job cut into parts, which any number of processes may score, killed or not.

The parts are listed once: every shard (a .tar file) is one, photos outside of shards go by some hundreds. A part's
rows are written beside the results and get their name when they are whole, so a part is finished exactly if its file is
there, and every photo has exactly one row at the end. Whoever hands out the parts (Ray, a batch system, a loop) need
not remember anything: what it does twice has the same result. ``examples/score_with_ray.py`` is the worked example.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import tarfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice, pairwise, tee
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .forward import FastForward
from .photo import DetectorError, FaceAnalyzer, Failure
from .photo.image import is_picture

if TYPE_CHECKING:
    import pyarrow

__all__ = ["STATUSES", "Part", "ScoringJob"]

STATUSES = ("ok", "no_face", "damaged")

_ROWS = 1000  # written at once: with embeddings, which are Python's floats by then, some 10 KB a face
_DEATHS = 3  # of workers while the same photo is the last one opened: then it is to blame, and left out
_NOT_THE_PHOTO = (ImportError, MemoryError, DetectorError)  # what every photo of this process would meet

Photo: TypeAlias = "Path | bytes | Exception"


class Part(NamedTuple):
    """A part's number, and where the list of parts describes it: plain integers, for any queue.

    Args:
        number: from 0 on; its file is ``part-NUMBER.parquet``.
        offset: in bytes.
    """

    number: int
    offset: int


@dataclass(frozen=True)
class ScoringJob:
    """Photos to be scored into a folder.

    Every machine must see sources, ``out`` and weights under the same paths: a pickled job names the weights file, and
    has its hash, the options and the detector. A row has ``file`` (path; of a shard's photo ``SHARD/NAME``), ``status``
    (``ok``, ``no_face``, ``damaged``), ``reason`` (where damaged) and ``faces``, of the form of :meth:`.Face.to_dict`.

    Args:
        analyzer: its heads are what is scored.
        out: folder of the results. What is not ``part-*.parquet`` is in its folder ``_job``, which readers of Parquet
            pass over.
        embedding: whether to store embeddings; they are biometric data.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the network was not loaded from a file; embeddings are wanted, and it does not compute them.
    """

    analyzer: FaceAnalyzer
    out: Path
    embedding: bool = False

    def __post_init__(self) -> None:
        _import_pyarrow()
        object.__setattr__(self, "out", Path(self.out).absolute())
        fast, _ = self._network()
        if self.embedding and "embedding" not in fast.heads:
            raise ValueError(f"embedding: the network computes {list(fast.heads)} only")

    def begin(self, sources: Iterable[Path], size: int = 1000) -> list[Part]:
        """List the parts, or take up the list of the run before: photos that came since then are not in it.

        Args:
            sources: photos, shards (.tar), and folders of both; links to folders are not followed.
            size: photos of a part outside of shards; what is done again when a worker dies.

        Returns:
            The parts that are not finished.

        Raises:
            FileNotFoundError: a source is not there, or none has photos or shards.
            ValueError: ``out`` belongs to another job.
        """
        if size < 1:
            raise ValueError(f"size: expected at least 1, got {size}")
        sources = [Path(source).absolute() for source in sources]
        settings = {**self._settings(), "sources": [str(source) for source in sources], "size": size}
        if not self._list.exists():
            self._write_list(settings, sources, size)
        with self._list.open("rb") as file:
            found = json.loads(file.readline())
        if differ := [name for name in settings if found.get(name) != settings[name]]:
            raise ValueError(f"{self.out} holds the results of other {', '.join(differ)}: give another folder")
        return list(self.unfinished())

    def unfinished(self) -> Iterator[Part]:
        """Parts without a file, of a job that has begun."""
        done = {entry.name for entry in os.scandir(self.out)}
        with self._list.open("rb") as file:
            offset = len(file.readline())
            for number, line in enumerate(file):
                if self._target(number).name not in done:
                    yield Part(number, offset)
                offset += len(line)

    def score(self, part: Part) -> dict[str, int]:
        """Score one part, unless its file is there.

        A worker that is killed loses its part's rows, and the part has to be scored again. A photo that was the last to
        be opened by three workers that died is taken as damaged.

        Returns:
            How many of its photos have each status.

        Raises:
            ImportError, MemoryError, DetectorError: nothing can be scored here; no fault of the photo.
        """
        from pyarrow import parquet

        target, tries = self._target(part.number), self._folder / f"{part.number}.tries"
        if not target.exists():
            with self._list.open("rb") as parts:
                parts.seek(part.offset)
                content = json.loads(parts.readline())
            deadly = _deadly(tries)
            try:
                with tries.open("a", encoding="ascii") as log:
                    self._write(target, self._rows(content, deadly, log))
            finally:  # a worker that can still say what is wrong has not died of a photo
                with suppress(FileNotFoundError):  # of two workers that scored the same
                    tries.unlink()
        counts = Counter(parquet.read_table(target, columns=["status"])["status"].to_pylist())
        return {status: counts[status] for status in STATUSES}

    def finish(self) -> None:
        """Remove what workers that died have left behind, once every part has its file.

        Raises:
            RuntimeError: parts are missing.
        """
        if missing := [part.number for part in self.unfinished()]:
            raise RuntimeError(f"{len(missing)} parts are not finished, the first is {missing[0]}")
        for leftover in self._folder.iterdir():
            if leftover != self._list:
                leftover.unlink(missing_ok=True)

    def schema(self) -> pyarrow.Schema:
        """Of every part's file, whatever is in it."""
        arrow = _import_pyarrow()
        number, text = arrow.float32(), arrow.string()

        def head_type(labels: Iterable[str]) -> Any:
            classes = arrow.struct([(label, number) for label in labels])
            return arrow.struct(
                [("label", text), ("score", number), ("abstained", arrow.bool_()), ("years", number),
                 ("probabilities", classes)]
            )  # fmt: skip

        fast, _ = self._network()
        heads = [(head.name, head_type(head.class_labels)) for head in fast.spec.heads if head.name in fast.heads]
        numbers = arrow.list_(number)
        face = [("box", numbers), ("landmarks", arrow.list_(numbers)), ("score", number), ("crop", text),
                ("attributes", arrow.struct(heads)), *([("embedding", numbers)] if self.embedding else [])]  # fmt: skip
        columns = [("file", text), ("status", text), ("reason", text), ("faces", arrow.list_(arrow.struct(face)))]
        return arrow.schema(columns)

    @property
    def _folder(self) -> Path:
        return self.out / "_job"

    @property
    def _list(self) -> Path:
        """JSON lines: the settings, then a part each."""
        return self._folder / "parts.jsonl"

    def _target(self, number: int) -> Path:
        return self.out / f"part-{number:06}.parquet"

    def _working(self, name: str) -> Path:
        """A name that nobody else writes to, on whatever machine."""
        return self._folder / f"{name}-{socket.gethostname()}-{uuid.uuid4().hex}"

    def _settings(self) -> dict[str, Any]:
        """What results depend on, beside the photos."""
        fast, digest = self._network()
        return {
            "weights": digest, "dtype": fast.dtype, "heads": list(fast.heads), "embedding": self.embedding,
            "detector": sha256(pickle.dumps(self.analyzer.detector)).hexdigest(),
        }  # fmt: skip

    def _network(self) -> tuple[FastForward, str]:
        """The network, and the SHA-256 of its file."""
        fast = self.analyzer.fast
        if isinstance(fast, FastForward) and (digest := fast._file_sha256()) is not None:
            return fast, digest
        raise ValueError("analyzer: its network must come from a weights file, where workers find it too")

    def _write_list(self, settings: dict[str, Any], sources: list[Path], size: int) -> None:
        if missing := [str(source) for source in sources if not source.exists()]:
            raise FileNotFoundError(f"no such file or folder: {', '.join(missing)}")
        parts = _parts(sources, size)
        if (first := next(parts, None)) is None:
            raise FileNotFoundError(f"no photos and no shards (*.tar) in {', '.join(map(str, sources))}")
        self._folder.mkdir(parents=True, exist_ok=True)
        working = self._working(self._list.stem)
        with working.open("w", encoding="ascii") as file:
            for line in (settings, first, *parts):
                print(json.dumps(line), file=file)
            _sync(file)
        os.replace(working, self._list)

    def _write(self, target: Path, rows: Iterator[dict[str, Any]]) -> None:
        import pyarrow
        from pyarrow import parquet

        schema, working = self.schema(), self._working(target.stem)
        with working.open("wb") as file:
            with parquet.ParquetWriter(file, schema) as writer:
                while some := list(islice(rows, _ROWS)):
                    writer.write_table(pyarrow.Table.from_pylist(some, schema))
            _sync(file)
        os.replace(working, target)

    def _rows(self, part: dict[str, Any], deadly: set[int], log: IO[str]) -> Iterator[dict[str, Any]]:
        def opened() -> Iterator[tuple[str, Photo]]:
            print("start", file=log, flush=True)
            for i, (name, photo) in enumerate(_photos(part)):
                if i in deadly:
                    yield name, RuntimeError(f"{_DEATHS} workers died while it was open")
                else:
                    print(i, file=log, flush=True)
                    yield name, photo

        named, given = tee(opened())  # as far apart as the analyzer reads ahead
        sources: Iterator[Any] = (photo for _, photo in given)  # an error is no picture, and gives a Failure too
        for (name, photo), result in zip(named, self.analyzer.stream(sources, "record"), strict=True):
            file = name.encode("utf-8", "backslashreplace").decode()  # a name on the disk need not be text
            row: dict[str, Any] = {"file": file, "reason": None, "faces": []}
            if isinstance(result, Failure):
                error = photo if isinstance(photo, Exception) else result.error
                if isinstance(error, _NOT_THE_PHOTO):
                    raise error
                yield row | {"status": "damaged", "reason": f"{type(error).__name__}: {error}"}
            else:
                faces = [face.to_dict(self.embedding) for face in result]
                yield row | {"status": "ok" if faces else "no_face", "faces": faces}


def _deadly(tries: Path) -> set[int]:
    """Photos of a part that were the last to be opened by as many workers as a photo may take with it."""
    lines = tries.read_text(encoding="ascii").split() if tries.exists() else []
    last = Counter(a for a, b in pairwise([*lines, "start"]) if b == "start" != a)
    return {int(photo) for photo, deaths in last.items() if deaths >= _DEATHS}


def _parts(sources: Iterable[Path], size: int) -> Iterator[dict[str, Any]]:
    waiting: list[str] = []
    for path in _files(sources):
        if path.lower().endswith(".tar"):
            yield {"shard": path}
            continue
        waiting.append(path)
        if len(waiting) == size:
            yield {"photos": waiting}
            waiting = []
    if waiting:
        yield {"photos": waiting}


def _files(sources: Iterable[Path]) -> Iterator[str]:
    for source in sources:
        if not source.is_dir():
            yield str(source)
            continue
        for parent, folders, files in os.walk(source):
            folders.sort()
            yield from (os.path.join(parent, f) for f in sorted(files) if f.lower().endswith(".tar") or is_picture(f))


def _photos(part: dict[str, Any]) -> Iterator[tuple[str, Photo]]:
    """Name of each photo, and its path, its bytes, or why it cannot be read."""
    if "shard" in part:
        yield from _shard_photos(part["shard"])
    else:
        yield from ((path, Path(path)) for path in part["photos"])


def _shard_photos(shard: str) -> Iterator[tuple[str, Photo]]:
    try:
        with open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is not None and is_picture(os.path.basename(member.name)):
                    yield f"{shard}/{member.name}", _content(content)
            # tarfile takes a damaged header for the end of the archive, which is zeros, or nothing at all.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged header at byte {tar.offset}")
    except (tarfile.TarError, OSError) as error:
        yield shard, tarfile.ReadError(f"the photos of this shard from here on are lost: {error}")


def _content(file: IO[bytes]) -> Photo:
    try:
        return file.read()
    except (tarfile.TarError, OSError) as error:
        return error


def _sync(file: IO[Any]) -> None:
    """The file's name must not be on the disk before its content is."""
    file.flush()
    os.fsync(file.fileno())


def _import_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("writing Parquet files needs pyarrow: pip install 'faceattr_fast[ray]'") from error
    return pyarrow
