"""Scores to OOD metrics, without torch: higher score = more in-distribution, everywhere.

Areas count a tie as one half, exactly; thresholds put every tied sample on the side that hurts. The positive
class stands in the name wherever it matters: FPR at 95 % TPR with ID positive and with OOD positive are different
numbers, and either can be near 0 where the other is near 1.

They live here, below `datakit.check`, because the loops report in them and may not import the checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TPR = 0.95  # the true-positive rate of every threshold below
CELLS = 4_000_000  # resamples x samples held at once: 32 MB of float64

Scores = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class OodMetrics:
    """One (ID, OOD) pair of score sets, measured; all in [0, 1].

    auroc               chance that an ID sample scores above an OOD sample, a tie counts 1/2
    aupr_in, aupr_out   area under precision-recall with ID, with OOD as the positive class (trapezoids, as OpenOOD)
    tnr_at_95tpr_id     share of OOD rejected where at least 95 % of ID is accepted (ODIN, MixOE: "TNR95")
    fpr_at_95tpr_id     share of OOD accepted there, 1 - the TNR
    fpr_at_95tpr_ood    share of ID flagged where at least 95 % of OOD is caught (OpenOOD, pytorch-ood: "FPR@95")
    """

    auroc: float
    aupr_in: float
    aupr_out: float
    tnr_at_95tpr_id: float
    fpr_at_95tpr_id: float
    fpr_at_95tpr_ood: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Ends of a percentile bootstrap interval."""

    low: float
    high: float


def ood_metrics(id_scores: Scores, ood_scores: Scores) -> OodMetrics:
    """All threshold and area metrics of ID (N,) against OOD (M,) scores.

    MixOE takes the threshold whose TPR is *closest* to 95 %; here it is the first with *at least* 95 %, as in
    ODIN's text, OpenOOD and pytorch-ood.  Raises ValueError on NaN or an empty set.
    """
    id_N, ood_M = _checked(id_scores, "ID"), _checked(ood_scores, "OOD")
    accepted = _share_accepted(id_N, ood_M)
    return OodMetrics(
        auroc=float(_wins(id_N, ood_M).mean()),
        aupr_in=_aupr(id_N, ood_M),
        aupr_out=_aupr(-ood_M, -id_N),
        tnr_at_95tpr_id=1 - accepted,
        fpr_at_95tpr_id=accepted,
        fpr_at_95tpr_ood=_share_accepted(-ood_M, -id_N),
    )


def auroc(id_scores: Scores, ood_scores: Scores) -> float:
    """P(ID score > OOD score) + P(equal) / 2.  Raises ValueError on NaN or an empty set."""
    return float(_wins(_checked(id_scores, "ID"), _checked(ood_scores, "OOD")).mean())


def macro_auroc(id_scores: Scores, ood_scores: Scores, ood_classes: Sequence[str]) -> float:
    """Mean over OOD classes of the AUROC of all ID samples against that class, so that large classes do not rule.

    NINCO's averaging (Bitterwolf et al. 2023).  Raises ValueError on NaN, an empty set or unequal lengths.
    """
    wins_M = _wins(_checked(id_scores, "ID"), _checked(ood_scores, "OOD"))
    _, class_M = _groups(ood_classes, len(wins_M))
    return float((np.bincount(class_M, wins_M) / np.bincount(class_M)).mean())


def oscr(id_scores: Scores, id_correct: npt.NDArray[np.bool_], ood_scores: Scores) -> float:
    """Open-set classification rate: area under correct-and-accepted ID against accepted OOD, in [0, ID accuracy].

    id_correct: bool (N,), whether the closed-set prediction is right.  Equal to P(right and ID score > OOD score)
    with ties a half, as pytorch-ood counts (Dhamija et al. 2018 count them against the detector).
    Raises ValueError on NaN, an empty set or unequal lengths.
    """
    id_N, ood_M = _checked(id_scores, "ID"), _checked(ood_scores, "OOD")
    correct_N = np.asarray(id_correct, dtype=bool)
    if correct_N.shape != id_N.shape:
        raise ValueError(f"id_correct has shape {correct_N.shape}, the ID scores {id_N.shape}")
    if not correct_N.any():
        return 0.0
    return float(_wins(id_N[correct_N], ood_M).mean() * correct_N.mean())


def bootstrap_auroc(
    id_scores: Scores,
    ood_scores: Scores,
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    ood_classes: Sequence[str] | None = None,
) -> Interval:
    """Percentile interval of the AUROC, ID and OOD resampled independently with replacement.

    With `ood_classes` whole OOD classes are drawn instead of OOD images: the honest width where the images of a
    class resemble each other and one asks about *other* held-out classes.  Take `rng` from `rng_for`.
    Raises ValueError on NaN, an empty set, fewer than 1 resample or a level outside (0, 1).
    """
    id_N, ood_M = np.sort(_checked(id_scores, "ID")), _checked(ood_scores, "OOD")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"need resamples >= 1 and 0 < level < 1, not {resamples} and {level}")
    n_groups, group_M = _groups(ood_classes, len(ood_M)) if ood_classes is not None else (len(ood_M), None)
    below_M, upto_M = np.searchsorted(id_N, ood_M, "left"), np.searchsorted(id_N, ood_M, "right")
    found: list[Floats] = []
    for size in _batches(resamples, len(id_N) + len(ood_M)):
        # how often each drawn sample was drawn stands for the resample: no score is sorted again
        id_BN = _draws(rng, size, len(id_N))
        ood_BG = _draws(rng, size, n_groups)
        ood_BM = ood_BG if group_M is None else ood_BG[:, group_M]
        cum_BN = np.concatenate([np.zeros((size, 1)), np.cumsum(id_BN, axis=1)], axis=1)
        wins_BM = len(id_N) - (cum_BN[:, below_M] + cum_BN[:, upto_M]) / 2
        found.append((wins_BM * ood_BM).sum(axis=1) / (len(id_N) * ood_BM.sum(axis=1)))
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return Interval(low=float(low), high=float(high))


def _checked(scores: Scores, what: str) -> Floats:
    array_N = np.asarray(scores, dtype=np.float64)
    if array_N.ndim != 1 or array_N.size == 0:
        raise ValueError(f"{what} scores must be a non-empty (N,) array, not {array_N.shape}")
    if np.isnan(array_N).any():
        raise ValueError(f"{int(np.isnan(array_N).sum())} of {array_N.size} {what} scores are NaN")
    return array_N


def _groups(classes: Sequence[str], n: int) -> tuple[int, npt.NDArray[np.intp]]:
    if len(classes) != n:
        raise ValueError(f"{len(classes)} OOD classes for {n} OOD scores")
    names, group_M = np.unique(np.asarray(classes), return_inverse=True)
    return len(names), group_M.reshape(-1)


def _wins(id_N: Floats, ood_M: Floats) -> Floats:
    """For each OOD sample the share of ID samples above it, ties a half: their mean is the AUROC."""
    sorted_N = np.sort(id_N)
    below_M = np.searchsorted(sorted_N, ood_M, "left")
    upto_M = np.searchsorted(sorted_N, ood_M, "right")
    return 1 - (below_M + upto_M) / (2 * len(id_N))


def _share_accepted(positive_N: Floats, negative_M: Floats) -> float:
    """Share of negatives at or above the highest threshold that keeps at least TPR of the positives."""
    # the epsilon keeps 0.95 * 20 = 19.000000000000004 from asking for a twentieth sample
    needed = int(np.ceil(TPR * len(positive_N) - 1e-9))
    threshold = np.sort(positive_N)[len(positive_N) - needed]
    return float(np.mean(negative_M >= threshold))


def _aupr(positive_N: Floats, negative_M: Floats) -> float:
    thresholds_T = np.unique(np.concatenate([positive_N, negative_M]))[::-1]
    true_T = len(positive_N) - np.searchsorted(np.sort(positive_N), thresholds_T, "left")
    false_T = len(negative_M) - np.searchsorted(np.sort(negative_M), thresholds_T, "left")
    recall_T = np.concatenate([[0.0], true_T / len(positive_N)])
    precision_T = np.concatenate([[1.0], true_T / (true_T + false_T)])
    return float(np.sum(np.diff(recall_T) * (precision_T[1:] + precision_T[:-1]) / 2))


def _batches(total: int, width: int) -> list[int]:
    size = max(1, CELLS // width)
    return [min(size, total - start) for start in range(0, total, size)]


def _draws(rng: np.random.Generator, resamples: int, n: int) -> Floats:
    """(resamples, n) counts: how often each of n things was drawn in n draws with replacement."""
    drawn_BN = rng.integers(0, n, size=(resamples, n)) + np.arange(resamples)[:, None] * n
    return np.bincount(drawn_BN.reshape(-1), minlength=resamples * n).reshape(resamples, n).astype(np.float64)
