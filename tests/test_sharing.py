"""One object for everybody: the same bits from any batch, thread, caller and process."""

import copy
import multiprocessing
import os
import pickle
import select
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from networks import SMALL, assert_same_bits, available_isas, normalise, random_net, random_pixels

from faceattr_fast import FastForward, NetworkSpec
from faceattr_fast.spec import PixelSpec

torch = pytest.importorskip("torch")

IMAGES = random_pixels(SMALL, 33, 1)
X = normalise(IMAGES, SMALL)
GUARD = 60  # seconds after which something hangs; nothing here takes one on a machine that is idle


formats = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "mixed"])


def rows(outputs, *index):
    return {name: np.ascontiguousarray(value[index]) for name, value in outputs.items()}


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("rewrite", [True, False])
def test_bits_depend_neither_on_threads_nor_on_the_batch(small_file, monkeypatch, isa, rewrite):
    monkeypatch.setenv("FACEATTR_ISA", isa)
    heads = [*(head.name for head in SMALL.heads), "identity", "embedding"]
    objects = [FastForward.load(small_file, heads=heads, threads=threads, rewrite=rewrite) for threads in (1, 2, 3)]
    for pixels in (IMAGES, X):
        expected = objects[0](pixels)
        for fast in objects:
            assert_same_bits(fast(pixels), expected)
            for n in (1, 2, 3, 5, 8, 32):
                assert_same_bits(fast(pixels[:n]), rows(expected, np.s_[:n]))
            for i in range(0, 33, 4):
                assert_same_bits(fast(pixels[i : i + 1]), rows(expected, np.s_[i : i + 1]))
            order = np.random.default_rng(2).permutation(33)
            assert_same_bits(fast(pixels[order]), rows(expected, order))


def test_bits_of_long_batches(small_file):
    """Longer than what is kept of a batch at a time, at its borders too."""
    pixels = np.concatenate([IMAGES] * 6)  # 198
    alone = FastForward.load(small_file, threads=1)
    expected = alone(IMAGES)
    for threads in (1, 2, 3):
        fast = FastForward.load(small_file, threads=threads)
        for n in (63, 64, 65, 127, 128, 129, 198):
            assert_same_bits(fast(pixels[:n]), rows(expected, np.arange(n) % 33))
        for branch in SMALL.branches[1:]:
            tapped = alone.features(IMAGES, branch)
            assert_same_bits(fast.features(pixels[:65], branch), rows(tapped, np.arange(65) % 33))


@pytest.mark.parametrize(("size", "count"), [(224, 4), (64, 33)])
def test_bits_of_the_paper_network(size, count):
    spec = NetworkSpec.paper(identities=30, pixels=PixelSpec(size=size))
    net, images = random_net(spec, 3), random_pixels(spec, count, 3)
    heads = [*(head.name for head in spec.heads), "identity"]
    alone = FastForward.from_module(net, threads=1, heads=heads)
    expected = alone(images)
    for threads in (1, 2, 3):
        fast = FastForward.from_module(net, threads=threads, heads=heads)
        assert_same_bits(fast(images), expected)
        assert_same_bits(fast(images[-1:]), rows(expected, np.s_[-1:]))
        assert_same_bits(fast(images[:3]), rows(expected, np.s_[:3]))


def test_bits_of_every_run(small_fast):
    expected = small_fast(IMAGES)
    for _ in range(20):
        assert_same_bits(small_fast(IMAGES), expected)


def test_profile_leaves_results_alone(small_fast):
    expected = small_fast(IMAGES)
    small_fast.profile(IMAGES)
    assert_same_bits(small_fast(IMAGES), expected)


@formats
@pytest.mark.parametrize("threads", [1, 2])
def test_sixteen_callers_at_once(int8_file, threads, dtype):
    """Each with images and batches of its own; the object has never been used before they all start."""
    fast, reference = (FastForward.load(int8_file, dtype=dtype, threads=count) for count in (threads, 1))
    expected = {n: reference(IMAGES[:n]) for n in range(34)}
    features = {branch: reference.features(X[:3], branch) for branch in SMALL.branches}
    start = threading.Barrier(16)

    def caller(seed):
        rng = np.random.default_rng(seed)
        start.wait(GUARD)
        for _ in range(15):
            n = int(rng.integers(0, 34))
            given = IMAGES if rng.integers(2) else X
            kind = rng.integers(8)
            if kind == 0:
                branch = SMALL.branches[rng.integers(len(SMALL.branches))]
                assert_same_bits(fast.features(X[:3], branch), features[branch])
            elif kind == 1:
                assert fast.profile(given[:1]).hash == fast.describe().hash
            elif kind == 2:
                i = int(rng.integers(33))
                assert_same_bits(fast(IMAGES[i : i + 1]), rows(expected[33], np.s_[i : i + 1]))
            elif kind == 3:
                out = {name: np.full_like(value, np.nan) for name, value in expected[n].items()}
                fast(IMAGES[:n], out=out)
                assert_same_bits(out, expected[n])
            else:
                assert_same_bits(fast(IMAGES[:n]), expected[n])
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(caller, range(16), timeout=GUARD))


def test_the_lock_of_python_is_released(small_fast):
    """Another thread runs Python code inside one long call."""
    images = np.concatenate([IMAGES] * 60)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    small_fast(images[:1])
    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        for _ in range(8):
            start = time.monotonic()
            small_fast(images)
            end = time.monotonic()
            # In the middle half of the call: before and after, the caller itself runs Python code.
            inside = [t for t in ticks if start + (end - start) / 4 < t < end - (end - start) / 4]
            if end - start > 0.05 and len(inside) >= 3:
                break
            images = np.concatenate([images] * 2) if end - start < 0.2 else images
    finally:
        stop.set()
        ticker.join()
    assert len(inside) >= 3, (end - start, len(inside))


def test_pickles_and_copies(small_file, small_net, small_fast):
    options = {"heads": ["pose", "identity", "mood"], "threads": 3, "rewrite": False}
    for fast in (
        small_fast,
        FastForward.load(small_file, **options),
        FastForward.from_module(small_net),
        FastForward.from_module(small_net, metadata={"licence": "x"}, **options),
    ):
        expected = fast(IMAGES)
        for other in (pickle.loads(pickle.dumps(fast)), copy.copy(fast), copy.deepcopy(fast)):
            assert (other.heads, other.threads, other.spec) == (fast.heads, fast.threads, fast.spec)
            assert other.metadata == fast.metadata
            assert other.describe() == fast.describe()
            assert_same_bits(other(IMAGES), expected)
            assert_same_bits(pickle.loads(pickle.dumps(other))(IMAGES), expected)


@pytest.mark.parametrize("collect", [list, tuple, iter, dict.fromkeys, lambda names: dict.fromkeys(names).keys()])
def test_any_collection_of_heads_pickles(small_file, collect):
    fast = FastForward.load(small_file, heads=collect(["pose", "mood"]))
    assert pickle.loads(pickle.dumps(fast)).heads == fast.heads == ("pose", "mood")


def test_the_callers_arguments_are_not_kept(small_file):
    heads = ["mood"]
    fast = FastForward.load(small_file, heads=heads)
    heads.append("pose")
    assert pickle.loads(pickle.dumps(fast)).heads == fast.heads == ("mood",)


def test_a_relative_path_pickles(small_file, monkeypatch, tmp_path):
    monkeypatch.chdir(small_file.parent)
    packed = pickle.dumps(FastForward.load(small_file.name))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(packed).heads == ("embedding", *(head.name for head in SMALL.heads))


def test_outputs_pickle(small_fast):
    found = small_fast(IMAGES)
    again = pickle.loads(pickle.dumps(found))
    assert type(again) is type(found)
    assert_same_bits(again, found)
    assert "embedding=float32[33, 10]" in repr(again)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def in_child(work):
    """Fork; ``work`` must return True in the child, within ten seconds of processor time or GUARD seconds in all."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            answer = b"yes" if work() else b"no"
        except BaseException as error:
            answer = repr(error).encode()
        os.write(write, answer)
        os._exit(0)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], GUARD)
        answer = os.read(read, 1000) if ready else b""
        if not ready:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(read)
    assert answer == b"yes", f"child said {answer!r}, status {status}"
    assert status == 0


def same(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


@needs_fork
@formats
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("used", [True, False])
def test_forked_children_compute_the_same_bits(int8_file, threads, used, dtype):
    expected = FastForward.load(int8_file, dtype=dtype)(IMAGES)
    tapped = FastForward.load(int8_file, dtype=dtype).features(X, "conv4")
    fast = FastForward.load(int8_file, dtype=dtype, threads=threads)
    if used:
        assert_same_bits(fast(IMAGES), expected)

    def work():
        again = all(same(fast(IMAGES), expected) for _ in range(3))
        return again and same(fast.features(X, "conv4"), tapped) and same(fast(IMAGES[:1]), rows(expected, np.s_[:1]))

    for _ in range(3):
        in_child(work)
    in_child(lambda: work() and in_child(work) is None and work())  # and their children
    assert_same_bits(fast(IMAGES), expected)


@needs_fork
@pytest.mark.parametrize("threads", [1, 2])
def test_forks_while_other_threads_are_inside_calls(small_file, threads):
    fast = FastForward.load(small_file, threads=threads)
    expected = fast(IMAGES)
    stop, failures = threading.Event(), []

    def caller():
        while not stop.is_set():
            if not same(fast(IMAGES), expected):
                failures.append("other bits")

    callers = [threading.Thread(target=caller) for _ in range(2)]
    for thread in callers:
        thread.start()
    try:
        for _ in range(12):
            in_child(lambda: same(fast(IMAGES), expected) and same(fast(IMAGES), expected))
    finally:
        stop.set()
        for thread in callers:
            thread.join(GUARD)
    assert not failures
    assert not any(thread.is_alive() for thread in callers)
    assert_same_bits(fast(IMAGES), expected)


@needs_fork
def test_a_child_may_drop_the_object_and_use_threads(small_file):
    kept = [FastForward.load(small_file, threads=2)]
    expected = kept[0](IMAGES)

    def work():
        with ThreadPoolExecutor(4) as pool:
            fine = all(same(found, expected) for found in pool.map(kept[0], [IMAGES] * 8))
        packed = pickle.dumps(kept.pop())
        return fine and same(pickle.loads(packed)(IMAGES), expected)

    in_child(work)
    assert_same_bits(kept[0](IMAGES), expected)


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_process_pools(small_file, small_net, method):
    """The object itself is the function of the pool."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    from_file, from_module = FastForward.load(small_file, threads=1), FastForward.from_module(small_net, threads=2)
    expected = from_file(IMAGES)
    parts = [IMAGES[:5], IMAGES[5:6], IMAGES[6:]]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        for fast in (from_file, from_module):
            found = list(pool.map(fast, parts, timeout=GUARD))
            assert_same_bits({name: np.concatenate([part[name] for part in found]) for name in expected}, expected)


class Scored(torch.utils.data.Dataset):
    """A dataset that runs the network where it loads."""

    def __init__(self, fast):
        self.fast = fast

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return index, torch.from_numpy(self.fast(IMAGES[index : index + 1])["embedding"][0])


def test_workers_of_a_data_loader(small_file):
    fast = FastForward.load(small_file, threads=2)
    expected = fast(IMAGES)["embedding"]
    loader = torch.utils.data.DataLoader(Scored(fast), batch_size=4, num_workers=2, timeout=GUARD)
    for _ in range(2):
        seen = 0
        for index, embedding in loader:
            np.testing.assert_array_equal(embedding.numpy(), expected[index.numpy()])
            seen += len(index)
        assert seen == len(IMAGES)


def test_threads_save_one_file(small_net, tmp_path):
    fast, path = FastForward.from_module(small_net), tmp_path / "w"
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(fast.save, path) for _ in range(20)]:
            done.result()
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
    assert FastForward.load(path).spec == small_net.spec
