"""What a training run of the base network does when: everything is counted in steps, so that a run can be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from typing import Any, Literal

from .augment import Jitter

__all__ = ["RECIPES", "Phase", "Recipe", "paper", "recipe_of", "small"]


@dataclass(frozen=True)
class Phase:
    """Train with crops of ``size`` pixels and ``batch`` of them until the share ``until`` of the steps is done."""

    until: float
    size: int
    batch: int


@dataclass(frozen=True)
class Recipe:
    """How the base network is trained.

    Args:
        name: of the recipe that this one began as.
        steps: of the optimiser.
        phases: resolution and batch over the steps; the last one ends with them.
        optimiser: ``adamw``, or ``sgd`` with momentum 0.9.
        rate: highest learning rate: it warms up in a line over ``warm_up`` of the steps, then falls in a line to 0,
            or is divided by ``divide_by`` every ``divide_every`` steps.
        decay: weight decay of the weights; norms, biases and the vectors of people have none.
        clip: largest norm of the network's gradient; None: any.
        average: of the moving average of the weights, per step, which is what is kept; 0: the weights themselves.
        initialisation: ``residual``: He's, with small 3x3s; ``gaussian``: mean 0, variance 0.01 everywhere.
        identity: ``cosine``: softmax over scaled cosines to a vector per person, with a margin, as verification
            compares cosines too; ``linear``: softmax cross entropy of the network's own identity layer; ``none``.
        identity_scale, identity_margin: of ``cosine``.
        least_images: people with fewer training pictures are no identity class.
        attributes: whether the heads learn too, unless a run says which.
        loss_weights: per head, and of "identity"; 1 where absent.
        mix: share of a batch of each set, by its name; empty: by their numbers of faces.
        jitter: of the crops; None: as they are.
        whiten: turn the embedding at the end so that what varies within a person counts less.
    """

    name: str
    steps: int
    phases: tuple[Phase, ...]
    optimiser: Literal["adamw", "sgd"]
    rate: float
    warm_up: float = 0.0
    divide_by: float = 1.0
    divide_every: int | None = None
    decay: float = 0.0
    clip: float | None = None
    average: float = 0.0
    initialisation: Literal["residual", "gaussian"] = "gaussian"
    identity: Literal["cosine", "linear", "none"] = "linear"
    identity_scale: float = 16.0
    identity_margin: float = 0.1
    least_images: int = 3
    attributes: bool = False
    loss_weights: dict[str, float] = field(default_factory=dict)
    mix: dict[str, float] = field(default_factory=dict)
    jitter: Jitter | None = None
    whiten: bool = False

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("least_images", 1)):
            _whole(name, getattr(self, name), least)
        if self.divide_every is not None:
            _whole("divide_every", self.divide_every, 1)
        for name, low, high in (
            ("rate", 0.0, None), ("divide_by", 0.0, None), ("identity_scale", 0.0, None), ("warm_up", None, 1.0),
            ("average", None, 1.0), ("decay", None, None), ("identity_margin", None, None),
        ):  # fmt: skip
            _number(name, getattr(self, name), low, high)
        if self.clip is not None:
            _number("clip", self.clip, 0.0, None)
        for name, allowed in (
            ("optimiser", ("adamw", "sgd")), ("initialisation", ("residual", "gaussian")),
            ("identity", ("cosine", "linear", "none")), ("attributes", (True, False)), ("whiten", (True, False)),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {allowed}, got {getattr(self, name)!r}")
        for name in ("loss_weights", "mix"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name}: expected numbers by name, got {getattr(self, name)!r}")
            for key, value in getattr(self, name).items():
                _number(f"{name} of {key!r}", value, 0.0, None)
        ends = [phase.until for phase in self.phases]
        if not ends or ends != sorted(set(ends)) or ends[0] <= 0 or ends[-1] != 1:
            raise ValueError(f"phases: expected ends that rise from above 0 to 1, got {ends}")
        for phase in self.phases:
            _whole("batch", phase.batch, 2)  # a batch norm needs two values
            _whole("size", phase.size, 4)

    def phase(self, step: int) -> Phase:
        """Of steps from 0 on."""
        return next((phase for phase in self.phases if step < phase.until * self.steps), self.phases[-1])

    def rate_at(self, step: int) -> float:
        """Of steps from 0 on."""
        if self.divide_every is not None:
            return self.rate / self.divide_by ** (step // self.divide_every)
        progress = step / self.steps
        if progress < self.warm_up:
            return self.rate * (0.05 + 0.95 * progress / self.warm_up)
        return self.rate * (1 - progress) / (1 - self.warm_up)


def small(side: int = 224) -> Recipe:
    """For small sets: what made the demonstration weights. Low resolution first, which costs little.

    Args:
        side: of the network's crops.
    """
    sizes = [max(4, 4 * round(side * share / 4)) for share in (0.5, 5 / 7, 1.0)]
    return Recipe(
        "small",
        steps=7_000,
        phases=tuple(Phase(*phase) for phase in zip((0.4, 0.6, 1.0), sizes, (64, 48, 32), strict=True)),
        optimiser="adamw",
        rate=1e-3,
        warm_up=0.03,
        decay=0.05,
        clip=5.0,
        average=0.99,
        initialisation="residual",
        identity="cosine",
        attributes=True,
        loss_weights={"gender": 2.0, "identity": 0.3},
        jitter=Jitter(),
        whiten=True,
    )


def paper(side: int = 224) -> Recipe:
    """The base network of "Deep Architectures for Face Attributes": identities alone.

    The paper does not say how many steps: after 50,000 the rate has been divided four times, to 0.0004.
    """
    return Recipe(
        "paper", steps=50_000, phases=(Phase(1.0, side, 400),), optimiser="sgd", rate=0.1, divide_by=4.0,
        divide_every=10_000,
    )  # fmt: skip


RECIPES = {"small": small, "paper": paper}


def recipe_of(name: str, side: int, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with changes.

    Args:
        name: of :data:`RECIPES`.
        side: of the network's crops.
        changes: fields of :class:`Recipe` as JSON has them: ``phases`` as a list of objects, ``jitter`` as an object of
            what differs from the plain :class:`.Jitter`.

    Raises:
        ValueError: an unknown field or a value that it cannot have.
    """
    changes = dict(changes)
    known = {entry.name for entry in fields(Recipe)} - {"name"}
    _known("recipe", changes, known)
    if "phases" in changes:
        if not isinstance(changes["phases"], list):
            raise ValueError(f"phases: expected a list of objects, got {changes['phases']!r}")
        changes["phases"] = tuple(_part("phases", Phase, phase) for phase in changes["phases"])
    if changes.get("jitter") is not None:
        changes["jitter"] = _part("jitter", Jitter, changes["jitter"])
    return replace(RECIPES[name](side), **changes)


def _part(name: str, kind: Any, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"{name}: expected an object, got {values!r}")
    _known(name, values, {entry.name for entry in fields(kind)})
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


def _known(name: str, values: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"{name}: unknown {', '.join(map(repr, unknown))}; there are {', '.join(sorted(known))}")


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")


def _number(name: str, value: Any, above: float | None, below: float | None) -> None:
    """A finite number, above ``above`` or, where that is None, at least 0; below ``below`` where that is not None."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    if not fits or (value < 0 if above is None else value <= above) or (below is not None and value >= below):
        bounds = "of at least 0" if above is None else f"above {above:g}"
        bounds += "" if below is None else f" and below {below:g}"
        raise ValueError(f"{name}: expected a number {bounds}, got {value!r}")
