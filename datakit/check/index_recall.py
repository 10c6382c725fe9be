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
    searched: str = "",
) -> list[dict[str, Any]]:
    """An index finds at least `target` of the k exact nearest rows, mean over queries, less two standard errors.

    found_QK: rows of vectors_ND that the index gave, best first, -1 where it gave fewer. vectors_ND: those of the
    store, not of the index: what an index lost it cannot miss. Take queries that the tuner did not choose by: those
    flatter. searched: how, for the summary (nprobe=8).
    """
    truth_QK = exact_neighbors(queries_QD, vectors_ND, k, metric=metric)
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
