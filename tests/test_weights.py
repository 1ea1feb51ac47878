"""Weights files: what is written comes back, and a damaged file is a WeightsError that names what is wrong."""

import dataclasses
import errno
import json
import pickle
import struct

import numpy as np
import pytest
from networks import SMALL, assert_same_bits, normalise, random_net, random_pixels

from faceattr_fast import FastForward, WeightsError
from faceattr_fast import weights as weights_module
from faceattr_fast.spec import BlockSpec, HeadSpec, NetworkSpec, PixelSpec, StemSpec
from faceattr_fast.weights import Weights, check_tensors, parse_weights, read_weights, write_weights

torch = pytest.importorskip("torch")
from faceattr_fast.reference import load, save  # noqa: E402  (needs torch)

X = normalise(random_pixels(SMALL, 2, 1), SMALL)

#: The fewest tensors that have every part.
TINY = NetworkSpec(
    StemSpec(2),
    ((BlockSpec(2, 1, 3, 2),),),
    embedding=2,
    heads=(HeadSpec("a", 2, "conv2", labels=("é", "ß")),),
    pixels=PixelSpec(size=16),
)


#: numpy's names of the types of a file; it has none for BF16.
CODES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4", "U8": "u1"}


def encode(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry_of(spec=SMALL, **changes):
    return {"format": 1, "spec": json.loads(spec.to_json())} | changes


def file_of(tensors, kinds=None, entry=None, spec=SMALL):
    """The bytes of a file, written by hand; ``kinds``: type per tensor, F32 where it is not said."""
    header, parts, start = {"__metadata__": {"faceattr": json.dumps(entry or entry_of(spec))}}, [], 0
    for name, value in tensors.items():
        kind = (kinds or {}).get(name, "F32")
        if kind == "BF16":
            raw = (np.ascontiguousarray(value, "<f4").view("<u4") >> 16).astype("<u2")
        else:
            raw = np.ascontiguousarray(value, CODES[kind])
        parts.append(raw.tobytes())
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [start, start + len(parts[-1])]}
        start += len(parts[-1])
    return encode(header, b"".join(parts))


def tensors_of(spec=SMALL, seed=1):
    state = random_net(spec, seed).state_dict()
    return {name: value.numpy() for name, value in state.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def tensors():
    return tensors_of()


def message_of(data):
    with pytest.raises(WeightsError) as caught:
        parse_weights(data, "there.safetensors")
    assert "there.safetensors" in str(caught.value)
    return str(caught.value)


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


def test_not_a_file(tmp_path):
    for path in (tmp_path / "none.safetensors", str(tmp_path / "no" / "where")):
        for read in (FastForward.load, read_weights, load):
            with pytest.raises(FileNotFoundError):
                read(path)
    with pytest.raises(OSError, match=tmp_path.name):
        FastForward.load(tmp_path)
    for content in (b"", b"\0", b"\x89PNG\r\n\x1a\n" + bytes(100), b"version https://git-lfs.github.com/spec/v1\n" * 3):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(WeightsError, match="other"):
            FastForward.load(tmp_path / "other")


def outcome(data):
    """Reads the file and compiles what it holds; anything but a WeightsError propagates."""
    try:
        weights = parse_weights(data, "x")
        FastForward(weights, threads=1)
    except WeightsError:
        return "refused"
    return "fine"


@pytest.fixture(scope="module")
def tiny():
    return file_of(tensors_of(TINY), spec=TINY)


def test_truncation_anywhere(tiny):
    """Every byte of the header and of the tensors: the file is small."""
    assert outcome(tiny) == "fine"
    assert all(outcome(tiny[:size]) == "refused" for size in range(len(tiny)))
    for extra in (b"\0", b" " * 8, tiny):
        assert outcome(tiny + extra) == "refused"


def test_changed_bytes_anywhere(tiny):
    """Refused or harmless, never another exception, never a crash."""
    rng = np.random.default_rng(0)
    header = 8 + struct.unpack("<Q", tiny[:8])[0]
    outcomes = {"refused": 0, "fine": 0}
    for round_ in range(2500):
        data = bytearray(tiny)
        for _ in range(1 + round_ % 3):
            place = int(rng.integers(0, 16 if round_ % 10 == 0 else header if round_ % 10 < 9 else len(data)))
            data[place] = rng.integers(0, 256) if round_ % 2 else data[place] ^ (1 << int(rng.integers(0, 8)))
        outcomes[outcome(bytes(data))] += 1
    assert outcomes["refused"] > 500
    assert outcomes["fine"] > 20


def test_pieces_moved_about(tiny):
    rng = np.random.default_rng(1)
    for _ in range(300):
        first, second, length = (int(n) for n in rng.integers(0, len(tiny) - 64, 3) // (1, 1, 20))
        data = bytearray(tiny)
        data[first : first + length] = tiny[second : second + length]
        outcome(bytes(data))
        del data[second : second + length]
        outcome(bytes(data))


@pytest.mark.parametrize("length", [0, 1, -1, +1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, "body", "file"])
def test_the_header_lies_about_its_length(tiny, length):
    true = struct.unpack("<Q", tiny[:8])[0]
    claimed = {"body": len(tiny) - 8, "file": len(tiny), -1: true - 1, 1: true + 1}.get(length, length)
    assert "damaged" in message_of(struct.pack("<Q", claimed) + tiny[8:])


def changed_header(data, change):
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    return encode(header, data[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["stem.bn.bias"].update(data_offsets=[0, 2**40]),
        lambda h: h["stem.bn.bias"].update(data_offsets=[-8, 0]),
        lambda h: h["stem.bn.bias"].update(data_offsets=[8, 0]),
        lambda h: h["stem.bn.bias"].update(data_offsets=h["stem.bn.weight"]["data_offsets"]),
        lambda h: h["stem.bn.bias"].update(data_offsets=[0]),
        lambda h: h["stem.bn.bias"].update(shape=[2**32, 2**32]),
        lambda h: h["stem.bn.bias"].update(shape=[2**62, 4]),
        lambda h: h["stem.bn.bias"].update(shape=[-2]),
        lambda h: h["stem.bn.bias"].update(shape=[2.0]),
        lambda h: h["stem.bn.bias"].update(shape="2"),
        lambda h: h["stem.bn.bias"].update(dtype="F99"),
        lambda h: h["stem.bn.bias"].update(dtype=None),
        lambda h: h.update({"stem.bn.bias": None}),
        lambda h: h.update({"stem.bn.bias": {}}),
        lambda h: h.update(__metadata__=None),
        lambda h: h.update(__metadata__=[]),
        lambda h: h.update(__metadata__="faceattr"),
        lambda h: h.pop("__metadata__"),
        lambda h: h.update(__metadata__={}),
        lambda h: h.update(__metadata__={"format": "pt"}),
        lambda h: h.update(__metadata__={"faceattr": None}),
        lambda h: h.update(__metadata__={"faceattr": 5}),
        lambda h: h.update(__metadata__={"faceattr": {"spec": {}}}),
        lambda h: h.update(__metadata__={"faceattr": ["spec"]}),
    ],
)
def test_lies_in_the_header(tiny, change):
    message_of(changed_header(tiny, change))


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b"{}", b"[" * 100_000, b"9" * 10_000])
def test_headers_that_are_no_header(header):
    message_of(encode(header))


def put(**changes):
    """Sets values of a spec by path: ``heads__0__classes=3``."""

    def change(spec):
        for path, value in changes.items():
            *outer, last = (int(key) if key.isdecimal() else key for key in path.split("__"))
            place = spec
            for key in outer:
                place = place[key]
            place[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.pop("stem"),
        lambda spec: spec.pop("pixels"),
        lambda spec: spec["pixels"].update(more=1),
        put(stem=None), put(stem={"out": 0}), put(stem={"out": "2"}), put(stem={"out": 2.0}), put(stem={"out": True}),
        put(stages=5), put(stages=[5]), put(stages=[[5]]), put(stages={}), put(stages=None),
        put(stages__0__0__in_=3), put(stages__0__0__stride=0), put(stages__0__0__mid=-1), put(stages__0__0__out=10**30),
        put(embedding=0), put(embedding=None), put(embedding=10**30), put(identities=0), put(identities=False),
        put(heads=5), put(heads=[5]), put(heads={"a": 1}), put(heads__0__name="A"), put(heads__0__name="identity"),
        put(heads__0__name=5), put(heads__0__classes=3), put(heads__0__classes=10**30), put(heads__0__branch="conv9"),
        put(heads__0__branch=5), put(heads__0__kind="max"), put(heads__0__kind=[]), put(heads__0__labels=["x"]),
        put(heads__0__labels=["x", "x"]), put(heads__0__labels=5), put(heads__0__thresholds=["x", "y"]),
        put(heads__0__thresholds=[[1], [2]]), put(heads__0__thresholds=[10**400, 1]), put(heads__0__more=1),
        put(heads__0__classes=10**30, heads__0__trained=True),
        put(pixels__mean=None), put(pixels__mean="abc"), put(pixels__mean=[1, 2]), put(pixels__mean=[float("nan")] * 3),
        put(pixels__mean=[10**400] * 3), put(pixels__scale=[0, 1, 1]), put(pixels__scale=[float("inf")] * 3),
        put(pixels__size=0), put(pixels__size=18), put(pixels__size="16"), put(pixels__size=True),
        put(pixels__size=None),
    ],
)  # fmt: skip
def test_wrong_specs_in_the_metadata(change):
    entry = entry_of(TINY)
    change(entry["spec"])
    message_of(file_of(tensors_of(TINY), entry=entry))


@pytest.mark.parametrize(
    "change",
    [
        put(pixels__size=2**31), put(pixels__size=2**31 - 4), put(pixels__size=4 * 10**30), put(pixels__size=40_000),
        put(stages__0__0__stride=2**31), put(stages__0__0__stride=10**30), put(pixels__mean=[1e300] * 3),
        put(pixels__scale=[1e-300] * 3),
    ],
)  # fmt: skip
def test_specs_beyond_what_can_be_run(change):
    """The tensors fit, the numbers do not: an error that callers of ``load`` expect, not one from inside."""
    entry = entry_of(TINY)
    change(entry["spec"])
    with pytest.raises((ValueError, MemoryError)) as caught:
        FastForward(parse_weights(file_of(tensors_of(TINY), entry=entry), "x"))
    assert "incompatible" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "header"), ("{", "header"), ("5", "faceattr"), ("[]", "faceattr"), ("null", "faceattr"), ("{}", "spec"),
     ('{"spec": null}', "spec"), ('{"spec": []}', "spec"), ('{"spec": "x"}', "spec"), ('{"spec": {}}', "spec"),
     ('{"spec": ' + "[" * 5000 + "]" * 5000 + "}", "")],
)  # fmt: skip
def test_metadata_that_is_no_entry(tiny, text, word):
    assert word in message_of(changed_header(tiny, lambda header: header["__metadata__"].update(faceattr=text)))


def test_formats_of_the_future(tiny):
    for version in (2, "1.1", None):
        entry = json.dumps(entry_of(TINY, format=version))
        message = message_of(changed_header(tiny, lambda h, entry=entry: h["__metadata__"].update(faceattr=entry)))
        assert "version" in message
        assert str(version) in message


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
