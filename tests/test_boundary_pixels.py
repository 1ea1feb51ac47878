"""Pixels: wrong arguments are named errors, memory of any layout gives the same bits."""

import numpy as np
import pytest
from boundary import IMAGES, X, raised, strided, unaligned
from networks import assert_same_bits

from faceattr_fast import DeviceError

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (IMAGES.transpose(0, 3, 1, 2), ["uint8", "[N, 32, 32, 3]", "[4, 3, 32, 32]"]),
        (X.transpose(0, 2, 3, 1), ["float32", "[N, 3, 32, 32]", "[4, 32, 32, 3]"]),
        (IMAGES[:, :, :, :1], ["[4, 32, 32, 1]"]),
        (IMAGES[:, :-1], ["[N, 32, 32, 3]", "[4, 31, 32, 3]"]),
        (np.zeros((4, 33, 32, 3), np.uint8), ["[4, 33, 32, 3]"]),
        (np.zeros((4, 32, 32, 4), np.uint8), ["[4, 32, 32, 4]"]),
        (IMAGES[None], ["[1, 4, 32, 32, 3]"]),
        (IMAGES[0, 0], ["[32, 3]"]),
        (np.zeros((), np.uint8), ["[]"]),
        (np.zeros((0, 224, 224, 3), np.uint8), ["[0, 224, 224, 3]"]),
        (IMAGES[0], ["single image", "pixels[None]"]),
        (X[0], ["single image", "pixels[None]"]),
        (torch.from_numpy(X[0]), ["single image", "pixels[None]"]),
    ],
    ids=lambda value: "x".join(map(str, value.shape)) if hasattr(value, "shape") else "",
)
def test_wrong_shapes(small_fast, pixels, words):
    for call in (small_fast, small_fast.profile, lambda p: small_fast.features(p, "conv1")):
        raised(ValueError, lambda call=call: call(pixels), "pixels", *words)


@pytest.mark.parametrize("dtype", [">f4", "f8", "f2", "i1", "i4", "i8", "u2", "?", "O", "c8", "M8[s]", "U3", "V1"])
def test_wrong_types(small_fast, dtype):
    array = np.zeros(X.shape, dtype)
    raised(TypeError, lambda: small_fast(array), "pixels", "uint8", "float32", repr(array.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.cfloat])
def test_wrong_types_of_torch(small_fast, dtype):
    raised(TypeError, lambda: small_fast(torch.zeros(X.shape, dtype=dtype)), "pixels")


@pytest.mark.parametrize(
    "pixels", [None, 5, "face.jpg", b"\xff\xd8", [], [1, 2], IMAGES.tolist(), [IMAGES[0]], {}, object()]
)
def test_not_arrays(small_fast, pixels):
    raised(TypeError, lambda: small_fast(pixels), "pixels", "array", type(pixels).__name__)


class Producer:
    """Memory that is said to be on ``device``; whoever reads it nevertheless fails the test."""

    def __init__(self, device, error=None):
        self.device, self.error = device, error or AssertionError("read")

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **_):
        raise self.error


class CudaArray:
    __cuda_array_interface__ = {"shape": X.shape, "typestr": "<f4", "data": (4096, False), "version": 3}  # noqa: RUF012


@pytest.mark.parametrize("pixels", [Producer((2, 0)), Producer((2, 7)), Producer((10, 0)), CudaArray()])
def test_memory_of_another_device(small_fast, pixels):
    raised(DeviceError, lambda: small_fast(pixels), "pixels", "CPU")


def test_what_cannot_be_exported(small_fast):
    for error in (BufferError("locked"), RuntimeError("sparse"), ValueError("odd")):
        message = raised(TypeError, lambda error=error: small_fast(Producer((1, 0), error)), "pixels")
        assert str(error) in message
    raised(TypeError, lambda: small_fast(torch.from_numpy(X).to_sparse()), "pixels")
    with pytest.raises((TypeError, ValueError, DeviceError), match="pixels"):
        small_fast(torch.empty(X.shape, device="meta"))


def reversed_memory(array):
    every = tuple(np.s_[::-1] for _ in array.shape)
    return np.ascontiguousarray(array[every])[every]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def field(array):
    record = np.zeros(array.shape, [("pad", "u1"), ("value", array.dtype)])
    record["value"] = array
    return record["value"]


class OldProducer:
    """A DLPack producer of the first version: no keyword arguments."""

    def __init__(self, array):
        self.array = torch.from_numpy(array)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()


class PinnedProducer(OldProducer):
    """Host memory that a GPU could read too, as torch's pin_memory() makes it."""

    def __dlpack_device__(self):
        return (3, 0)

    def __dlpack__(self, **_):
        return self.array.__dlpack__()


def content(given):
    given = getattr(given, "array", given)
    return given.detach().numpy() if isinstance(given, torch.Tensor) else given


LAYOUTS = {
    "strided": strided,
    "reversed": reversed_memory,
    "Fortran": np.asfortranarray,
    "unaligned": unaligned,
    "read-only": read_only,
    "field": field,
    "every second image": lambda a: np.repeat(a, 2, axis=0)[::2],
    "subclass": lambda a: a.view(type("Mine", (np.ndarray,), {})),
    "torch": torch.from_numpy,
    "torch with gradient": lambda a: torch.from_numpy(a).float().requires_grad_() if a.dtype == np.float32 else a,
    "torch computed with gradient": lambda a: torch.from_numpy(a).requires_grad_() * 1 if a.dtype == np.float32 else a,
    "torch strided": lambda a: torch.from_numpy(strided(a)),
    "torch channels_last": lambda a: torch.from_numpy(a).to(memory_format=torch.channels_last),
    "torch parameter": lambda a: torch.nn.Parameter(torch.from_numpy(a), requires_grad=a.dtype == np.float32),
    "DLPack": OldProducer,
    "pinned": PinnedProducer,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pixels", [IMAGES, X], ids=["uint8", "float32"])
def test_same_bits_from_any_memory(small_fast, pixels, layout):
    given = LAYOUTS[layout](pixels.copy())
    before = content(given).copy()
    assert_same_bits(small_fast(given), small_fast(pixels))
    assert_same_bits(small_fast.features(given, "conv4"), small_fast.features(pixels, "conv4"))
    np.testing.assert_array_equal(content(given), before)  # the caller's memory is read, not written


def test_a_broadcast_image(small_fast):
    many = np.broadcast_to(IMAGES[1], (3, *IMAGES[1].shape))
    assert_same_bits(small_fast(many), small_fast(many.copy()))


@pytest.mark.parametrize("pixels", [IMAGES[:0], X[:0], torch.from_numpy(X)[:0], strided(X)[:0]])
def test_no_images(small_fast, pixels):
    found = small_fast(pixels)
    assert {name: value.shape for name, value in found.items()} == {
        "embedding": (0, 10), "mood": (0, 3), "glasses": (0, 2), "hat": (0, 4), "pose": (0, 5),
    }  # fmt: skip
    assert all(value.dtype == np.float32 for value in found.values())
    assert small_fast.features(pixels, "conv2")["mid"].shape == (0, 8, 8, 6)
    assert small_fast.features(pixels, "bottleneck")["pooled"].shape == (0, 20)
    out = {name: np.empty_like(value) for name, value in found.items()}
    assert all(small_fast(pixels, out=out)[name] is out[name] for name in out)
