"""What a run measures."""

from __future__ import annotations

from dataclasses import dataclass

from .contenders import PEERS
from .report import DTYPES

__all__ = ["Settings"]

_TURN_SECONDS = 0.4


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        batches, threads: every pair of them.
        dtypes: number formats, among ``DTYPES``; each for everyone who has it.
        peers: groups of contenders, see ``PEERS``.
        seconds: timed per contender, dtype, batch and threads.
        seed: of the crops and of the order of turns.
        device: of this package; peers run on the CPU.
        price_per_core_hour: of one thread's core, in any currency; for the cost of a million images.
    """

    batches: tuple[int, ...] = (1, 32)
    threads: tuple[int, ...] = (1,)
    dtypes: tuple[str, ...] = ("float32",)
    peers: tuple[str, ...] = ("onnxruntime", "openvino", "torch")
    seconds: float = 5.0
    seed: int = 0
    device: str = "cpu"
    price_per_core_hour: float | None = None

    def __post_init__(self) -> None:
        for name in ("batches", "threads"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) != len(values):
                raise ValueError(f"{name} must be different positive integers, got {values}")
        if not self.dtypes or len(set(self.dtypes)) != len(self.dtypes) or not set(self.dtypes) <= set(DTYPES):
            raise ValueError(f"dtypes must be different ones of {', '.join(DTYPES)}, got {self.dtypes}")
        for peer in self.peers:
            if peer not in PEERS:
                raise ValueError(f"unknown peer {peer!r}: there are {', '.join(PEERS)}")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds must be positive, got {self.seconds}")
        if self.price_per_core_hour is not None and not 0 < self.price_per_core_hour < float("inf"):
            raise ValueError(f"price_per_core_hour must be positive, got {self.price_per_core_hour}")

    @property
    def rounds(self) -> int:
        """Turns of each contender: several even in a short run, so that none has all of a bad moment."""
        return max(3, round(self.seconds / _TURN_SECONDS))
