"""Arrays of the caller's that results are written to."""

import numpy as np
import pytest
from boundary import X, raised, unaligned
from networks import assert_same_bits


@pytest.fixture
def out(small_fast):
    return {name: np.full_like(value, 7) for name, value in small_fast(X).items()}


def test_results_are_written_to_out(small_fast, out):
    expected = small_fast(X)
    for given in (out, dict(reversed(out.items()))):
        found = small_fast(X, out=given)
        assert all(found[name] is out[name] for name in out)
        assert_same_bits(found, expected)
        for value in out.values():
            value.fill(7)
    whole = np.zeros(sum(value.size for value in out.values()), np.float32)  # parts of one buffer do not overlap
    parts, start = {}, 0
    for name, value in out.items():
        parts[name] = whole[start : start + value.size].reshape(value.shape)
        start += value.size
    assert_same_bits(small_fast(X, out=parts), expected)
    assert list(small_fast(X, out=dict(reversed(out.items())))) == list(small_fast.heads)


def test_results_are_new_every_time(small_fast):
    first, second = small_fast(X), small_fast(X)
    assert not any(np.shares_memory(a, b) for a in first.values() for b in second.values())
    assert all(value.flags.writeable and value.flags.c_contiguous for value in first.values())


def other_dtype(out):
    out["mood"] = out["mood"].astype(np.float64)


def other_byte_order(out):
    out["mood"] = out["mood"].astype(">f4")


def not_an_array(out):
    out["mood"] = out["mood"].tolist()


def too_few_rows(out):
    out["mood"] = out["mood"][:-1]


def flat(out):
    out["mood"] = out["mood"].reshape(-1)


def fortran(out):
    out["mood"] = np.asfortranarray(out["mood"])


def with_gaps(out):
    out["mood"] = np.zeros((4, 6), np.float32)[:, ::2]


def not_writable(out):
    out["mood"].flags.writeable = False


def not_aligned(out):
    out["mood"] = unaligned(out["mood"])


def twice_the_same(out):
    out["glasses"] = out["mood"].reshape(-1)[:8].reshape(4, 2)


def partly_overlapping(out):
    memory = np.zeros(30, np.float32)
    out["mood"], out["hat"] = memory[:12].reshape(4, 3), memory[11:27].reshape(4, 4)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (other_dtype, TypeError, ["out['mood']", "float32", "float64"]),
        (other_byte_order, TypeError, ["out['mood']", "float32", ">f4"]),
        (not_an_array, TypeError, ["out['mood']", "float32", "list"]),
        (too_few_rows, ValueError, ["out['mood']", "[4, 3]", "[3, 3]"]),
        (flat, ValueError, ["out['mood']", "[4, 3]", "[12]"]),
        (fortran, ValueError, ["out['mood']", "C-contiguous"]),
        (with_gaps, ValueError, ["out['mood']", "C-contiguous"]),
        (not_writable, ValueError, ["out['mood']", "writable"]),
        (not_aligned, ValueError, ["out['mood']", "aligned"]),
        (twice_the_same, ValueError, ["out['glasses']", "overlaps"]),
        (partly_overlapping, ValueError, ["out['hat']", "overlaps"]),
        (lambda out: out.pop("mood"), ValueError, ["out", "mood", "expected the keys"]),
        (lambda out: out.update(smile=out["mood"]), ValueError, ["out", "smile", "expected the keys"]),
        (lambda out: out.update({3: out.pop("mood")}), ValueError, ["out", "mood", "3"]),
    ],
)
def test_wrong_out(small_fast, out, change, kind, words):
    change(out)
    before = {name: np.array(value) for name, value in out.items()}
    raised(kind, lambda: small_fast(X, out=out), *words)
    for name, value in before.items():  # nothing was written before the error
        np.testing.assert_array_equal(out[name], value)


def test_out_must_be_a_mapping_and_not_the_pixels(small_fast, out):
    raised(TypeError, lambda: small_fast(X, out=list(out.values())), "out", "dict", "list")
    x = X.copy()
    out["mood"] = x.reshape(-1)[:12].reshape(4, 3)
    raised(ValueError, lambda: small_fast(x, out=out), "out['mood']", "overlaps")
