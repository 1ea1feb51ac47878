"""Arrays and streams of CUDA: what goes in and out without a copy, who waits for whom, and what is refused."""

import gc
import threading

import numpy as np
import pytest
from networks import SMALL, assert_same_bits, normalise, random_pixels

from faceattr_fast import DeviceArray, DeviceError, FastForward

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("emulated")

IMAGES = random_pixels(SMALL, 5, 1)
X = normalise(IMAGES, SMALL)


@pytest.fixture
def fast(small_file):
    return FastForward.load(small_file, device="cuda", heads=["mood", "embedding"])


@pytest.fixture
def device_x(fast):
    """``X`` on the device."""
    return fast._network._upload(X)


def on_host(outputs):
    assert all(isinstance(value, DeviceArray) for value in outputs.values())
    return {name: value.numpy() for name, value in outputs.items()}


class Interface:
    """A producer of ``__cuda_array_interface__`` over memory of the emulated device."""

    def __init__(self, array, dtype="<f4", **changes):
        self.kept = array
        shape = changes.pop("shape", array.shape)
        data = (array.pointer + changes.pop("offset", 0), changes.pop("read_only", False))
        self.__cuda_array_interface__ = {"shape": shape, "typestr": dtype, "data": data, "version": 3, **changes}


class Exporter:
    """A producer of DLPack that says, as a real one would, that its memory is CUDA's; remembers what it was asked."""

    def __init__(self, array, index=0, kind=2):
        self.array, self.device, self.streams = array, (kind, index), []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return self.array._memory.dlpack(self.array._offset, self.array.shape, self.device[0], False)


def bytes_on_device(fast, array):
    """uint8 pixels on the device; the engine uploads whatever bytes it is given."""
    memory = fast._network._engine.upload(array, 0)
    return Interface(DeviceArray(memory, 0, array.shape, True), "|u1")


def test_pixels_of_the_device_give_arrays_of_the_device(fast, device_x):
    expected = fast(X)
    for pixels in (device_x, Interface(device_x), Exporter(device_x), Exporter(device_x, kind=13)):
        found = fast(pixels)
        assert list(found) == list(expected)
        assert_same_bits(on_host(found), expected)
    assert_same_bits(on_host(fast(bytes_on_device(fast, IMAGES))), fast(IMAGES))


def test_strides_and_alignment(fast, device_x):
    expected = fast(X)
    n, c, h, w = (4 * s for s in np.cumprod((1, *X.shape[:0:-1]))[::-1])
    assert (n, c, h, w) == X.strides
    every_second = Interface(device_x, shape=(3, *X.shape[1:]), strides=(2 * n, c, h, w))
    assert_same_bits(on_host(fast(every_second)), fast(X[::2]))
    backwards = Interface(device_x, offset=4 * n, strides=(-n, c, h, w))
    assert_same_bits(on_host(fast(backwards)), {k: v[::-1].copy() for k, v in expected.items()})
    nhwc = fast._network._upload(X.transpose(0, 2, 3, 1).copy())
    channels_last = Interface(nhwc, shape=X.shape, strides=(n, 4, 32 * 12, 12))
    assert_same_bits(on_host(fast(channels_last)), expected)
    padded = fast._network._upload(np.concatenate([np.zeros(1, np.float32), X.reshape(-1)]))
    assert_same_bits(on_host(fast(Interface(padded, shape=X.shape, offset=4))), expected)
    broadcast = Interface(device_x, shape=(4, *X.shape[1:]), strides=(0, c, h, w))
    assert_same_bits(on_host(fast(broadcast)), fast(np.repeat(X[:1], 4, 0)))
    with pytest.raises(ValueError, match="whole items"):
        fast(Interface(device_x, strides=(n, c, h, w + 1)))
    with pytest.raises(ValueError, match="multiple of 4"):
        fast(Interface(device_x, shape=(1, *X.shape[1:]), offset=2))


def test_no_images(fast, device_x):
    for pixels in (Interface(device_x, shape=(0, *X.shape[1:])), X[:0]):
        found = fast(pixels)
        assert {name: value.shape for name, value in found.items()} == {"mood": (0, 3), "embedding": (0, 10)}


def test_results_are_taken_by_others(fast, device_x):
    expected = fast(X)["mood"]
    found = fast(device_x)["mood"]
    assert (found.shape, found.dtype, found.device, found.ndim, found.size, found.nbytes, len(found)) == (
        (5, 3), np.float32, "cuda:0", 2, 15, 60, 5,
    )  # fmt: skip
    assert repr(found) == "DeviceArray(float32[5, 3] on cuda:0)"
    # The memory of the emulated device is the host's, and it says so.
    assert found.__dlpack_device__() == (1, 0)
    assert not hasattr(found, "__cuda_array_interface__")
    views = [torch.from_dlpack(found), np.from_dlpack(found), torch.utils.dlpack.from_dlpack(found.__dlpack__())]
    assert views[0].data_ptr() == found.pointer
    del found
    gc.collect()
    assert fast(device_x)["mood"].pointer != views[0].data_ptr()  # others still use the memory
    for view in views:
        np.testing.assert_array_equal(np.asarray(view), expected)


def test_memory_is_used_again(fast, device_x):
    pointers = set()
    for _ in range(5):
        found = fast(device_x)
        pointers.add(found["mood"].pointer)
        del found
        gc.collect()
    assert len(pointers) == 1
    assert fast(device_x, stream=7)["mood"].pointer not in pointers  # another stream does not wait for this one


def test_what_a_device_array_refuses(fast, device_x):
    found = fast(device_x)["mood"]
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(found)
    with pytest.raises(BufferError, match="no copy"):
        found.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="device"):
        found.__dlpack__(dl_device=(2, 1))
    with pytest.raises(ValueError, match="ambiguous"):
        found.__dlpack__(stream=0)
    assert found.__dlpack__(stream=-1) is not None
    assert "dltensor_versioned" in repr(found.__dlpack__(max_version=(1, 0)))
    assert '"dltensor"' in repr(found.__dlpack__(max_version=(0, 8)))


def test_output_buffers(fast, device_x):
    expected = fast(X)
    empty = {name: fast._network._upload(np.zeros(v.shape, np.float32)) for name, v in expected.items()}
    host = {name: np.zeros(v.shape, np.float32) for name, v in expected.items()}
    given = {name: Exporter(value) for name, value in empty.items()}
    for pixels in (device_x, X):  # pixels of the host are uploaded
        for out in (empty, given):
            for value in empty.values():
                np.asarray(torch.from_dlpack(value))[:] = 0
            found = fast(pixels, out=out)
            assert all(found[name] is out[name] for name in found)
            assert_same_bits({name: value.numpy() for name, value in empty.items()}, expected)
        for value in host.values():
            value[:] = 0
        assert all(fast(pixels, out=host)[name] is host[name] for name in host)
        assert_same_bits(host, expected)


def test_wrong_output_buffers(fast, device_x):
    good = {name: fast._network._upload(np.zeros(v.shape, np.float32)) for name, v in fast(X).items()}
    for change, kind, words in [
        ({"mood": np.zeros((5, 3), np.float32)}, ValueError, "embedding on the GPU"),
        ({"mood": good["embedding"]}, ValueError, "expected shape"),
        ({"mood": Interface(good["mood"], "<i4")}, TypeError, "float32"),
        ({"mood": Interface(good["mood"], read_only=True)}, ValueError, "writable"),
        ({"mood": Interface(good["mood"], strides=(4, 20))}, ValueError, "contiguous"),
        ({"mood": Interface(good["embedding"], shape=(5, 3))}, ValueError, "overlaps"),
        ({"mood": Interface(device_x, shape=(5, 3))}, ValueError, "overlaps"),
        ({"mood": Exporter(good["mood"], index=1)}, DeviceError, "cuda:1"),
        ({"nose": 1}, ValueError, "keys"),
    ]:
        with pytest.raises(kind, match=words):
            fast(device_x, out={**good, **change})
    with pytest.raises(TypeError, match="dict"):
        fast(device_x, out=[1])


def test_wrong_pixels(fast, device_x):
    host_memory = Interface(device_x)
    host_memory.__cuda_array_interface__["data"] = (X.ctypes.data, False)
    for pixels, kind, words in [
        (Interface(device_x, "<f8", shape=(1, 3, 32, 16)), TypeError, "f8"),
        (Interface(device_x, ">f4"), TypeError, "byte order"),
        (Interface(device_x, shape=X.shape[1:]), ValueError, "single image"),
        (Interface(device_x, shape=(5, 32, 32, 3)), ValueError, r"\[N, 3, 32, 32\]"),
        (Interface(device_x, mask=device_x), TypeError, "mask"),
        (Interface(device_x, stream=0), TypeError, "valid"),
        (Interface(device_x, shape="x"), TypeError, "valid"),
        (host_memory, DeviceError, "on the host"),
        (Exporter(device_x, index=1), DeviceError, "cuda:1"),
        (Exporter(device_x, kind=10), DeviceError, "DLPack type 10"),
        ([1, 2], TypeError, "list"),
        (None, TypeError, "NoneType"),
    ]:
        for call in (fast, fast.profile):
            with pytest.raises(kind, match=words):
                call(pixels)


def test_memory_of_the_other_device(fast, small_file, device_x):
    other = FastForward.load(small_file, device="cuda:1", heads=["mood", "embedding"])
    with pytest.raises(DeviceError, match="on cuda:0; this network runs on cuda:1"):
        other(device_x)
    there = other._network._upload(X)
    assert other(there)["mood"].device == "cuda:1"
    with pytest.raises(DeviceError, match="cuda:1"):
        fast(device_x, out=dict(other(there)))


def test_pixels_of_the_device_on_the_cpu(small_fast, device_x):
    with pytest.raises(DeviceError, match="CPU"):
        small_fast(Interface(device_x))
    np.testing.assert_array_equal(small_fast(device_x)["mood"], small_fast(X)["mood"])  # emulated: host memory


class Stream:
    def __init__(self, handle):
        self.cuda_stream = handle


def test_streams(fast, device_x, monkeypatch):
    """Which stream works, which ones it waits for, and that each producer is told."""
    ordered = []
    module = fast._cuda.module
    monkeypatch.setattr(module, "order_streams", lambda device, stream, other: ordered.append((device, stream, other)))
    for stream, handle in ((None, 0), (0, 0), (16, 16), (Stream(32), 32), (np.int64(48), 48)):
        producer = Exporter(device_x)
        assert fast(producer, stream=stream)["mood"].stream == handle
        assert producer.streams == [handle or 1]  # the default has a name of its own in DLPack
    assert fast(Interface(device_x, stream=5))["mood"].stream == 5
    assert ordered == []
    assert fast(Interface(device_x, stream=5), stream=6)["mood"].stream == 6
    assert ordered == [(0, 6, 5)]
    own = fast(device_x, stream=9)["mood"]
    assert own.stream == 9
    assert fast(Interface(device_x, stream=None))["mood"].stream == 0
    for stream, kind in (
        (1.5, TypeError),
        ("0", TypeError),
        (True, TypeError),
        (-1, ValueError),
        (object(), TypeError),
    ):
        with pytest.raises(kind, match="stream"):
            fast(device_x, stream=stream)


def test_the_current_stream_of_torch(fast, device_x, monkeypatch):
    class Tensor(torch.Tensor):
        """What torch would be with a GPU."""

        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, stream=None):
            assert stream == 77
            return Exporter(device_x).__dlpack__(stream)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(77))
    assert fast(torch.zeros(1).as_subclass(Tensor))["mood"].stream == 77


def test_the_cpu_has_no_streams(small_fast):
    with pytest.raises(ValueError, match="stream"):
        small_fast(X, stream=0)


def test_features_of_the_device(fast, device_x):
    for branch in ("conv0", "conv1", "conv4", "bottleneck", "fc"):
        assert_same_bits(on_host(fast.features(device_x, branch)), fast.features(X, branch))
        with pytest.raises(TypeError):
            fast.features([1], branch)


def test_repeated_batches_are_replayed(fast, device_x):
    """From the second call of a batch size on; the pixels and the results are those of each call."""
    expected = fast(X)
    rng = np.random.default_rng(3)
    kept = []
    for _ in range(6):
        order = rng.permutation(5)
        found = fast(fast._network._upload(X[order]))
        kept.append((order, found))
    for order, found in kept:
        assert_same_bits(on_host(found), {name: value[order] for name, value in expected.items()})


def test_profile_and_description(fast, device_x):
    for pixels in (X, IMAGES, device_x):
        description = fast.profile(pixels)
        assert all(phase.seconds is not None and phase.seconds >= 0 for phase in description.phases)
        assert description.seconds > 0
    plain = fast.describe()
    assert (plain.device, plain.dtype) == ("cuda", "float16")
    assert "sm_80" in plain.isa
    assert plain.weight_bytes > 0
    assert plain.arena_bytes > 0
    assert "threads" not in str(plain).splitlines()[0]
    assert "threads" not in repr(fast)
    assert all("f16" in p.kernel or "float16" in p.kernel for p in plain.phases if p.kind in ("Stem", "SegmentedConv"))
    with pytest.raises(ValueError, match="at least one"):
        fast.profile(X[:0])


def test_callers_at_once(small_file):
    fast = FastForward.load(small_file, device="cuda", heads=["mood", "embedding"])
    expected = {n: fast(X[:n]) for n in range(1, 6)}
    failures, start = [], threading.Barrier(6)

    def caller(seed):
        try:
            rng = np.random.default_rng(seed)
            start.wait(60)
            for _ in range(6):
                n = int(rng.integers(1, 6))
                if rng.integers(2):
                    found = fast(X[:n])
                else:
                    found = on_host(fast(fast._network._upload(X[:n]), stream=int(rng.integers(1, 4))))
                assert_same_bits(found, expected[n])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=caller, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert failures == []
