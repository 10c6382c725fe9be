"""Probes on fixed features, without torch: how separable classes are, and how far OOD lies, before any training.

A linear and a k-nearest-neighbour classifier on features of whatever encoder; the same OOD metrics as the loop's.
Higher score = more in-distribution.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

from datakit.train.data import default_k
from datakit.train.results import Row, Scored, metric_row

STRENGTHS = (0.003, 0.03, 0.3, 3.0)  # candidate C: the inverse of the L2 penalty
MAX_STEPS = 1000  # of L-BFGS; a probe that needs more is noted
CHUNK = 1024  # queries compared at once

Features = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """A fitted probe on every set it was asked about, in the order of the features given.

    parameter     "C=0.3" or "k=10", chosen by ID val accuracy among those tried
    val_accuracy  closed-set accuracy on ID val, in [0, 1]
    predictions   by set: label (N,)
    logits        by set: (N, K) float64; empty for k-NN
    scores        by score (msp, mls, energy; knn), by set: float64 (N,), higher = more in-distribution
    """

    probe: str
    parameter: str
    val_accuracy: float
    predictions: dict[str, npt.NDArray[np.int64]]
    logits: dict[str, Scores]
    scores: dict[str, dict[str, Scores]]
    notes: list[str] = field(default_factory=list)

    def accuracy(self, name: str, labels: Labels) -> float:
        """Share of set `name` that is predicted right."""
        return float(np.mean(self.predictions[name] == labels))


def linear_probe(
    train_ND: Features,
    labels: Labels,
    evaluate: Mapping[str, Features],
    *,
    val_ND: Features,
    val_labels: Labels,
    strengths: Sequence[float] = STRENGTHS,
) -> ProbeResult:
    """Multinomial logistic regression on standardised features, its C the best of `strengths` by ID val accuracy.

    labels: (N,) in 0..K-1, every class at least once. Scores: MSP, largest logit (mls), energy (log-sum-exp).
    Deterministic: L-BFGS from zero, one thread. Equal accuracies take the stronger penalty.
    Raises ValueError on shapes that differ, NaN, or a gap in the labels.
    """
    # before threads are limited: only libraries already loaded are
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    _check(train_ND, labels, {**evaluate, "val": val_ND})
    if not strengths:
        raise ValueError("no strengths given to choose from")
    # one thread: BLAS splits its sums by the number of threads, and the last bits follow
    with threadpool_limits(1):
        scaler = StandardScaler().fit(train_ND.astype(np.float64))
        train, val, *others = (
            scaler.transform(x_ND.astype(np.float64)) for x_ND in (train_ND, val_ND, *evaluate.values())
        )
        fits = [
            _fit_logistic(LogisticRegression, (train, labels), (val, val_labels), strength)
            for strength in sorted(strengths)
        ]
        best = max(fits, key=lambda fit: fit.val_accuracy)  # the first of equals
        logits = {name: _logits(best.model, x_ND) for name, x_ND in zip(evaluate, others, strict=True)}
    return _linear_result(best, fits, logits)


def knn_probe(
    train_ND: Features,
    labels: Labels,
    evaluate: Mapping[str, Features],
    *,
    val_ND: Features,
    val_labels: Labels,
    k: int | None = None,
) -> ProbeResult:
    """The k nearest training features by cosine: a vote weighted by similarity, and the k-th similarity as score.

    The score orders images as Sun et al. 2022 do by distance between unit vectors; k is `default_k` unless given.
    Raises ValueError as `linear_probe` does, and for a k that is not 1 to the number of training images.
    """
    _check(train_ND, labels, {**evaluate, "val": val_ND})
    k = default_k(labels) if k is None else k
    if not 1 <= k <= len(train_ND):
        raise ValueError(f"k={k} must be 1 to {len(train_ND)}, the number of training images")
    unit_ND = _unit(train_ND)
    with threadpool_limits(1):
        found = {name: _neighbors(unit_ND, labels, x_ND, k) for name, x_ND in evaluate.items()}
        val_predictions, _ = _neighbors(unit_ND, labels, val_ND, k)
    return ProbeResult(
        probe="knn",
        parameter=f"k={k}",
        val_accuracy=float(np.mean(val_predictions == val_labels)),
        predictions={name: predictions for name, (predictions, _) in found.items()},
        logits={},
        scores={"knn": {name: scores for name, (_, scores) in found.items()}},
    )


def probe_rows(
    result: ProbeResult,
    *,
    seed: int,
    id_set: str,
    id_labels: Labels,
    ood_classes: Mapping[str, Sequence[str]],
    bootstrap: int = 1000,
) -> list[Row]:
    """Metric rows as the loop's, method "probe_linear" or "probe_knn": each score, each OOD set of `ood_classes`.

    id_set: the name of the evaluated ID set; ood_classes: class names by image of each evaluated OOD set.
    """
    correct = result.predictions[id_set] == id_labels
    return [
        metric_row(
            Scored(seed=seed, method=f"probe_{result.probe}", detector=score),
            tier,
            by_set[id_set],
            by_set[tier],
            id_correct=correct,
            ood_classes=classes,
            bootstrap=bootstrap,
        )
        for score, by_set in result.scores.items()
        for tier, classes in ood_classes.items()
    ]


def _check(train_ND: Features, labels: Labels, others: Mapping[str, Features]) -> None:
    if train_ND.ndim != 2 or len(train_ND) != len(labels):
        raise ValueError(f"train features {train_ND.shape} and {len(labels)} labels do not fit together")
    classes = np.unique(labels)
    if len(classes) < 2 or not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError("labels must be 0..K-1 without a gap, K at least 2")
    for name, x_ND in {"train": train_ND, **others}.items():
        if x_ND.ndim != 2 or x_ND.shape[1] != train_ND.shape[1] or len(x_ND) == 0:
            raise ValueError(f"{name} features must be (N, {train_ND.shape[1]}), N > 0, not {x_ND.shape}")
        if not np.isfinite(x_ND).all():
            raise ValueError(f"{name} features hold NaN or infinity")


@dataclass(frozen=True, kw_only=True)
class _Fit:
    strength: float
    model: Any  # sklearn's, untyped
    val_accuracy: float
    converged: bool


def _linear_result(best: _Fit, fits: Sequence[_Fit], logits: dict[str, Scores]) -> ProbeResult:
    unfinished = [fit.strength for fit in fits if not fit.converged]
    return ProbeResult(
        probe="linear",
        parameter=f"C={best.strength:g}",
        val_accuracy=best.val_accuracy,
        predictions={name: logit_NK.argmax(axis=1) for name, logit_NK in logits.items()},
        logits=logits,
        scores=_logit_scores(logits),
        notes=[f"linear probe, C={c:g}: not converged after {MAX_STEPS} steps" for c in unfinished],
    )


def _fit_logistic(
    kind: Any, train: tuple[Scores, Labels], val: tuple[Scores, Labels], strength: float
) -> _Fit:
    from sklearn.exceptions import ConvergenceWarning

    model = kind(C=strength, max_iter=MAX_STEPS, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by `converged` instead
        model.fit(*train)
    return _Fit(
        strength=strength,
        model=model,
        val_accuracy=float(np.mean(model.predict(val[0]) == val[1])),
        converged=int(model.n_iter_.max()) < MAX_STEPS,
    )


def _logits(model: Any, x_ND: Scores) -> Scores:
    decision = np.asarray(model.decision_function(x_ND), dtype=np.float64)
    # two classes come as one margin: logits 0 and the margin give the same softmax
    return decision if decision.ndim == 2 else np.stack([np.zeros_like(decision), decision], axis=1)


def _logit_scores(logits: Mapping[str, Scores]) -> dict[str, dict[str, Scores]]:
    from scipy.special import logsumexp

    largest = {name: logit_NK.max(axis=1) for name, logit_NK in logits.items()}
    energy = {name: np.asarray(logsumexp(logit_NK, axis=1)) for name, logit_NK in logits.items()}
    msp = {name: np.exp(largest[name] - energy[name]) for name in logits}
    return {"msp": msp, "mls": largest, "energy": energy}


def _unit(x_ND: Features) -> Scores:
    x_ND = x_ND.astype(np.float64)
    return np.asarray(x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12))


def _neighbors(
    train_ND: Scores, labels: Labels, query_MD: Features, k: int
) -> tuple[npt.NDArray[np.int64], Scores]:
    """Predicted label (M,) and the k-th largest cosine (M,)."""
    n_classes = int(labels.max()) + 1
    predictions, kth = [], []
    for start in range(0, len(query_MD), CHUNK):
        cosine_BN = _unit(query_MD[start : start + CHUNK]) @ train_ND.T
        # stable: of equal similarities the earlier training image, on every machine
        near_BK = np.argsort(-cosine_BN, axis=1, kind="stable")[:, :k]
        weight_BK = np.take_along_axis(cosine_BN, near_BK, axis=1)
        votes_BC = np.zeros((len(cosine_BN), n_classes))
        # shifted to be above 0, so that a vote of a far neighbour never counts against its class
        np.add.at(votes_BC, (np.arange(len(cosine_BN))[:, None], labels[near_BK]), weight_BK + 1)
        predictions.append(votes_BC.argmax(axis=1))
        kth.append(weight_BK[:, -1])
    return np.concatenate(predictions).astype(np.int64), np.concatenate(kth)
