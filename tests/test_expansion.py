"""The search for the values worth forming: as good as trying everything, and fast."""

import time

import numpy as np
import pytest

from faceattr_fast.plan.expansion import Site, choose_as_given, choose_fewest
from faceattr_fast.plan.graph import Graph
from faceattr_fast.spec import BlockSpec, HeadSpec, NetworkSpec, PixelSpec, StemSpec


def sites_of(spec, outputs):
    graph = Graph(spec, {name: np.zeros(shape, np.float32) for name, shape in spec.tensor_shapes().items()})
    return [Site(graph.output(name)) for name in outputs]


def test_planning_the_paper_is_fast():
    """The search alone: it looks at dimensions, no matrix is multiplied."""
    spec = NetworkSpec.paper(identities=None)
    outputs = sites_of(spec, ("embedding", "gender", "ethnicity", "emotion", "age"))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        choose_fewest(spec, outputs)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.15


SMALL = [
    ((BlockSpec(5, 3, 8, 2), BlockSpec(8, 4, 8), BlockSpec(8, 2, 9, 2)), 7, ("conv5", "bottleneck")),
    ((BlockSpec(5, 9, 9, 1), BlockSpec(9, 2, 6, 2)), 3, ("conv4", "fc")),
    ((BlockSpec(5, 1, 5, 1), BlockSpec(5, 6, 5, 1), BlockSpec(5, 8, 5, 3)), 4, ("conv6", "fc")),
    ((), 4, ("bottleneck", "conv0")),
]


@pytest.mark.parametrize(("blocks", "embedding", "branches"), SMALL)
def test_search_finds_what_a_full_enumeration_finds(blocks, embedding, branches):
    heads = tuple(HeadSpec(f"head{i}", 2 + i, branch) for i, branch in enumerate(branches))
    spec = NetworkSpec(StemSpec(5), (blocks,), embedding, heads, pixels=PixelSpec(size=48))
    outputs = sites_of(spec, ("embedding", "head0", "head1"))
    found, as_given = (multiply_adds(choose(spec, outputs)) for choose in (choose_fewest, choose_as_given))
    assert found == enumerate_all(spec, outputs) <= as_given


def multiply_adds(choices):
    return sum(expansion.multiply_adds for expansion in choices.values())


def enumerate_all(spec, outputs):
    """The least multiply-adds over every set of formed values and grids."""
    values = [site.value for site in choose_as_given(spec, outputs) if not site.value.is_atom]
    blocks = spec.blocks

    def grids(value):
        found = [1]
        for block in blocks[value.depth // 2 :] if value.kind == "stream" else ():
            found.append(found[-1] * block.stride)
        return sorted(set(found))

    sites = [site for value in values for grid in grids(value) if (site := Site(value, grid)) not in outputs]
    least = None
    for bits in range(2 ** len(sites)):
        formed = {site for i, site in enumerate(sites) if bits >> i & 1}
        total, pending, done = 0, list(outputs), set()
        while pending:
            site = pending.pop()
            if site in done or site.value.kind == "stem":
                continue
            done.add(site)
            cost, needs = cheapest(site, formed | set(outputs))
            total += cost
            pending += needs
        least = total if least is None else min(least, total)
    return least


def cheapest(site, formed):
    """Compute one site from the values of its chain, and what that needs."""
    side = -(-site.value.side // site.grid)
    cost, stride, mids, identity, best = 0, site.grid, [], True, None
    value = site.value
    while True:
        parent = value.parent
        if value.mid is not None:
            cost += 9 * site.value.channels * value.mid.channels * side**2
            mids.append(Site(value.mid))
        stride *= value.stride
        identity = identity and value.matrix is None
        readable = [s for s in formed if s.value is parent and stride % s.grid == 0] + [Site(parent)] * parent.is_atom
        for source in readable:
            free = identity and (source.grid == stride if not site.value.is_vector else not mids)
            price = cost + (0 if free else site.value.channels * parent.channels * side**2)
            if best is None or price < best[0]:
                best = (price, [source, *mids])
        if parent.is_atom:
            return best
        value = parent
