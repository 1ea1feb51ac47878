"""Which linear values are formed, and how far the definitions of the others are expanded.

Every definition reads one linear value, its parent, whose own definition reads the next: a chain that ends at the stem.
So whatever is computed has one choice to make: at which value of its chain it stops and reads that one as formed.
Between here and there every block adds one composed 3x3 on its mid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..layers import strided
from ..spec import NetworkSpec
from .graph import Value

__all__ = ["Choices", "Expansion", "Site", "choose_as_given", "choose_fewest"]


class Site(NamedTuple):
    """A value formed at every ``grid``-th position in both directions; 1 is the whole value."""

    value: Value
    grid: int = 1

    @property
    def side(self) -> int:
        return strided(self.value.side, self.grid)

    @property
    def elements(self) -> int:
        return self.side**2 * self.value.channels


@dataclass(frozen=True, eq=False)
class Expansion:
    """One way to compute a site: from ``source``, which is formed, and the mids between.

    ``multiply_adds`` is its price for one image, what it reads being there already.
    """

    source: Site
    mids: tuple[Site, ...]
    multiply_adds: int


# What is computed, each once, and how. The stem, which reads the pixels, is always there and has no entry.
Choices = dict[Site, Expansion]

_Cost = tuple[int, int, int]  # multiply-adds, values formed, their elements
_Evaluate = Callable[[frozenset[Site]], tuple[_Cost, Choices]]


class _Expansions:
    """All expansions of a site, kept for the next time it is asked for."""

    def __init__(self, spec: NetworkSpec) -> None:
        self._strides = [block.stride for block in spec.blocks]
        self._cheapest_first: dict[Site, list[Expansion]] = {}

    def grids(self, value: Value) -> list[int]:
        """Grids on which readers may use a value, from 1 on; each divides the next.

        A stream is read at stride 1 by the next mid, and further on at the product of the strides passed.
        """
        grids = [1]
        if value.kind == "stream":
            for stride in self._strides[value.depth // 2 :]:
                if stride > 1 and grids[-1] < value.side:
                    grids.append(grids[-1] * stride)
        return grids

    def iterate(self, site: Site) -> Iterator[Expansion]:
        """From the definition as given to the one that is expanded down to the stem."""
        width, positions = site.value.channels, site.side**2
        stride, macs, identity, mids = site.grid, 0, True, []
        for value, parent in site.value.chain():
            if value.mid is not None:
                macs += width * value.mid.channels * 9 * positions
                mids.append(Site(value.mid))
            stride *= value.stride
            identity = identity and value.matrix is None
            for grid in self.grids(parent):
                if stride % grid == 0:
                    # An identity costs nothing as a residual, or as a mean that is itself the value.
                    free = identity and (not mids if site.value.is_vector else grid == stride)
                    read = 0 if free else width * parent.channels * positions
                    yield Expansion(Site(parent, grid), tuple(mids), macs + read)

    def cheapest_first(self, site: Site) -> list[Expansion]:
        found = self._cheapest_first.get(site)
        if found is None:
            # The sort is stable: of two that cost the same, the one nearer to the network as given comes first.
            found = self._cheapest_first[site] = sorted(self.iterate(site), key=lambda e: e.multiply_adds)
        return found


def _resolve(outputs: Sequence[Site], pick: Callable[[Site], Expansion]) -> Choices:
    """What is needed for ``outputs`` and nothing else."""
    choices: Choices = {}
    pending = list(reversed(outputs))
    while pending:
        site = pending.pop()
        if site not in choices and site.value.kind != "stem":
            expansion = choices[site] = pick(site)
            pending.append(expansion.source)
            pending.extend(expansion.mids)
    return choices


def choose_as_given(spec: NetworkSpec, outputs: Sequence[Site]) -> Choices:
    """Every value formed whole."""
    expansions = _Expansions(spec)
    return _resolve(outputs, lambda site: next(expansions.iterate(site)))


def choose_fewest(spec: NetworkSpec, outputs: Sequence[Site]) -> Choices:
    """The choices with the fewest multiply-adds that the search finds, never more than the network as given.

    For a set of sites that may be read as formed, each reader's best choice is its own: the cheapest expansion that
    stops in the set (or at the stem). So the search is over sets: from two starts, everything and nothing, it adds,
    removes or exchanges members for as long as that helps. Of equal ones, fewer and then smaller values win.
    """
    expansions = _Expansions(spec)
    roots = frozenset(outputs)
    given = choose_as_given(spec, outputs)
    always = roots.union(expansion.source for expansion in given.values() if expansion.source.value.is_atom)

    def evaluate(formed: frozenset[Site]) -> tuple[_Cost, Choices]:
        readable = formed | always
        choices = _resolve(
            outputs, lambda site: next(e for e in expansions.cheapest_first(site) if e.source in readable)
        )
        macs = sum(expansion.multiply_adds for expansion in choices.values())
        return (macs, len(choices), sum(site.elements for site in choices)), choices

    values = [site.value for site in given if not site.value.is_atom]
    grids = [[site for grid in expansions.grids(value) if (site := Site(value, grid)) not in roots] for value in values]
    moves = [frozenset({site}) for sites in grids for site in sites]
    moves += [frozenset({a, b}) for sites in grids for i, a in enumerate(sites) for b in sites[:i]]
    starts = (frozenset(Site(value) for value in values), frozenset[Site]())
    found = [_climb(start, moves, evaluate) for start in starts]
    return min(found, key=lambda result: result[0])[1]


def _climb(start: frozenset[Site], moves: Sequence[frozenset[Site]], evaluate: _Evaluate) -> tuple[_Cost, Choices]:
    """Local search: a move flips the membership of its sites and stays if the cost falls."""
    formed, best = start, evaluate(start)
    improved = True
    while improved:
        improved = False
        for move in moves:
            if not best[1].keys() >= move & formed:
                continue  # to take away what nobody reads changes nothing
            trial = evaluate(formed ^ move)
            if trial[0] < best[0]:
                formed, best, improved = formed ^ move, trial, True
    return best
