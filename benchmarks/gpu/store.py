"""What steps leave in the output folder, and how they say that they cannot run."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ABSENT", "ROOT", "WRONG", "FailedError", "Folder", "SkippedError", "Step", "is_emulated"]

ROOT = Path(__file__).parents[2]

#: Exit codes of gpu_workload.py: results are wrong; the device or its kernels are not there.
WRONG, ABSENT = 3, 4


class SkippedError(Exception):
    """The step needs what is not there; the message says what."""


class FailedError(Exception):
    """What the step checks does not hold."""


def is_emulated() -> bool:
    return os.environ.get("FACEATTR_GPU") == "emulated"


@dataclass(frozen=True)
class Folder:
    """The output folder.

    ``run.json`` is what all steps share, ``steps/NAME.json`` what a step found, ``<gpu>-<date>-<hash>.json`` all of it.
    """

    path: Path

    @property
    def run(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.path / "run.json").read_text())
        return data

    @property
    def seed(self) -> int:
        return int(self.run["seed"])

    @property
    def build(self) -> Path:
        return self.path / "build"

    @property
    def package(self) -> Path:
        """Where the built package lies, to be imported from."""
        return self.path / "package"

    @property
    def inputs(self) -> Path:
        return self.path / "inputs"

    def step(self, name: str) -> Path:
        return self.path / "steps" / f"{name}.json"


class Step:
    """What a step found so far, written at once: a step that is ended keeps it."""

    def __init__(self, path: Path) -> None:
        self._path, self.data = path, {}  # type: Path, dict[str, Any]
        path.parent.mkdir(parents=True, exist_ok=True)

    def set(self, **values: Any) -> None:
        self.data |= values
        write_json(self._path, self.data)

    def add(self, key: str, row: dict[str, Any]) -> None:
        """One more row of the list ``key``."""
        self.set(**{key: [*self.data.get(key, []), row]})


def write_json(path: Path, data: Any) -> None:
    """Never half of it."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(data, indent=1) + "\n")
    new.replace(path)
