"""Measuring the algorithms of a plan's convolutions on this machine, for ``faceattr tune``.

- All candidates run inside the whole network, with the caches as its other phases leave them, and the engine's clock
  measures each phase. There are as many plans as the convolution with the most candidates has; in the first all
  convolutions have the rule's choice, in each further one another candidate, as far as they have any.
- The plans take turns, in an order that is shuffled in each of twenty rounds. A candidate is compared with the rule's
  choice round by round: the ratio of their seconds per image, averaged over the batch sizes, for a choice holds for all
  of them.
- A candidate replaces the rule's choice where its median ratio is 0.98 or less and it was the faster one in nine
  rounds of ten; of several, the one with the smallest median ratio does.
- In the end the network with all replacements takes turns with the one by the rule. Unless it is faster by the same
  measure of nine rounds in ten, the rule's choices stay.

Phases of one signature share one choice, so their seconds are added.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..engine.backend import compile_plan
from ..plan.algorithms import candidates, choose_algorithms, signature
from ..plan.phases import Algorithm, Plan, QuantizedConv, SegmentedConv, Stem

__all__ = ["ROUNDS", "TunedConvolution", "Tuning", "measure", "tune_plan"]

Array = np.ndarray
Report = Callable[[int, str], None]

# A candidate that is neither faster nor slower would win 18 rounds of 20 by chance once in 5000 times.
ROUNDS = 20
_WINS = 0.9
_WORTH = 0.98  # a smaller gain is not worth other bits
_SINGLES = 8  # images per turn where they run one at a time: some 50 ms of the paper's network


@dataclass(frozen=True)
class TunedConvolution:
    """The phases of one signature: what the rule chooses, what the measurement does.

    ``seconds`` has, by algorithm, the median per image and batch size, all phases together.
    """

    signature: str
    phases: tuple[str, ...]
    rule: Algorithm
    algorithm: Algorithm
    seconds: Mapping[Algorithm, tuple[float, ...]]


@dataclass(frozen=True)
class Tuning:
    """One plan, tuned.

    ``convolutions``: those that there is a choice for; where there is none, nothing was measured. ``by_rule``,
    ``tuned``: median seconds of the whole network per image and batch size; ``tuned`` is None where nothing would be
    replaced. ``kept`` is False there, and where it was no faster and the rule's choices stay.
    """

    convolutions: tuple[TunedConvolution, ...]
    by_rule: tuple[float, ...]
    tuned: tuple[float, ...] | None
    kept: bool

    def entries(self, threads: int, batches: Sequence[int]) -> dict[str, dict[str, Any]]:
        """Plain data for :func:`.file.merge_tuning`, by signature."""
        return {
            conv.signature: {
                "algorithm": conv.algorithm,
                "rule": conv.rule,
                "threads": threads,
                "seconds": {
                    name: {str(batch): round(s, 9) for batch, s in zip(batches, seconds, strict=True)}
                    for name, seconds in conv.seconds.items()
                },
            }
            for conv in self.convolutions
        }


def tune_plan(
    plan: Plan, threads: int, isa: str, batches: Sequence[int], rounds: int = ROUNDS, report: Report = lambda *_: None
) -> Tuning:
    """Measure every candidate for every convolution.

    Args:
        plan: with its number formats, whatever its algorithms.
        threads, isa: as for :func:`.compile_plan`.
        batches: sizes that count alike; 1 runs image by image on all threads.
        rounds: of each of the two measurements.
        report: called with the number of rounds that are done, of ``2 * rounds``, and what is next.
    """
    rule = choose_algorithms(plan, isa=isa)
    phases: dict[str, list[int]] = {}
    able: dict[str, list[Algorithm]] = {}  # the rule's choice first
    for i, phase in enumerate(rule.phases):
        if isinstance(phase, (Stem, SegmentedConv, QuantizedConv)) and len(found := candidates(rule, phase)) > 1:
            name = signature(rule, phase)
            phases.setdefault(name, []).append(i)
            able[name] = [phase.algorithm, *(algorithm for algorithm in found if algorithm != phase.algorithm)]
    if not able:
        return Tuning((), (), None, kept=False)

    trials = [
        choose_algorithms(
            plan, tuned={name: choice[k if k < len(choice) else 0] for name, choice in able.items()}, isa=isa
        )
        for k in range(max(map(len, able.values())))
    ]
    times = measure(trials, threads, isa, batches, rounds, report)
    convolutions = []
    for name, choice in able.items():
        seconds = times[: len(choice), ..., phases[name]].sum(-1)  # [candidates, rounds, batches]
        medians = {algorithm: _medians(seconds[k]) for k, algorithm in enumerate(choice)}
        names = tuple(rule.phases[i].dst for i in phases[name])
        convolutions.append(TunedConvolution(name, names, choice[0], choice[_best(seconds)], medians))
    replaced = {conv.signature: conv.algorithm for conv in convolutions if conv.algorithm != conv.rule}
    if not replaced:
        return Tuning(tuple(convolutions), _medians(times[0].sum(-1)), None, kept=False)

    final = [rule, choose_algorithms(plan, tuned=replaced, isa=isa)]
    whole = measure(final, threads, isa, batches, rounds, lambda done, what: report(rounds + done, what)).sum(-1)
    kept = bool(_best(whole, worth=1))
    if not kept:
        convolutions = [replace(conv, algorithm=conv.rule) for conv in convolutions]
    return Tuning(tuple(convolutions), _medians(whole[0]), _medians(whole[1]), kept)


def measure(
    plans: Sequence[Plan], threads: int, isa: str, batches: Sequence[int], rounds: int, report: Report
) -> Array:
    """Seconds per image of every phase: [plans, rounds, batches, phases]. The plans take turns."""
    report(0, "packing weights")
    engines = [compile_plan(plan, threads, isa) for plan in plans]
    size, shuffle = plans[0].spec.pixels.size, random.Random(0).shuffle
    images = [_SINGLES if batch == 1 else batch for batch in batches]
    pixels = np.random.default_rng(0).integers(0, 256, (max(images), size, size, 3), np.uint8)
    arrays = [np.empty((len(pixels), output.count), np.float32) for output in plans[0].outputs.values()]
    times = np.empty((len(plans), rounds, len(batches), len(plans[0].phases)))
    for i in range(rounds):
        report(i, "measuring")
        for b, count in enumerate(images):
            order = list(range(len(engines)))
            shuffle(order)
            for k in order:
                outputs = [array[:count] for array in arrays]
                engines[k].run(pixels[:1], [array[:1] for array in arrays])  # wakes threads, brings weights back
                seconds = engines[k].profile(pixels[:count], outputs, batches[b] > 1)
                times[k, i, b] = np.array(seconds) / count
    report(rounds, "done")
    return times


def _best(seconds: Array, worth: float = _WORTH) -> int:
    """Which of [candidates, rounds, batches] replaces the first; 0: none does."""
    ratios = (seconds / seconds[0]).mean(-1)  # [candidates, rounds]
    medians = np.median(ratios, axis=1)
    wins = (ratios < 1).mean(1)
    able = [k for k in range(1, len(seconds)) if medians[k] <= worth and wins[k] >= _WINS]
    return min(able, key=lambda k: medians[k], default=0)


def _medians(seconds: Array) -> tuple[float, ...]:
    """Over the rounds of [rounds, batches]."""
    return tuple(float(median) for median in np.median(seconds, axis=0))
