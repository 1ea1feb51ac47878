"""What a loaded network keeps in memory, and what a call takes."""

import json
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from faceattr_fast import shipped_weights
from faceattr_fast.formats.dtypes import DTYPES

MIB = 1 << 20

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


def figures(program, *arguments):
    """What a program in a process of its own prints as JSON; it has ``status``, which reads a size from the kernel."""
    helpers = """
        import json, sys
        import numpy as np
        from faceattr_fast import FastForward

        def status(name):
            with open("/proc/self/status") as lines:
                return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(helpers) + textwrap.dedent(program), *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "FACEATTR_NUM_THREADS": "2"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep what they like")
@pytest.mark.parametrize("dtype", DTYPES["cpu"])
def test_a_loaded_network_keeps_its_weights_packed_and_as_the_file_has_them_and_no_more(dtype):
    found = figures(
        """
        before = status("VmRSS")
        fast = FastForward.load(sys.argv[1], dtype=sys.argv[2])
        print(json.dumps([status("VmRSS") - before, fast.describe().weight_bytes]))
        """,
        shipped_weights(), dtype,
    )  # fmt: skip
    resident, packed = found
    needed = packed + shipped_weights().stat().st_size
    print(f"{dtype}: {resident / MIB:.1f} MiB resident, {needed / MIB:.1f} MiB of weights")
    assert resident < needed + 8 * MIB  # plans without weights, modules that loading imports, ends of pages


@pytest.mark.parametrize("form", ["uint8", "float32"])
def test_a_large_batch_takes_no_more_memory_than_a_small_one_but_its_results(small_file, form):
    small, large = figures(
        """
        fast = FastForward.load(sys.argv[1])
        shape = (32, 32, 3) if sys.argv[2] == "uint8" else (3, 32, 32)
        working = []
        for images in (64, 1024):
            pixels = np.ones((images, *shape), sys.argv[2])
            out = {name: np.ones_like(np.repeat(value, images, 0)) for name, value in fast(pixels[:1]).items()}
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # the peak starts again from here
            before = status("VmRSS")
            fast(pixels, out=out)
            working.append(status("VmHWM") - before)
        print(json.dumps(working))
        """,
        small_file, form,
    )  # fmt: skip
    print(f"{form}: {small / MIB:.2f} MiB for 64 images, {large / MIB:.2f} MiB more for 1024")
    assert 0 < small < 8 * MIB
    assert large < MIB / 2
