"""Splits that keep a subject on one side, and near-duplicate pictures together where subjects are not known."""

from __future__ import annotations

import numpy as np

__all__ = ["difference_hash", "duplicate_groups", "split_groups"]


def difference_hash(pictures: np.ndarray, side: int = 16) -> np.ndarray:
    """[N, side²] booleans of uint8 [N, H, W, 3] or [N, H, W]: is each cell brighter than its left neighbour?

    Robust to resizing, compression and brightness; two pictures of one photo differ in few bits.
    """
    import cv2

    bits = np.empty((len(pictures), side * side), bool)
    for row, picture in zip(bits, pictures, strict=True):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.ndim == 3 and picture.shape[2] == 3 else picture
        small = cv2.resize(grey.squeeze(), (side + 1, side), interpolation=cv2.INTER_AREA).astype(np.int16)
        row[:] = (small[:, 1:] > small[:, :-1]).ravel()
    return bits


def duplicate_groups(bits: np.ndarray, most: int = 26, chunk: int = 2048) -> np.ndarray:
    """[N] group numbers: pictures whose hashes differ in at most ``most`` bits, and chains of them, share one."""
    signs = np.where(bits, np.float32(1), np.float32(-1))
    near = bits.shape[1] - 2 * most  # agreeing minus differing bits
    groups = np.arange(len(bits))

    def root(i: int) -> int:
        while groups[i] != i:
            groups[i] = groups[groups[i]]
            i = groups[i]
        return i

    for start in range(0, len(bits), chunk):
        first, second = np.nonzero(signs[start : start + chunk] @ signs.T >= near)
        for a, b in zip((first + start).tolist(), second.tolist(), strict=True):
            if a < b:
                groups[root(b)] = root(a)
    return np.array([root(i) for i in range(len(bits))])


def split_groups(groups: np.ndarray, held_out: int, seed: int = 0) -> np.ndarray:
    """[N] booleans, about ``held_out`` of them True; a group is wholly on one side."""
    names, members = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = np.bincount(members)[order]
    chosen = np.zeros(len(names), bool)
    chosen[order[np.cumsum(sizes) <= held_out]] = True
    return chosen[members]
