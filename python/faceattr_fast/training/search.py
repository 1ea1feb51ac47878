"""The depth search: heads x branch points x folds, each cell a head trained on the other folds.

A cell is a file of the search's folder: what is there is not trained again, and a search that was killed goes on. Cells
run in one thread each, so that a result does not depend on how many run at once, or where.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from ..forward import FastForward
from ..spec import NetworkSpec
from ..weights import parse_weights
from .checkpoint import Progress, TrainingRun
from .depth import DepthGrid
from .feature_cache import Features, open_features, set_digest
from .finetune import new_head
from .head_data import Faces, HeadData, class_weights
from .head_trainer import HeadRecipe, predict_head, train_head
from .packed import SPLITS

__all__ = ["Cell", "Search", "group_folds", "run_search"]

Kind = Literal["softmax", "sigmoid"]
Where = Literal["here", "ray"]
_LAST_SEED = 2**31
_RETRIES = 3  # of a cell on Ray whose worker was killed


@dataclass(frozen=True)
class Search:
    """What is searched.

    Args:
        base: weights file whose trunk is frozen.
        data: packed sets; their test splits take no part.
        heads: names of labels, each with its kind.
        branches: branch points.
        out: folder of the search.
        cache: folder of features.
        folds: at least 2.
        recipe: of every cell.
        seed: of folds and training.
        most: faces at most, in whole groups; None: all.
        smoothing, age_spread, storage: as :class:`.Faces` and :func:`.open_features` take them.
        splits: whose faces take part: ``train``, ``validation`` or both.
    """

    base: Path
    data: tuple[Path, ...]
    heads: Mapping[str, Kind]
    branches: tuple[str, ...]
    out: Path
    cache: Path
    folds: int = 5
    recipe: HeadRecipe = field(default_factory=HeadRecipe)
    seed: int = 0
    most: int | None = None
    smoothing: float | None = None
    age_spread: float | None = None
    storage: str = "float32"
    splits: tuple[str, ...] = SPLITS[:2]

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds: expected at least 2, got {self.folds}")
        if not self.splits or set(self.splits) - set(SPLITS[:2]):
            raise ValueError(f"splits: expected train, validation or both, got {list(self.splits)}")
        if not self.heads or not self.branches:
            raise ValueError("expected at least one head and one branch point")


@dataclass(frozen=True)
class Cell:
    """One head at one branch point, tested on one fold."""

    head: str
    branch: str
    fold: int

    def __str__(self) -> str:
        return f"{self.head}-{self.branch}-{self.fold}"


def group_folds(groups: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """[N] fold of each face, 0 … folds-1, of nearly equal size; a group is wholly in one.

    Raises:
        ValueError: there are fewer groups than folds.
    """
    names, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < folds:
        raise ValueError(f"folds: {folds} need as many groups of faces, the data has {len(names)}")
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]  # large ones first: the small ones even it out
    fold_of, filled = np.empty(len(names), np.int64), np.zeros(folds, np.int64)
    for group in order:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    result: np.ndarray = fold_of[members]
    return result


class _Ground:
    """What the cells of a search share: faces, folds, targets. Built once per process."""

    def __init__(self, search: Search) -> None:
        self.search = search
        data = search.base.read_bytes()
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.weights = parse_weights(data, str(search.base))
        spec = self.weights.spec
        indices = sorted({spec.branch_index(branch) for branch in search.branches})
        self.branches = tuple(spec.branches[index] for index in indices)
        self.faces = Faces.open(search.data, search.smoothing, search.age_spread)
        self.faces.check_crops(self.weights.metadata)
        eligible = self._eligible()
        self.data = {
            name: HeadData.of(self.faces, name, "fc", kind=kind, labels=self._labels(name), train=eligible)
            for name, kind in search.heads.items()
        }
        known = np.stack([data.known for data in self.data.values()]).any(0)
        self.wanted = eligible & known
        self.fold = np.full(len(self.faces), -1)
        self.fold[eligible] = group_folds(self.faces.groups[eligible], search.folds, search.seed)
        self.number = np.cumsum(self.wanted) - 1  # of a face among the features

    def _labels(self, name: str) -> tuple[str, ...] | None:
        """Classes in the order of the base's own head, where it has one."""
        return next((head.labels for head in self.weights.spec.heads if head.name == name), None)

    def _eligible(self) -> np.ndarray:
        """Faces outside the test split, groups by chance until there are enough."""
        eligible: np.ndarray = np.isin(self.faces.split, self.search.splits)
        if self.search.most is None or eligible.sum() <= self.search.most:
            return eligible
        _, members = np.unique(self.faces.groups, return_inverse=True)
        rank = np.random.default_rng(self.search.seed).permutation(members.max() + 1)[members]
        sizes = np.bincount(rank[eligible], minlength=members.max() + 1)
        return eligible & (np.cumsum(sizes)[rank] <= self.search.most)

    def settings(self) -> dict[str, Any]:
        """All that a cell depends on, beside its name."""
        search = self.search
        settings = {
            "weights": self.sha256, "data": [set_digest(packed) for packed in self.faces.packed],
            "folds": search.folds, "recipe": asdict(search.recipe), "seed": search.seed, "most": search.most,
            "smoothing": search.smoothing, "age_spread": search.age_spread, "storage": search.storage,
            "splits": search.splits,
        }  # fmt: skip
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    def features(self, fast: FastForward, branch: str, report: Progress | None) -> Features:
        search = self.search
        return open_features(
            fast, self.sha256, self.faces.sources(self.wanted), branch, search.cache,
            augmentations=search.recipe.augmentations, jitter=search.recipe.jitter, seed=search.seed,
            storage=search.storage, report=report,
        )  # fmt: skip

    def run(self, cell: Cell, folders: Sequence[Path]) -> None:
        """Train and test one cell, and write its file."""
        search, features = self.search, Features(folders)
        head_data = self.data[cell.head]
        data = replace(head_data, head=replace(head_data.head, branch=cell.branch))
        mine = data.known & (self.fold >= 0)
        train, test = mine & (self.fold != cell.fold), np.flatnonzero(mine & (self.fold == cell.fold))
        rows = np.flatnonzero(train)
        if not len(rows) or not len(test):
            raise ValueError(
                f"{cell}: {len(rows)} faces to train on and {len(test)} to test on: give more, or fewer folds"
            )
        seed = (search.seed * 1009 + cell.fold) % _LAST_SEED  # another start in every fold: its chance is measured too
        checkpoint = _path(search, cell).with_suffix(".checkpoint")
        checkpoint.parent.mkdir(exist_ok=True)
        factors = class_weights(data, train, search.recipe.class_weights)
        module = train_head(
            new_head(self.weights.spec, data.head, seed), data, features.subset(self.number[rows]), rows,
            self.faces.weights[rows], search.recipe, seed, factors,
            TrainingRun(checkpoint, depends={"cell": str(cell)}),
        )  # fmt: skip
        scores = data.scores(predict_head(module, features.subset(self.number[test])), test)
        if np.isnan(scores).all():
            raise ValueError(f"{cell}: nobody knows the right class of a single face of this fold")
        path = _path(search, cell)
        partial = path.with_suffix(".part")
        with partial.open("wb") as file:
            np.savez(file, rows=test, scores=scores, trained_on=len(rows))
        os.replace(partial, path)
        checkpoint.unlink(missing_ok=True)


def _path(search: Search, cell: Cell) -> Path:
    """Shares of right yes and no answers are no accuracies: cells of a sigmoid head have names of their own."""
    kind = "" if search.heads[cell.head] == "softmax" else f"-{search.heads[cell.head]}"
    return search.out / "cells" / f"{cell}{kind}.npz"


def run_search(
    search: Search,
    workers: int = 1,
    threads: int | None = None,
    on: Where = "here",
    computing: Progress | None = None,
    progress: Progress | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[DepthGrid, NetworkSpec]:
    """Run every cell that is not there yet.

    Args:
        search: what to search.
        workers: cells at once, each in a process and a thread of its own; 1: in this process, unless on Ray.
        threads: of the fast forward that runs the trunk, in this process.
        on: "here", or "ray": the cells are tasks of the Ray cluster that this process has joined, or that RAY_ADDRESS
            names, or of a new one on this machine. All its machines must see base, data, out and cache under the same
            paths. A cell whose worker was killed is run again, up to three times.
        computing: called with renderings done and in all while the trunk runs, for each branch point.
        progress: called with cells done and in all.
        report: called with a line now and then.

    Returns:
        The grid, and the base's network with every searched head at its chosen branch point; heads that it has not come
        last.

    Raises:
        BrokenProcessPool: a worker was killed, on Ray once too often; the cells that are done stay.
        ImportError: Ray is not installed.
        ValueError: the folder has cells of a search with other settings, or a head or branch point is wrong.
    """
    if on not in get_args(Where):
        raise ValueError(f"on: expected one of {get_args(Where)}, got {on!r}")
    ray = _import_ray() if on == "ray" else None
    ground = _Ground(search)
    _check_settings(search.out, ground.settings())
    cells = [Cell(*key) for key in product(search.heads, ground.branches, range(search.folds))]
    waiting = [cell for cell in cells if not _path(search, cell).exists()]
    _warn_of_known_labels(ground, report)
    report(f"{int(ground.wanted.sum())} faces, {len(cells)} cells, {len(cells) - len(waiting)} of them done")
    folders = {}
    if waiting:
        fast = FastForward(ground.weights, heads=["embedding"], threads=threads)
        needed = {cell.branch for cell in waiting}
        folders = {b: ground.features(fast, b, computing).folders for b in ground.branches if b in needed}
    done = len(cells) - len(waiting)
    for _ in _run_cells(ground, waiting, folders, workers, ray):
        done += 1
        if progress is not None:
            progress(done, len(cells))
    grid = _read_grid(search, cells, ground.branches)
    heads = {head.name: head for head in ground.weights.spec.heads}
    for choice in grid.choices():
        heads[choice.head] = replace(ground.data[choice.head].head, branch=choice.branch)
    return grid, replace(ground.weights.spec, heads=tuple(heads.values()))


def _warn_of_known_labels(ground: _Ground, report: Callable[[str], None]) -> None:
    """The base may have learned the searched labels from the very faces of the folds: every figure would flatter."""
    trained_on = ground.weights.metadata.get("trained_on")
    names = {packed.info["name"] for packed in ground.faces.packed}
    for entry in trained_on if isinstance(trained_on, list) and "train" in ground.search.splits else ():
        if entry.get("name") in names and (known := sorted(set(entry.get("labels", ())) & set(ground.search.heads))):
            report(
                f"note: the base has learned {', '.join(known)} from {entry['name']}'s training faces: figures on "
                "these faces flatter; --splits validation leaves them out"
            )


def _run_cells(
    ground: _Ground, cells: Sequence[Cell], folders: Mapping[str, Sequence[Path]], workers: int, ray: Any
) -> Iterator[None]:
    """Yields once for every cell that is done."""
    if ray is not None:
        yield from _run_on_ray(ray, ground.search, cells, folders, workers)
        return
    if workers == 1 or len(cells) < 2:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for cell in cells:
                ground.run(cell, folders[cell.branch])
                yield
        finally:
            torch.set_num_threads(threads)
        return
    # Threads do not survive a fork: processes begin anew.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(cells)), context, _start_worker, (ground.search,)) as pool:
        try:
            for future in as_completed([pool.submit(_run_in_worker, cell, folders[cell.branch]) for cell in cells]):
                future.result()
                yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_on_ray(
    ray: Any, search: Search, cells: Sequence[Cell], folders: Mapping[str, Sequence[Path]], workers: int
) -> Iterator[None]:
    if not ray.is_initialized():
        if "RAY_ADDRESS" in os.environ:
            ray.init()
        else:
            ray.init("local", num_cpus=workers, include_dashboard=False)
    search = replace(  # another machine has another working folder
        search, base=search.base.absolute(), data=tuple(path.absolute() for path in search.data),
        out=search.out.absolute(), cache=search.cache.absolute(),
    )  # fmt: skip
    run = ray.remote(num_cpus=1, max_retries=_RETRIES)(_run_in_task)
    waiting = list(reversed(cells))
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                cell = waiting.pop()
                running.append(run.remote(search, cell, [path.absolute() for path in folders[cell.branch]]))
            done, running = ray.wait(running)
            ray.get(done)
            yield
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        raise BrokenProcessPool(str(error)) from error
    finally:
        for task in running:
            ray.cancel(task, force=True)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: Ray reports to nobody
    try:
        import ray
    except ImportError as error:
        raise ImportError("running on Ray needs Ray: pip install 'faceattr_fast[train,ray]'") from error
    return ray


_ground: _Ground | None = None  # of a worker process


def _start_worker(search: Search) -> None:
    global _ground
    torch.set_num_threads(1)
    _ground = _Ground(search)


def _run_in_task(search: Search, cell: Cell, folders: Sequence[Path]) -> None:
    """Ray gives a process several tasks, one after another."""
    if _ground is None or _ground.search != search:
        _start_worker(search)
    _run_in_worker(cell, folders)


def _run_in_worker(cell: Cell, folders: Sequence[Path]) -> None:
    if _ground is None:
        raise RuntimeError("this is no worker of a search")
    _ground.run(cell, folders)


def _check_settings(out: Path, wanted: dict[str, Any]) -> None:
    """The folder belongs to one search; more heads and branch points may be added to it."""
    path = out / "search.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        partial = path.with_name("search.json.part")
        partial.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        os.replace(partial, path)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if differ := [name for name in wanted if found.get(name) != wanted[name]]:
        raise ValueError(f"{out} holds a search with other settings ({', '.join(differ)}): give another folder")


def _read_grid(search: Search, cells: Sequence[Cell], branches: tuple[str, ...]) -> DepthGrid:
    accuracy: dict[tuple[str, str], np.ndarray] = {}
    for cell in cells:
        with np.load(_path(search, cell)) as file:
            folds = accuracy.setdefault((cell.head, cell.branch), np.full(search.folds, np.nan))
            folds[cell.fold] = np.nanmean(file["scores"])
    return DepthGrid(branches, accuracy, tuple(head for head, kind in search.heads.items() if kind == "sigmoid"))
