"""Write GPU_RESULTS.md from the records of ``gpu_check.py`` in results/; it holds no figure of another origin.

python benchmarks/gpu_results.py                # write; without records there is no such file
python benchmarks/gpu_results.py --check        # exit code 1 if it is not what the records say
python benchmarks/gpu_results.py RECORD.json    # print one record's tables
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PEERS = ("peer-eager", "peer-compile", "peer-compile-rewritten", "peer-jax", "peer-tensorrt")

# Which row stands for a contender: its graph where there is one.
_HOW = ("graph", "call")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def record_text(record: dict[str, Any]) -> str:
    """Everything in one record that people read; the rest is in its JSON."""
    steps = record["steps"]
    machine = steps.get("record", {})
    gpu, packages = machine.get("gpu") or {}, machine.get("packages") or {}
    about = [f"{record['gpu'] or 'No GPU'}; commit {(record['commit'] or 'unknown')[:12]}, {record['time'][:10]}, "
             f"seed {record['seed']}."]  # fmt: skip
    if gpu:
        versions = [f"{name} {packages[name]}" for name in ("torch", "jax", "tensorrt") if packages.get(name)]
        about.append(
            f"Driver {gpu['driver_version']}, power limit {gpu['power.limit']}; {', '.join(versions) or 'no torch'}."
        )
    parts = [" ".join(about), _steps(steps)]
    for section in (_rates, _checks, _speeds, _latencies, _unmeasured):
        text = section(steps)
        if text:
            parts.append(text)
    return "\n\n".join(parts)


def _steps(steps: dict[str, Any]) -> str:
    lines = []
    for name, step in steps.items():
        why = step.get("why", "").replace("|", "/").replace("\n", " ")
        lines.append([name, step["status"], f"{step.get('seconds', 0):.0f}", why[:300]])
    return table(["step", "", "s", "why"], lines)


def _rates(steps: dict[str, Any]) -> str:
    rows = steps.get("ceilings", {}).get("rates", [])
    return rows and table(
        ["the device at most", ""], [[row["name"], f"{row['value']:.4g} {row['unit']}"] for row in rows]
    )


def _checks(steps: dict[str, Any]) -> str:
    """Per format the worst error of each check, and every one that failed."""
    rows = steps.get("correctness", {}).get("checks", [])
    worst: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        worst.setdefault((row["dtype"], row["check"]), []).append(row)
    lines = []
    for (dtype, check), group in worst.items():
        errors = [row["error"] for row in group if "error" in row]
        failed = [f"batch {row['batch']} {row['pixels']}" for row in group if not row["passed"]]
        error = ("not finite" if "not finite" in errors else f"{max(errors):.1e}") if errors else ""
        limit = f"{group[0]['limit']:.0e}" if errors else ""
        lines.append(
            [dtype, check, str(len(group)), error, limit, f"**failed**: {', '.join(failed)}" if failed else "passed"]
        )
    return lines and table(["format", "check", "cases", "worst error", "limit", ""], lines)


def measured(steps: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of this package and its peers, all of one machine."""
    return [row for name in ("ours", *PEERS) for row in steps.get(name, {}).get("rows", [])]


def best(rows: list[dict[str, Any]], clock: str) -> dict[tuple[str, str, str], dict[int, dict[str, Any]]]:
    """By (contender, form, format) and batch: the row of that clock that was fastest."""
    found: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["clock"] == clock and row["how"] in _HOW:
            group = found.setdefault((row["contender"], row["form"], row["dtype"]), {})
            if row["batch"] not in group or row["seconds"]["median"] < group[row["batch"]]["seconds"]["median"]:
                group[row["batch"]] = row
    return found


def microseconds(seconds: dict[str, float]) -> str:
    return "/".join(f"{1e6 * seconds[key]:.1f}" for key in ("min", "median", "max"))


def _speeds(steps: dict[str, Any]) -> str:
    """Images per second of calls in a row; of this package also the arithmetic, and how it stands to the best peer."""
    rows = best(measured(steps), "device, back to back")
    peers = [group for (contender, *_), group in rows.items() if contender != "faceattr_fast"]
    ours = steps.get("ours", {})
    matmul = {row["name"]: row["value"] for row in steps.get("ceilings", {}).get("rates", [])}
    lines = []
    for (contender, form, dtype), group in rows.items():
        for batch, row in sorted(group.items()):
            seconds = row["seconds"]
            cells = [contender, form, dtype, str(batch), row["how"]]
            cells += [microseconds(seconds), f"{batch / seconds['median']:.0f}"]
            flops = ours.get(f"plan_{dtype}") if contender == "faceattr_fast" else None
            for key in ("multiply_adds_as_given", "multiply_adds"):
                cells.append(f"{2e-12 * flops[key] * batch / seconds['median']:.1f}" if flops else "")
            peak = matmul.get(f"torch_matmul_{dtype}_8192") if flops else None
            cells.append(f"{2e-12 * flops['multiply_adds'] * batch / seconds['median'] / peak:.0%}" if peak else "")
            other = min((peer[batch]["seconds"]["median"] for peer in peers if batch in peer), default=None)
            cells.append(f"{other / seconds['median']:.2f}x" if contender == "faceattr_fast" and other else "")
            cells.append(f"{row['error']:.1e}")
            lines.append(cells)
    header = ["", "form", "format", "batch", "how", "us min/median/max", "img/s", "TFLOP/s as given",
              "TFLOP/s of the plan", "of torch's product", "to the fastest peer (float16)", "error"]  # fmt: skip
    return lines and table(header, lines)


def _latencies(steps: dict[str, Any]) -> str:
    rows = [row for row in measured(steps) if row["batch"] == 1 and row["clock"] != "device, back to back"]
    keys = ("contender", "form", "dtype", "how", "clock")
    lines = [[*(row[key] for key in keys), microseconds(row["seconds"])] for row in rows]
    return lines and table(["one image", "form", "format", "how", "clock", "us min/median/max"], lines)


def _unmeasured(steps: dict[str, Any]) -> str:
    names = [f"{name} ({steps[name].get('why', steps[name]['status'])})" if name in steps else name
             for name in PEERS if not steps.get(name, {}).get("rows")]  # fmt: skip
    lines = [f"Not measured: {'; '.join(names)}."] if names else []
    for name in ("ours", *PEERS):
        for row in steps.get(name, {}).get("left_out", []):
            who = f"{row['contender']} {row['form']}, {row['dtype']}, batch {row['batch']}, {row['how']}"
            lines.append(f"Left out: {who}: error {row['error']} of {row['head']}, more than {row['limit']:.0e}.")
    return "\n".join(lines)


def results_text(folder: Path) -> str | None:
    """All records, newest first; None: there is none."""
    paths = sorted((folder / "results").glob("*.json"))
    records = sorted(
        ((json.loads(path.read_text()), path) for path in paths), key=lambda pair: pair[0]["time"], reverse=True
    )
    if not records:
        return None
    parts = [
        "# Results on GPUs",
        "Written by `python benchmarks/gpu_results.py` from the records that `gpu_check.py` left; how they were"
        " measured is in [README.md](README.md). Compare figures within one record only.",
    ]
    for record, path in records:
        parts += [f"## {path.stem}", f"[Record]({path.relative_to(folder).as_posix()}).", record_text(record)]
    return "\n\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("record", nargs="?", type=Path)
    arguments = parser.parse_args(argv)
    if arguments.record:
        print(record_text(json.loads(arguments.record.read_text())))
        return 0
    text, path = results_text(folder), folder / "GPU_RESULTS.md"
    stale = (path.read_text() if path.is_file() else None) != text
    if stale and arguments.check:
        print(f"{path.name} is not what the records say: run python benchmarks/gpu_results.py")
    elif stale and text is None:
        path.unlink()
    elif stale and text is not None:
        path.write_text(text)
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
