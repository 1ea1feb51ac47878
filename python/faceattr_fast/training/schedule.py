"""What a training run does when, and for how long.

Low resolution first, which costs little, the true input size last. The schedule follows the share of a time budget that
is used up, so that one recipe fits machines of any speed.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from .augment import Jitter

__all__ = ["Budget", "Phase", "Recipe"]


@dataclass(frozen=True)
class Phase:
    """Train with crops of ``size`` pixels and ``batch`` of them until the share ``until`` of the budget is used."""

    until: float
    size: int
    batch: int


@dataclass(frozen=True)
class Recipe:
    """What the demonstration weights were trained with.

    Args:
        phases: resolution and batch over the budget.
        shares: of each batch, per data set by name.
        rate: highest learning rate of AdamW; warms up over ``warm_up`` of the budget, then falls in a line.
        decay: weight decay.
        average: of the moving average of the weights, per step.
        loss_weights: per head; 1 where absent.
        identity_scale, identity_margin: of the cosine softmax over the people in the training set.
        least_images: people with fewer training pictures are no identity class.
    """

    phases: tuple[Phase, ...] = (Phase(0.40, 112, 64), Phase(0.60, 160, 48), Phase(1.0, 224, 32))
    shares: dict[str, float] = field(default_factory=lambda: {"utkface": 0.58, "lfw": 0.22, "ferplus": 0.20})
    rate: float = 1e-3
    warm_up: float = 0.03
    decay: float = 0.05
    average: float = 0.99
    loss_weights: dict[str, float] = field(default_factory=lambda: {"gender": 2.0, "identity": 0.3})
    identity_scale: float = 16.0
    identity_margin: float = 0.1
    least_images: int = 3
    jitter: Jitter = field(default_factory=Jitter)

    def phase(self, progress: float) -> Phase:
        return next((phase for phase in self.phases if progress < phase.until), self.phases[-1])

    def rate_at(self, progress: float) -> float:
        if progress < self.warm_up:
            return self.rate * (0.05 + 0.95 * progress / self.warm_up)
        return self.rate * max(0.002, (1 - progress) / (1 - self.warm_up))


class Budget:
    """Time for steps. A step that takes far longer than those before it was paused, and counts as one of them.

    Args:
        minutes: of step time.
        wall_minutes: most minutes from now, pauses included; None for no such limit.

    Attributes:
        progress: share of the time that is used, 0 to 1. Where pauses bring the wall limit nearer than the step time,
            it rises faster from then on, so that the schedule is still run to its end.
        used: seconds of steps so far, without pauses.
    """

    def __init__(self, minutes: float, wall_minutes: float | None = None) -> None:
        self.progress = self.used = 0.0
        self._seconds = 60 * minutes
        self._none = 0 in (minutes, wall_minutes)
        self._last = time.monotonic()
        self._end = math.inf if wall_minutes is None else self._last + 60 * wall_minutes
        self._recent: deque[float] = deque(maxlen=15)

    def step(self) -> None:
        """Call after each step."""
        now = time.monotonic()
        taken, self._last = now - self._last, now
        if len(self._recent) >= 5:
            taken = min(taken, 4 * float(np.median(self._recent)))
        self._recent.append(taken)
        self.used += taken
        left = min((1 - self.progress) * self._seconds, self._end - now + taken)
        self.progress += (1 - self.progress) * (min(1.0, taken / left) if left > 0 else 1.0)

    def skip(self) -> None:
        """Call after work that is no step, such as a checkpoint, and is not to count."""
        self._last = time.monotonic()

    @property
    def over(self) -> bool:
        """The schedule has ended, or there was no time from the beginning: not a single step is to be taken."""
        return self.progress >= 1 or self._none
