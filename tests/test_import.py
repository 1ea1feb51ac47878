"""What importing the package costs and brings along."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import faceattr_fast
from faceattr_fast import _core

HEAVY = ("torch", "cv2", "PIL", "scipy", "onnx", "onnxruntime", "openvino", "pandas", "matplotlib", "tqdm")


def run(program, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_after(statement):
    return set(json.loads(run(f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))")))


def test_nothing_heavy_is_imported():
    roots = {name.partition(".")[0] for name in modules_after("import faceattr_fast")}
    assert roots.isdisjoint(HEAVY)
    assert {"numpy", "faceattr_fast"} <= roots


def test_nothing_heavy_is_imported_to_run_a_network(small_file):
    loaded = modules_after(
        f"import numpy, faceattr_fast as f; fast = f.FastForward.load({str(small_file)!r}, threads=2)\n"
        "assert fast(numpy.zeros((2, 32, 32, 3), 'u1'))['mood'].shape == (2, 3)\n"
        "fast.features(numpy.zeros((1, 3, 32, 32), 'f4'), 'conv2'); fast.describe(); f.__all__; dir(f)"
    )
    assert {name.partition(".")[0] for name in loaded}.isdisjoint(HEAVY)


def test_openssl_is_not_loaded_to_run_a_network(small_file):
    """hashlib brings it in: 3.4 MB beside the 1.5 MB that this package's own libraries take."""
    loaded = modules_after(
        f"import numpy, faceattr_fast as f; fast = f.FastForward.load({str(small_file)!r})\n"
        "fast(numpy.zeros((2, 32, 32, 3), 'u1')); fast.profile; repr(fast)"
    )
    assert loaded.isdisjoint({"hashlib", "_hashlib", "ssl", "secrets", "hmac"})
    assert "hashlib" in modules_after("import hashlib")


def test_the_reference_is_imported_at_first_use():
    pytest.importorskip("torch")
    assert "torch" in modules_after("import faceattr_fast as f; f.reference.FaceAttrNet")


def test_importing_brings_few_modules():
    """What makes an import slow on any machine; its time is measured by benchmarks, not here."""
    beyond = modules_after("import faceattr_fast") - modules_after("import numpy, safetensors")
    assert len(beyond) < 60, sorted(beyond)  # 46 of them, 34 of the package
    slow = ("unittest", "asyncio", "multiprocessing", "concurrent", "subprocess", "email", "http", "xml", "argparse")
    assert beyond.isdisjoint(slow)


def test_importing_reads_no_environment():
    names = ("FACEATTR_ISA", "FACEATTR_NUM_THREADS", "FACEATTR_CACHE", "FACEATTR_TUNE")
    nonsense = dict.fromkeys(names, "nonsense")
    run("import faceattr_fast; faceattr_fast.NetworkSpec.paper().count()", **nonsense)


def test_importing_starts_no_threads():
    assert run("import threading, faceattr_fast; print(threading.active_count())").strip() == "1"


def test_the_extension_needs_no_runtime_of_others():
    """No CUDA, no OpenMP, no BLAS: what forks badly or is missing elsewhere."""
    if shutil.which("readelf"):
        command = ["readelf", "-d", _core.__file__]
    elif shutil.which("ldd"):
        command = ["ldd", _core.__file__]
    else:
        pytest.skip("neither readelf nor ldd here")
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.lower()
    assert "libc.so" in listing or "libstdc++" in listing
    for library in ("libcuda", "libnv", "libgomp", "libomp", "libiomp", "libtbb", "blas", "mkl", "dnnl", "torch"):
        assert library not in listing, library


NAMES = (
    "NetworkSpec", "StemSpec", "BlockSpec", "HeadSpec", "PixelSpec", "FastForward", "WeightsError", "DeviceError",
    "shipped_weights", "FaceAnalyzer", "Face", "align", "similarity", "reference",
)  # fmt: skip
PHOTO = ("FaceAnalyzer", "Face", "align", "similarity")


@pytest.mark.parametrize("name", NAMES)
def test_public_names(name):
    if name == "reference":
        pytest.importorskip("torch")
    if name in PHOTO:
        pytest.importorskip("cv2")
    assert hasattr(faceattr_fast, name)
    assert name in faceattr_fast.__all__
    assert name in dir(faceattr_fast)


def test_public_members():
    for name in ("load", "from_module", "save", "features", "describe", "profile", "__call__"):
        assert callable(getattr(faceattr_fast.FastForward, name))
    for name in ("paper", "to_json", "from_json", "count"):
        assert callable(getattr(faceattr_fast.NetworkSpec, name))
    assert issubclass(faceattr_fast.WeightsError, ValueError)
    assert issubclass(faceattr_fast.DeviceError, RuntimeError)
    assert isinstance(faceattr_fast.__version__, str)
    with pytest.raises(AttributeError, match="nonsense"):
        faceattr_fast.nonsense  # noqa: B018


def test_public_members_of_the_reference():
    pytest.importorskip("torch")
    for name in ("FaceAttrNet", "save", "load"):
        assert callable(getattr(faceattr_fast.reference, name))


def test_measuring_and_packing_load_no_torch():
    pytest.importorskip("cv2")
    loaded = modules_after(
        "from faceattr_fast.training import examine_packed, measure, prepare; assert callable(prepare)"
    )
    assert "torch" not in loaded
