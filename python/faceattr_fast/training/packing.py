"""Writing a packed set: one picture after the other, in a folder that appears only when it is complete.

Until then everything is in FOLDER.part: the crops so far, and a journal with a line for each picture of the source.
A run that was killed is continued from there: what the journal does not hold is packed again.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .labels import UNKNOWN
from .packed import FIXED_COLUMNS, FORMAT, SPLITS
from .tables import DataError

__all__ = ["Entry", "PackedWriter"]

_EVERY = 256  # pictures between two commits to the disk: 50 MB of crops with margin
_COPIED = 64  # crops moved at a time when some are left out
_HEADER = 128  # bytes before the first crop in a .npy file of four axes
_WORKING = ("crops.raw", "journal.jsonl", "settings.json")


@dataclass(frozen=True)
class Entry:
    """What is written about one picture of the source.

    Args:
        file: its name there, unique.
        reason: why it is not in the set; "" for a crop.
        subject: name of the person, "" where unknown.
        split: one of :data:`.packed.SPLITS` where the source says so, else "".
        years: age, -1 where unknown.
        labels: name of a label → name of its class.
        targets: name of a label → class weights, where the source gives more than one class.
        hash: the crop's difference hash, hexadecimal.
    """

    file: str
    reason: str = ""
    subject: str = ""
    split: str = ""
    years: int = UNKNOWN
    labels: dict[str, str] = field(default_factory=dict)
    targets: dict[str, list[float]] = field(default_factory=dict)
    hash: str = ""


class PackedWriter:
    """Writes one packed set.

    A new writer finds what an earlier one left behind: ``written`` pictures are done, :meth:`entries` tells which, and
    :meth:`add` and :meth:`skip` go on with the next.

    Args:
        folder: of the set; must not exist.
        side: of the crops in pixels.
        settings: all that decides what is packed, as plain JSON types. What was begun with others is not continued.
        restart: throw away what an earlier writer left behind.

    Raises:
        FileExistsError: the set is there already.
        DataError: the earlier writer had other settings.
    """

    def __init__(
        self, folder: str | PathLike[str], side: int, settings: Mapping[str, Any], restart: bool = False
    ) -> None:
        self.folder, self.part = Path(folder), _part(Path(folder))
        if self.complete(self.folder) or self.folder.exists():
            raise FileExistsError(f"{self.folder} is there already: remove it, or give another folder")
        if restart and self.part.exists():
            shutil.rmtree(self.part)
        self.part.mkdir(parents=True, exist_ok=True)
        self.side, self.settings = side, dict(settings)
        self._check_settings()
        self._waiting: list[tuple[Entry, np.ndarray | None]] = []
        self.written, self.crops = self._recover()
        self._crops: BinaryIO = self._raw.open("r+b")
        self._crops.seek(_HEADER + self.crops * self._bytes)
        self._journal: BinaryIO = self._lines.open("ab")

    @staticmethod
    def complete(folder: str | PathLike[str]) -> bool:
        """Whether the set is there, after the last steps of a writer that was killed amid them."""
        folder, part = Path(folder), _part(Path(folder))
        if not folder.exists() and (part / "crops.npy").exists():
            _publish(part, folder)
        return (folder / "set.json").is_file()

    @property
    def _raw(self) -> Path:
        return self.part / "crops.raw"

    @property
    def _lines(self) -> Path:
        return self.part / "journal.jsonl"

    @property
    def _bytes(self) -> int:
        return self.side * self.side * 3

    def _check_settings(self) -> None:
        path = self.part / "settings.json"
        wanted = json.loads(json.dumps({"side": self.side, **self.settings}))
        if not path.exists():
            _write_whole(path, json.dumps(wanted))
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        differ = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
        if differ:
            changes = ", ".join(f"{name}: {found.get(name)!r}, now {wanted.get(name)!r}" for name in differ)
            raise DataError(f"{self.part} was begun with other settings ({changes}): restart, or use these again")

    def _recover(self) -> tuple[int, int]:
        """Pictures and crops that are wholly on disk; what is there of a further one is cut off."""
        for path in (self._raw, self._lines):
            path.touch()
        complete = max(0, self._raw.stat().st_size - _HEADER) // self._bytes
        pictures = crops = end = 0
        with self._lines.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                is_crop = not json.loads(line)["reason"]
                if is_crop and crops == complete:
                    break
                pictures, crops, end = pictures + 1, crops + is_crop, end + len(line)
        os.truncate(self._lines, end)
        os.truncate(self._raw, _HEADER + crops * self._bytes)
        return pictures, crops

    def __enter__(self) -> PackedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit what waits; the set is not complete by that."""
        if not self._crops.closed:
            self._commit()
            self._crops.close()
            self._journal.close()

    def add(self, entry: Entry, crop: np.ndarray) -> None:
        """One crop, uint8 [S, S, 3] RGB."""
        if crop.shape != (self.side, self.side, 3) or crop.dtype != np.uint8:
            raise ValueError(f"crop must be uint8 {(self.side, self.side, 3)}, got {crop.dtype} {crop.shape}")
        self._take(entry, crop)

    def skip(self, file: str, reason: str) -> None:
        """One picture that is not in the set."""
        self._take(Entry(file, reason), None)

    def _take(self, entry: Entry, crop: np.ndarray | None) -> None:
        self._waiting.append((entry, crop))
        self.written += 1
        self.crops += crop is not None
        if len(self._waiting) == _EVERY:
            self._commit()

    def _commit(self) -> None:
        """Crops first: a line of the journal says that its crop is there."""
        waiting, self._waiting = self._waiting, []  # an interrupted commit does not begin anew
        for _, crop in waiting:
            if crop is not None:
                self._crops.write(np.ascontiguousarray(crop).data)
        _sync(self._crops)
        for entry, _ in waiting:
            known = {name: value for name, value in asdict(entry).items() if value not in ("", {}, UNKNOWN)}
            plain = {"file": entry.file, "reason": entry.reason, **known}
            self._journal.write(json.dumps(plain).encode() + b"\n")
        _sync(self._journal)

    def entries(self) -> Iterator[Entry]:
        """Everything written so far, skipped pictures too, one at a time."""
        self._commit()
        with self._lines.open(encoding="utf-8") as file:
            for line in file:
                yield Entry(**json.loads(line))

    def finish(
        self,
        split: np.ndarray,
        groups: np.ndarray,
        classes: Mapping[str, tuple[str, ...]],
        info: Mapping[str, Any],
        dropped: Mapping[int, str] | None = None,
    ) -> Path:
        """Make the set of what was written.

        Args:
            split: [crops] of "train", "validation", "test".
            groups: int [crops].
            classes: label → its classes.
            info: for ``set.json``.
            dropped: number of a crop → why it is left out after all.

        Returns:
            The set's folder.
        """
        dropped = dropped or {}
        self._commit()
        keep = np.array([i not in dropped for i in range(self.crops)], bool)
        count = int(keep.sum())
        targets: dict[str, np.ndarray] = {}
        totals = dict.fromkeys(SPLITS, 0)
        reasons: dict[str, int] = {}
        people: set[str] = set()
        with (
            (self.part / "faces.csv").open("w", newline="", encoding="utf-8") as faces_file,
            (self.part / "skipped.csv").open("w", newline="", encoding="utf-8") as skipped_file,
        ):
            faces, skipped = csv.writer(faces_file), csv.writer(skipped_file)
            faces.writerow((*FIXED_COLUMNS, *classes))
            skipped.writerow(("file", "reason"))
            crop = row = 0
            for entry in self.entries():
                reason = entry.reason or dropped.get(crop, "")
                if reason:
                    skipped.writerow((entry.file, reason))
                    kind = reason.partition(":")[0]
                    reasons[kind] = reasons.get(kind, 0) + 1
                else:
                    years = "" if entry.years == UNKNOWN else entry.years
                    fixed = (entry.file, entry.subject, split[crop], int(groups[crop]), years)
                    faces.writerow((*fixed, *(entry.labels.get(head, "") for head in classes)))
                    totals[str(split[crop])] += 1
                    if entry.subject:
                        people.add(entry.subject)
                    for head, values in entry.targets.items():
                        if head not in targets:
                            targets[head] = np.zeros((count, len(classes[head])), np.float32)
                        targets[head][row] = values
                    row += 1
                crop += not entry.reason
        if targets:
            with (self.part / "targets.npz").open("wb") as file:
                np.savez(file, **targets)  # type: ignore[arg-type]  # the stub takes the names for its own arguments
        counts = {"faces": count, "subjects": len(people), **totals}
        own = {"format": FORMAT, "classes": {head: list(names) for head, names in classes.items()}, "counts": counts}
        _write_whole(self.part / "set.json", json.dumps({**own, "skipped": reasons, **info}, indent=1))
        crops = self._raw if keep.all() else self._copy_kept(keep)
        with crops.open("r+b") as file:
            file.write(_npy_header((count, self.side, self.side, 3)))
            _sync(file)
        self._crops.close()
        self._journal.close()
        os.replace(crops, self.part / "crops.npy")  # from here on the set is complete
        _publish(self.part, self.folder)
        return self.folder

    def _copy_kept(self, keep: np.ndarray) -> Path:
        """A file of the crops that stay."""
        raw = np.memmap(self._raw, np.uint8, "r", _HEADER, (len(keep), self.side, self.side, 3))
        chosen, path = np.flatnonzero(keep), self.part / "crops.kept"
        with path.open("wb") as file:
            file.write(_npy_header((0, *raw.shape[1:])))
            for start in range(0, len(chosen), _COPIED):
                file.write(raw[chosen[start : start + _COPIED]].data)
        return path


def _part(folder: Path) -> Path:
    return folder.with_name(folder.name + ".part")


def _publish(part: Path, folder: Path) -> None:
    """Every file of the set is whole: take away the working files and give the folder its name."""
    for name in _WORKING:
        (part / name).unlink(missing_ok=True)
    os.replace(part, folder)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Of one length for every number of crops: numpy leaves room for it, so that the header can be written last."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    if header.tell() != _HEADER:
        raise RuntimeError(f"numpy's header for {shape} has {header.tell()} bytes, not {_HEADER}")
    return header.getvalue()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".new")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
