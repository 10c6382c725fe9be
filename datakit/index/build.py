"""From vectors to an index: learn from a sample, encode every part alike, merge parts list by list.

    trained = train(vectors[sample], spec, rows=len(vectors))
    parts = [encode(trained, vectors[a:b], a) for a, b in cuts]     # anywhere, in any order
    index = merge(trained, parts)

A row's list and code depend on the row, its number and what was learned, and on nothing beside it: so any number of
parts gives the bytes of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datakit.errors import ConfigError
from datakit.index import codes as lists_of_codes
from datakit.index.arrays import Bytes, Floats, Longs, floats, in_blocks, one_thread
from datakit.index.basis import Axes, in_space, train_axes
from datakit.index.coarse import list_of, means_of, train_centroids
from datakit.index.folder import lists_of
from datakit.index.graph import build_graph
from datakit.index.lloyd import AllRows, InMemory, lists_over
from datakit.index.spec import Spec, settled
from datakit.rng import rng_for

SAMPLE = 65_536  # vectors that an index learns from, at least, where there are as many
HELD = 20  # one row of so many may be held out for tuning


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What was learned of a sample: axes, centroids (nlist, d_c), means (nlist, d_s), and empty lists of faiss."""

    spec: Spec
    dim: int
    axes: Axes
    centroids: Floats
    means: Floats
    empty: bytes = b""

    def lists(self) -> Any:
        """Empty lists, to be filled. Another object each time."""
        return lists_of(self.empty)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Rows of a part of the data, in its order: the points that are compared, the list of each, its code."""

    points: Floats
    assigned: Longs
    codes: Bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Merged:
    """Rows sorted by list. `order`: the row, over all parts, that each place holds; `ends`: where each list ends."""

    order: Longs
    points: Floats
    ends: Longs
    lists: bytes = b""
    graph: bytes = b""
    nested: Floats | None = field(default=None)


def sample_size(spec: Spec) -> int:
    """How many vectors `train` wants of a settled spec. Passes over all rows begin at one for each list."""
    return max(
        SAMPLE,
        spec.coarse.nlist * (1 if spec.coarse.trainer == "distributed" else spec.coarse.points_per_list),
    )


def sample_rows(rows: int, spec: Spec) -> Longs:
    """Which rows `train` should see: drawn by the seed, in rising order; none of `held_rows`."""
    held, wanted = held_rows(rows, spec), sample_size(spec)
    drawn = rng_for(spec.seed, "index", "sample").permutation(rows)
    kept: Longs = np.sort(drawn[~np.isin(drawn, held)][:wanted])
    return kept


def held_rows(rows: int, spec: Spec) -> Longs:
    """Rows that tuning asks with, and that nothing is learned from: a twentieth at most. Flat search needs none."""
    many = 0 if spec.structure == "flat" else min(spec.target.queries, rows // HELD)
    drawn: Longs = np.sort(rng_for(spec.seed, "index", "queries").permutation(rows)[:many])
    return drawn


def train(sample: Any, spec: Spec, *, rows: int = 0, everything: AllRows | None = None) -> Trained:
    """Axes, lists and codes, of a sample (N, D) of `rows` vectors (N, if 0). Raises ConfigError for bad vectors.

    everything: the rows that trainer=distributed passes over; the sample, without it.
    """
    sample = floats(sample)
    spec = settled(spec, rows=rows or len(sample), dim=sample.shape[1])
    if spec.space.metric == "cosine" and not np.linalg.norm(sample, axis=1).all():
        raise ConfigError("vectors: a row is zero, which has no direction: leave it out, or use metric=l2")
    with one_thread():
        if spec.structure == "flat":
            return _flat(sample, spec)
        axes = train_axes(sample, spec)
        points = in_space(sample, axes)
        coded = in_blocks(axes.for_codes, points)
        if spec.structure == "hnsw":
            none = np.empty((0, spec.codes.dims), np.float32)
            return Trained(spec=spec, dim=sample.shape[1], axes=axes, centroids=none, means=none)
        narrow = in_blocks(axes.for_lists, points)
        if spec.coarse.trainer == "distributed":
            passed = everything or InMemory(sample, np.ones(len(sample), np.bool_), spec.space.metric)
            many = rows or len(sample)
            centroids, means = lists_over(passed, axes, narrow, spec, rows=many, dim=sample.shape[1])
            assigned = list_of(narrow, centroids, spec.space.metric)
        else:
            centroids = train_centroids(narrow, spec)
            assigned = list_of(narrow, centroids, spec.space.metric)
            means = means_of(coded, assigned, spec.coarse.nlist)
        empty = b""
        if spec.codes.kind != "nested":
            import faiss

            learned = lists_of_codes.train_lists(coded, assigned, means, spec)
            empty = faiss.serialize_index(learned).tobytes()
        return Trained(
            spec=spec, dim=sample.shape[1], axes=axes, centroids=centroids, means=means, empty=empty
        )


def _flat(sample: Floats, spec: Spec) -> Trained:
    none = np.empty((0, sample.shape[1]), np.float32)
    center = sample.mean(axis=0, dtype=np.float64).astype(np.float32) if spec.space.center else none[:, 0]
    dim = sample.shape[1]
    axes = Axes(
        metric=spec.space.metric, d_c=dim, d_s=dim, nested=False, center=center, coarse=none, codes=none
    )
    return Trained(spec=spec, dim=dim, axes=axes, centroids=none, means=none)


def encode(trained: Trained, vectors: Any, first: int = 0) -> Part:
    """A part of the data (N, D), encoded; first: the number of its first row in the whole.

    Raises ConfigError for vectors of another length, or not finite.
    """
    return encode_points(trained, in_space(floats(vectors, trained.dim), trained.axes, first), first)


def encode_points(trained: Trained, points: Floats, first: int = 0) -> Part:
    """As `encode`, of vectors (N, D) as they are compared already."""
    none = np.empty((len(points), 0), np.uint8)
    if trained.spec.structure != "ivf":
        return Part(points=points, assigned=np.zeros(len(points), np.int64), codes=none)
    with one_thread():
        narrow = in_blocks(trained.axes.for_lists, points, first)
        assigned = list_of(narrow, trained.centroids, trained.spec.space.metric, first)
        if trained.spec.codes.kind == "nested":
            return Part(points=points, assigned=assigned, codes=none)
        coded = in_blocks(trained.axes.for_codes, points, first)
        return Part(
            points=points, assigned=assigned, codes=lists_of_codes.encode(trained.lists(), coded, assigned)
        )


def merge(trained: Trained, parts: Sequence[Part]) -> Merged:
    """All parts as one index, sorted by list and, within a list, by row."""
    assigned = np.concatenate([part.assigned for part in parts])
    points = np.concatenate([part.points for part in parts])
    codes = np.concatenate([part.codes for part in parts])
    order = np.argsort(assigned, kind="stable")
    # The shuffle itself: a list's rows side by side on disk, so that what is looked at together is read together.
    points, assigned = points[order], assigned[order]
    nlist = max(1, len(trained.centroids))
    found = Merged(order=order, points=points, ends=np.searchsorted(assigned, np.arange(nlist), side="right"))
    with one_thread():
        return structured(trained, found, assigned, codes[order])


def structured(trained: Trained, found: Merged, assigned: Longs, codes: Bytes) -> Merged:
    """What searches the merged points: lists filled with their codes, a graph, or nothing. All in the merged order."""
    spec = trained.spec
    if spec.structure == "hnsw":
        return dataclasses.replace(
            found, graph=build_graph(in_blocks(trained.axes.for_codes, found.points), spec)
        )
    if spec.structure == "flat":
        return found
    if spec.codes.kind == "nested":
        return dataclasses.replace(found, nested=in_blocks(trained.axes.for_codes, found.points))
    import faiss

    lists = trained.lists()
    lists_of_codes.fill(lists, assigned, codes)
    filled = faiss.serialize_index(lists_of_codes.packed(lists, spec.codes.kind)).tobytes()
    return dataclasses.replace(found, lists=filled)
