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

    Hashes are sorted by parts of themselves instead of compared all with all: of 256 random bits about one pair in a
    thousand is looked at, of those of aligned faces, which are alike, more.

    Args:
        hashes: bytes [N, B / 8].
        most: bits.

    Returns:
        int [N]: the number of each group is that of its first picture.
    """
    rows = np.ascontiguousarray(hashes).view(f"V{hashes.shape[1]}").ravel()
    _, first, copy_of = np.unique(rows, return_index=True, return_inverse=True)  # equal ones cost nothing further
    order = np.argsort(first, kind="stable")  # unique sorts by value: back to the order of the pictures
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    distinct = hashes[first[order]]
    parent = np.arange(len(distinct))
    padding = -distinct.shape[1] % 8
    words = np.ascontiguousarray(np.pad(distinct, ((0, 0), (0, padding)))).view(np.uint64)
    for a, b in _alike_in_a_part(distinct, most):
        apart = parent[a] != parent[b]
        a, b = a[apart], b[apart]
        near = np.bitwise_count(words[a] ^ words[b]).sum(1, dtype=np.int64) <= most
        if near.any():
            for one, other in zip(a[near].tolist(), b[near].tolist(), strict=True):
                low, high = sorted((_root(parent, one), _root(parent, other)))
                parent[high] = low
            while (parent[parent] != parent).any():
                parent = parent[parent]
    return first[order][parent][rank][copy_of]


def _root(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        i = int(parent[i])
    return i


def _alike_in_a_part(hashes: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs among which is every one that differs in at most ``most`` bits, in blocks; some come more than once.

    The bits are dealt out to most // 2 + 1 parts. Of two hashes that differ in at most ``most`` bits, one part differs
    in at most one bit; so they agree in a part once a certain bit of it is passed over.
    """
    total = hashes.shape[1] * 8
    # Neighbouring bits go together: dealt out at random, the bits of a part tell more hashes apart.
    dealt = np.random.default_rng(0).permutation(total)
    for part in np.array_split(dealt, most // 2 + 1):
        bits = np.stack([(hashes[:, bit // 8] >> (7 - bit % 8)) & 1 for bit in part.tolist()])
        for passed_over in range(len(part)):
            key = np.packbits(np.delete(bits, passed_over, 0), axis=0)  # [bytes, N]
            order = np.lexsort(key) if len(key) else np.arange(len(hashes))
            ranked = key[:, order]
            new = np.flatnonzero((ranked[:, 1:] != ranked[:, :-1]).any(0)) + 1
            ends = np.append(new, len(hashes))
            end = np.repeat(ends, np.diff(ends, prepend=0))  # where the run of equal keys ends
            at, step = np.arange(len(hashes)), 1
            while len(at := at[at + step < end[at]]):
                for start in range(0, len(at), 1 << 20):  # a million pairs are 64 MB of hashes
                    block = at[start : start + (1 << 20)]
                    yield order[block], order[block + step]
                step += 1


def assign(groups: np.ndarray, sizes: Mapping[str, int], rest: str, seed: int = 0) -> np.ndarray:
    """[N] names of splits; a group is wholly on one side.

    Args:
        groups: [N].
        sizes: split → about how many items, at most; taken in this order from the groups in random order.
        rest: the split of all others.
        seed: of the order.
    """
    names, members = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    filled = np.cumsum(np.bincount(members)[order])
    chosen = np.full(len(names), rest, dtype=f"U{max(map(len, [rest, *sizes]))}")
    start = 0
    for split, size in sizes.items():
        chosen[order[(filled > start) & (filled <= start + size)]] = split
        start += size
    return chosen[members]
