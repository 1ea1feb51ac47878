"""A report of measurements: JSON for machines, Markdown for people, plots where matplotlib is installed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["markdown", "plots", "to_json"]

Report = Mapping[str, Any]
Plot = Callable[[Any], None]


def to_json(report: Report) -> str:
    """Numbers that are not finite become null, as JSON asks."""
    return json.dumps(_finite(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and value - value != 0 else value


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(report: Report, pictures: Sequence[str] = ()) -> str:
    """The report as Markdown.

    Args:
        report: of ``faceattr evaluate``.
        pictures: names of the plots that lie beside it, shown in the section that their name begins with.
    """
    weights = report["weights"]
    lines = [
        f"# Evaluation of {weights['file']}",
        "",
        f"Computed in {weights['dtype']}; SHA-256 of the file `{weights['sha256']}`. Faces of the split "
        f"“{report['split']}”. Intervals are of 95 % (Wilson for shares, bootstrap for means) and take the faces as "
        "independent of each other.",
    ]
    if "limits of use" in report:
        lines += ["", f"**Limits of use.** {report['limits of use']}"]
    for section in report["sets"]:
        lines += _of_set(section, pictures)
    if "verification" in report:
        lines += ["", "## Verification", "", *_verification(report["verification"]), *_shown("verification", pictures)]
    return "\n".join(lines) + "\n"


def _of_set(section: Report, pictures: Sequence[str]) -> Iterator[str]:
    yield from ("", f"## {section['name']}", "")
    split = f", split {section['split']}" if "split" in section else ""
    terms = f" Terms: {section['terms']}." if section.get("terms") else ""
    yield f"{section['faces']:,} faces{split}.{terms}"
    if section["heads"]:
        yield from ("", *_table(("", "accuracy", "interval", "n", "calibration error"), _summary(section)))
    for name, head in section["heads"].items():
        yield from ("", f"### {section['name']}: {name}", "", *_head(head))
        yield from _shown(_stem(section, name), pictures)
    if section.get("groups"):
        yield from ("", f"### {section['name']}: groups", "", *_groups(section))
    if "identity" in section:
        yield from ("", f"### {section['name']}: identity", "", _identity(section["identity"]))


def _summary(section: Report) -> Iterator[Sequence[str]]:
    for name, head in section["heads"].items():
        error = head["calibration"]["error"]
        yield name, _percent(head["accuracy"]), _interval(head["interval"]), f"{head['n']:,}", _percent(error)


def _head(head: Report) -> Iterator[str]:
    if "mean error in years" in head:
        error, interval = head["mean error in years"], head["interval of the error"]
        near = f"Within one bin {_percent(head['within one bin'])}."
        if error is not None:
            between = f"{interval[0]:.2f} to {interval[1]:.2f}; {head['faces with years']:,} faces"
            near += f" Mean error of the expected age {error:.2f} years ({between})."
        yield from (near, "")
    if "left out" in head:
        lost = ", ".join(f"{name} ({count:,})" for name, count in head["left out"].items())
        yield from (f"Left out, as the network was not trained on these classes: {lost}.", "")
    if head["n"]:
        rows = ((name, f"{row['n']:,}", _percent(row["recall"]), f"{row['predicted']:,}")
                for name, row in head["classes"].items())  # fmt: skip
        yield from _table(("class", "n", "found", "answers"), rows)
        yield from ("", "Confusion: a row for what is true, a column for the answer.", "")
        names = list(head["classes"])
        confusion = zip(names, head["confusion"], strict=True)
        yield from _table(("", *names), ((name, *(f"{count:,}" for count in row)) for name, row in confusion))
        yield ""
    if "operating point" in head:
        yield from _operating(head["operating point"])


def _operating(point: Report) -> Iterator[str]:
    true, false, none, answered = (
        point[key] for key in ("true positive", "false positive", "unlabelled", "answered")
    )  # fmt: skip
    yield (
        f"Operating point, over all (image, class) pairs: true positives {_percent(true['rate'])} of {true['n']:,}, "
        f"false positives {_percent(false['rate'])} of {false['n']:,}; {_percent(none['rate'])} of {none['n']:,} "
        f"images have no class at its threshold. Of the {answered['n']:,} faces that are answered, "
        f"{_percent(answered['accuracy'])} are right."
    )
    yield ""
    rows = (
        (name, f"{row['threshold']:.4f}" if "threshold" in row else "0.5", _percent(row["true positive"]["rate"]),
         f"{row['true positive']['n']:,}", _percent(row["false positive"]["rate"]), f"{row['false positive']['n']:,}")
        for name, row in point["classes"].items()
    )  # fmt: skip
    yield from _table(("class", "threshold", "true positives", "of", "false positives", "of"), rows)


def _groups(section: Report) -> Iterator[str]:
    heads = [name for name, head in section["heads"].items() if head["n"]]
    years = any("mean error in years" in row for row in section["groups"].values())

    def cells(name: str, row: Report) -> Iterator[str]:
        yield name
        yield f"{row['n']:,}"
        for head in heads:
            cell = f"{_percent(row[head])} ({_interval(row['intervals'][head])}; {row['counts'][head]:,})"
            if head in row["unlabelled"]:
                cell += f", unlabelled {_percent(row['unlabelled'][head])}"
            yield cell if row[head] is not None else "–"
        if years and "mean error in years" in row:
            low, high = row["intervals"]["mean error in years"]
            yield f"{row['mean error in years']:.2f} ({low:.2f}–{high:.2f})"
        elif years:
            yield "–"

    yield from ("Accuracy, its interval, and the number of faces whose label is known.", "")
    header = ("group", "n", *heads, *(("mean error in years",) if years else ()))
    yield from _table(header, (tuple(cells(name, row)) for name, row in section["groups"].items()))


def _identity(identity: Report) -> str:
    if "n" not in identity:
        return f"Not measured: {identity.get('reason', identity['method'])}."
    first, five = identity["top 1"], identity["top 5"]
    return (
        f"Among {identity['persons']:,} people, by {identity['method']}, on {identity['n']:,} held-out pictures: top 1 "
        f"{_percent(first['accuracy'])} ({_interval(first['interval'])}), top 5 {_percent(five['accuracy'])} "
        f"({_interval(five['interval'])})."
    )


def _verification(found: Report) -> Iterator[str]:
    lost = [f"{count:,} {why}" for why, count in found["left out"].items() if count]
    yield (
        f"{_percent(found['accuracy'])}, standard error {100 * found['standard error']:.2f} %, over "
        f"{len(found['splits'])} splits of {found['n']:,} pairs, each judged by the threshold of the others. "
        f"Area under the curve {found['area under curve']:.4f}. Pairs left out: {', '.join(lost) or 'none'}."
    )
    yield ""
    rows = ((_percent(row["false accept"]), "too few pairs" if row["true accept"] is None else
             _percent(row["true accept"])) for row in found["true accept"])  # fmt: skip
    yield from _table(("false accepts", "true accepts"), rows)
    yield ""
    splits = ((row["split"], f"{row['n']:,}", f"{row['threshold']:.4f}", _percent(row["accuracy"]))
              for row in found["splits"])  # fmt: skip
    yield from _table(("split", "pairs", "threshold", "accuracy"), splits)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _shown(prefix: str, pictures: Sequence[str]) -> Iterator[str]:
    for picture in pictures:
        if picture.startswith(f"{prefix}."):
            yield from ("", f"![{prefix}]({picture})")


def _stem(section: Report, head: str) -> str:
    """Of the file of a head's plot: a set may be called anything."""
    return re.sub(r"[^\w-]", "-", f"{section['name']}-{head}")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def _interval(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}"


# --- plots ------------------------------------------------------------------------------------------------------------


def plots(report: Report) -> dict[str, Callable[[Path], None]]:
    """File name → what writes the plot there; empty where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return {}
    found: dict[str, Callable[[Path], None]] = {}
    for section in report["sets"]:
        for name, head in section["heads"].items():
            if head["n"]:
                found[f"{_stem(section, name)}.png"] = _saved(_confusion_and_reliability(head), 2)
    if "verification" in report:
        found["verification.png"] = _saved(_roc(report["verification"]), 1)
    return found


def _saved(draw: Plot, columns: int) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        from matplotlib.figure import Figure  # without pyplot: no window system, nothing global

        figure = Figure(figsize=(5.5 * columns, 5), layout="constrained")
        draw(figure.subplots(1, columns))
        figure.savefig(path, format="png", dpi=100, metadata={"Software": None})

    return save


def _confusion_and_reliability(head: Report) -> Plot:
    def draw(axes: Any) -> None:
        names, rows = list(head["classes"]), head["confusion"]
        shares = [[count / max(1, sum(row)) for count in row] for row in rows]
        axes[0].imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes[0].set_xticks(range(len(names)), names, rotation=90)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set(xlabel="answer", ylabel="truth", title="share of each row")
        for i, row in enumerate(shares):
            for j, value in enumerate(row):
                if value >= 0.005:
                    colour = "white" if value > 0.5 else "black"
                    axes[0].text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=7)
        bins = head["calibration"]["bins"]
        axes[1].plot([0, 1], [0, 1], color="grey", linewidth=1)
        axes[1].plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], marker="o")
        error = 100 * head["calibration"]["error"]
        axes[1].set(
            xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=f"calibration error {error:.1f} %"
        )

    return draw


def _roc(found: Report) -> Plot:
    def draw(axes: Any) -> None:
        false, true = zip(*found["roc"], strict=True)
        axes.plot(false, true)
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
        area = found["area under curve"]
        axes.set(xlabel="false accepts", ylabel="true accepts", xlim=(0, 1), ylim=(0, 1), title=f"area {area:.4f}")

    return draw
