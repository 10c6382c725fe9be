"""Does an index find what exact search finds, and does it hold the rows of its store?

Plain functions over numpy, for whoever holds an index; findings as any other check's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import count_of
from datakit.index.ranking import Metric, exact_neighbors, recall_at_k

TARGET_SIGMAS = 2.0  # of a recall's standard error, allowed below its target

Vectors = NDArray[np.floating[Any]]


def index_recall(
    found_QK: NDArray[np.integer[Any]],
    *,
    queries_QD: Vectors,
    vectors_ND: Vectors,
    target: float,
    metric: Metric = "cosine",
    k: int = 10,
    own_Q: NDArray[np.integer[Any]] | None = None,
    searched: str = "",
) -> list[dict[str, Any]]:
    """An index finds at least `target` of the k exact nearest rows, mean over queries, less two standard errors.

    found_QK: rows of vectors_ND that the index gave, best first, -1 where it gave fewer. vectors_ND: those of the
    store, not of the index: what an index lost it cannot miss. own_Q: the rows that ask, where queries are of the
    store; they count neither as answers nor as truth, so ask the index for k + 1. Take queries that the tuner did not
    choose by: those flatter. searched: how, for the summary (nprobe=8).
    """
    truth_QK = exact_neighbors(queries_QD, vectors_ND, k + (own_Q is not None), metric=metric)
    if own_Q is not None:
        truth_QK, found_QK = without_own(truth_QK, own_Q)[:, :k], without_own(found_QK, own_Q)[:, :k]
    recall_Q = recall_at_k(found_QK, truth_QK, queries_QD=queries_QD, vectors_ND=vectors_ND, metric=metric)
    mean, error = float(recall_Q.mean()), float(recall_Q.std() / max(1, len(recall_Q)) ** 0.5)
    limit = target - TARGET_SIGMAS * error
    return [
        Finding(
            id="index_recall",
            severity="fail",
            passed=mean >= limit,
            count=int((recall_Q < 1).sum()),
            value=mean,
            limit=limit,
            summary=f"recall@{k} of {count_of(len(recall_Q), 'query', 'queries')} is {mean:.3f} ± {error:.3f} "
            f"against exact search, target {target:g}{f' ({searched})' if searched else ''}",
            detail={"k": k, "target": target, "standard_error": error, "queries": len(recall_Q),
                    "none_found": int((recall_Q == 0).sum()), "searched": searched},
        ).to_json()
    ]  # fmt: skip


def without_own(
    rows_QK: NDArray[np.integer[Any]], own_Q: NDArray[np.integer[Any]]
) -> NDArray[np.integer[Any]]:
    """(Q, K - 1): each query's answers without itself, or without the last where it is not among them."""
    own_QK = rows_QK == own_Q[:, None]
    keep_QK = ~own_QK | (own_QK.cumsum(axis=1) > 1)
    keep_QK[keep_QK.all(axis=1), -1] = False
    # given again, a query itself is no answer either
    return np.asarray(np.where(own_QK, -1, rows_QK)[keep_QK].reshape(len(rows_QK), -1))


def index_rows(index_keys: Sequence[str], store_keys: Sequence[str]) -> list[dict[str, Any]]:
    """Every sample of the store is in the index once, and nothing else is."""
    ours, theirs = set(index_keys), set(store_keys)
    missing, foreign = theirs - ours, ours - theirs
    twice = len(index_keys) - len(ours)
    return [
        Finding(
            id="index_rows",
            severity="fail",
            passed=not missing and not foreign and not twice,
            count=len(missing) + len(foreign) + twice,
            keys=first_keys(missing | foreign),
            value=float(len(ours & theirs)),
            limit=float(len(theirs)),
            summary=f"{count_of(len(theirs), 'sample')}: {len(missing):,} not in the index, "
            f"{len(foreign):,} in the index alone, {twice:,} there more than once",
            detail={"missing": len(missing), "foreign": len(foreign), "twice": twice},
        ).to_json()
    ]
