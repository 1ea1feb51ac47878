"""Splits that keep a subject on one side, and near-duplicate pictures together where subjects are not known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

__all__ = ["assign", "difference_hash", "duplicate_groups"]


def difference_hash(pictures: np.ndarray, side: int = 16) -> np.ndarray:
    """[N, side² / 8] bytes of uint8 [N, H, W, 3]: is each cell of a grid brighter than its left neighbour?

    Robust to resizing, compression and brightness; two pictures of one photo differ in few bits.
    """
    import cv2

    bits = np.empty((len(pictures), side * side), bool)
    for row, picture in zip(bits, pictures, strict=True):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (side + 1, side), interpolation=cv2.INTER_AREA).astype(np.int16)
        row[:] = (small[:, 1:] > small[:, :-1]).ravel()
    return np.packbits(bits, axis=1)


def duplicate_groups(hashes: np.ndarray, most: int = 26) -> np.ndarray:
    """Pictures whose hashes differ in at most ``most`` bits, and chains of them, form a group. Exact.

    Args:
        hashes: bytes [N, B / 8].
        most: bits.

    Returns:
        int [N]: the number of each group is that of its first picture.
    """
    rows = np.ascontiguousarray(hashes).view(f"V{hashes.shape[1]}").ravel()
    _, first, copy_of = np.unique(rows, return_index=True, return_inverse=True)  # equal ones cost nothing further
    order = np.argsort(first)  # unique sorts by value: back to the order of the pictures
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    first = first[order]
    parent = np.arange(len(first))
    for a, b in _near_pairs(hashes[first], most):
        apart = parent[a] != parent[b]
        for one, other in zip(a[apart].tolist(), b[apart].tolist(), strict=True):
            low, high = sorted((_root(parent, one), _root(parent, other)))
            parent[high] = low
        if apart.any():
            while (parent[parent] != parent).any():
                parent = parent[parent]
    return first[parent][rank][copy_of]


def _root(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        i = int(parent[i])
    return i


def _near_pairs(hashes: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair that differs in at most ``most`` bits, in arrays; some come more than once.

    The bits are dealt out to most // 2 + 1 parts. Of two hashes that differ in at most ``most`` bits, one part differs
    in at most one bit. So per part those are compared that agree in it, and for each of its bits those that agree but
    for that one: of the faces of LFW and UTKFace, 2 to 3 % of all pairs instead of all.
    """
    total = hashes.shape[1] * 8
    # Neighbouring bits go together: dealt out at random, the bits of a part tell more hashes apart.
    dealt = np.random.default_rng(0).permutation(total)
    words = list(np.pad(hashes, ((0, 0), (0, -hashes.shape[1] % 8))).view(np.uint64).T.copy())
    for part in np.array_split(dealt, most // 2 + 1):
        bits = np.stack([(hashes[:, bit // 8] >> (7 - bit % 8)) & 1 for bit in part.tolist()])
        for flipped in (None, *range(len(part))):
            same = bits if flipped is None else np.delete(bits, flipped, 0)
            order, start, end = _runs(np.packbits(same, axis=0), None if flipped is None else bits[flipped])
            ranked = [word[order] for word in words]
            at = np.flatnonzero(start < end)
            other = start[at]
            while len(at):
                a, b = _near(ranked, at, other, most)
                if len(a):
                    yield order[a], order[b]
                other += 1
                inside = other < end[at]
                at, other = at[inside], other[inside]


def _near(words: list[np.ndarray], a: np.ndarray, b: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of the pairs (a, b) that differ in at most ``most`` bits; half of the words rule out most of the others."""
    half = -(-len(words) // 2)
    differing = np.zeros(len(a), np.uint16)
    for part in (words[:half], words[half:]):
        for word in part:
            differing += np.bitwise_count(word[a] ^ word[b])
        near = differing <= most
        a, b, differing = a[near], b[near], differing[near]
    return a, b


def _runs(key: np.ndarray, flipped: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An order by ``key``, bytes [K, N], and for each place in it where those to compare it with begin and end.

    Without ``flipped``, bits [N], all later ones with the same key; with it those with the same key and a 1, for a 0.
    """
    count = key.shape[1]
    order = (
        np.lexsort(key if flipped is None else (flipped, *key)) if len(key) or flipped is not None else np.arange(count)
    )
    ranked = key[:, order]
    begins = np.flatnonzero(np.append(True, (ranked[:, 1:] != ranked[:, :-1]).any(0))[:count])
    lengths = np.diff(begins, append=count)
    end = np.repeat(begins + lengths, lengths)
    if flipped is None:
        return order, np.arange(1, count + 1), end
    ones = flipped[order]
    start = end - np.repeat(np.add.reduceat(ones, begins, dtype=np.int64), lengths)
    return order, np.where(ones == 1, end, start), end


def assign(groups: np.ndarray, sizes: Mapping[str, int], rest: str, seed: int = 0) -> np.ndarray:
    """[N] names of splits; a group is wholly on one side.

    Args:
        groups: [N].
        sizes: split → about how many items, at most; taken in this order from the groups in random order. Where the
            next group is larger than that, one of the smallest that are left, so that no split is empty.
        rest: the split of all others.
        seed: of the order.
    """
    names, members = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    filled = np.cumsum(np.bincount(members)[order])
    chosen = np.full(len(names), rest, dtype=f"U{max(map(len, [rest, *sizes]))}")
    start = 0
    for split, size in sizes.items():
        chosen[order[(filled > start) & (filled <= start + size) & (chosen[order] == rest)]] = split
        left = order[chosen[order] == rest][::-1]  # from the far end, where other splits do not reach
        if size > 0 and split not in chosen and len(left) > 1:
            chosen[left[np.bincount(members)[left].argmin()]] = split
        start += size
    return chosen[members]
