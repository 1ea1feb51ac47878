"""Step: the package and the programs of other steps, by cmake and ninja; what the compiler says of every kernel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .record import nvidia_smi
from .store import ROOT, FailedError, Folder, SkippedError, Step, is_emulated

__all__ = ["kernel_resources", "program", "run"]

TARGETS = ("_core", "cuda_conformance_emulated", "cuda_conformance_device", "cuda_rates_device")


def run(folder: Folder, step: Step) -> None:
    if is_emulated():
        raise SkippedError("FACEATTR_GPU=emulated: what is installed is used")
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    for tool in (nvcc, "cmake", "ninja"):
        if shutil.which(tool) is None:
            raise SkippedError(f"no {tool}: what is installed is used")
    capability = ((nvidia_smi("compute_cap") or {}).get("compute_cap") or "8.0").replace(".", "")
    # The same gates as in the tests, beside the build.
    gates = subprocess.Popen(
        [str(ROOT / "scripts" / "check_cuda_build.sh"), capability, *(["90a"] if capability == "90" else [])],
        env={**os.environ, "NVCC": nvcc}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    started = time.monotonic()
    try:
        log = _compile(folder, nvcc, capability)
        step.set(seconds_to_build=round(time.monotonic() - started, 1), architecture=f"sm_{capability}")
        resources = kernel_resources(log)
        step.set(kernels=resources, spilling=[kernel["name"] for kernel in resources if kernel["spilled_bytes"] > 0])
        _install(folder)
        output, _ = gates.communicate()
        step.set(gates={"passed": gates.returncode == 0, "output": output.splitlines()})
    finally:
        gates.kill()
    if gates.returncode != 0:
        raise FailedError("scripts/check_cuda_build.sh found what should not be: see gates")


def _compile(folder: Folder, nvcc: str, capability: str) -> str:
    log = folder.path / "build.log"
    pybind11 = subprocess.run([sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True)
    if pybind11.returncode != 0:
        raise SkippedError("no pybind11: what is installed is used")
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(folder.build), "-G", "Ninja", "-DFACEATTR_CUDA=ON", "-DFACEATTR_TESTS=ON",
        f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCMAKE_CUDA_ARCHITECTURES={capability}-real",
        "-DCMAKE_CUDA_FLAGS=-Xptxas -v",
        f"-Dpybind11_DIR={pybind11.stdout.strip()}", f"-DPython_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    with log.open("w") as output:
        for command in (configure, ["ninja", "-C", str(folder.build), *TARGETS]):
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT)
            output.flush()
            if done.returncode != 0:
                raise FailedError(f"{command[0]} failed: {log.read_text()[-1500:]}")
    return log.read_text()


def _install(folder: Folder) -> None:
    """The package as it would be installed, beside the sources, which stay as they are."""
    target = folder.package / "faceattr_fast"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "python" / "faceattr_fast", target, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    modules = list(folder.build.glob("_core*.so"))
    if not modules:
        raise FailedError(f"{folder.build} has no _core")
    for module in modules:
        shutil.copy(module, target)


def kernel_resources(log: str) -> list[dict[str, str | int]]:
    """From what ``ptxas -v`` prints: name, architecture, registers, shared and spilled bytes of each kernel."""
    kernels: list[dict[str, str | int]] = []
    name, architecture, spilled = "", "", 0
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            name, architecture = found.groups()
        elif found := re.search(r"(\d+) bytes spill stores", line):
            spilled = int(found[1])
        elif name and (found := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels.append({"name": name, "architecture": architecture, "registers": int(found[1]),
                            "shared_bytes": int(shared[1]) if shared else 0, "spilled_bytes": spilled})  # fmt: skip
            name = ""
    return kernels


def program(folder: Folder, name: str) -> Path:
    """One that this step builds.

    Raises:
        SkippedError: it is not there.
    """
    path = folder.build / "csrc" / "tests" / name
    if not path.is_file():
        raise SkippedError(f"{name} was not built")
    return path
