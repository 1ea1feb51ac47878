"""Weights files written by hand, byte by byte: shared by the tests of reading and of damage."""

import json
import struct

import numpy as np
import pytest
from networks import SMALL

from faceattr_fast import WeightsError
from faceattr_fast.spec import BlockSpec, HeadSpec, NetworkSpec, PixelSpec, StemSpec
from faceattr_fast.weights import parse_weights

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


def message_of(data):
    with pytest.raises(WeightsError) as caught:
        parse_weights(data, "there.safetensors")
    assert "there.safetensors" in str(caught.value)
    return str(caught.value)
