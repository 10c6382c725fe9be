"""How good a ranking is, in numpy: recall of an index against exact truth, and average precision.

Between an index and the truth ties are no fault: any row as near as the k-th exact one is as good. Scores are taken
anew from the vectors, as those of an index are of its codes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["cosine", "ip", "l2"]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Vectors = NDArray[np.floating[Any]]

TOLERANCE = 1e-6  # of a score, relative: float32 vectors are known no better
CELLS = 4_000_000  # numbers held at once: 32 MB of float64


def exact_neighbors(queries_QD: Vectors, vectors_ND: Vectors, k: int, *, metric: Metric = "cosine") -> Ints:
    """The k nearest rows of each query by brute force, int64 (Q, min(k, N)); of equals the earlier row."""
    if not k >= 1:
        raise ValueError(f"k={k} must be 1 or more")
    k = min(k, len(vectors_ND))
    found = [np.zeros((0, k), dtype=np.int64)]
    size = max(1, CELLS // max(1, len(vectors_ND)))
    base_ND = _prepared(vectors_ND, metric)
    for start in range(0, len(queries_QD), size):
        score_BN = _all_scores(_prepared(queries_QD[start : start + size], metric), base_ND, metric)
        found.append(np.argsort(-score_BN, axis=1, kind="stable")[:, :k].astype(np.int64))
    return np.concatenate(found)


def recall_at_k(
    found_QK: Ints,
    truth_QK: Ints,
    *,
    queries_QD: Vectors,
    vectors_ND: Vectors,
    metric: Metric = "cosine",
    tolerance: float = TOLERANCE,
) -> Floats:
    """Share of each query's k nearest rows that an index found, float64 (Q,).

    found_QK, truth_QK: rows of vectors_ND as the index and an exact search gave them, -1 where there are fewer. More
    found than true columns make it the k-Recall@N of AdANNS (k true ones, N found).
    Every row is scored anew here, exactly: one counts where it is no farther than the k-th of the truth, give or
    take `tolerance` of that query's largest score. Of equally near rows either is right; a row given twice counts
    once. Raises ValueError for shapes that differ, and for a row that is not there: an index of other vectors.
    """
    if len({len(found_QK), len(truth_QK), len(queries_QD)}) > 1:
        lengths = (len(found_QK), len(truth_QK), len(queries_QD))
        raise ValueError(f"found, truth and queries differ in number: {lengths}")
    for name, rows in (("found", found_QK), ("truth", truth_QK)):
        if rows.size and not -1 <= int(rows.min()) <= int(rows.max()) < len(vectors_ND):
            raise ValueError(f"{name} rows must be -1 to {len(vectors_ND) - 1}, the rows of the vectors")
    found_QK = np.where(repeated(found_QK), -1, found_QK)
    ours_QK = scores_of(found_QK, queries_QD=queries_QD, vectors_ND=vectors_ND, metric=metric)
    best_QK = scores_of(truth_QK, queries_QD=queries_QD, vectors_ND=vectors_ND, metric=metric)
    there_QK = truth_QK >= 0
    wanted_Q = there_QK.sum(axis=1)
    worst_Q = np.where(there_QK, best_QK, np.inf).min(axis=1, initial=np.inf)
    slack_Q = tolerance * np.where(there_QK, np.abs(best_QK), 0).max(axis=1, initial=0)
    hits_Q = (ours_QK >= (worst_Q - slack_Q)[:, None]).sum(axis=1)
    # nothing to find is all found
    return np.where(wanted_Q > 0, np.minimum(hits_Q, wanted_Q) / np.maximum(wanted_Q, 1), 1.0)


def scores_of(rows_QK: Ints, *, queries_QD: Vectors, vectors_ND: Vectors, metric: Metric) -> Floats:
    """Exact score of each row for its query, float64, higher is nearer (l2: minus the squared distance); -inf at -1."""
    scores_QK = np.full(rows_QK.shape, -np.inf)
    size = max(1, CELLS // max(1, rows_QK.shape[1] * vectors_ND.shape[1]))
    for start in range(0, len(rows_QK), size):
        part = slice(start, start + size)
        rows_BK = rows_QK[part]
        # summed number by number, not by BLAS: equal vectors must have equal scores to the last bit
        query_B1D = _prepared(queries_QD[part], metric)[:, None, :]
        base_BKD = _prepared(vectors_ND[np.maximum(rows_BK, 0)], metric)
        if metric == "l2":
            score_BK = -np.square(query_B1D - base_BKD).sum(axis=2)
        else:
            score_BK = (query_B1D * base_BKD).sum(axis=2)
        scores_QK[part] = np.where(rows_BK >= 0, score_BK, -np.inf)
    return scores_QK


def mean_ap_at_k(relevant_QK: Bools) -> float:
    """mAP@k as AdANNS and Kusupati et al. 2022 print it: mean over queries of (1/k) Σ_i precision@i · relevant_i.

    relevant_QK: whether the i-th found row is relevant, best first. Divides by k whether or not there are k
    relevant rows, so 1 is out of reach where a class has fewer.
    """
    _, k = _ranked(relevant_QK)
    return float((_precision(relevant_QK) * relevant_QK).sum(axis=1).mean() / k)


def average_precision(relevant_QK: Bools, relevant_Q: Ints) -> Floats:
    """AP of each query, cut at k, float64 (Q,): Σ_i precision@i · relevant_i over min(k, relevant_Q).

    relevant_Q: how many relevant rows there are in all. With k = all rows this is the usual average precision.
    A query without any has NaN: leave it out, or it counts as a failure that nobody could avoid.
    """
    _, k = _ranked(relevant_QK)
    most_Q = np.minimum(relevant_Q, k).astype(np.float64)
    if (relevant_QK.sum(axis=1) > relevant_Q).any():
        raise ValueError("more relevant rows were found than there are")
    total_Q = (_precision(relevant_QK) * relevant_QK).sum(axis=1)
    return np.where(most_Q > 0, total_Q / np.maximum(most_Q, 1), np.nan)


def repeated(rows_QK: Ints) -> Bools:
    """Where a row stands that stood before in the same list; -1 is no row."""
    order_QK = np.argsort(rows_QK, axis=1, kind="stable")
    sorted_QK = np.take_along_axis(rows_QK, order_QK, axis=1)
    again_QK = np.zeros(rows_QK.shape, dtype=bool)
    again_QK[:, 1:] = (sorted_QK[:, 1:] == sorted_QK[:, :-1]) & (sorted_QK[:, 1:] >= 0)
    found_QK = np.zeros_like(again_QK)
    np.put_along_axis(found_QK, order_QK, again_QK, axis=1)
    return found_QK


def _prepared(vectors: Vectors, metric: Metric) -> Floats:
    array = vectors.astype(np.float64)
    if metric != "cosine":
        return array
    length = np.linalg.norm(array, axis=-1, keepdims=True)
    return np.asarray(array / np.where(length > 0, length, 1))


def _all_scores(query_BD: Floats, base_ND: Floats, metric: Metric) -> Floats:
    if metric == "l2":  # the query's own length moves all its distances alike
        return np.asarray(2 * query_BD @ base_ND.T - np.square(base_ND).sum(axis=1))
    return np.asarray(query_BD @ base_ND.T)


def _ranked(relevant_QK: Bools) -> tuple[int, int]:
    if relevant_QK.ndim != 2 or 0 in relevant_QK.shape or relevant_QK.dtype != np.bool_:
        found = f"{relevant_QK.dtype} {relevant_QK.shape}"
        raise ValueError(f"relevance must be bool (queries, k), neither of them 0, not {found}")
    return relevant_QK.shape[0], relevant_QK.shape[1]


def _precision(relevant_QK: Bools) -> Floats:
    """Share of relevant rows among the first i, for every i from 1."""
    return np.asarray(np.cumsum(relevant_QK, axis=1) / np.arange(1, relevant_QK.shape[1] + 1))
