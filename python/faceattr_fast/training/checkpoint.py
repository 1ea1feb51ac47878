"""Checkpoints and logs that are whole at every moment, so that a run that was killed goes on where it was."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

__all__ = ["Progress", "TrainingRun", "load_checkpoint", "save_checkpoint", "write_log", "write_whole"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainingRun:
    """Where a run leaves its traces.

    Args:
        checkpoint: file to continue from, and to write every ``every`` steps; None: none.
        log: CSV file with step, rate and losses; None: none.
        depends: what else the run depends on, beside what its trainer knows: a checkpoint of another is refused.
        progress: called with steps done and steps in all.
    """

    checkpoint: Path | None = None
    every: int = 50
    log: Path | None = None
    depends: dict[str, Any] = field(default_factory=dict)
    progress: Progress | None = None


def save_checkpoint(path: Path, run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the state of a run; the file is replaced only once the new one is on the disk.

    Args:
        path: of the file.
        run: all that the run depends on, plain values: another run is not to go on from here.
        state: tensors and plain values.
    """
    data = io.BytesIO()
    torch.save({"run": dict(run), **state}, data)
    write_whole(path, data.getbuffer())


def load_checkpoint(path: Path | None, run: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The state that was written last, on the CPU; None where there is none. ``run``: what it must be of; None: any.

    Raises:
        ValueError: it is of another run, or damaged.
    """
    if path is None or not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = dict(state.pop("run"))
    except Exception as error:  # whatever a file that is none may lead torch to
        raise ValueError(f"{path} is no checkpoint of this release ({error}): remove it") from error
    if run is None:
        return state
    differ = [name for name in {**run, **found} if run.get(name) != found.get(name)]
    if differ:
        what = ", ".join(_difference(name, found.get(name), run.get(name)) for name in differ)
        raise ValueError(
            f"{path} is the checkpoint of a run with other data or options ({what}): remove it, or use these"
        )
    return state


def _difference(name: str, then: Any, now: Any) -> str:
    """As short as it can be said."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        parts = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        return ", ".join(_difference(f"{name}.{key}", then.get(key), now.get(key)) for key in parts)
    plain = f"{name}: {then!r}, now {now!r}"
    return plain if len(plain) <= 100 else name


def write_log(path: Path | None, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file, whole each time: it then never holds steps that a resumed run takes again."""
    if path is None:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    write_whole(path, text.getvalue().encode())


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """The file is the old or the new one at every moment, and the new one once this returns."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
