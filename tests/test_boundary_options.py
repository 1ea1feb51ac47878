"""Options, branch points and the environment: what is wrong is named, what is right is followed."""

import time

import numpy as np
import pytest
from boundary import IMAGES, raised
from networks import assert_same_bits, available_isas, random_net

from faceattr_fast import DeviceError, FastForward, WeightsError, _core
from faceattr_fast.spec import HeadSpec, NetworkSpec, PixelSpec, StemSpec

torch = pytest.importorskip("torch")


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
