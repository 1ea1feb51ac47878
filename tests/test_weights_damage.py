"""Whatever is done to the bytes of a weights file, reading is right or a WeightsError that names what is wrong."""

import json
import struct

import numpy as np
import pytest
from random_weights import random_tensors
from weights_files import TINY, encode, entry_of, file_of, message_of

from faceattr_fast import FastForward, WeightsError
from faceattr_fast.reference import load
from faceattr_fast.weights import parse_weights, read_weights


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
    return file_of(random_tensors(TINY), spec=TINY)


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
    message_of(file_of(random_tensors(TINY), entry=entry))


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
        FastForward(parse_weights(file_of(random_tensors(TINY), entry=entry), "x"))
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
