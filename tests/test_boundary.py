"""The boundary: wrong arguments are named errors, memory of any layout gives the same bits, images do not mix."""

import time

import numpy as np
import pytest
from networks import SMALL, assert_same_bits, available_isas, normalise, random_net, random_pixels

from faceattr_fast import DeviceError, FastForward, WeightsError, _core
from faceattr_fast.spec import HeadSpec, NetworkSpec, PixelSpec, StemSpec

torch = pytest.importorskip("torch")

SIZE = SMALL.pixels.size
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


def strided(array):
    wide = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
    view = wide[tuple(np.s_[::2] for _ in array.shape)]
    view[...] = array
    return view


def reversed_memory(array):
    every = tuple(np.s_[::-1] for _ in array.shape)
    return np.ascontiguousarray(array[every])[every]


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


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


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"heads": ["hair"]}, WeightsError, ["heads", "'hair'", "mood", "embedding", "identity"]),
        ({"heads": ["mood", "pose", "mood"]}, ValueError, ["heads", "twice", "mood"]),
        ({"heads": []}, ValueError, ["heads", "embedding"]),
        ({"heads": "mood"}, TypeError, ["heads", "sequence", "mood"]),
        ({"heads": 5}, TypeError, ["heads", "sequence", "int"]),
        ({"heads": [5]}, TypeError, ["heads", "5"]),
        ({"device": "gpu"}, ValueError, ["device", "'cpu'", "'cuda'", "gpu"]),
        ({"device": "cuda:x"}, ValueError, ["device", "cuda:x"]),
        ({"device": "cuda:-1"}, ValueError, ["device", "cuda:-1"]),
        ({"device": "CPU"}, ValueError, ["device", "CPU"]),
        ({"device": ""}, ValueError, ["device"]),
        ({"device": 0}, TypeError, ["device", "string", "int"]),
        ({"device": None}, TypeError, ["device", "string", "NoneType"]),
        ({"dtype": "float64"}, ValueError, ["dtype", "float32", "float64"]),
        ({"dtype": "float16"}, ValueError, ["dtype", "float32", "float16"]),
        ({"threads": 0}, ValueError, ["threads", "0"]),
        ({"threads": -3}, ValueError, ["threads", "-3"]),
        ({"threads": 10**30}, ValueError, ["threads"]),
        ({"threads": 2.0}, TypeError, ["threads", "integer", "float"]),
        ({"threads": "2"}, TypeError, ["threads", "integer", "str"]),
        ({"threads": True}, TypeError, ["threads", "integer", "bool"]),
    ],
    ids=str,
)
def test_wrong_options(small_file, small_net, options, kind, words):
    raised(kind, lambda: FastForward.load(small_file, **options), *words)
    raised(kind, lambda: FastForward.from_module(small_net, **options), *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_no_gpu_is_said_at_once(small_file, device):
    start = time.monotonic()
    raised(DeviceError, lambda: FastForward.load(small_file, device=device), device)
    assert time.monotonic() - start < 1


def test_options_that_are_fine(small_file):
    for heads in (["mood"], ("mood",), (name for name in ["mood"]), {"mood": 0}.keys()):
        assert FastForward.load(small_file, heads=heads).heads == ("mood",)
    assert FastForward.load(str(small_file), threads=np.int64(3)).threads == 3
    assert FastForward.load(small_file, dtype="float32").dtype == FastForward.load(small_file).dtype == "float32"
    assert FastForward.load(small_file).device == "cpu"
    assert FastForward.load(small_file, threads=1024)(IMAGES[:1])["mood"].shape == (1, 3)


def test_no_identity_layer():
    net = random_net(NetworkSpec(StemSpec(4), (), 3, (HeadSpec("a", 2, "fc"),), pixels=PixelSpec(size=16)), 0)
    raised(WeightsError, lambda: FastForward.from_module(net, heads=["identity"]), "heads", "identity", "embedding, a")


def test_not_a_module():
    raised(TypeError, lambda: FastForward.from_module(torch.nn.Linear(2, 2)), "net", "Linear")


@pytest.mark.parametrize("branch", ["conv7", "conv99", "conv-1", "conv01", "Conv1", "x", "", None, 3])
def test_wrong_branches(small_fast, branch):
    with pytest.raises((TypeError, ValueError)) as caught:
        small_fast.features(IMAGES, branch)
    assert "branch" in str(caught.value)
    assert str(branch) in str(caught.value)
    assert "bottleneck" in str(caught.value)


@pytest.mark.parametrize("value", ["sse2", "AVX2", "avx2 ", "avx9000", "1"])
def test_unknown_instruction_set(small_file, monkeypatch, value):
    monkeypatch.setenv("FACEATTR_ISA", value)
    raised(DeviceError, lambda: FastForward.load(small_file), value, "scalar", "avx2", "avx512")


def test_instruction_sets_of_other_machines(small_file, monkeypatch):
    for value in sorted(set(_core.isa_levels()) - set(available_isas())):
        monkeypatch.setenv("FACEATTR_ISA", value)
        raised(DeviceError, lambda value=value: FastForward.load(small_file), value, _core.detected_isa())


def test_the_environment_is_read_when_the_object_is_built(small_file, monkeypatch):
    default = FastForward.load(small_file)
    monkeypatch.setenv("FACEATTR_ISA", "scalar")
    scalar = FastForward.load(small_file)
    monkeypatch.setenv("FACEATTR_ISA", "nonsense")
    assert scalar.isa == "scalar"
    before = scalar(IMAGES)
    assert_same_bits(scalar(IMAGES), before)
    assert default(IMAGES)["mood"].shape == (4, 3)
    monkeypatch.setenv("FACEATTR_ISA", "")
    assert FastForward.load(small_file).isa == _core.detected_isa()


def test_features_keep_the_instruction_set_of_their_object(small_file, monkeypatch):
    monkeypatch.setenv("FACEATTR_ISA", "scalar")
    fast = FastForward.load(small_file)
    monkeypatch.setenv("FACEATTR_ISA", "nonsense")
    assert fast.features(IMAGES, "conv1")["block_input"].shape == (4, 8, 8, 8)


def test_number_of_threads_from_the_environment(small_file, monkeypatch):
    for text in ("1", "3", "1024"):
        monkeypatch.setenv("FACEATTR_NUM_THREADS", text)
        assert FastForward.load(small_file).threads == int(text)
        assert FastForward.load(small_file, threads=2).threads == 2
    for text in ("0", "-1", "1.5", "two", "1025", "2 threads", "٣x"):
        monkeypatch.setenv("FACEATTR_NUM_THREADS", text)
        raised(ValueError, lambda: FastForward.load(small_file), "FACEATTR_NUM_THREADS", text)
        assert FastForward.load(small_file, threads=2).threads == 2
    for clear in (
        lambda: monkeypatch.setenv("FACEATTR_NUM_THREADS", ""),
        lambda: monkeypatch.delenv("FACEATTR_NUM_THREADS"),
    ):
        clear()
        assert FastForward.load(small_file).threads >= 1


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("rewrite", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, "signalling"])
def test_non_finite_pixels_poison_their_own_image_only(small_file, monkeypatch, isa, rewrite, value):
    monkeypatch.setenv("FACEATTR_ISA", isa)
    fast = FastForward.load(
        small_file, rewrite=rewrite, threads=2, heads=["embedding", "identity", "mood", "glasses", "hat"]
    )
    bad = np.array(0x7F800001, np.uint32).view(np.float32) if value == "signalling" else np.float32(value)
    clean = normalise(random_pixels(SMALL, 6, 5), SMALL)
    expected = fast(clean)
    places = [(0, 0), (0, -1), (-1, 0), (-1, -1), (1, -2), (15, 16)]
    for channel, (y, x) in enumerate(places):
        poisoned = clean.copy()
        poisoned[1, channel % 3, y, x] = bad
        poisoned[4, channel % 3, y, x] = bad
        for found, wanted in ((fast(poisoned), expected), (fast(poisoned[1:2]), None)):
            rows = [1, 4] if wanted else [0]
            for name, result in found.items():
                assert np.isnan(result[rows]).all(), (name, y, x)
                if wanted:
                    np.testing.assert_array_equal(np.delete(result, rows, 0), np.delete(wanted[name], rows, 0))


@pytest.mark.parametrize("size", [16, 20])
def test_every_single_pixel_can_poison(size):
    """Whatever a kernel reads or skips at borders: NaN anywhere gives NaN."""
    spec = NetworkSpec(StemSpec(3), (), 2, (HeadSpec("a", 2, "conv0"),), pixels=PixelSpec(size=size))
    fast = FastForward.from_module(random_net(spec, 2), threads=2)
    count = 3 * size * size
    x = np.zeros((count + 1, 3, size, size), np.float32)
    x.reshape(count + 1, count)[np.arange(count), np.arange(count)] = np.nan
    for found in (fast(x), fast.features(x, "fc"), fast.features(x, "bottleneck")):
        for name, value in found.items():
            assert np.isnan(value[:-1]).all(), name
            assert np.isfinite(value[-1]).all(), name


def test_features_of_poisoned_images(small_fast):
    x = X.copy()
    x[2, 0, 31, 31] = np.inf
    for branch in SMALL.branches[1:]:
        found, expected = small_fast.features(x, branch), small_fast.features(X, branch)
        for name, value in found.items():
            assert np.isnan(value[2]).all(), (branch, name)
            np.testing.assert_array_equal(np.delete(value, 2, 0), np.delete(expected[name], 2, 0))


def test_huge_and_tiny_pixels_stay_in_their_image(small_fast):
    x = X.copy()
    x[1], x[3] = 3e38, 1e-42
    found, expected = small_fast(x), small_fast(X)
    for name, value in found.items():
        np.testing.assert_array_equal(value[[0, 2]], expected[name][[0, 2]])
        assert np.isfinite(value[3]).all()
