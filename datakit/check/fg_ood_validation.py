"""The results of `fg_ood`'s loops and probes as the report shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datakit.check.null_control import null_bound
from datakit.check.report_data import (
    AccuracyRow,
    CurveRow,
    MetricRow,
    NullRow,
    ProbeRow,
    ScoreRow,
    Validation,
)
from datakit.check.report_words import spell

SCORED = (("ce", "msp"), ("ce", "energy"), ("oe", "energy"), ("mixoe_cutmix", "msp"))  # drawn as curves
HEADLINE = ("ce", "msp")  # quoted where it was measured
PROBES = {"probe_linear": ("linear", "msp"), "probe_knn": ("k-NN", "knn")}  # shown name and score


def gather_validation(
    loops: Sequence[Mapping[str, Any]], probed: Sequence[Mapping[str, Any]]
) -> Validation | None:
    """Every measurement of the loops and probes; the scores of the first seed. None where neither was run."""
    if not loops and not probed:
        return None
    fields = MetricRow.__dataclass_fields__
    measured = {(row["method"], row["detector"]) for loop in loops for row in loop["rows"]}
    return Validation(
        rows=tuple(MetricRow(**{n: row[n] for n in fields}) for loop in loops for row in loop["rows"]),
        headline=HEADLINE if HEADLINE in measured else None,
        accuracies=tuple(
            AccuracyRow(seed=row["seed"], method=row["method"], accuracy=row["test"], n=row["n_test"])
            for loop in loops
            for row in loop["accuracy"]
        ),
        null_control=tuple(
            NullRow(
                seed=row["seed"],
                method=row["method"],
                detector=row["detector"],
                auroc=row["auroc"],
                limit=null_bound(row),
            )
            for loop in loops
            for row in loop["null_control"]
        ),
        probes=tuple(row for found in probed for row in _probe_rows(found)),
        curves=tuple(curve for loop in loops for curve in _curves(loop)),
        scores=tuple(score for loop in loops[:1] for score in _scores(loop)),
        notes=tuple(dict.fromkeys(note for found in (*loops, *probed) for note in found["notes"])),
    )


def _probe_rows(found: Mapping[str, Any]) -> Iterable[ProbeRow]:
    """Accuracy of each probe, and its AUROC with the score that suits it: MSP of logits, distance of neighbours."""
    for row in found["accuracy"]:
        name = PROBES[row["method"]][0]
        yield ProbeRow(seed=row["seed"], probe=name, metric="ID accuracy", value=row["test"], n=row["n_test"])
    for row in found["rows"]:
        name, score = PROBES[row["method"]]
        if row["detector"] == score:
            metric = f"AUROC, {spell(score)}"
            yield ProbeRow(
                seed=row["seed"],
                probe=name,
                metric=metric,
                value=row["auroc"],
                tier=row["tier"],
                n=row["n_ood"],
            )


def _curves(loop: Mapping[str, Any]) -> Iterable[CurveRow]:
    for method in dict.fromkeys(point["method"] for point in loop["curves"]):
        points = [point for point in loop["curves"] if point["method"] == method]
        for name in ("loss", "val_accuracy"):
            yield CurveRow(
                seed=loop["seed"], method=method, name=name, values=[point[name] for point in points]
            )


def _scores(loop: Mapping[str, Any]) -> Iterable[ScoreRow]:
    for method, detector in SCORED:
        known = f"{method}/{detector}/test"
        for split in loop["keys"]:
            if known in loop["scores"] and split.startswith("ood/"):
                yield ScoreRow(
                    seed=loop["seed"],
                    method=method,
                    detector=detector,
                    tier=split.removeprefix("ood/"),
                    id_scores=loop["scores"][known],
                    ood_scores=loop["scores"][f"{method}/{detector}/{split}"],
                )
