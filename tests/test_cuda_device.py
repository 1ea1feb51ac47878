"""Where CUDA is and where it is not: what is said, how fast, in which process."""

import json
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from networks import SMALL, assert_same_bits, normalise, random_pixels

from faceattr_fast import DeviceError, FastForward, _core
from faceattr_fast.cli import main
from faceattr_fast.engine.device import driver_version, find_cuda

torch = pytest.importorskip("torch")

IMAGES = random_pixels(SMALL, 3, 1)
no_gpu = pytest.mark.skipif(driver_version() is not None, reason="for machines without a GPU")


def refused(path, **options):
    """The message of the DeviceError, which comes within a second."""
    start = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        FastForward.load(path, **options)
    assert time.monotonic() - start < 1
    return str(caught.value)


@no_gpu
def test_no_gpu(small_file, monkeypatch):
    monkeypatch.delenv("FACEATTR_GPU", raising=False)
    for choice in ("", "v1", "v2"):
        monkeypatch.setenv("FACEATTR_GPU", choice)
        message = refused(small_file, device="cuda:2")
        assert "cuda:2" in message
        assert "no NVIDIA driver is loaded" in message
        assert ("no CUDA backend" if not hasattr(_core, "_cuda") else "cudaError") in message


def test_a_build_without_cuda(small_file, monkeypatch):
    monkeypatch.delenv("FACEATTR_GPU", raising=False)
    monkeypatch.delattr(_core, "_cuda", raising=False)
    assert "this build has no CUDA backend" in refused(small_file, device="cuda")
    monkeypatch.setitem(sys.modules, "faceattr_fast._cuda_emulated", None)
    monkeypatch.setenv("FACEATTR_GPU", "emulated")
    assert "no emulator" in refused(small_file, device="cuda")


def test_switched_off(small_file, monkeypatch):
    monkeypatch.setenv("FACEATTR_GPU", "off")
    assert "FACEATTR_GPU=off" in refused(small_file, device="cuda")
    assert FastForward.load(small_file).device == "cpu"  # which does not read it


@pytest.mark.parametrize("choice", ["on", "V1", "1", "emulated "])
def test_unknown_choices(small_file, monkeypatch, choice):
    monkeypatch.setenv("FACEATTR_GPU", choice)
    message = refused(small_file, device="cuda")
    assert repr(choice) in message
    assert "emulated" in message


@pytest.mark.usefixtures("emulated")
def test_devices_by_index(small_file):
    assert "sm_80, v1" in FastForward.load(small_file, device="cuda").isa
    assert "sm_80, v1" in FastForward.load(small_file, device="cuda:0").isa
    assert "sm_90" in FastForward.load(small_file, device="cuda:1").isa
    message = refused(small_file, device="cuda:2")
    assert "cuda:0" in message
    assert "cuda:1" in message
    for device in ("cuda:", "cuda:x", "cuda:-1", "cuda:²", "gpu"):
        with pytest.raises(ValueError, match="device"):
            FastForward.load(small_file, device=device)


@pytest.mark.usefixtures("emulated")
def test_a_forced_generation(small_file):
    """The two generations of kernels, as FACEATTR_GPU=v1 and v2 would ask a GPU for."""
    module = find_cuda(0).module
    plan = _core.Plan(16, [0, 0, 0], [1, 1, 1])
    plan.stem(plan.tensor(4, 4, 8), np.zeros((8, 7, 7, 3), np.float32), np.zeros(8, np.float32))
    plan.output(0, 0, 8)
    assert module.Engine(plan, 1, "v1").architecture == "sm_90, v1"
    assert module.Engine(plan, 1, "v2").architecture == "sm_90, v2"
    with pytest.raises(DeviceError, match=r"compute capability 9\.0"):
        module.Engine(plan, 0, "v2")


@pytest.mark.usefixtures("emulated")
def test_formats_of_the_device(small_file):
    with pytest.raises(ValueError, match="float16, bfloat16, int8, float32 on CUDA, got 'mixed'"):
        FastForward.load(small_file, device="cuda", dtype="mixed")
    with pytest.raises(ValueError, match="on the CPU, got 'float16'"):
        FastForward.load(small_file, dtype="float16")


@pytest.mark.usefixtures("emulated")
def test_pickles(small_file, small_net):
    for fast in (FastForward.load(small_file, device="cuda:1"), FastForward.from_module(small_net, device="cuda:1")):
        again = pickle.loads(pickle.dumps(fast))
        assert (again.device, again.dtype) == ("cuda:1", "float16")
        assert_same_bits(again(IMAGES), fast(IMAGES))
        with pytest.raises(TypeError):
            pickle.dumps(fast(fast._network._upload(normalise(IMAGES, SMALL))))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.usefixtures("emulated")
def test_a_forked_child(small_file):
    """A CUDA object of the parent's is refused, never waited for; the CPU, and a new object, work."""
    fast, cpu = FastForward.load(small_file, device="cuda"), FastForward.load(small_file, threads=2)
    x = normalise(IMAGES, SMALL)
    device_x = fast._network._upload(x)
    result, expected = fast(device_x)["mood"], fast(x)
    cpu(x)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        calls = [
            lambda: fast(x), lambda: fast(device_x), lambda: fast.profile(x), lambda: fast.features(x, "conv1"),
            result.numpy, result.__dlpack__,
        ]  # fmt: skip
        for call in calls:
            try:
                call()
                said.append("nothing")
            except DeviceError as error:
                said.append(str(error))
            except BaseException as error:
                said.append(repr(error))
        said.append(cpu(x)["mood"].shape == (3, 3))
        os.write(writer, json.dumps(said).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = json.loads(pipe.read())
    assert os.waitpid(child, 0)[1] == 0
    assert said.pop() is True
    assert all("fork" in text for text in said), said
    assert_same_bits(fast(x), expected)


def test_importing_and_asking_loads_no_library_of_cuda(small_file):
    program = (
        "import faceattr_fast as f\n"
        f"try: f.FastForward.load({str(small_file)!r}, device='cuda')\n"
        "except f.DeviceError: pass\n"
        f"f.FastForward.load({str(small_file)!r}, threads=1)\n"
        "print(open('/proc/self/maps').read())"
    )
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("no /proc here")
    environment = {**os.environ, "FACEATTR_GPU": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    if driver_version() is None:
        for library in ("libcudart", "libcuda.so", "_cuda_emulated"):
            assert library not in done.stdout


@pytest.mark.parametrize("choice", ["", "off", "emulated", "nonsense"])
def test_doctor(monkeypatch, capsys, choice):
    monkeypatch.setenv("FACEATTR_GPU", choice)
    code = main(["doctor"])
    text = capsys.readouterr().out
    section = text[text.index("\ncuda\n") : text.index("\nkernels\n")]
    assert ("has the CUDA backend" if hasattr(_core, "_cuda") else "no CUDA backend") in section
    assert driver_version() or "no NVIDIA driver is loaded" in section
    assert code == (choice == "nonsense")
    if choice == "emulated":
        assert "cuda:0: host emulator, compute capability 8.0" in section
        assert "cuda:1: host emulator, compute capability 9.0" in section
    elif choice or driver_version() is None:
        assert "not usable" in section
    if choice == "nonsense":
        assert "FACEATTR_GPU='nonsense'" in text[text.index("\nproblems\n") :]
