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
def small_fast(small_file):
    """The compiled network with two threads."""
    from faceattr_fast import FastForward

    return FastForward.load(small_file, threads=2)
