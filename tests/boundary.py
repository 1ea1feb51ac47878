"""Pixels for the tests of the boundary, memory of odd layouts, and how an error is checked."""

import numpy as np
import pytest
from networks import SMALL, normalise, random_pixels

IMAGES = random_pixels(SMALL, 4, 1)
X = normalise(IMAGES, SMALL)


def raised(kind, call, *words):
    """The message of the error of exactly this ``kind``; every one of ``words`` is in it."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert caught.type is kind, message
    for word in words:
        assert word in message, message
    return message


def strided(array):
    wide = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
    view = wide[tuple(np.s_[::2] for _ in array.shape)]
    view[...] = array
    return view


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view
