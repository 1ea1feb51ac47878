"""Where a head should branch: what a grid of cross-validated accuracies says, and how sure it is.

Two branch points are compared fold by fold, on the same faces: the mean difference with a t interval whose variance
counts that the training parts of folds overlap (Nadeau and Bengio, "Inference for the generalization error", 2003):
sd² · (1/k + 1/(k-1)) for k folds. It holds both the draw of faces and the chance of training. Points "cannot be told
apart" where that interval holds 0; each comparison has its own 95 %, no correction is made for their number.

The rule: of all branch points that cannot be told apart from the best, the latest one, which re-learns and costs least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PAPER_GRID", "Choice", "DepthGrid", "t_quantile"]

CONFIDENCE = 0.95

PAPER_GRID: dict[str, dict[str, float]] = {
    branch: dict(zip(("emotion", "age", "ethnicity", "gender"), row, strict=True))
    for branch, row in {
        "conv17": (0.44, 0.22, 0.60, 0.98),
        "conv19": (0.68, 0.28, 0.68, 0.94),
        "conv21": (0.30, 0.24, 0.50, 0.98),
        "conv22": (0.34, 0.40, 0.55, 0.95),
        "bottleneck": (0.42, 0.06, 0.61, 0.97),
        "fc": (0.44, 0.24, 0.72, 0.99),
    }.items()
}
"""Validation accuracy by branch point and head, as the paper prints it."""


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution with ``freedom`` ≥ 1 degrees of freedom, to about five digits.

    With t = √ν tan θ its density becomes cos^(ν-1) θ on (-π/2, π/2), which is summed.
    """
    theta = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
    middle = (theta[1:] + theta[:-1]) / 2
    share = np.cumsum(np.cos(middle) ** (freedom - 1))
    angle = np.interp(probability, np.concatenate([[0.0], share / share[-1]]), theta)
    return float(np.sqrt(freedom) * np.tan(angle))


def interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Mean of a figure over folds, float [k], and half the width of its interval; k ≥ 2."""
    folds = len(values)
    deviation = values.std(ddof=1) * np.sqrt(1 / folds + 1 / (folds - 1))
    return float(values.mean()), float(t_quantile((1 + confidence) / 2, folds - 1) * deviation)


@dataclass(frozen=True)
class Choice:
    """What the grid says of one head.

    Args:
        head: its name.
        branch: by the rule.
        best: the branch point of the highest accuracy.
        alike: branch points that cannot be told apart from the best, in order, itself among them.
        accuracy: of ``branch``, with half the width of its interval.
        loss: how much better the best is, with half the width.
    """

    head: str
    branch: str
    best: str
    alike: tuple[str, ...]
    accuracy: tuple[float, float]
    loss: tuple[float, float]


@dataclass(frozen=True)
class DepthGrid:
    """Accuracies of heads at branch points.

    Args:
        branches: from the input on.
        accuracy: (head, branch) → float [folds]; the folds of a head are the same at all branch points.
        sigmoid: heads whose accuracy is a share of right yes and no answers, which the paper's do not compare with.
    """

    branches: tuple[str, ...]
    accuracy: Mapping[tuple[str, str], np.ndarray]
    sigmoid: tuple[str, ...] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(head for head, _ in self.accuracy))

    def choice(self, head: str) -> Choice:
        """The branch point of a head by the rule."""
        mean = {branch: float(self.accuracy[head, branch].mean()) for branch in self.branches}
        # Of equally good ones the latest, so that the rule is the same whether or not they tie.
        best = max(reversed(self.branches), key=mean.__getitem__)
        losses = {b: interval(self.accuracy[head, best] - self.accuracy[head, b]) for b in self.branches}
        alike = tuple(b for b, (loss, half) in losses.items() if b == best or loss - half <= 0)
        chosen = alike[-1]
        return Choice(head, chosen, best, alike, interval(self.accuracy[head, chosen]), losses[chosen])

    def choices(self) -> list[Choice]:
        """Of every head, those that re-learn most first."""
        return sorted((self.choice(head) for head in self.heads), key=lambda c: self.branches.index(c.branch))

    def table(self) -> str:
        """Markdown: accuracy ± half the interval, the paper's beside it where it has one; the chosen in bold."""
        chosen = {choice.head: choice.branch for choice in self.choices()}
        lines = ["| branch at | " + " | ".join(self.heads) + " |", "|---|" + "---|" * len(self.heads)]
        for branch in self.branches:
            cells = []
            for head in self.heads:
                mean, half = interval(self.accuracy[head, branch])
                text = f"{mean:.3f} ± {half:.3f}"
                text = f"**{text}**" if chosen[head] == branch else text
                paper = None if head in self.sigmoid else PAPER_GRID.get(branch, {}).get(head)
                cells.append(text + (f" (paper {paper:.2f})" if paper is not None else ""))
            lines.append(f"| {branch} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def summary(self) -> list[str]:
        """The order of tasks by depth, in sentences."""
        lines = []
        for number, choice in enumerate(choices := self.choices(), start=1):
            mean, half = choice.accuracy
            lines.append(f"{number}. {choice.head}: {choice.branch}, accuracy {mean:.3f} ± {half:.3f}")
            if choice.branch != choice.best:
                loss, width = choice.loss
                lines.append(
                    f"   {choice.best} is better by {loss:.3f} ± {width:.3f}: they cannot be told apart, "
                    "and the later one costs less"
                )
            if len(choice.alike) > 1:
                lines.append(f"   cannot be told apart: {', '.join(choice.alike)}")
        lines += [line for pair in pairwise(choices) if (line := self._order(*pair))]
        return lines

    def _order(self, deep: Choice, shallow: Choice) -> str:
        """Whether the ranges of points that may be best leave the order of two tasks open."""
        last, first = self.branches.index(deep.alike[-1]), self.branches.index(shallow.alike[0])
        if last < first:
            return f"{deep.head} needs to re-learn more than {shallow.head}"
        return f"{deep.head} and {shallow.head} cannot be told apart by depth"

    def to_json(self) -> dict[str, object]:
        """Everything, as plain types."""
        return {
            "branches": list(self.branches),
            "confidence": CONFIDENCE,
            "accuracy": {
                head: {branch: self.accuracy[head, branch].tolist() for branch in self.branches} for head in self.heads
            },
            "choices": {
                c.head: {"branch": c.branch, "best": c.best, "alike": list(c.alike), "accuracy": list(c.accuracy)}
                for c in self.choices()
            },
        }

    def heat_map(self, path: Path) -> None:
        """A picture of the grid, the paper's beside it. Raises ImportError without matplotlib."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        ours = np.array([[self.accuracy[head, branch].mean() for head in self.heads] for branch in self.branches])
        panels = [("here", self.heads, self.branches, ours)]
        printed = [head for head in self.heads if head in PAPER_GRID["fc"] and head not in self.sigmoid]
        if printed:
            values = np.array([[row[head] for head in printed] for row in PAPER_GRID.values()])
            panels.append(("paper", tuple(printed), tuple(PAPER_GRID), values))
        figure = Figure(figsize=(1.5 + 3.2 * len(panels), 1.5 + 0.45 * len(self.branches)), layout="constrained")
        FigureCanvasAgg(figure)
        for number, panel in enumerate(panels, start=1):
            _draw(figure.add_subplot(1, len(panels), number), *panel)
        figure.savefig(path, dpi=150)


def _draw(axes: Any, title: str, heads: Sequence[str], branches: Sequence[str], values: np.ndarray) -> None:
    """One grid; colours span each head's own range, since tasks differ more in difficulty than points do."""
    low, high = values.min(0), values.max(0)
    axes.imshow((values - low) / np.maximum(high - low, 1e-9), cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_title(title)
    axes.set_xticks(range(len(heads)), heads)
    axes.set_yticks(range(len(branches)), branches)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            bright = value - low[x] > 0.6 * (high[x] - low[x])
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", color="black" if bright else "white")
