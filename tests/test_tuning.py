"""Algorithms chosen by measurement: what is measured and decided, the file, and networks that are loaded with it."""

import json
import logging
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from networks import SMALL, assert_same_bits, normalise, random_net, random_pixels, reference, worst_error

from faceattr_fast import FastForward, NetworkSpec, _core, tune_file, tuning
from faceattr_fast.algorithms import candidates, choose_algorithms, signature
from faceattr_fast.backend import compile_plan
from faceattr_fast.plan import QuantizedConv, SegmentedConv
from faceattr_fast.reference.model import tensors_of
from faceattr_fast.rewrite import build_plan
from faceattr_fast.storage import store_bfloat16
from faceattr_fast.tune_file import machine_key, merge_tuning, read_choices, read_tunings
from faceattr_fast.tuning import measure, tune_plan

PAPER = NetworkSpec.paper(None)
IMAGES = random_pixels(SMALL, 9, 5)
ISA = os.environ.get("FACEATTR_ISA") or _core.detected_isa()


@pytest.fixture(scope="module")
def paper_plan():
    return build_plan(PAPER, tensors_of(random_net(PAPER, 0)), ("embedding", "gender", "ethnicity", "emotion", "age"))


@pytest.fixture(scope="module")
def small_plan(small_net):
    return build_plan(SMALL, tensors_of(small_net), ("embedding", "mood", "glasses"))


@pytest.fixture(scope="module")
def int8_file(small_net, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "small.safetensors"
    FastForward.from_module(small_net, calibration=IMAGES).save(path)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder of a user who has tuned nothing yet."""
    monkeypatch.delenv("FACEATTR_TUNE")
    monkeypatch.delenv("FACEATTR_ALGORITHM", raising=False)
    monkeypatch.setenv("FACEATTR_CACHE", str(tmp_path))
    tune_file._warn_once.cache_clear()
    return tmp_path


def convolutions(plan):
    return [phase for phase in plan.phases if isinstance(phase, (SegmentedConv, QuantizedConv))]


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
    """Stands for :func:`tuning.measure`: ``seconds(phase, round)`` per phase, the same at every batch size."""

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
    monkeypatch.setattr(tuning, "measure", clock(by_name("m2", factor), log))
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

    monkeypatch.setattr(tuning, "measure", clock(seconds))
    tuned = tune_plan(paper_plan, 1, "", (1,))
    (blocks,) = (conv for conv in tuned.convolutions if "x4" in conv.phases)
    assert blocks.phases == tuple(f"x{i}" for i in range(4, 10))
    assert blocks.seconds["direct"] == pytest.approx((6.4,))
    assert blocks.algorithm == blocks.rule != "direct"


def test_the_best_of_several_candidates():
    ratios = np.array([1.0, 0.9, 0.7, 0.8])
    times = np.repeat(ratios[:, None, None], 20, 1)
    assert tuning._best(times) == 2
    assert tuning._best(times[:2]) == 1
    assert tuning._best(times[:1]) == 0


def test_batch_sizes_count_alike():
    """Seconds per image differ by batch size; relative to the rule's choice they do not outweigh each other."""
    rule, other = [1.0, 0.1], [1.05, 0.08]  # 5 % slower at one, 20 % faster at the other
    assert tuning._best(np.array([[rule] * 20, [other] * 20])) == 1
    assert tuning._best(np.array([[rule] * 20, [[1.15, 0.09]] * 20])) == 0


def test_a_network_that_is_no_faster_stays_as_it_was(paper_plan, monkeypatch):
    def measured(plans, threads, isa, batches, rounds, report):
        times = clock(by_name("m2", lambda i: 0.5), log)(plans, threads, isa, batches, rounds, report)
        if len(log) == 2:
            times[1] += 1.0  # whatever m2 gained is lost elsewhere
        return times

    log = []
    monkeypatch.setattr(tuning, "measure", measured)
    tuned = tune_plan(paper_plan, 1, "", (1,))
    assert tuned.tuned is not None
    assert not tuned.kept
    assert all(conv.algorithm == conv.rule for conv in tuned.convolutions)


def test_nothing_to_choose_is_not_measured(paper_plan, monkeypatch):
    monkeypatch.setattr(tuning, "candidates", lambda plan, conv: ("direct",))
    monkeypatch.setattr(tuning, "measure", None)
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


# the file


def test_files_keep_what_others_measured(tmp_path):
    path, key = tmp_path / "tune.json", machine_key("avx2")
    document = merge_tuning(None, key, "float32", {"a": {"algorithm": "direct"}, "b": {"algorithm": "direct"}})
    document = merge_tuning(document, {**key, "cpu": "another"}, "float32", {"a": {"algorithm": "polyphase4x4"}})
    document = merge_tuning(document, key, "float32", {"b": {"algorithm": "winograd4x4"}})
    document = merge_tuning(document, key, "int8", {"b": {"algorithm": "winograd2x2"}})
    document = merge_tuning(document, {**key, "version": "9.9"}, "int8", {"b": {"algorithm": "of the future"}})
    path.write_text(json.dumps(document))
    assert read_tunings(path) == document
    assert read_choices(path, "avx2") == {
        "float32": {"a": "direct", "b": "winograd4x4"},
        "int8": {"b": "winograd2x2"},
    }
    assert read_choices(path, "avx512") == {}


DAMAGE = [
    "", "{", "[]", "7", "null", "{}", '{"format": 2, "tunings": []}', '{"format": 1}', '{"format": 1, "tunings": 3}',
    '{"format": 1, "tunings": [5]}', '{"format": 1, "tunings": [{"dtypes": []}]}', "[" * 100_000, "\x00\xff",
    '{"format": 1, "tunings": [{"version": "VERSION", "dtypes": {"float32": {"a": "direct"}}}]}',
    '{"format": 1, "tunings": [{"version": "VERSION", "dtypes": {"float32": {"a": {"algorithm": "fft"}}}}]}',
    '{"format": 1, "tunings": [{"version": "VERSION", "dtypes": {"float32": {"a": {"algorithm": ["fft"]}}}}]}',
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_file(cache, small_file, small_fast, monkeypatch, caplog, text):
    path = cache / "tune.json"
    path.write_bytes(text.replace("VERSION", machine_key("")["version"]).encode("latin-1"))
    with caplog.at_level(logging.WARNING):  # in the cache: ignored, and said once
        for _ in range(2):
            assert FastForward.load(small_file).describe().hash == small_fast.describe().hash
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "faceattr tune" in record.getMessage()
    monkeypatch.setenv("FACEATTR_TUNE", str(path))
    with pytest.raises(ValueError, match=r"FACEATTR_TUNE: expected.*tune\.json is no tune file, or damaged"):
        FastForward.load(small_file)


def test_a_missing_file(cache, small_file, small_fast, monkeypatch, caplog):
    monkeypatch.setenv("FACEATTR_CACHE", str(cache / "not" / "there"))
    assert FastForward.load(small_file).describe() == small_fast.describe()
    monkeypatch.setattr("pathlib.Path.home", no_home)
    monkeypatch.delenv("FACEATTR_CACHE")
    assert FastForward.load(small_file).describe() == small_fast.describe()
    assert not caplog.records
    monkeypatch.setenv("FACEATTR_TUNE", "no/such/file")
    with pytest.raises(ValueError, match=r"FACEATTR_TUNE: expected.*no/such/file"):
        FastForward.load(small_file)


def no_home():
    raise RuntimeError("no home")


# networks that are loaded with it


def test_loading_uses_the_file_of_this_machine_alone(cache, small_file, small_plan, small_fast, monkeypatch):
    by_rule, path = small_fast.describe(), cache / "tune.json"
    whole = build_plan(SMALL, small_fast._weights.tensors, small_fast.heads)
    choices = other_choices(whole)
    for other in ({"cpu": "another"}, {"version": "0.0.1"}, {"isa": "another"}):
        write(path, choices, **other)
        assert FastForward.load(small_file, threads=2).describe() == by_rule
    write(path, choices, dtype="int8")
    assert FastForward.load(small_file, threads=2).describe() == by_rule

    write(path, choices)
    fast = FastForward.load(small_file, threads=2)
    found = fast.describe()
    assert found.hash == choose_algorithms(whole, tuned=choices).hash() != by_rule.hash
    tuned = {name for name, chooser in chosen_by(fast).items() if chooser == "tuned"}
    assert tuned == {conv.dst for conv in convolutions(whole) if signature(whole, conv) in choices}
    assert set(chosen_by(small_fast).values()) == {"rule"}
    assert "faceattr tune" in str(found)
    assert "faceattr tune" not in str(by_rule)
    for phase in found.phases:
        assert (f"{phase.kernel}*" in str(found)) >= (phase.name in tuned)
    assert {p["name"] for p in found.to_dict()["phases"] if p.get("chosen_by") == "tuned"} == tuned

    monkeypatch.setenv("FACEATTR_TUNE", "off")
    assert FastForward.load(small_file, threads=2).describe() == by_rule
    monkeypatch.setenv("FACEATTR_TUNE", str(path))
    assert FastForward.load(small_file, threads=2).describe() == found
    # Forcing goes first, and reads no file.
    monkeypatch.setenv("FACEATTR_ALGORITHM", "direct")
    path.write_text("damaged")
    forced = FastForward.load(small_file)
    assert forced.describe().hash == choose_algorithms(whole, "direct").hash()
    assert set(chosen_by(forced).values()) == {"forced"}


def test_bits_of_a_tuned_network(cache, small_file, small_net):
    """Batch and threads change nothing, features included."""
    plan = build_plan(SMALL, tensors_of(small_net), ["embedding", *(head.name for head in SMALL.heads)])
    taps = build_plan(SMALL, tensors_of(small_net), (), taps={"mid": "m2", "block_input": "x1"})
    write(cache / "tune.json", other_choices(plan) | other_choices(taps))
    fast = FastForward.load(small_file, threads=1)
    expected, features = fast(IMAGES), fast.features(IMAGES, "conv4")
    assert "tuned" in chosen_by(fast).values()
    for threads in (1, 2, 3):
        other = FastForward.load(small_file, threads=threads)
        assert_same_bits(other(IMAGES), expected)
        assert_same_bits(other.features(IMAGES, "conv4"), features)
        assert_same_bits(other(IMAGES[4:5]), {name: value[4:5] for name, value in expected.items()})


@pytest.mark.parametrize("source", ["file", "module"])
@pytest.mark.parametrize("first", ["tuned", "off", "direct"])
def test_pickles_keep_their_algorithms(cache, small_file, small_net, monkeypatch, source, first):
    """And so their bits: in a process that is told otherwise, or whose tune file is not there."""
    path = cache / "elsewhere.json"
    plan = build_plan(SMALL, tensors_of(small_net), ["embedding", *(head.name for head in SMALL.heads)])
    write(path, other_choices(plan))
    states = {
        "tuned": {"FACEATTR_TUNE": str(path), "FACEATTR_ALGORITHM": ""},
        "off": {"FACEATTR_TUNE": "off", "FACEATTR_ALGORITHM": ""},
        "direct": {"FACEATTR_TUNE": "off", "FACEATTR_ALGORITHM": "direct"},
        "missing": {"FACEATTR_TUNE": "no/such/file", "FACEATTR_ALGORITHM": ""},
    }

    def enter(state):
        for name, value in states[state].items():
            monkeypatch.setenv(name, value)

    enter(first)
    fast = FastForward.load(small_file) if source == "file" else FastForward.from_module(small_net)
    expected, described, packed = fast(IMAGES), fast.describe(), pickle.dumps(fast)
    path.unlink()
    for state in ("off", "direct", "missing"):
        enter(state)
        other = pickle.loads(packed)
        assert other.describe() == described
        assert_same_bits(other(IMAGES), expected)
        assert_same_bits(other.features(IMAGES, "conv4"), fast.features(IMAGES, "conv4"))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert_same_bits(pool.submit(fast, IMAGES).result(), expected)


def test_features_are_tuned_too(cache, small_file, small_net):
    taps = build_plan(SMALL, tensors_of(small_net), (), taps={"mid": "m2", "block_input": "x1"})
    by_rule = FastForward.load(small_file)
    by_rule.features(IMAGES, "conv4")
    choices = other_choices(taps)
    write(cache / "tune.json", choices)
    fast = FastForward.load(small_file)
    found = fast.features(IMAGES, "conv4")
    expected = {name: np.empty(found[name].shape, np.float32) for name in taps.outputs}
    compile_plan(choose_algorithms(taps, tuned=choices), 1, "").run(IMAGES, list(expected.values()))
    assert_same_bits(found, expected)
    exact = by_rule.features(IMAGES, "conv4")
    assert any((found[name] != exact[name]).any() for name in found)
    assert worst_error(found, exact)[0] <= 4e-6


@pytest.mark.parametrize("dtype", ["int8", "mixed"])
def test_formats_do_not_depend_on_tuning(cache, int8_file, dtype):
    by_rule = FastForward.load(int8_file, dtype=dtype)
    plan = by_rule._plan
    choices = {}
    for conv in convolutions(plan):
        able = [name for name in candidates(plan, conv) if name != conv.algorithm]
        choices |= {signature(plan, conv): able[0]} if able else {}
    write(cache / "tune.json", choices, dtype=dtype)
    fast = FastForward.load(int8_file, dtype=dtype)
    assert "tuned" in chosen_by(fast).values()
    assert [p.dtype for p in fast.describe().phases] == [p.dtype for p in by_rule.describe().phases]
    assert fast.describe().hash != by_rule.describe().hash
    if dtype == "int8":  # whose algorithms are exact
        assert_same_bits(fast(IMAGES), by_rule(IMAGES))


def test_any_choice_keeps_the_bound(cache):
    """docs/numerics.md: 2e-6, whatever was chosen where."""
    net = random_net(PAPER, 7)
    x = normalise(random_pixels(PAPER, 2, 7), PAPER)
    expected = reference(net, x)
    rng, hashes = np.random.default_rng(7), set()
    plan = build_plan(PAPER, tensors_of(net), ["embedding", *(head.name for head in PAPER.heads)])
    for _ in range(5):
        write(cache / "tune.json", other_choices(plan, rng))
        fast = FastForward.from_module(net)
        error, head = worst_error(fast(x), expected)
        assert error <= 2e-6, (head, chosen_by(fast))
        hashes.add(fast.describe().hash)
    assert len(hashes) > 1
