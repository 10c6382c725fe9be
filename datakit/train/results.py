"""What the `fg_ood` reference loop gives back: rows that can be JSON, and scores by key; without torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from datakit.rng import rng_for
from datakit.train.metrics import auroc, bootstrap_auroc, macro_auroc, ood_metrics, oscr

Scores = npt.NDArray[np.float64]
Row = dict[str, Any]

# the numbers of a metric row that `aggregate` averages
AVERAGED = (
    "auroc",
    "auroc_macro",
    "aupr_in",
    "aupr_out",
    "tnr_at_95tpr_id",
    "fpr_at_95tpr_id",
    "fpr_at_95tpr_ood",
    "oscr",
)


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """One seed's run. Everything but `scores` and `predictions` is JSON-able, and equal runs are equal.

    rows          one a method, detector and tier: see `metric_row`
    null_control  seed, method, detector, n_val, n_test, auroc, auroc_low, auroc_high of ID val against ID test: 0.5
                  unless the protocol leaks
    accuracy      seed, method, and train, val, test closed-set accuracy, with n_train, n_val, n_test
    curves        seed, method, epoch (from 1), loss (mean over the steps), val_accuracy
    parameters    seed, method, detector, parameters (in words)
    notes         what was left out, chosen or degenerate
    settings      options, device, number of classes, sizes of the splits, torch's version
    keys          image keys by split: val, test, ood/TIER
    scores        "METHOD/DETECTOR/SPLIT" to float64 (N,), in the order of `keys`; higher = more in-distribution
    predictions   "METHOD/SPLIT" to predicted label (N,), for val and test
    """

    seed: int
    rows: list[Row]
    null_control: list[Row]
    accuracy: list[Row]
    curves: list[Row]
    parameters: list[Row]
    notes: list[str]
    settings: dict[str, Any]
    keys: dict[str, list[str]]
    scores: dict[str, Scores]
    predictions: dict[str, npt.NDArray[np.int64]]

    def as_json(self) -> dict[str, Any]:
        """All but the arrays."""
        arrays = ("scores", "predictions")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in arrays}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Who made a set of scores, in which run."""

    seed: int
    method: str
    detector: str


def metric_row(
    who: Scored,
    tier: str,
    id_scores: Scores,
    ood_scores: Scores,
    *,
    id_correct: npt.NDArray[np.bool_],
    ood_classes: Sequence[str],
    bootstrap: int,
) -> Row:
    """One row: seed, method, detector, tier, n_id, n_ood, n_ood_classes, the fields of `OodMetrics`, oscr,
    auroc_macro (mean over OOD classes), auroc_low and auroc_high (95 % bootstrap over images), and
    auroc_class_low, auroc_class_high (over whole OOD classes: what other held-out classes might have given).

    All methods and detectors are measured on the same resamples of a tier, so their intervals compare.
    """
    by_image = bootstrap_auroc(
        id_scores, ood_scores, rng=rng_for(who.seed, "bootstrap", tier), resamples=bootstrap
    )
    by_class = bootstrap_auroc(
        id_scores,
        ood_scores,
        rng=rng_for(who.seed, "bootstrap", tier, "classes"),
        resamples=bootstrap,
        ood_classes=ood_classes,
    )
    return {
        **asdict(who),
        "tier": tier,
        "n_id": len(id_scores),
        "n_ood": len(ood_scores),
        "n_ood_classes": len(set(ood_classes)),
        **ood_metrics(id_scores, ood_scores).as_dict(),
        "auroc_low": by_image.low,
        "auroc_high": by_image.high,
        "auroc_class_low": by_class.low,
        "auroc_class_high": by_class.high,
        "auroc_macro": macro_auroc(id_scores, ood_scores, ood_classes),
        "oscr": oscr(id_scores, id_correct, ood_scores),
    }


def null_row(who: Scored, val_scores: Scores, test_scores: Scores, *, bootstrap: int) -> Row:
    """AUROC of ID val against ID test, with its interval."""
    interval = bootstrap_auroc(
        val_scores, test_scores, rng=rng_for(who.seed, "bootstrap", "null control"), resamples=bootstrap
    )
    return {
        **asdict(who),
        "n_val": len(val_scores),
        "n_test": len(test_scores),
        "auroc": auroc(val_scores, test_scores),
        "auroc_low": interval.low,
        "auroc_high": interval.high,
    }


def aggregate(results: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Mean and sample standard deviation over seeds, from the `as_json()` of each run.

    One row a method, detector and tier, in the order first met: method, detector, tier, seeds, n_id, n_ood (means),
    and METRIC_mean, METRIC_std for each of AVERAGED; std is None from a single seed.
    Raises ValueError if a seed comes twice: it would be counted as two experiments.
    """
    runs = list(results)
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed is given twice in {seeds}")
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in (row for run in runs for row in run["rows"]):
        groups.setdefault((row["method"], row["detector"], row["tier"]), []).append(row)
    return [_summary(*name, rows) for name, rows in groups.items()]


def _summary(method: str, detector: str, tier: str, rows: list[Row]) -> Row:
    summary: Row = {"method": method, "detector": detector, "tier": tier, "seeds": len(rows)}
    for name in ("n_id", "n_ood"):
        summary[name] = statistics.fmean(row[name] for row in rows)
    for name in AVERAGED:
        values = [row[name] for row in rows]
        summary[f"{name}_mean"] = statistics.fmean(values)
        summary[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return summary
