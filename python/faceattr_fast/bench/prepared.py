"""A contender that is ready to be timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Last", "Outputs", "Prepared"]

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Prepared:
    """Ready for one batch size.

    Args:
        call: what is timed; reads ``pixels`` and leaves its results where ``outputs`` finds them.
        outputs: results of the last call, by head, for one batch.
        pixels: float32 [N, 3, S, S] or uint8 [N, S, S, 3]; what is written here is what the next call reads.
        images: images per call.
        settings: what was chosen for it, in words.
        plan: tells its phases as plain data, where it does tell of them.
        profile: seconds of each phase for one image, in a run of its own.
    """

    call: Callable[[], object]
    outputs: Callable[[], Outputs]
    pixels: np.ndarray
    images: int
    settings: str
    plan: Callable[[], Mapping[str, Any]] | None = None
    profile: Callable[[], list[float]] | None = None


class Last:
    """Results of the last call."""

    def __init__(self) -> None:
        self._value: Any = None

    def keep(self, value: object) -> None:
        self._value = value

    def get(self) -> Any:
        return self._value
