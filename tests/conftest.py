"""Fixtures of the tests of the fast path."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_tune_file():
    """What ``faceattr tune`` has left on this machine changes nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEATTR_TUNE", "off")
        yield


@pytest.fixture(scope="module")
def one_torch_thread():
    """For small networks: threads would only wait for each other."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_net():
    """The module of ``networks.SMALL``."""
    from networks import SMALL, random_net

    return random_net(SMALL, 1)


@pytest.fixture(scope="session")
def small_file(small_net, tmp_path_factory):
    """Its weights file; not to be changed."""
    from faceattr_fast.reference import save

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save(small_net, path, metadata={"licence": "Apache-2.0"})
    return path


@pytest.fixture(scope="session")
def int8_file(small_net, tmp_path_factory):
    """The same weights with scales and errors for int8 and mixed, from six images; not to be changed."""
    from networks import SMALL, random_pixels

    from faceattr_fast import FastForward

    path = tmp_path_factory.mktemp("int8") / "small.safetensors"
    FastForward.from_module(small_net, calibration=random_pixels(SMALL, 6, 3)).save(path)
    return path


@pytest.fixture(scope="session")
def small_fast(small_file):
    """The compiled network with two threads."""
    from faceattr_fast import FastForward

    return FastForward.load(small_file, threads=2)


@pytest.fixture(scope="session")
def photo_weights(tmp_path_factory):
    """Path of weights for whole pictures: gender, emotion, age of which one class has no training data; random."""
    from random_weights import one_block, random_tensors

    from faceattr_fast.spec import HeadSpec
    from faceattr_fast.weights import Weights, write_weights

    spec = one_block(
        HeadSpec("gender", 2, "fc", labels=("female", "male")),
        HeadSpec("emotion", 2, "fc", labels=("happy", "sad")),
        HeadSpec("age", 3, "bottleneck", labels=("0-2", "3", "60+"), trained=(True, True, False)),
    )
    path = tmp_path_factory.mktemp("weights") / "photo.safetensors"
    metadata = {"licence": "none", "accuracy": {"gender": {"value": 0.5, "n": 2, "data": "two pictures"}}}
    write_weights(path, Weights(spec, random_tensors(spec), metadata))
    return str(path)


@pytest.fixture
def no_yunet(monkeypatch, tmp_path_factory):
    """Whatever this machine has: Haar is used."""
    monkeypatch.delenv("FACEATTR_YUNET", raising=False)
    monkeypatch.setenv("FACEATTR_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def emulated(monkeypatch):
    """``device="cuda"`` means the host emulator's devices."""
    pytest.importorskip("faceattr_fast._cuda_emulated", reason="built without the emulator")
    monkeypatch.setenv("FACEATTR_GPU", "emulated")


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """Two packed sets of ``base_training``; not to be changed."""
    from base_training import write_sets

    return write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="session")
def spec_file(tmp_path_factory):
    """The tiny network for them, as JSON."""
    from training_data import tiny_spec

    path = tmp_path_factory.mktemp("spec") / "spec.json"
    path.write_text(tiny_spec().to_json())
    return path


@pytest.fixture
def train(spec_file):
    """``faceattr train`` on sets, and what its exit code has to be."""
    from faceattr_fast.cli import main

    def run(sets, out, *options, code=0):
        arguments = ["train", *map(str, sets), "--spec", str(spec_file), "--out", str(out), "--threads", "1"]
        assert main([*arguments, *map(str, options)]) == code
        return out

    return run
