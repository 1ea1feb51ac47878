"""The documents' figures are those of the committed records, and how they are written."""

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from faceattr_fast.bench import report

ROOT = Path(__file__).parents[1]


def load(name):
    """A module of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results():
    return load("results")


@pytest.fixture(scope="module")
def plots(results):
    return load("plots")


def test_documents_say_what_the_records_say(results, capsys):
    assert results.main(["--check"]) == 0, capsys.readouterr().out


@pytest.fixture
def tree(tmp_path):
    """A repository with records of two machines; the older one of the second is not for README."""

    def write(machine, version, day, measurements, **more):
        rows = [asdict(row) for row in report.make_rows(measurements, 10**9, more.pop("price", None))]
        record = {
            "format": 2, "time": f"2026-01-{day}T00:00:00+00:00", "commit": "0123456789abcdef",
            "machine": {"cpu": "CPU", "usable_cpus": 4, "isa_used": "avx512", "system": "Linux 6"},
            "versions": {"faceattr_fast": version, "torch": "2.0+cpu"}, "settings": {},
            "crops": {"source": "faces", "test": 64, "calibration": 32}, "skipped": {"torch int8": "no quantiser"},
            "left_out": {}, "rows": rows, **more,
        }  # fmt: skip
        folder = tmp_path / "benchmarks" / "results" / machine
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"network-{version}.json").write_text(json.dumps(record))

    peaks = {"threads": 2, "blas": "a BLAS", "turns": [{"sgemm_gflops": g, "copy_gb_per_s": 9.0} for g in (50, 80, 60)]}
    start = {
        "contender": "torch", "group": "torch", "dtype": "int8", "threads": 2, "batch": 1, "seconds": 1.25,
        "bare": 10**6, "before": 2 * 10**6, "loaded": 3 * 10**6, "ran": 6 * 10**6,
    }  # fmt: skip
    phase = {"name": "x0", "shape": [4, 4, 2], "kernel": "a_kernel", "products": 10**6, "bytes": 2 * 10**6}
    profile = {
        "contender": "faceattr_fast", "dtype": "int8", "threads": 2,
        "plan": {"phases": [phase, {**phase, "name": "x1"}]},
        "turns": [{"phase_seconds": [1e-4 * n, 3e-4]} for n in (1, 2, 1)],
    }  # fmt: skip
    write("first", "2.0", "03", [measured("faceattr_fast", "float32", 0.004)])
    write("second", "1.0", "01", [measured("faceattr_fast", "float32", 0.5)])
    write(
        "second", "1.1", "02",
        [measured("faceattr_fast", "int8", 0.001, error=0.02), measured("faceattr_fast", "float32", 0.002),
         measured("torch", "float32", 0.003), measured("faceattr_fast", "float32", 0.008, batch=8)],
        peaks=[peaks], starts=[start], profiles=[profile], price=0.09,
    )  # fmt: skip
    return tmp_path


def measured(contender, dtype, seconds, batch=1, error=2e-7):
    return {
        "contender": contender, "group": contender, "peer": contender == "torch", "dtype": dtype, "threads": 2,
        "batch": batch, "errors": {"a": error}, "agreement": {"a": 0.75}, "settings": "",
        "turns": [{"seconds_per_image": [seconds]}],
    }  # fmt: skip


def test_readme_has_the_newest_record_of_each_machine(results, tree):
    text = results.readme_table(results.read_records(tree / "benchmarks" / "results"), tree)
    assert text.count("version") == 2
    assert "version 2.0, commit 0123456789ab, 2026-01-03; float32 ([record](benchmarks/results/first/network" in text
    assert "| **faceattr_fast** | 4.00 ms | 500 | 2e-07 |" in text  # one format: no column
    assert "version 1.1" in text
    assert "AVX-512" in text
    rows = [line for line in text.splitlines() if line.startswith("|")][3:]
    assert rows[0].startswith("|  | format | batch 1, 2 threads | batch 8, 2 threads | effective GFLOP/s, batch 8")
    assert rows[2:] == [
        "| **faceattr_fast** | float32 | 2.00 ms (1.50x) | 125.0 img/s | 250 | 2e-07 |",
        "| PyTorch 2.0 eager | float32 | 3.00 ms (1.00x) |  |  | 2e-07 |",
        "| **faceattr_fast** | int8 | 1.00 ms |  |  | 2e-02 |",
    ]


def test_results_have_everything(results, tree):
    text = results.results_text(results.read_records(tree / "benchmarks" / "results"), tree / "benchmarks")
    headings = [line for line in text.splitlines() if line.startswith("##")]
    assert headings == ["## first", "### network 2.0", "## second", "### network 1.1", "### network 1.0"]
    for part in (
        "| PyTorch 2.0 eager | float32 | 1 | 2 | 3.00 | 3.00 to 3.00 | 333.3 | 666.7 | 1.00x | 2e-07 | 75.0% | 0.150 |",
        "with 2 threads: float32 matrix product of a BLAS 60.0 GFLOP/s, copy 9.0 GB/s.",
        "Skipped:\n\n- torch int8: no quantiser",
        "| torch | int8 | 2 | 1 | 1.25 | 1 | 4 |",
        "| x0 | 4x4x2 | a_kernel | 1.00 | 2.00 | 100.0 | 20.0 | 25.0% |",
        "Crops: faces; 64 to test, 32 to calibrate with.",
        "[Record](results/second/network-1.1.json)",
    ):
        assert part in text


def test_a_stale_document_is_found_and_mended(results, tree, monkeypatch, capsys):
    monkeypatch.setattr(results, "ROOT", tree)
    (tree / "README.md").write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    assert results.main(["--check"]) == 1
    assert "README.md is not what the records say" in capsys.readouterr().out
    assert results.main([]) == 0
    assert results.main(["--check"]) == 0
    readme = (tree / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "old" not in readme


@pytest.mark.parametrize("readme", ["", "{begin}", "{end} {begin}", "{begin} {end} {begin} {end}"])
def test_readme_needs_its_marks(results, readme):
    with pytest.raises(ValueError, match="once each"):
        results.with_table(readme.format(begin=results.BEGIN, end=results.END), "text")


# plots


def test_a_point_of_the_roofline(plots, tree):
    (profile,) = json.loads((tree / "benchmarks/results/second/network-1.1.json").read_text())["profiles"]
    first, second = plots.points(profile)
    assert (first.phase, first.intensity) == ("x0", 1.0)
    assert (first.gflops, first.share) == pytest.approx((20.0, 0.25))
    assert second.share == pytest.approx(0.75)
    profile["plan"]["phases"][0]["products"] = 0  # a mean only adds
    assert [point.phase for point in plots.points(profile)] == ["x1"]


def test_a_record_is_drawn(plots, tree, tmp_path):
    pytest.importorskip("matplotlib")
    record = json.loads((tree / "benchmarks/results/second/network-1.1.json").read_text())
    paths = plots.draw(record, tmp_path / "network-1.1")
    assert [path.name for path in paths] == [f"network-1.1-{name}.png" for name in ("times", "roofline", "phases")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    bare = {key: value for key, value in record.items() if key not in ("peaks", "profiles")}
    assert [path.name for path in plots.draw(bare, tmp_path / "bare")] == ["bare-times.png"]
