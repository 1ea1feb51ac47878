"""The file of tuned algorithms, and networks that are loaded with it."""

import json
import logging
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from choices import chosen_by, convolutions, other_choices, write
from networks import SMALL, assert_same_bits, normalise, random_net, random_pixels, reference, worst_error

from faceattr_fast import FastForward, NetworkSpec
from faceattr_fast.engine.backend import compile_plan
from faceattr_fast.plan.algorithms import candidates, choose_algorithms, signature
from faceattr_fast.plan.rewrite import build_plan
from faceattr_fast.reference.model import tensors_of
from faceattr_fast.tuning.file import _warn_once, machine_key, merge_tuning, read_choices, read_tunings

PAPER = NetworkSpec.paper(None)
IMAGES = random_pixels(SMALL, 9, 5)


@pytest.fixture(scope="module")
def small_plan(small_net):
    return build_plan(SMALL, tensors_of(small_net), ("embedding", "mood", "glasses"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder of a user who has tuned nothing yet."""
    monkeypatch.delenv("FACEATTR_TUNE")
    monkeypatch.delenv("FACEATTR_ALGORITHM", raising=False)
    monkeypatch.setenv("FACEATTR_CACHE", str(tmp_path))
    _warn_once.cache_clear()
    return tmp_path


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
