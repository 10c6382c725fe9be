"""k-means by passes over all rows, wherever they lie (Lloyd 1982), alike to the bit for any cut into parts.

Sums of floats depend on their order, and so on the cut. Here a number is first rounded to a whole multiple of a small
step, a power of two chosen by the largest number and the count of rows, so that no sum can overflow: sums of whole
numbers are the same in any order. Of 10^9 rows the step is 2^-30 of the largest number, below what float32 tells apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from datakit.index.arrays import Bools, Floats, Longs, in_blocks, unit
from datakit.index.basis import Axes, in_space
from datakit.index.coarse import list_of
from datakit.index.spec import Spec
from datakit.rng import rng_for

BITS = 61  # of a sum; int64 has two more
CHUNK = 1 << 16  # rows summed at once
EPSILON = 1 / 1024  # by which the halves of a list that is shared move apart, as in faiss


@dataclass(frozen=True, eq=False)
class Sums:
    """Of rows by list: whole numbers (nlist, d), in steps; how many rows each list has."""

    total: Longs
    counts: Longs

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.total + other.total, self.counts + other.counts)


class AllRows(Protocol):
    """Rows that passes go over. `begin` first."""

    def begin(self, axes: Axes) -> float:
        """The largest number in any vector, as it is compared, without its sign."""
        ...

    def sums(self, centroids: Floats, step: float, *, coded: bool) -> Sums:
        """Each row put to its nearest centroid: the sums of what lists are made of, or of codes' dims."""
        ...


def step_of(largest: float, dim: int, rows: int) -> float:
    """A power of two, so that `rows` numbers of any axis sum to less than 2^BITS steps. No axis of length one gives
    more than √dim times the largest number.
    """
    bound = math.ceil(math.log2(max(largest, 1e-30) * math.sqrt(dim))) + 1
    return 2.0 ** (bound + math.ceil(math.log2(rows + 1)) - BITS)


def summed(rows: Floats, lists: Longs, nlist: int, step: float) -> Sums:
    """Sums of rows (N, d), each in its list."""
    total = np.zeros((nlist, rows.shape[1]), np.int64)
    for start in range(0, len(rows), CHUNK):
        order = np.argsort(lists[start : start + CHUNK], kind="stable")
        here = lists[start : start + CHUNK][order]
        steps = np.rint(rows[start : start + CHUNK][order].astype(np.float64) / step).astype(np.int64)
        filled, starts = np.unique(here, return_index=True)
        total[filled] += np.add.reduceat(steps, starts, axis=0)
    return Sums(total, np.bincount(lists, minlength=nlist).astype(np.int64))


def lists_over(
    everything: AllRows, axes: Axes, sample: Floats, spec: Spec, *, rows: int, dim: int
) -> tuple[Floats, Floats]:
    """Centroids (nlist, d_c) and means (nlist, d_s) over all rows, of which there are `rows`, of `dim` numbers.

    sample: some of them as `Axes.for_lists` gives them; lists begin at rows drawn of these.
    """
    coarse, metric = spec.coarse, spec.space.metric
    step = step_of(everything.begin(axes), dim, rows)
    drawn = rng_for(spec.seed, "index", "centroids").permutation(len(sample))[: coarse.nlist]
    centroids = sample[np.sort(drawn)]
    for number in range(coarse.iterations):
        centroids = centroids if metric == "l2" or coarse.nlist == 1 else unit(centroids)
        found = everything.sums(centroids, step, coded=False)
        centroids = _moved(found, step, rng_for(spec.seed, "index", "split", number))
    centroids = centroids if metric == "l2" or coarse.nlist == 1 else unit(centroids)
    found = everything.sums(centroids, step, coded=True)
    means: Floats = (found.total * step / np.maximum(found.counts, 1)[:, None]).astype(np.float32)
    return centroids, means


def _moved(found: Sums, step: float, rng: np.random.Generator) -> Floats:
    """The mean of each list; an empty one takes half of another, the larger the likelier, as faiss does."""
    counts = found.counts.copy()
    means = found.total * step / np.maximum(counts, 1)[:, None]
    sides = 1 + EPSILON * np.where(np.arange(means.shape[1]) % 2, -1.0, 1.0)
    for empty in np.flatnonzero(counts == 0):
        spare = np.maximum(counts - 1, 0).astype(np.float64)
        if not spare.any():
            break  # as many lists as rows: the rest stay empty
        shared = int(np.searchsorted(np.cumsum(spare), rng.random() * spare.sum(), side="right"))
        means[empty], means[shared] = means[shared] * sides, means[shared] * (2 - sides)
        counts[empty] = counts[shared] // 2
        counts[shared] -= counts[empty]
    return means.astype(np.float32)


class InMemory:
    """All rows of a build in one process. kept: those that may be learned from."""

    def __init__(self, vectors: Floats, kept: Bools, metric: str) -> None:
        self._vectors, self._kept, self._metric = vectors, kept, metric

    def begin(self, axes: Axes) -> float:
        self._axes = axes
        self._points = in_space(self._vectors, axes)
        self._narrow = in_blocks(axes.for_lists, self._points)
        return largest_of(self._points)

    def sums(self, centroids: Floats, step: float, *, coded: bool) -> Sums:
        lists = list_of(self._narrow, centroids, self._metric)[self._kept]
        rows = in_blocks(self._axes.for_codes, self._points) if coded else self._narrow
        return summed(rows[self._kept], lists, len(centroids), step)


def largest_of(points: Floats) -> float:
    return float(max(points.max(initial=0), -points.min(initial=0)))
