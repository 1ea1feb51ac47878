"""Write RESULTS.md and the table in README.md from the records in results/; both hold no figure of another origin.

python benchmarks/results.py           # write
python benchmarks/results.py --check   # exit code 1 if they are not what the records say

RESULTS.md has everything, README the newest record of the network per machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceattr_fast.bench import DTYPES, Row, rows_of
from faceattr_fast.bench.report import best_of_groups
from faceattr_fast.bench.tables import own_bytes, peak

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

NAMES = {
    "faceattr_fast": "**faceattr_fast**",
    "faceattr_fast-uint8": "faceattr_fast, from uint8",
    "onnxruntime": "ONNX Runtime {onnxruntime}",
    "openvino": "OpenVINO {openvino}",
    "torch": "PyTorch {torch} eager",
    "torch-compile": "PyTorch {torch} compiled",
}


@dataclass(frozen=True)
class Record:
    """A file of results/<machine>/<what>-<version>.json."""

    path: Path
    data: dict[str, Any]

    @property
    def machine(self) -> str:
        return self.path.parent.name

    @property
    def what(self) -> str:
        return self.path.stem.rpartition("-")[0]

    @property
    def version(self) -> str:
        """Of faceattr_fast; the first record did not know its own, but for its file name."""
        version: str = self.data["versions"]["faceattr_fast"]
        return self.path.stem.rpartition("-")[2] if version == "0+unknown" else version

    @property
    def title(self) -> str:
        machine, commit = self.data["machine"], self.data.get("commit")
        measured = f"version {self.version}" + (f", commit {commit[:12]}" if commit else "")
        isa = machine["isa_used"].upper().replace("AVX512", "AVX-512")
        return f"{machine['cpu']}, {machine['usable_cpus']} CPUs, {isa}; {measured}, {self.data['time'][:10]}"

    def name(self, group: str) -> str:
        versions = {name: (version or "").partition("+")[0] for name, version in self.data["versions"].items()}
        return NAMES.get(group, group).format_map(versions)


def read_records(folder: Path) -> list[Record]:
    """By machine, newest first."""
    records = [Record(path, json.loads(path.read_text())) for path in folder.glob("*/*.json")]
    records.sort(key=lambda record: record.data["time"], reverse=True)
    return sorted(records, key=lambda record: record.machine)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def by_format(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (DTYPES.index(row.dtype), row.batch, row.threads))


# README


def readme_table(records: Sequence[Record], root: Path) -> str:
    """The newest record of the network on each machine."""
    newest: dict[str, Record] = {}
    for record in records:
        if record.what == "network":
            newest.setdefault(record.machine, record)
    parts = []
    for record in newest.values():
        link = f"[record]({record.path.relative_to(root).as_posix()})"
        formats = dict.fromkeys(row.dtype for row in by_format(rows_of(record.data)))
        parts.append(f"{record.title}; {', '.join(formats)} ({link}):\n\n{summary_table(record)}")
    return "\n\n".join(parts)


def summary_table(record: Record) -> str:
    """One line per runtime and format, its best setting for each batch size and number of threads."""
    best = by_format(best_of_groups(rows_of(record.data)))
    settings = sorted({(row.batch, row.threads) for row in best})
    several = len({row.dtype for row in best}) > 1
    batch, threads = settings[-1]
    header = ["", *(["format"] if several else []), *(f"batch {b}, {_threads(t)}" for b, t in settings)]
    header += [f"effective GFLOP/s, batch {batch}, {_threads(threads)}", "worst error against float64"]
    lines = []
    for dtype, group in dict.fromkeys((row.dtype, row.group) for row in best):
        rows = {(row.batch, row.threads): row for row in best if (row.dtype, row.group) == (dtype, group)}
        last = rows.get(settings[-1])
        cells = [record.name(group), *([dtype] if several else [])]
        cells += [_speed(rows[setting]) if setting in rows else "" for setting in settings]
        cells += [f"{last.gflops:.0f}" if last else "", f"{max(row.worst_error for row in rows.values()):.0e}"]
        lines.append(cells)
    return table(header, lines)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _speed(row: Row) -> str:
    relative = "" if row.relative_speed is None else f" ({row.relative_speed:.2f}x)"
    latency = row.batch == 1
    return (f"{row.seconds.median * 1e3:.2f} ms" if latency else f"{row.images_per_second:.1f} img/s") + relative


def with_table(readme: str, text: str) -> str:
    """``readme`` with ``text`` between its marks."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"README.md: expected {BEGIN} and then {END}, once each")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


# RESULTS.md


def results_text(records: Sequence[Record], folder: Path) -> str:
    """Every record in full."""
    parts = [
        "# Results",
        "Written by `python benchmarks/results.py` from the records in [results](results); how they were measured is in"
        " [README.md](README.md). Compare figures within one record only.",
        "`ms` is per image, median and 10th to 90th percentile. `speed` is relative to the fastest peer of the same"
        " format. GFLOP/s count the network as given. `error` and `top-1` are those of the worst head against float64.",
    ]
    machine = None
    for record in records:
        if record.machine != machine:
            machine = record.machine
            parts.append(f"## {machine}")
        link = record.path.relative_to(folder).as_posix()
        parts.append(f"### {record.what} {record.version}")
        parts.append(f"{record.title}, {record.data['machine']['system'].split()[0]}. [Record]({link}).")
        parts += _sections(record)
    return "\n\n".join(parts) + "\n"


def _sections(record: Record) -> list[str]:
    data = record.data
    parts = []
    if "crops" in data:
        crops = data["crops"]
        parts.append(f"Crops: {crops['source']}; {crops['test']} to test, {crops['calibration']} to calibrate with.")
    parts += [_peaks(peaks) for peaks in data.get("peaks", [])]
    parts.append(_rows(record))
    for key in ("skipped", "left_out"):
        if data.get(key):
            names = "\n".join(f"- {name}: {why}" for name, why in data[key].items())
            parts.append(f"{key.capitalize().replace('_', ' ')}:\n\n{names}")
    if data.get("starts"):
        parts.append(_starts(record))
    parts += [_phases(profile) for profile in data.get("profiles", [])]
    return parts


def _peaks(peaks: dict[str, Any]) -> str:
    gemm, copy = peak(peaks, "sgemm_gflops"), peak(peaks, "copy_gb_per_s")
    return (
        f"The machine with {_threads(peaks['threads'])}: float32 matrix product of {peaks['blas']} {gemm:.1f} GFLOP/s,"
        f" copy {copy:.1f} GB/s."
    )


def _rows(record: Record) -> str:
    rows = by_format(rows_of(record.data))
    priced = any(row.cost_per_million is not None for row in rows)
    header = ["", "format", "batch", "threads", "ms", "p10 to p90", "img/s", "GFLOP/s", "speed", "error", "top-1"]
    header += ["cost of a million images"] if priced else []
    lines = []
    for row in rows:
        name = record.name(row.group) + ("" if row.contender == row.group else f" ({row.contender})")
        cells = [name, row.dtype, str(row.batch), str(row.threads), f"{row.seconds.median * 1e3:.2f}"]
        cells += [f"{row.seconds.p10 * 1e3:.2f} to {row.seconds.p90 * 1e3:.2f}", f"{row.images_per_second:.1f}"]
        cells += [f"{row.gflops:.1f}", "" if row.relative_speed is None else f"{row.relative_speed:.2f}x"]
        cells += [f"{row.worst_error:.0e}", "" if row.worst_agreement is None else f"{row.worst_agreement:.1%}"]
        cells += ([] if row.cost_per_million is None else [f"{row.cost_per_million:.3f}"]) if priced else []
        lines.append(cells)
    return table(header, lines)


def _starts(record: Record) -> str:
    lines = []
    for start in record.data["starts"]:
        cells = [start["contender"], start["dtype"], str(start["threads"]), str(start["batch"])]
        memory = [f"{own_bytes(start, when) / 1e6:.0f}" for when in ("loaded", "ran")]
        lines.append([*cells, f"{start['seconds']:.2f}", *memory])
    return table(["start", "format", "threads", "batch", "s to first result", "MB loaded", "MB after calls"], lines)


def phase_medians(profile: dict[str, Any]) -> list[float]:
    """Seconds of each phase."""
    return [statistics.median(times) for times in zip(*(t["phase_seconds"] for t in profile["turns"]), strict=True)]


def _phases(profile: dict[str, Any]) -> str:
    seconds = phase_medians(profile)
    lines = []
    for phase, time in zip(profile["plan"]["phases"], seconds, strict=True):
        cells = [phase["name"], "x".join(map(str, phase["shape"])), phase["kernel"]]
        cells += [f"{phase['products'] / 1e6:.2f}", f"{phase['bytes'] / 1e6:.2f}", f"{time * 1e6:.1f}"]
        cells += [f"{2 * phase['products'] / time / 1e9:.1f}", f"{time / sum(seconds):.1%}"]
        lines.append(cells)
    caption = f"Phases of {profile['contender']}, {profile['dtype']}, {_threads(profile['threads'])}, one image:"
    header = ["phase", "output", "kernel", "M products", "MB touched", "us", "GFLOP/s executed", "share"]
    return f"{caption}\n\n{table(header, lines)}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(argv)
    records = read_records(ROOT / "benchmarks" / "results")
    readme, results = ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md"
    wanted = {
        readme: with_table(readme.read_text(), readme_table(records, ROOT)),
        results: results_text(records, results.parent),
    }
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if arguments.check:
            print(f"{path.relative_to(ROOT)} is not what the records say: run python benchmarks/results.py")
        else:
            path.write_text(wanted[path])
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
