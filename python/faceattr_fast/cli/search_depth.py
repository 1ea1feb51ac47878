"""Find where each head should branch: train it at several points, by cross-validation, and compare.

Of the branch points that cannot be told apart from the best the latest is chosen, which costs least. A search that was
killed goes on where it was; heads and branch points may be added to one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from .fine_tune import add_recipe_arguments, cache_of, recipe_of
from .progress import Progress
from .usage import UsageError, add_threads_argument, add_weights_argument, names, positive, usage_errors, weights_path

# The paper's grid.
_BRANCHES = "conv17,conv19,conv21,conv22,conv-bn320,fc"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", type=Path, metavar="DATA", help="packed set (faceattr prepare)")
    parser.add_argument("--heads", type=names, required=True, metavar="A,B,…", help="labels to learn")
    parser.add_argument("--sigmoid", type=names, default=[], metavar="A,…", help="heads with any number of classes")
    parser.add_argument("--branches", type=names, default=names(_BRANCHES), metavar="A,B,…",
                        help=f"branch points (default: the paper's, {_BRANCHES})")  # fmt: skip
    parser.add_argument("--folds", type=positive, default=5, metavar="N", help="default: 5")
    parser.add_argument("--splits", type=names, default=["train", "validation"], metavar="A,B",
                        help="whose faces take part (default: train,validation)")  # fmt: skip
    parser.add_argument("--faces", type=positive, metavar="N", help="at most, in whole groups (default: all)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the search")
    parser.add_argument("--workers", type=positive, metavar="N",
                        help="cells at once, a process each (default: one per CPU of this machine)")  # fmt: skip
    parser.add_argument("--on", default="here", choices=("here", "ray"),
                        help="ray: on the cluster that RAY_ADDRESS names, or one of this machine alone")  # fmt: skip
    add_weights_argument(parser)
    add_recipe_arguments(parser)
    add_threads_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    weights = weights_path(arguments)
    if unknown := set(arguments.sigmoid) - set(arguments.heads):
        raise UsageError(f"--sigmoid: not among --heads: {', '.join(sorted(unknown))}")
    if arguments.class_weights not in (None, "balanced"):
        raise UsageError(f"--class-weights: for several heads only 'balanced', got {arguments.class_weights!r}")
    from concurrent.futures.process import BrokenProcessPool

    try:
        return _search(arguments, weights)
    except BrokenProcessPool:
        print("faceattr search-depth: a worker was killed: run this again, and the search goes on", file=sys.stderr)
        return 1


def _search(arguments: argparse.Namespace, weights: Path) -> int:
    with usage_errors():
        from ..engine.threads import thread_count
        from ..training.search import Search, run_search

        search = Search(
            base=weights, data=tuple(arguments.data),
            heads={head: "sigmoid" if head in arguments.sigmoid else "softmax" for head in arguments.heads},
            branches=tuple(arguments.branches), out=arguments.out, cache=cache_of(arguments), folds=arguments.folds,
            recipe=recipe_of(arguments), seed=arguments.seed, most=arguments.faces, smoothing=arguments.smoothing,
            age_spread=arguments.age_spread, storage=arguments.cache_dtype, splits=tuple(arguments.splits),
        )  # fmt: skip
        threads = thread_count(arguments.threads)
        with Progress(1, "") as progress:
            grid, spec = run_search(
                search, arguments.workers or threads, threads, arguments.on,
                computing=progress.meter("faces", "running the trunk"), progress=progress.meter("cells", "training"),
                report=lambda line: progress.print(line, sys.stderr),
            )  # fmt: skip
    table, summary = grid.table(), "\n".join(grid.summary())
    _write(search.out / "spec.json", spec.to_json())
    _write(search.out / "grid.json", json.dumps(grid.to_json(), indent=1))
    _write(search.out / "grid.md", f"{table}\n\n{summary}\n")
    print(f"{table}\n\n{summary}\n")
    print(f"{search.out / 'spec.json'}: the chosen network, for faceattr fine-tune --spec")
    try:
        grid.heat_map(search.out / "grid.png")
    except ImportError:
        print("no heat map: matplotlib is not installed (the extra 'plots')", file=sys.stderr)
    return 0


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
