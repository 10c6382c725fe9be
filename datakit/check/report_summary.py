"""The validation's numbers: spelt, averaged over seeds, and the one pair quoted at the top."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from datakit.check.report_data import (
    AccuracyRow,
    CurveRow,
    MetricRow,
    NullRow,
    ProbeRow,
    ScoreRow,
    SummaryRow,
    Validation,
)
from datakit.check.report_words import METRICS, TIER_ORDER, plural, spell

Row = TypeVar("Row", MetricRow, SummaryRow, AccuracyRow, NullRow, ProbeRow, CurveRow, ScoreRow)


def by_tier(names: Iterable[str]) -> list[str]:
    """Distinct tiers, near first, unknown ones last in the order they come."""
    return sorted(
        dict.fromkeys(names), key=lambda n: TIER_ORDER.index(n) if n in TIER_ORDER else len(TIER_ORDER)
    )


def summarise(rows: Iterable[MetricRow]) -> tuple[SummaryRow, ...]:
    """Mean and sample standard deviation over seeds, by method, detector and tier; None from a single seed."""
    groups: dict[tuple[str, str, str], list[MetricRow]] = {}
    for row in rows:
        groups.setdefault((row.method, row.detector, row.tier), []).append(row)
    return tuple(
        SummaryRow(
            method=method, detector=detector, tier=tier, seeds=len(group),
            mean={name: statistics.fmean(values) for name in METRICS if (values := values_of(group, name))},
            std={name: statistics.stdev(values) if len(values) > 1 else None
                 for name in METRICS if (values := values_of(group, name))},
        )
        for (method, detector, tier), group in groups.items()
    )  # fmt: skip


def seeds_of(rows: Iterable[SummaryRow]) -> dict[str, int]:
    """How many seeds each tier was measured under: a seed whose hold-out leaves a tier empty has no number for it."""
    found: dict[str, int] = {}
    for row in rows:
        found[row.tier] = max(row.seeds, found.get(row.tier, 0))
    return found


def of_most(seeds: int, most: int) -> str:
    """`1 seed of 3`, or nothing where it is all of them."""
    return f"{plural(seeds, 'seed')} of {most}" if seeds < most else ""


def values_of(rows: Iterable[MetricRow], metric: str) -> list[float]:
    found = (getattr(row, metric) for row in rows)
    return [value for value in found if value is not None and math.isfinite(value)]


def spelt(validation: Validation) -> Validation:
    """The same with methods, detectors and measures as people write them."""

    def named(rows: Sequence[Row], *fields: str) -> tuple[Row, ...]:
        return tuple(replace(row, **_spelt_fields(row, fields)) for row in rows)

    both = ("method", "detector")
    quoted = validation.headline
    return replace(
        validation,
        rows=named(validation.rows, *both), summary=named(validation.summary, *both),
        headline=quoted and (spell(quoted[0]), spell(quoted[1])),
        accuracies=named(validation.accuracies, "method"), null_control=named(validation.null_control, *both),
        probes=named(validation.probes, "probe", "metric"), curves=named(validation.curves, "method", "name"),
        scores=named(validation.scores, *both),
    )  # fmt: skip


def _spelt_fields(row: object, fields: Sequence[str]) -> dict[str, Any]:
    return {name: spell(getattr(row, name)) for name in fields}


def headline(validation: Validation) -> tuple[str, str] | None:
    """The (method, detector) quoted at the top: the caller's, or the first row's."""
    if validation.headline or not validation.rows:
        return validation.headline
    return validation.rows[0].method, validation.rows[0].detector


def headline_row(validation: Validation, tier: str) -> tuple[SummaryRow, str] | None:
    """The headline's row of one tier, if it has an AUROC, and `of_most` of its seeds."""
    summary = validation.summary or summarise(validation.rows)
    most = max(seeds_of(summary).values(), default=0)
    for row in summary:
        if (row.method, row.detector) == headline(validation) and row.tier == tier and "auroc" in row.mean:
            return row, of_most(row.seeds, most)
    return None
