"""Weights files: what is written comes back, wrong tensors are named, and a write is whole or not at all."""

import dataclasses
import errno
import pickle

import numpy as np
import pytest
from networks import SMALL, assert_same_bits, normalise, random_net, random_pixels
from random_weights import random_tensors
from weights_files import TINY, file_of, message_of

from faceattr_fast import FastForward, WeightsError
from faceattr_fast import weights as weights_module
from faceattr_fast.reference import load, save
from faceattr_fast.weights import Weights, check_tensors, parse_weights, read_weights, write_weights

torch = pytest.importorskip("torch")

X = normalise(random_pixels(SMALL, 2, 1), SMALL)


@pytest.fixture(scope="module")
def tensors():
    return random_tensors(SMALL, 1)


def test_what_is_saved_are_the_original_tensors(small_file, small_net, tmp_path):
    """Not the folded or rewritten ones: any option of the object that saves leaves the file the same."""
    expected = small_file.read_bytes()
    for options in ({}, {"rewrite": False}, {"heads": ["mood"]}):
        path = tmp_path / "again.safetensors"
        FastForward.load(small_file, **options).save(path)
        assert path.read_bytes() == expected
        FastForward.from_module(small_net, metadata={"licence": "Apache-2.0"}, **options).save(path)
        assert path.read_bytes() == expected
    state = load(small_file).state_dict()
    for name, value in small_net.state_dict().items():
        assert torch.equal(state[name], value), name


def test_module_and_file_compute_the_same_bits(small_file, small_net):
    assert_same_bits(FastForward.load(small_file)(X), FastForward.from_module(small_net)(X))
    assert_same_bits(FastForward.load(small_file)(X), FastForward.from_module(load(small_file))(X))


def test_the_object_keeps_the_weights_it_was_built_from(small_net, tmp_path):
    net = random_net(SMALL, 4).train()
    fast = FastForward.from_module(net)
    before = fast(X)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(9)
    assert net.training  # the module is left as it was
    assert_same_bits(fast(X), before)
    fast.save(tmp_path / "w")
    assert_same_bits(FastForward.load(tmp_path / "w")(X), before)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_formats_are_widened_exactly(tensors, tmp_path, kind):
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[kind]
    # BF16 by hand cuts the lower half off; so do the same here.
    if kind == "BF16":
        exact = {n: (v.view(np.uint32) & 0xFFFF0000).view(np.float32) for n, v in tensors.items()}
    else:
        exact = {n: v.astype(np.float16).astype(np.float32) for n, v in tensors.items()}
    special = np.array([65504.0, -6e-8, 0.0, -0.0, 6.1e-5], np.float32)  # largest, smallest and signed zero
    rounded = torch.from_numpy(special).to(dtype).float().numpy()
    exact["heads.pose.fc.bias"] = rounded
    path = tmp_path / "half.safetensors"
    path.write_bytes(file_of(exact, dict.fromkeys(exact, kind)))
    found = read_weights(path)
    for name, value in exact.items():
        assert found.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(found.tensors[name].view(np.uint32), value.view(np.uint32), err_msg=name)
    assert_same_bits(FastForward.load(path)(X), FastForward(Weights(SMALL, exact))(X))
    FastForward.load(path).save(tmp_path / "wide.safetensors")
    assert_same_bits(FastForward.load(tmp_path / "wide.safetensors")(X), FastForward.load(path)(X))


def test_formats_may_be_mixed(tensors):
    kinds = {name: ("F16", "BF16", "F32")[i % 3] for i, name in enumerate(tensors)}
    found = parse_weights(file_of(tensors, kinds), "x")
    for name, value in tensors.items():
        if kinds[name] == "F32":
            np.testing.assert_array_equal(found.tensors[name], value)
        else:
            np.testing.assert_allclose(found.tensors[name], value, rtol=2**-7, atol=1e-6)


def test_float16_storage(small_net, tmp_path):
    fast = FastForward.from_module(small_net)
    fast.save(tmp_path / "half", dtype="float16")
    fast.save(tmp_path / "full")
    assert (tmp_path / "half").stat().st_size < 0.7 * (tmp_path / "full").stat().st_size
    for name, value in read_weights(tmp_path / "half").tensors.items():
        np.testing.assert_array_equal(value, fast._weights.tensors[name].astype(np.float16).astype(np.float32))
    with pytest.raises(ValueError, match="dtype"):
        fast.save(tmp_path / "half", dtype="float8")
    big = Weights(SMALL, {**fast._weights.tensors, "heads.pose.fc.bias": np.full(5, 1e6, np.float32)})
    with pytest.raises(ValueError, match=r"heads\.pose\.fc\.bias.*float16"):
        write_weights(tmp_path / "half", big, dtype="float16")


def test_metadata_and_spec_come_back(tmp_path):
    extra = {"licence": "CC-BY-4.0", "crop": {"points": [[38.25, 51.5]] * 5, "border": "zero"}, "trained_on": "äöü 顔"}
    net = random_net(TINY, 2)
    save(net, tmp_path / "w", metadata=extra)
    for found in (FastForward.load(tmp_path / "w"), read_weights(tmp_path / "w")):
        assert found.spec == TINY
        assert found.metadata == extra
    FastForward.load(tmp_path / "w").save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "w").read_bytes()


@pytest.mark.parametrize("key", ["spec", "format"])
def test_metadata_cannot_make_a_file_unreadable(small_net, tmp_path, key):
    """Keys that the format itself uses are refused or lose; a file that was written can be read."""
    try:
        FastForward.from_module(small_net, metadata={key: 7}).save(tmp_path / "w")
    except ValueError as error:
        assert key in str(error)  # noqa: PT017
    else:
        assert read_weights(tmp_path / "w").spec == SMALL


def test_missing_and_extra_tensors_are_named(tensors):
    some = dict(tensors)
    del some["blocks.2.reduce.weight"], some["heads.mood.bottleneck.bn.running_var"]
    message = message_of(file_of(some))
    assert "missing" in message
    assert "blocks.2.reduce.weight" in message
    assert "heads.mood.bottleneck.bn.running_var" in message
    for extra in ("blocks.9.reduce.weight", "heads.beard.fc.weight", "stem.bn.num_batches_tracked", "Stem.conv.weight"):
        assert extra in message_of(file_of({**tensors, extra: np.zeros(3, np.float32)}))
    assert "missing" in message_of(file_of({}))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("stem.conv.weight", lambda v: v[:, :, :5], ["(8, 3, 5, 7)", "(8, 3, 7, 7)"]),
        ("stem.conv.weight", lambda v: v.reshape(-1), ["(1176,)"]),
        ("blocks.1.reduce.weight", lambda v: v[:, :, 0, 0], ["(6, 8)", "(6, 8, 1, 1)"]),
        ("heads.pose.fc.weight", lambda v: v.T, ["(10, 5)", "(5, 10)"]),
        ("heads.pose.fc.bias", lambda v: v[:0], ["(0,)", "(5,)"]),
        ("heads.pose.fc.bias", lambda v: v[0], ["()", "(5,)"]),
        ("stem.bn.running_var", lambda v: np.where(np.arange(8) == 3, -1e-3, v), ["negative"]),
        ("stem.bn.running_var", lambda v: np.where(np.arange(8) == 3, np.nan, v), ["non-finite"]),
        ("bottleneck.conv.weight", lambda v: np.where(v == v.max(), np.inf, v), ["non-finite"]),
        ("heads.mood.fc.bias", lambda v: np.where(v == v.max(), -np.inf, v), ["non-finite"]),
    ],
)
def test_wrong_tensors_are_named(tensors, small_net, name, change, words):
    wrong = {**tensors, name: np.asarray(change(tensors[name]), np.float32)}
    message = message_of(file_of(wrong))
    for word in (f"'{name}'", *words):
        assert word in message
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
        check_tensors(SMALL, wrong, "x")
    for kind in ("F16", "BF16"):
        assert name in message_of(file_of(wrong, dict.fromkeys(wrong, kind)))


@pytest.mark.parametrize("kind", ["F64", "I32", "U8"])
def test_other_types_are_named(tensors, kind):
    message = message_of(file_of(tensors, {"blocks.3.bn.bias": kind}))
    for word in ("'blocks.3.bn.bias'", kind, "F32, F16 or BF16"):
        assert word in message


def test_a_module_with_non_finite_weights(small_net):
    net = random_net(SMALL, 1)
    with torch.no_grad():
        net.blocks["2"].bn.running_mean[1] = float("nan")
    with pytest.raises(WeightsError, match=r"blocks\.2\.bn\.running_mean.*non-finite"):
        FastForward.from_module(net)


def test_what_folding_cannot_hold(tensors):
    huge = {**tensors, "blocks.1.bn.weight": np.full(6, 3e38, np.float32)}
    with pytest.raises(WeightsError, match="float32"):
        FastForward(Weights(SMALL, huge))
    zero = {**tensors, "blocks.1.bn.running_var": np.zeros(6, np.float32)}  # eps keeps it finite
    assert all(np.isfinite(value).all() for value in FastForward(Weights(SMALL, zero))(X).values())


def test_writing_checks_first(tensors, tmp_path):
    path = tmp_path / "w"
    with pytest.raises(WeightsError, match=r"stem\.bn\.bias"):
        write_weights(path, Weights(SMALL, {**tensors, "stem.bn.bias": np.zeros(3, np.float32)}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["serialize", "fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file(small_net, tmp_path, monkeypatch, place):
    path = tmp_path / "w.safetensors"
    fast = FastForward.from_module(small_net)
    fast.save(path)
    before = path.read_bytes()

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    owner = weights_module if place == "serialize" else weights_module.os
    monkeypatch.setattr(owner, place, interrupted)
    with pytest.raises(KeyboardInterrupt):
        FastForward.from_module(random_net(SMALL, 9)).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing else is left behind


def test_a_full_disk_leaves_the_old_file(small_net, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")

    def full(_handle):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(weights_module.os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        FastForward.from_module(small_net).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_others_may_read_what_was_saved(small_net, tmp_path):
    FastForward.from_module(small_net).save(tmp_path / "w")
    assert (tmp_path / "w").stat().st_mode & 0o444 == 0o444


def test_save_over_its_own_file(small_file, tmp_path):
    path = tmp_path / "w"
    path.write_bytes(small_file.read_bytes())
    fast = FastForward.load(path)
    expected = fast(X)
    fast.save(path)
    assert_same_bits(fast(X), expected)
    assert_same_bits(FastForward.load(path)(X), expected)


def test_a_pickled_object_refuses_a_changed_file(small_file, tmp_path):
    path = tmp_path / "w"
    path.write_bytes(small_file.read_bytes())
    fast = FastForward.load(path, heads=["pose", "mood"], rewrite=False, threads=1)
    packed = pickle.dumps(fast)
    assert len(packed) < 2000  # the path and the hash, not the tensors
    assert_same_bits(pickle.loads(packed)(X), fast(X))
    random = dataclasses.replace(read_weights(path), metadata={"licence": "other"})
    write_weights(path, random)
    with pytest.raises(WeightsError, match=r"w: .*changed"):
        pickle.loads(packed)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(packed)


@pytest.mark.parametrize("gone", [True, False])
def test_a_pickle_brings_the_tensors_where_the_file_is_another_one(small_file, tmp_path, gone):
    path = tmp_path / "w"
    path.write_bytes(small_file.read_bytes())
    fast = FastForward.load(path, heads=["pose", "mood"], threads=1)
    described = fast.describe()
    if gone:
        path.unlink()
    else:
        write_weights(path, dataclasses.replace(read_weights(path), metadata={"licence": "other"}))
    packed = pickle.dumps(fast)
    assert len(packed) > 20000
    again = pickle.loads(packed)
    assert_same_bits(again(X), fast(X))
    assert again.describe() == described == fast.describe()


def test_read_spec_reads_the_header_alone(small_net, tmp_path):
    path = tmp_path / "w"
    FastForward.from_module(small_net).save(path)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[:header])
    assert weights_module.read_spec(path) == small_net.spec
    path.write_bytes(data[: header - 1])
    with pytest.raises(WeightsError, match="header"):
        weights_module.read_spec(path)
