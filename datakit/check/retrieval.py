"""Do vectors know what they are of: does a row find rows of its own class, or of its own thing, by cosine?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datakit.check.finding import Finding, Severity, at_most
from datakit.index.ranking import average_precision, mean_ap_at_k
from datakit.models.projection import prefix
from datakit.rng import rng_for
from datakit.stage import Rows, reduce
from datakit.stages.columns import codes
from datakit.train.retrieval_stages import column_vectors

QUERIES = 2000  # rows that ask, at most; drawn by the seed
DEPTH = 1000  # neighbours that a ranking is cut at
SHUFFLES = 20  # deals of the control
SIGMAS = 3.0  # of the control's spread, by which one must be better
CELLS = 4_000_000  # similarities held at once: 16 MB of float32

Ints = NDArray[np.int64]
Vectors = NDArray[np.floating[Any]]


@reduce(version=1)
def check_retrieval(
    rows: Rows,
    *,
    label: str,
    vectors: str = "features",
    level: Literal["class", "instance"] = "class",
    view: str = "",
    centered: bool = True,
    at_least: float = 0.0,
    seed: int = 0,
    severity: Severity = "fail",
) -> list[dict[str, Any]]:
    """Rows find rows of their own label by cosine better than if labels were dealt out anew; see `retrieval`.

    label: column of classes, or of things (level="instance"). view: column of which only other values are searched:
    a drawing finds the same thing in the other style.
    """
    table = rows.table([label, *([view] if view else [])])
    view_N = codes(table.column(view))[0] if view else None
    found = retrieval(
        column_vectors(rows, vectors), codes(table.column(label))[0], view_N=view_N,
        views=codes(table.column(view))[1] if view else (),
        level=level, centered=centered, at_least=at_least, seed=seed,
    )  # fmt: skip
    return at_most(severity, found)


def retrieval(
    vectors_ND: Vectors,
    label_N: Ints,
    *,
    view_N: Ints | None = None,
    views: Sequence[str] = (),
    level: Literal["class", "instance"] = "class",
    centered: bool = True,
    at_least: float = 0.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """mAP and R@1 of finding rows of one's own label, oneself excluded, beside labels dealt out anew.

    label_N: -1 is none: such rows are found and never ask. view_N: a row searches other views alone. centered: the
    mean vector is taken away first. value: mAP, cut at 1,000 neighbours; limit: `at_least`, and the control's mean
    and three standard deviations, whichever is more. A ranking of equal vectors is a random one.
    """
    if broken := int((~np.isfinite(vectors_ND)).any(axis=1).sum()):
        return [_retrieval_finding(level, None, at_least, f"{broken} vectors hold NaN or infinity", {})]
    asked = _neighbors(vectors_ND, label_N, view_N, centered=centered, seed=seed)
    if not len(asked.query_Q):
        return [_retrieval_finding(level, None, at_least, f"no two rows share a {level}", {})]
    value, by_view = asked.measure(label_N), {}
    rng = rng_for(seed, "retrieval", "shuffled")
    control = [asked.measure(_dealt(label_N, view_N, rng)) for _ in range(SHUFFLES)]
    bound = above_chance([row["map"] for row in control])
    for number, name in enumerate(views):
        if view_N is not None and (view_N[asked.query_Q] == number).any():
            by_view[name] = asked.only(view_N[asked.query_Q] == number).measure(label_N)
    shuffled = {name: float(np.mean([row[name] for row in control])) for name in value}
    detail = {
        "queries": len(asked.query_Q), "rows": len(vectors_ND), "centered": centered, **value,
        "shuffled": shuffled, "by_view": by_view,
    }  # fmt: skip
    words = (
        f"the same {level} is found with mAP {value['map']:.3f} and R@1 {value['r1']:.3f}, with labels dealt out "
        f"anew {shuffled['map']:.3f} and {shuffled['r1']:.3f}"
    )
    return [_retrieval_finding(level, value["map"], max(at_least, bound), words, detail)]


def above_chance(control: Sequence[float]) -> float:
    """What a figure must exceed to be more than the control's chance: its mean and three standard deviations."""
    return float(max(np.max(control), np.mean(control) + SIGMAS * np.std(control, ddof=1)))


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Queries and their neighbours, best first; rows, -1 where there are fewer."""

    query_Q: Ints
    near_QK: Ints
    view_N: Ints | None

    def only(self, keep_Q: NDArray[np.bool_]) -> _Asked:
        return _Asked(query_Q=self.query_Q[keep_Q], near_QK=self.near_QK[keep_Q], view_N=self.view_N)

    def measure(self, label_N: Ints) -> dict[str, float]:
        """map, map_at_10 (over 10, as AdANNS), r1, r10; queries without a right answer are left out."""
        label_Q1 = label_N[self.query_Q][:, None]
        relevant_QK = (label_N[self.near_QK] == label_Q1) & (self.near_QK >= 0) & (label_Q1 >= 0)
        there_Q = _others(label_N, self.view_N)[self.query_Q]
        relevant_QK, there_Q = relevant_QK[there_Q > 0], there_Q[there_Q > 0]
        if not len(relevant_QK):
            return {"map": 0.0, "map_at_10": 0.0, "r1": 0.0, "r10": 0.0}
        return {
            "map": float(average_precision(relevant_QK, there_Q).mean()),
            "map_at_10": mean_ap_at_k(relevant_QK[:, :10]),
            "r1": float(relevant_QK[:, 0].mean()),
            "r10": float(relevant_QK[:, :10].any(axis=1).mean()),
        }


def _neighbors(
    vectors_ND: Vectors, label_N: Ints, view_N: Ints | None, *, centered: bool, seed: int
) -> _Asked:
    rng = rng_for(seed, "retrieval", "queries")
    asking = np.flatnonzero((label_N >= 0) & (_others(label_N, view_N) > 0))
    query_Q = np.sort(rng.permutation(asking)[:QUERIES])
    x_ND = vectors_ND - vectors_ND.mean(axis=0) if centered else vectors_ND
    unit_ND = prefix(x_ND, x_ND.shape[1])
    # a random order first: equal vectors are then found in no order that labels could follow
    order_N = rng.permutation(len(unit_ND))
    depth = min(DEPTH, len(unit_ND))
    found = [np.zeros((0, depth), dtype=np.int64)]
    for start in range(0, len(query_Q), size := max(1, CELLS // max(1, len(unit_ND)))):
        rows_B = query_Q[start : start + size]
        score_BN = unit_ND[rows_B] @ unit_ND[order_N].T
        score_BN[order_N[None, :] == rows_B[:, None]] = -np.inf
        if view_N is not None:
            score_BN[view_N[order_N][None, :] == view_N[rows_B][:, None]] = -np.inf
        near_BK = np.argsort(-score_BN, axis=1, kind="stable")[:, :depth]
        there_BK = np.isfinite(np.take_along_axis(score_BN, near_BK, axis=1))
        found.append(np.where(there_BK, order_N[near_BK], -1))
    return _Asked(query_Q=query_Q, near_QK=np.concatenate(found), view_N=view_N)


def _others(label_N: Ints, view_N: Ints | None) -> Ints:
    """How many right answers each row has among those it searches."""
    _, group_N, count = np.unique(label_N, return_inverse=True, return_counts=True)
    if view_N is None:
        return np.asarray(count[group_N] - 1)
    pair_N = group_N.astype(np.int64) * (int(view_N.max()) + 2) + view_N
    _, own_N, own_count = np.unique(pair_N, return_inverse=True, return_counts=True)
    return np.asarray(count[group_N] - own_count[own_N])


def _dealt(label_N: Ints, view_N: Ints | None, rng: np.random.Generator) -> Ints:
    """Labels in another order, within each view."""
    dealt_N = label_N.copy()
    for view in np.unique(view_N) if view_N is not None else [None]:
        rows = np.flatnonzero(view_N == view) if view is not None else np.arange(len(label_N))
        dealt_N[rows] = label_N[rng.permutation(rows)]
    return dealt_N


def _retrieval_finding(
    level: str, value: float | None, limit: float, summary: str, detail: dict[str, Any]
) -> dict[str, Any]:
    passed = value is not None and value > limit
    return Finding(
        id=f"{level}_retrieval",
        severity="fail",
        passed=passed,
        count=0 if passed else 1,
        value=value,
        limit=limit,
        summary=summary,
        detail=detail,
    ).to_json()
