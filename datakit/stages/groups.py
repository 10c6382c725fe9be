"""Things that must stay together: connected components, and draws that never break a group."""

from __future__ import annotations

import numpy as np

from datakit.stages.columns import Bools, Ints


def components(size: int, a: Ints, b: Ints) -> Ints:
    """For each of `size` items, the smallest item of its connected component under the edges a[i]–b[i]."""
    root = np.arange(size)
    while True:
        # Hook the two roots of every edge onto the smaller one, then let every item point at its root.
        root_a, root_b = root[a], root[b]
        low = np.minimum(root_a, root_b)
        if np.array_equal(root_a, root_b):
            return root
        np.minimum.at(root, root_a, low)
        np.minimum.at(root, root_b, low)
        while not np.array_equal(root, root[root]):
            root = root[root]


def same_value(values: Ints) -> tuple[Ints, Ints]:
    """Edges that join equal values: each item to the first one of its value. Negative values join nothing."""
    items = np.flatnonzero(values >= 0)
    _, first, inverse = np.unique(values[items], return_index=True, return_inverse=True)
    return items, items[first[inverse]]


def by_value(values: Ints) -> dict[int, Ints]:
    """Value → the positions where it stands, ascending."""
    if not len(values):
        return {}
    order = np.argsort(values, kind="stable")
    found, start = np.unique(values[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, start[1:]), strict=True))


def draw_whole(groups: Ints, wanted: int, rng: np.random.Generator, *, leave: int = 0) -> Bools:
    """Which items to take: whole groups in random order, at most `wanted` items, `leave` groups left over.

    If no group is that small the smallest is taken, so that something is: a class of one burst of 30 images
    and two single ones still gets a test image.
    """
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(sizes), dtype=bool)
    if wanted < 1 or len(sizes) <= leave:
        return chosen[inverse]
    order = rng.permutation(len(sizes))
    taken = 0
    for group in order:
        if chosen.sum() >= len(sizes) - leave:
            break
        if taken + sizes[group] <= wanted:
            chosen[group] = True
            taken += int(sizes[group])
    if not taken:
        chosen[order[np.argmin(sizes[order])]] = True
    return chosen[inverse]
