"""Exact comparison: all rows, some rows, or a shortlist a query; by faiss on a CPU, by torch on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.index.arrays import Floats, Longs, floats, longs, pointer, unit

CHUNK = 1 << 16  # rows gathered at once

Stored = NDArray[np.floating[Any]]  # float32 or float16, perhaps mapped from disk


def worst(metric: str) -> np.float32:
    """The score of no row at all."""
    return np.float32(np.inf if metric == "l2" else -np.inf)


def order_of(scores: Floats, metric: str) -> NDArray[np.int64]:
    """Best first, along the last axis; the first of equal ones stays first."""
    found: NDArray[np.int64] = np.argsort(scores if metric == "l2" else -scores, axis=1, kind="stable")
    return found


def best(scores: Floats, ids: Longs, k: int, metric: str) -> tuple[Floats, Longs]:
    """The best k of candidates (Q, C) whose id is not -1, filled up with -1."""
    scores = np.where(ids < 0, worst(metric), scores)
    if scores.shape[1] < k:
        missing = ((0, 0), (0, k - scores.shape[1]))
        scores = np.pad(scores, missing, constant_values=worst(metric))
        ids = np.pad(ids, missing, constant_values=-1)
    order = order_of(scores, metric)[:, :k]
    of_query = np.arange(len(scores))[:, None]
    return scores[of_query, order], ids[of_query, order]


def nearest(
    queries: Floats, stored: Stored, k: int, metric: str, rows: Longs | None = None
) -> tuple[Floats, Longs]:
    """Exact best k among `rows` of what is stored (all, if None): scores and row numbers (Q, k), -1 filled."""
    import faiss

    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    total = len(stored) if rows is None else len(rows)
    scores, ids = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    whole = rows is None and stored.dtype == np.float32
    for start in range(0, total, total if whole else CHUNK):
        stop = total if whole else min(total, start + CHUNK)
        part = stored[start:stop] if rows is None else stored[rows[start:stop]]
        part = np.ascontiguousarray(part, dtype=np.float32)
        near, at = faiss.knn(queries, part, min(k, len(part)), metric=kind)
        at = at + start if rows is None else np.where(at < 0, -1, rows[start + np.maximum(at, 0)])
        scores, ids = best(
            np.concatenate([scores, near], axis=1), np.concatenate([ids, at], axis=1), k, metric
        )
    return best(scores, ids, k, metric)


def compare(queries: Floats, stored: Stored, ids: Longs, metric: str) -> Floats:
    """(Q, C) of each query with the rows `ids` (Q, C) of what is stored; -1 scores as no row at all.

    A row's score is the same to the bit whatever rows it is compared beside.
    """
    import faiss

    ids = longs(ids)
    if ids.size and ids.max() >= len(stored):
        raise ValueError("a row beyond what is stored")
    queries = floats(queries, stored.shape[1], "queries")
    scores = np.empty(ids.shape, np.float32)
    if stored.dtype == np.float32 and stored.flags.c_contiguous:
        by_id = faiss.fvec_L2sqr_by_idx if metric == "l2" else faiss.fvec_inner_products_by_idx
        by_id(pointer(scores), pointer(queries), pointer(stored), pointer(ids), queries.shape[1], *ids.shape)
    else:
        for at, (query, wanted) in enumerate(zip(queries, ids, strict=True)):
            found = stored[np.maximum(wanted, 0)].astype(np.float32)
            # Each row summed by itself: a product of matrices scores it otherwise among others.
            by_row = ((found - query) ** 2).sum(axis=1) if metric == "l2" else (found * query).sum(axis=1)
            scores[at] = by_row
    return np.where(ids < 0, worst(metric), scores)


def prefix_scores(
    queries: Floats, stored: Stored, ids: Longs, dims: int, metric: str, *, unit_length: bool
) -> Floats:
    """As `compare`, on the first `dims` numbers of both, made of length one where a prefix is a vector of its own."""
    short = np.ascontiguousarray(queries[:, :dims])
    gathered = stored[np.maximum(ids, 0), :dims].astype(np.float32, copy=False)
    if unit_length:
        short = unit(short)
        gathered = gathered / np.maximum(np.linalg.norm(gathered, axis=2, keepdims=True), np.float32(1e-30))
    if metric == "l2":
        scores = ((gathered - short[:, None]) ** 2).sum(axis=2)
    else:
        scores = np.einsum("qcd,qd->qc", gathered, short)
    return np.where(ids < 0, worst(metric), scores.astype(np.float32))
