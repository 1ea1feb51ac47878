"""What each step of training the base network sees: faces, drawn and rendered ahead of time by threads.

A step's faces and their jitter depend on the seed and the step alone, which processes divide between them: that is all
there is to remember of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..spec import HeadSpec
from .augment import Jitter, render
from .head_data import Faces, HeadData
from .recipes import Recipe

__all__ = ["BaseData", "Batch", "batches_of"]

_AHEAD = 2  # steps whose faces are rendered while one trains: 60 MB each for 400 faces of 224 px
_CHUNK = 8  # faces that a thread renders at a time


@dataclass(frozen=True)
class Batch:
    """Some faces of a step.

    Args:
        crops: uint8 [n, S, S, 3].
        targets: float32 [n, classes] per head, rows of zeros where unknown.
        identity: int [n], the person's class, -1 where there is none.
    """

    crops: Tensor
    targets: dict[str, Tensor]
    identity: Tensor

    def __len__(self) -> int:
        return len(self.crops)

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.crops.to(device),
            {name: rows.to(device) for name, rows in self.targets.items()},
            self.identity.to(device),
        )

    def parts(self, most: int) -> list[Batch]:
        """Equal parts of at most ``most`` faces, but for one more or less."""
        count = -(-len(self) // most)
        edges = [len(self) * i // count for i in range(count + 1)]
        return [
            Batch(self.crops[a:b], {name: rows[a:b] for name, rows in self.targets.items()}, self.identity[a:b])
            for a, b in pairwise(edges)
        ]


class BaseData:
    """What the base network learns from packed sets.

    Args:
        faces: of the sets.
        heads: to learn; those of a face's labels that are among them give loss.
        recipe: says who is an identity class, and the shares of the sets.

    Attributes:
        heads: each with its targets, and with the classes that are trained.
        identities: names of the people that are classes. One name stands for one person, whatever the set.
        identity: int [N], the class of each face, -1 for none.
        used: [N] booleans: faces of the training split from which something can be learned.

    Raises:
        ValueError: as :meth:`.HeadData.of`; a set has no face to learn from; ``mix`` names other sets.
    """

    def __init__(self, faces: Faces, heads: Sequence[HeadSpec], recipe: Recipe) -> None:
        self.faces, self.recipe = faces, recipe
        self.heads = tuple(
            replace(data, targets=data.targets.astype(np.float32))
            for data in (HeadData.of(faces, h.name, h.branch, labels=h.class_labels, kind=h.kind) for h in heads)
        )
        train = faces.split == "train"
        self.identities, self.identity = self._identities(train)
        known = self.identity >= 0
        for head in self.heads:
            known |= head.known
        self.used = known & train
        self._sets = self._drawn()

    def _identities(self, train: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        subjects = np.concatenate([packed.subjects for packed in self.faces.packed])
        counts = Counter(subjects[train].tolist())
        counts.pop("", None)  # nobody known
        chosen = sorted(person for person, count in counts.items() if count >= self.recipe.least_images)
        if self.recipe.identity == "none" or len(chosen) < 2:
            return (), np.full(len(subjects), -1)
        number = {person: i for i, person in enumerate(chosen)}
        return tuple(chosen), np.array([number.get(person, -1) for person in subjects.tolist()])

    def _drawn(self) -> list[tuple[np.ndarray, np.ndarray, float]]:
        """Of each set: faces to draw, upper ends of their chances in [0, 1], share of a batch."""
        mix = self.recipe.mix
        names = [packed.info["name"] for packed in self.faces.packed]
        if mix and mix.keys() != set(names):
            raise ValueError(f"mix: expected a share of each of the sets {names}, got {sorted(mix)}")
        found = []
        for name, rows in zip(names, self.faces.rows(self.used), strict=True):
            if not len(rows):
                wanted = [f"a label of {', '.join(head.head.name for head in self.heads)}"] if self.heads else []
                if self.recipe.identity != "none":
                    wanted.append(f"a person with {self.recipe.least_images} pictures, of at least two people")
                raise ValueError(
                    f"{name}: no face of the training split has {' or '.join(wanted) or 'anything to learn'}"
                )
            upto = np.cumsum(self.faces.weights[rows])
            found.append((rows, upto / upto[-1], float(mix.get(name, len(rows)))))
        return found

    def draw(self, seed: int, step: int, count: int) -> np.ndarray:
        """int [count] numbers of faces, of all sets in their shares, in random order."""
        rng = np.random.default_rng((seed, step))
        shares = np.cumsum([share for *_, share in self._sets])
        # One random offset for all sets: a set whose share is less than a face has one in some batches.
        ends = np.floor(shares * (count / shares[-1]) + rng.random()).astype(int)
        ends[-1] = count
        chosen = [
            rows[np.searchsorted(upto, rng.random(end - start), side="right").clip(max=len(rows) - 1)]
            for (rows, upto, _), (start, end) in zip(self._sets, pairwise([0, *ends.clip(max=count)]), strict=True)
        ]
        return rng.permutation(np.concatenate(chosen))

    def of(self, rows: np.ndarray, crops: np.ndarray) -> Batch:
        targets = {data.head.name: torch.from_numpy(data.targets[rows]) for data in self.heads}
        return Batch(torch.from_numpy(crops), targets, torch.from_numpy(self.identity[rows]))

    def render(self, row: int, size: int, jitter: Jitter | None, entropy: tuple[int, ...]) -> np.ndarray:
        """One face as uint8 [size, size, 3]."""
        faces, index = self.faces.place(row)
        return render(faces, np.array([index]), size, jitter, np.random.default_rng(entropy))[0]


def batches_of(
    data: BaseData, seed: int, steps: range, rank: int = 0, count: int = 1, threads: int = 1, plain: int | None = None
) -> Iterator[Batch]:
    """The batch of each step: this process's part of it.

    Args:
        data: to draw from.
        seed: of the draw and the jitter.
        steps: their numbers.
        rank, count: of this process, and of all.
        threads: that render.
        plain: side of crops without jitter; None: as the recipe says.
    """
    recipe = data.recipe
    waiting: deque[tuple[np.ndarray, np.ndarray, list[Future[None]]]] = deque()

    def fill(out: np.ndarray, rows: np.ndarray, entropies: list[tuple[int, ...]]) -> None:
        jitter = recipe.jitter if plain is None else None
        for crop, row, entropy in zip(out, rows, entropies, strict=True):
            crop[:] = data.render(int(row), out.shape[1], jitter, entropy)

    with ThreadPoolExecutor(threads) as pool:

        def begin(step: int) -> None:
            phase = recipe.phase(step)
            drawn = data.draw(seed, step, phase.batch)
            mine = np.array_split(np.arange(len(drawn)), count)[rank]
            rows, size = drawn[mine], plain or phase.size
            crops = np.empty((len(rows), size, size, 3), np.uint8)
            entropies: list[tuple[int, ...]] = [(seed, step, 1 + int(i)) for i in mine]  # not 0: that of the draw
            parts = [slice(i, i + _CHUNK) for i in range(0, len(rows), _CHUNK)]
            waiting.append((rows, crops, [pool.submit(fill, crops[p], rows[p], entropies[p]) for p in parts]))

        try:
            for step in steps[:_AHEAD]:
                begin(step)
            for i in range(len(steps)):
                if i + _AHEAD < len(steps):
                    begin(steps[i + _AHEAD])
                rows, crops, futures = waiting.popleft()
                for future in futures:
                    future.result()
                yield data.of(rows, crops)
        finally:
            for *_, futures in waiting:
                for future in futures:
                    future.cancel()
