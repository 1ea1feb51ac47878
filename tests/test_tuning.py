"""Algorithms chosen by measurement: what a choice holds for, and what is measured and decided."""

import numpy as np
import pytest
from choices import convolutions, other_choices
from networks import SMALL, random_net

from faceattr_fast import NetworkSpec
from faceattr_fast.formats.storage import store_bfloat16
from faceattr_fast.plan.algorithms import candidates, choose_algorithms, signature
from faceattr_fast.plan.rewrite import build_plan
from faceattr_fast.reference.model import tensors_of
from faceattr_fast.tuning.measure import _best, measure, tune_plan

PAPER = NetworkSpec.paper(None)


@pytest.fixture(scope="module")
def paper_plan():
    return build_plan(PAPER, tensors_of(random_net(PAPER, 0)), ("embedding", "gender", "ethnicity", "emotion", "age"))


@pytest.fixture(scope="module")
def small_plan(small_net):
    return build_plan(SMALL, tensors_of(small_net), ("embedding", "mood", "glasses"))


# what a choice holds for


def test_signatures_know_shapes_and_formats_but_no_names(paper_plan):
    named = {conv.dst: signature(paper_plan, conv) for conv in convolutions(paper_plan)}
    assert len({named[f"x{i}"] for i in range(4, 10)}) == 1
    assert named["m11"] == named["emotion.m11"]  # other weights
    assert named["m2"] != named["x4"]
    narrow = store_bfloat16(paper_plan)
    assert {signature(narrow, conv) for conv in convolutions(narrow)}.isdisjoint(named.values())
    # Another network and fewer heads: what the trunk has in common is known.
    other = build_plan(PAPER, tensors_of(random_net(PAPER, 1)), ("gender",))
    shared = {conv.dst for conv in convolutions(other) if signature(other, conv) == named.get(conv.dst)}
    assert {"m2", "m3", "x3", "x4"} <= shared


def test_every_candidate_is_taken_when_it_was_measured(paper_plan):
    for conv in convolutions(paper_plan):
        able = candidates(paper_plan, conv)
        assert able[0] == "direct"
        assert len(set(able)) == len(able)
        for name in able:
            tuned = choose_algorithms(paper_plan, tuned={signature(paper_plan, conv): name})
            assert {p.algorithm for p in tuned.phases if p.dst == conv.dst} == {name}
    rule = choose_algorithms(paper_plan)
    for nonsense in ("polyphase4x4", "fft"):  # what cannot be applied is left to the rule
        name = signature(paper_plan, next(conv for conv in convolutions(paper_plan) if conv.dst == "x4"))
        assert choose_algorithms(paper_plan, tuned={name: nonsense}).hash() == rule.hash()
    other = choose_algorithms(paper_plan, tuned=other_choices(paper_plan))
    assert other.hash() != rule.hash()
    assert choose_algorithms(paper_plan, "direct", other_choices(paper_plan)).hash() == paper_plan.hash()


# the measurement


def clock(seconds, log=None):
    """Stands for :func:`.measure`: ``seconds(phase, round)`` per phase, the same at every batch size."""

    def measured(plans, threads, isa, batches, rounds, report):
        report(rounds, "done")
        if log is not None:
            log.append(plans)
        times = [[[seconds(phase, i) for phase in plan.phases] for i in range(rounds)] for plan in plans]
        return np.repeat(np.array(times)[:, :, None], len(batches), 2)

    return measured


def by_name(name, factor):
    """Every phase takes a second; ``factor(round)`` where the phase ``name`` does not run by rule."""

    def seconds(phase, i):
        return factor(i) if phase.dst == name and phase.algorithm == "direct" else 1.0

    return seconds


@pytest.mark.parametrize(
    ("factor", "replaced"),
    [
        (lambda i: 0.8, True),
        (lambda i: 0.97, True),
        (lambda i: 0.99, False),  # not worth it
        (lambda i: 1.2, False),
        (lambda i: 0.5 if i % 10 else 2.0, True),  # 18 rounds of 20
        (lambda i: 0.5 if i % 6 else 1.1, False),  # 16: noise could do that
    ],
)
def test_what_replaces_the_rule(paper_plan, monkeypatch, factor, replaced):
    log = []
    monkeypatch.setattr("faceattr_fast.tuning.measure.measure", clock(by_name("m2", factor), log))
    reported = []
    tuned = tune_plan(paper_plan, 1, "", (1, 32), report=lambda done, what: reported.append(done))
    (m2,) = (conv for conv in tuned.convolutions if conv.phases == ("m2",))
    assert m2.rule != "direct"
    assert m2.algorithm == ("direct" if replaced else m2.rule)
    others = [conv for conv in tuned.convolutions if conv is not m2]
    assert others
    assert all(conv.algorithm == conv.rule for conv in others)
    assert len(m2.seconds["direct"]) == 2
    assert tuned.kept == replaced
    rule = choose_algorithms(paper_plan)
    # First all candidates, the rule's choices before others, then the network as a whole.
    most = max(len(candidates(paper_plan, conv)) for conv in convolutions(paper_plan))
    assert [len(plans) for plans in log] == [most, 2][: 1 + replaced]
    assert log[0][0].hash() == rule.hash()
    assert reported == [20, 40][: 1 + replaced]
    entries = tuned.entries(1, (1, 32))
    assert (
        choose_algorithms(paper_plan, tuned={n: e["algorithm"] for n, e in entries.items()})
        == log[-1][1 - replaced - 1]
    )


def test_phases_of_one_signature_are_added_up(paper_plan, monkeypatch):
    """x4 alone is faster by another algorithm, the other five are slower."""
    slower = {f"x{i}" for i in range(5, 10)}

    def seconds(phase, i):
        direct = getattr(phase, "algorithm", None) == "direct"
        return 1.0 if not direct else 1.1 if phase.dst in slower else 0.9

    monkeypatch.setattr("faceattr_fast.tuning.measure.measure", clock(seconds))
    tuned = tune_plan(paper_plan, 1, "", (1,))
    (blocks,) = (conv for conv in tuned.convolutions if "x4" in conv.phases)
    assert blocks.phases == tuple(f"x{i}" for i in range(4, 10))
    assert blocks.seconds["direct"] == pytest.approx((6.4,))
    assert blocks.algorithm == blocks.rule != "direct"


def test_the_best_of_several_candidates():
    ratios = np.array([1.0, 0.9, 0.7, 0.8])
    times = np.repeat(ratios[:, None, None], 20, 1)
    assert _best(times) == 2
    assert _best(times[:2]) == 1
    assert _best(times[:1]) == 0


def test_batch_sizes_count_alike():
    """Seconds per image differ by batch size; relative to the rule's choice they do not outweigh each other."""
    rule, other = [1.0, 0.1], [1.05, 0.08]  # 5 % slower at one, 20 % faster at the other
    assert _best(np.array([[rule] * 20, [other] * 20])) == 1
    assert _best(np.array([[rule] * 20, [[1.15, 0.09]] * 20])) == 0


def test_a_network_that_is_no_faster_stays_as_it_was(paper_plan, monkeypatch):
    def measured(plans, threads, isa, batches, rounds, report):
        times = clock(by_name("m2", lambda i: 0.5), log)(plans, threads, isa, batches, rounds, report)
        if len(log) == 2:
            times[1] += 1.0  # whatever m2 gained is lost elsewhere
        return times

    log = []
    monkeypatch.setattr("faceattr_fast.tuning.measure.measure", measured)
    tuned = tune_plan(paper_plan, 1, "", (1,))
    assert tuned.tuned is not None
    assert not tuned.kept
    assert all(conv.algorithm == conv.rule for conv in tuned.convolutions)


def test_nothing_to_choose_is_not_measured(paper_plan, monkeypatch):
    monkeypatch.setattr("faceattr_fast.tuning.measure.candidates", lambda plan, conv: ("direct",))
    monkeypatch.setattr("faceattr_fast.tuning.measure.measure", None)
    assert tune_plan(paper_plan, 1, "", (1,)).convolutions == ()


def test_measuring(small_plan):
    """The real clock: every phase of every plan, in every round, at every batch size."""
    plans = [choose_algorithms(small_plan), choose_algorithms(small_plan, tuned=other_choices(small_plan))]
    reported = []
    times = measure(plans, 2, "", (1, 2, 9), 3, lambda done, what: reported.append(done))
    assert times.shape == (2, 3, 3, len(small_plan.phases))
    assert (times > 0).all()
    assert times.max() < 10
    assert reported == [0, 0, 1, 2, 3]
    tuned = tune_plan(small_plan, 2, "", (1, 5), rounds=2)
    assert {conv.signature for conv in tuned.convolutions} == set(other_choices(small_plan))
    assert all(min(times) > 0 for conv in tuned.convolutions for times in conv.seconds.values())
