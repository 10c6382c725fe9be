"""How well images find their texts and texts their images: ranks and R@k, in numpy.

Ties never flatter: of two candidates with one score the wrong one stands first, so vectors that are all alike find
nothing. They live here, below `datakit.check`, because the loops report in them and may not import the checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.models.projection import prefix

Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Vectors = NDArray[np.floating[Any]]

KS = (1, 5, 10)
CURVE_KS = (1, 2, 3, 5, 7, 10, 14, 20, 30, 50, 70, 100)  # of a curve over k
EASY = 0.1  # chance from which R@k says little
CELLS = 4_000_000  # scores held at once: 16 MB of float32


def first_ranks(score_QM: Vectors, relevant_QM: Bools) -> NDArray[np.int64]:
    """Rank of each query's best relevant candidate, from 1, int64 (Q,); M + 1 where it has none.

    Irrelevant candidates with the same score stand before it; other relevant ones never do. Raises ValueError on
    shapes that differ and on NaN, which would otherwise rank first.
    """
    if score_QM.shape != relevant_QM.shape:
        raise ValueError(f"scores {score_QM.shape} and relevance {relevant_QM.shape} differ in shape")
    if np.isnan(score_QM).any():
        raise ValueError("scores hold NaN")
    best_Q1 = np.where(relevant_QM, score_QM, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    before_Q = ((score_QM >= best_Q1) & ~relevant_QM).sum(axis=1)
    ranks_Q = np.where(relevant_QM.any(axis=1), before_Q + 1, relevant_QM.shape[1] + 1)
    return np.asarray(ranks_Q, dtype=np.int64)


def cross_ranks(
    queries_QD: Vectors, candidates_MD: Vectors, query_group_Q: Ints, candidate_group_M: Ints
) -> NDArray[np.int64]:
    """`first_ranks` by cosine, (Q,); a candidate is relevant to a query of its group."""
    unit_MD = prefix(candidates_MD, candidates_MD.shape[1])
    found = [np.zeros(0, dtype=np.int64)]
    size = max(1, CELLS // max(1, len(unit_MD)))
    for start in range(0, len(queries_QD), size):
        part = slice(start, start + size)
        score_BM = prefix(queries_QD[part], unit_MD.shape[1]) @ unit_MD.T
        found.append(first_ranks(score_BM, query_group_Q[part, None] == candidate_group_M[None, :]))
    return np.concatenate(found)


def recall_of_ranks(ranks_Q: Ints, k: int) -> float:
    """R@k: share of the queries with a relevant candidate among the first k, as image-text papers count."""
    return float(np.mean(ranks_Q <= k))


def rank_row(ranks_Q: Ints, name: str) -> dict[str, float]:
    """{name}_r1, _r5, _r10 and {name}_median_rank."""
    found = {f"{name}_r{k}": recall_of_ranks(ranks_Q, k) for k in KS}
    return {**found, f"{name}_median_rank": float(np.median(ranks_Q))}


def chance_recall(relevant_Q: Ints, candidates: int, k: int) -> float:
    """R@k to expect of a random order: 1 - C(M-r, k) / C(M, k), mean over queries with r relevant of M candidates."""
    chances: dict[int, float] = {}
    draws = np.arange(min(k, candidates))
    for r in np.unique(relevant_Q).tolist():
        missed = np.clip((candidates - r - draws) / (candidates - draws), 0, 1)
        chances[r] = 1 - float(np.prod(missed))
    return float(np.mean([chances[r] for r in relevant_Q.tolist()]))


def chance_error(chance: float, group_Q: Ints) -> float:
    """Standard error of R@k of a random order, where the queries of a group are right together or wrong together."""
    counts = np.unique(group_Q, return_counts=True)[1]
    return float((chance * (1 - chance)) ** 0.5 * np.sqrt(np.square(counts).sum()) / len(group_Q))


def telling_k(chance: Mapping[int, float]) -> int:
    """The largest k of 1, 5, 10 at which a random order is right at most a tenth of the time; else the smallest."""
    return max((k for k in KS if chance[k] <= EASY), default=KS[0])


def once_a_group(vectors_MD: Vectors, group_M: Ints) -> NDArray[np.int64]:
    """Rows left when a vector that a group holds twice counts once, ascending.

    Two drawings with one name would else make every wrong name stand before the right one twice.
    """
    seen: dict[tuple[int, bytes], int] = {}
    for row, (group, vector) in enumerate(zip(group_M.tolist(), vectors_MD, strict=True)):
        seen.setdefault((group, vector.tobytes()), row)
    return np.array(sorted(seen.values()), dtype=np.int64)
