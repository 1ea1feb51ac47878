"""Algorithms as a measurement could have chosen them: shared by the tests of tuning."""

import json
import os

from faceattr_fast import _core
from faceattr_fast.plan.algorithms import candidates, choose_algorithms, signature
from faceattr_fast.plan.phases import QuantizedConv, SegmentedConv, Stem
from faceattr_fast.tuning.file import machine_key, merge_tuning

ISA = os.environ.get("FACEATTR_ISA") or _core.detected_isa()


def convolutions(plan):
    return [phase for phase in plan.phases if isinstance(phase, (Stem, SegmentedConv, QuantizedConv))]


def other_choices(plan, rng=None):
    """For every convolution that has them, another algorithm than the rule's; with ``rng`` any."""
    chosen = {}
    for conv in convolutions(choose_algorithms(plan)):
        able = candidates(plan, conv)
        if len(able) > 1:
            rest = able if rng else [name for name in able if name != conv.algorithm]
            chosen[signature(plan, conv)] = rest[rng.integers(len(rest))] if rng else rest[0]
    assert chosen
    return chosen


def write(path, choices, dtype="float32", isa=ISA, **key):
    entries = {name: {"algorithm": algorithm} for name, algorithm in choices.items()}
    path.write_text(json.dumps(merge_tuning(None, {**machine_key(isa), **key}, dtype, entries)))


def chosen_by(fast):
    return {phase.name: phase.chosen_by for phase in fast.describe().phases if phase.chosen_by}
