"""Lists: k-means on d_c dims, and which list a vector belongs to, alike however the data is cut into parts."""

from __future__ import annotations

from typing import Any

import numpy as np

from datakit.index.arrays import Floats, Longs, floats, in_blocks
from datakit.index.spec import Spec
from datakit.rng import rng_for, seed_for


def flat_index(rows: Floats, metric: str) -> Any:
    """faiss's exact index of these rows, by product or by distance."""
    import faiss

    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexFlat(rows.shape[1], kind)
    index.add(floats(rows))
    return index


def train_centroids(rows: Floats, spec: Spec) -> Floats:
    """(nlist, d_c) centroids of rows as `Axes.for_lists` gives them; of length one unless the metric is l2."""
    import faiss

    coarse = spec.coarse
    rng = rng_for(spec.seed, "index", "centroids")
    most = coarse.nlist * coarse.points_per_list
    chosen = rows if len(rows) <= most else rows[np.sort(rng.permutation(len(rows))[:most])]
    if coarse.nlist == 1:
        mean: Floats = chosen.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
        return mean
    trainer = faiss.Kmeans(
        coarse.dims,
        coarse.nlist,
        niter=coarse.iterations,
        seed=seed_for(spec.seed, "index", "kmeans") % 2**31,
        spherical=spec.space.metric != "l2",
        min_points_per_centroid=1,
        max_points_per_centroid=len(chosen) // coarse.nlist + 1,
    )
    if coarse.init == "kmeans++":
        trainer.cp.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    trainer.train(np.ascontiguousarray(chosen))
    found: Floats = trainer.centroids.reshape(coarse.nlist, coarse.dims)
    return found


def list_of(rows: Floats, centroids: Floats, metric: str, first: int = 0) -> Longs:
    """(N,) the list of each row (N, d_c): its nearest centroid, the first of equal ones. first: see `in_blocks`."""
    index = flat_index(centroids, metric)
    found: Longs = in_blocks(lambda block: index.search(block, 1)[1][:, 0], rows, first)
    return found


def means_of(rows: Floats, lists: Longs, nlist: int) -> Floats:
    """(nlist, d_s) mean of the rows of each list: the centroids of d_s dims, whatever d_c was. An empty list's is zero.

    Recomputed, not cut from the centroids of d_c: so any d_c and d_s go together (AdANNS's code needs d_c >= d_s).
    """
    order = np.argsort(lists, kind="stable")
    counts = np.bincount(lists, minlength=nlist)
    sums = np.zeros((nlist, rows.shape[1]), np.float64)
    filled = np.flatnonzero(counts)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[filled]
    sums[filled] = np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64)
    means: Floats = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    return means


def list_nearness(rows: Floats, centroids: Floats, metric: str) -> Floats:
    """(Q, nlist), the greater the nearer: the product, or under l2 the squared distance, negative and less |query|²."""
    products: Floats = rows @ centroids.T
    if metric != "l2":
        return products
    nearness: Floats = 2 * products - np.einsum("nd,nd->n", centroids, centroids)
    return nearness


def nearest_lists(scores: Floats, nprobe: int) -> Longs:
    """(Q, nprobe) the lists of greatest score, the greatest first."""
    many = scores.shape[1]
    if nprobe < many:
        near = np.argpartition(scores, many - nprobe, axis=1)[:, many - nprobe :]
    else:
        near = np.broadcast_to(np.arange(many), scores.shape)
    order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")
    found: Longs = np.take_along_axis(near, order, axis=1)
    return found


def within(scores: Floats, nprobe: int, margin: float) -> Longs:
    """(Q, P) the lists whose score is at most `margin` less than the greatest, no more than nprobe; -1 filled."""
    queries, nlist = scores.shape
    near = scores >= scores.max(axis=1, keepdims=True) - np.float32(margin)
    if queries == 1 and np.count_nonzero(near) <= nprobe:  # one query alone waits for every call of numpy
        return np.flatnonzero(near)[None]
    counts = np.count_nonzero(near, axis=1)
    if counts.max(initial=0) > nprobe:
        best = nearest_lists(scores, nprobe)
        return np.where(np.take_along_axis(near, best, axis=1), best, -1)
    # Few of the many are near: from here on only they are touched, by their places in the flat array.
    places = np.flatnonzero(near)
    width = int(counts.max(initial=1))
    found = np.full((queries, width), -1, np.int64)
    starts = np.arange(queries) * width - (np.cumsum(counts) - counts)
    found.ravel()[np.arange(len(places)) + np.repeat(starts, counts)] = places - np.repeat(
        np.arange(queries) * nlist, counts
    )
    return found
