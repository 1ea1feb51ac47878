"""What :meth:`FastForward.describe` and :meth:`FastForward.profile` return: the plan as a table, perhaps with times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .plan.algorithms import Chooser, choose_algorithm
from .plan.phases import (
    LinearHead,
    Phase,
    Plan,
    Quantize,
    QuantizedConv,
    QuantizedStem,
    SegmentedConv,
    ShiftedMeans,
    Stem,
)
from .tuning.file import Overrides

__all__ = ["Description", "PhaseDescription"]


@dataclass(frozen=True)
class PhaseDescription:
    """One phase: what it reads and writes, its kernel and number format (float32, bfloat16, float16, int8);
    multiply-adds, products left of them and seconds, per image. ``chosen_by`` says what chose a convolution's
    algorithm: ``rule``, ``tuned`` (by ``faceattr tune``) or ``forced`` (by FACEATTR_ALGORITHM).
    """

    name: str
    kind: str
    reads: str
    shape: tuple[int, int, int]
    kernel: str
    dtype: str
    multiply_adds: int
    products: int
    chosen_by: Chooser | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Description:
    """A compiled network: ``str()`` is a table, ``to_dict()`` plain data for JSON.

    From the phase ``first_grouped`` on (None: no phase), a thread with many images of a batch runs layer by layer over
    groups of up to ``group_images`` of them. ``arena_bytes`` is what one image takes, on
    CUDA what all images of the run take together; ``threads`` mean nothing there.
    """

    device: str
    dtype: str
    isa: str
    threads: int
    rewritten: bool
    hash: str
    multiply_adds_as_given: int
    multiply_adds: int
    products: int
    weight_bytes: int
    arena_bytes: int
    first_grouped: str | None
    group_images: int
    phases: tuple[PhaseDescription, ...]

    @property
    def seconds(self) -> float | None:
        """Per image, all phases; None without times."""
        times = [phase.seconds for phase in self.phases if phase.seconds is not None]
        return sum(times) if times else None

    def to_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["phases"] = [
            {name: getattr(phase, name) for name in phase.__dataclass_fields__ if getattr(phase, name) is not None}
            for phase in self.phases
        ]
        return plain

    def __str__(self) -> str:
        timed = self.seconds is not None
        form = "rewritten (exact)" if self.rewritten else "as given"
        on_cpu = self.device == "cpu"
        threads, per = (f", {self.threads} threads", " per thread") if on_cpu else ("", "")
        lines = [
            f"{self.device} {self.dtype}, {self.isa}{threads}; {form}, plan {self.hash[:12]}",
            f"{self.multiply_adds_as_given / 1e6:.1f} M multiply-adds as given, "
            f"{self.multiply_adds / 1e6:.1f} M in this plan, {self.products / 1e6:.1f} M products executed",
            f"{self.weight_bytes / 2**20:.1f} MiB weights, {self.arena_bytes / 2**20:.1f} MiB activations{per}",
        ]
        if self.first_grouped is not None:
            groups = f"groups of up to {self.group_images} images"
            lines.append(f"batches: from {self.first_grouped} on layer by layer over {groups}")
        if any(phase.chosen_by == "tuned" for phase in self.phases):
            lines.append("*: algorithm chosen by measurement (faceattr tune)")
        lines.append("")
        width = max(29, *(len(phase.kernel) for phase in self.phases))
        header = f"{'phase':24} {'output':>10} {'MMAC':>7} {'products':>8}  {'kernel':{width}}  {'format':8}"
        lines.append(header + (f" {'us':>7} {'G/s':>5}" if timed else "") + "  reads")
        for phase in self.phases:
            shape = "x".join(map(str, phase.shape))
            row = f"{phase.name:24} {shape:>10} {phase.multiply_adds / 1e6:7.2f} {phase.products / 1e6:8.2f}"
            row += f"  {phase.kernel + '*' * (phase.chosen_by == 'tuned'):{width}}  {phase.dtype:8}"
            if timed:
                seconds = phase.seconds or 0.0
                rate = phase.products / seconds / 1e9 if seconds > 0 else 0.0
                row += f" {seconds * 1e6:7.1f} {rate:5.1f}"
            lines.append(f"{row}  {phase.reads}")
        if timed:
            total = f"{'total':24} {'':>10} {self.multiply_adds / 1e6:7.2f} {self.products / 1e6:8.2f}"
            lines.append(f"{total}  {'':{width}}  {'':8} {(self.seconds or 0.0) * 1e6:7.1f}")
        return "\n".join(lines)


def describe_phases(
    plan: Plan, kernels: list[str], overrides: Overrides | None, seconds: list[float] | None = None
) -> tuple[PhaseDescription, ...]:
    """Pair the plan's phases with the engine's kernel names, what chose their algorithms and, per image, seconds."""
    rows = []
    for i, (phase, kernel) in enumerate(zip(plan.phases, kernels, strict=True)):
        shape, choice = plan.tensors[phase.dst], choose_algorithm(plan, phase, *overrides) if overrides else None
        rows.append(
            PhaseDescription(
                name=phase.dst,
                kind=type(phase).__name__,
                reads=_reads(phase),
                shape=(shape.height, shape.width, shape.channels),
                kernel=kernel,
                dtype=plan.phase_format(phase),
                multiply_adds=plan.phase_multiply_adds(phase),
                products=plan.phase_products(phase),
                chosen_by=choice.by if choice else None,
                seconds=None if seconds is None else seconds[i],
            )
        )
    return tuple(rows)


def _reads(phase: Phase) -> str:
    match phase:
        case Stem() | QuantizedStem():
            return "pixels 7x7/2, max pool"
        case SegmentedConv() | QuantizedConv():
            parts = [f"{s.src}[{s.start}:{s.start + s.count}] {s.kernel}x{s.kernel}/{s.stride}" for s in phase.segments]
            parts += [phase.residual] if phase.residual else []
            return " + ".join(parts) + (", relu" if phase.relu else "")
        case Quantize():
            return phase.src
        case ShiftedMeans():
            span = f"{phase.src}[{phase.start}:{phase.start + phase.count}]"
            return f"means of {span} {phase.kernel}x{phase.kernel}/{phase.stride}"
        case LinearHead():
            return " + ".join(src for src, _ in phase.inputs)
