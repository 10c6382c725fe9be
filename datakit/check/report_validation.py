"""How hard the split is, as the template shows it: dots, matrices, tables and small multiples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from datakit.check import charts, report_plots
from datakit.check.report_data import (
    AccuracyRow,
    MetricRow,
    NullRow,
    ProbeRow,
    SummaryRow,
    Validation,
)
from datakit.check.report_summary import (
    by_tier,
    headline,
    headline_row,
    of_most,
    seeds_of,
    summarise,
    values_of,
)
from datakit.check.report_words import LOWER_IS_BETTER, METRICS, clean, plural, role_of, tier_title

CHANCE = 0.5
INTERVAL = "its 95 % bootstrap interval, over whole OOD classes where they are known"


def validation_view(validation: Validation | None) -> dict[str, Any] | None:
    """What the template shows; None where nothing was validated."""
    if validation is None:
        return None
    summary = validation.summary or summarise(validation.rows)
    tiers = by_tier(row.tier for row in summary)
    return {
        "headline": headline(validation),
        "sentence": _sentence(validation, tiers),
        "panels": _panels(validation, summary, tiers),
        "spread": _spread_words(summary),
        "tiers": [{"name": tier, "role": role_of(tier), "title": tier_title(tier)} for tier in tiers],
        "matrices": _matrices(summary, tiers),
        "full": [_full(row) for row in summary],
        "seeds": [_seed_row(row) for row in validation.rows],
        "metrics": [(name, *words, name in LOWER_IS_BETTER) for name, words in METRICS.items()],
        "scores": report_plots.score_panels(validation.scores),
        "scores_left": report_plots.scores_left(validation.scores),
        "curves": report_plots.curve_panels(validation.curves),
        "accuracies": _accuracies(validation.accuracies),
        "null_control": _null_control(validation.null_control),
        "probes": _probes(validation.probes),
        "notes": validation.notes,
    }


def _sentence(validation: Validation, tiers: Sequence[str]) -> str:
    found = [quoted for tier in tiers if (quoted := headline_row(validation, tier))]
    if not found:
        return ""
    method, detector = headline(validation) or ("", "")
    words = ", ".join(
        f"{100 * row.mean['auroc']:.1f} on {row.tier}" + (f" ({fewer})" if fewer else "")
        for row, fewer in found
    )
    return f"{detector} on {method} reaches an AUROC of {words}."


def _spread_words(summary: Sequence[SummaryRow]) -> str:
    seeds = seeds_of(summary)
    most = max(seeds.values(), default=0)
    if most < 2:
        return f"One seed. Bar: {INTERVAL}."
    fewer = ", ".join(f"{tier}: {count}" for tier, count in seeds.items() if count < most)
    lone = ", ".join(tier for tier, count in seeds.items() if count == 1)
    return (
        f"Large dot: mean of {most} seeds{fewer and f' ({fewer})'}; small dots: the seeds; "
        f"bar: ± 1 standard deviation{lone and f'; where there is one seed ({lone}), {INTERVAL}'}."
    )


def _panels(
    validation: Validation, summary: Sequence[SummaryRow], tiers: Sequence[str]
) -> list[dict[str, Any]]:
    """One panel a detector, the headline's first; one row a method; one dot a tier; the same axis in all."""
    rows = {(row.method, row.detector, row.tier): row for row in summary if "auroc" in row.mean}
    first = (headline(validation) or ("", ""))[1]
    detectors = sorted(dict.fromkeys(row.detector for row in summary), key=lambda name: name != first)
    methods = list(dict.fromkeys(row.method for row in summary))
    dots = {key: _dot(row, validation.rows) for key, row in rows.items()}
    if not dots:
        return []
    domain = (_axis_start(min(min(dot.low, *dot.seeds, dot.mean) for dot in dots.values())), 1.0)
    ticks = charts.nice_ticks(*domain)
    panels = []
    for detector in detectors:
        drawn = [(m, [dots[m, detector, t] for t in tiers if (m, detector, t) in dots]) for m in methods]
        drawn = [(method, row) for method, row in drawn if row]
        if not drawn:
            continue  # not one finite AUROC: nothing to draw
        panels.append({
            "detector": detector,
            "labels": charts.direct_labels(drawn[0][1], domain),
            "rows": [(m, charts.dot_row(row, ticks, domain, _read_aloud(m, row))) for m, row in drawn],
            "axis": charts.axis(ticks, domain, [f"{100 * tick:g}" for tick in ticks]),
        })  # fmt: skip
    return panels


def _axis_start(lowest: float) -> float:
    """The ten below the lowest value; dots, unlike bars, need no axis from chance."""
    return max(0.0, math.floor(10 * (lowest - 0.01)) / 10) if lowest < 1.0 else 0.9


def _dot(row: SummaryRow, all_rows: Sequence[MetricRow]) -> charts.Dot:
    runs = [r for r in all_rows if (r.method, r.detector, r.tier) == (row.method, row.detector, row.tier)]
    mean, std = row.mean["auroc"], row.std.get("auroc")
    low, high = (mean - std, mean + std) if std is not None else (mean, mean)
    bar = "± 1 standard deviation"
    if std is None and len(runs) == 1:
        (low, high), bar = _interval(runs[0]), "95 % bootstrap interval"
    seeds = tuple(values_of(runs, "auroc")) if len(runs) > 1 else ()
    words = f"{row.method}, {row.detector}, {row.tier}: AUROC {100 * mean:.1f}, {plural(row.seeds, 'seed')}"
    words += f" ({100 * low:.1f}–{100 * high:.1f}: {bar})" if high > low else ""
    return charts.Dot(role=role_of(row.tier), label=clean(words), mean=mean, low=low, high=high, seeds=seeds)


def _interval(run: MetricRow) -> tuple[float, float]:
    """Over whole OOD classes (what other held-out classes might have given), or over images, or none."""
    for low, high in ((run.auroc_class_low, run.auroc_class_high), (run.auroc_low, run.auroc_high)):
        if low is not None and high is not None:
            return low, high
    return run.auroc, run.auroc


def _read_aloud(method: str, dots: Sequence[charts.Dot]) -> str:
    return clean(method) + ": " + ", ".join(f"{dot.role} {100 * dot.mean:.1f}" for dot in dots)


def _matrices(summary: Sequence[SummaryRow], tiers: Sequence[str]) -> list[dict[str, Any]]:
    """AUROC, one method by detector matrix a tier; shades run over the tier's own range."""
    methods = list(dict.fromkeys(row.method for row in summary))
    detectors = list(dict.fromkeys(row.detector for row in summary))
    seeds = seeds_of(summary)
    found = []
    for tier in tiers:
        cells = {(r.method, r.detector): r for r in summary if r.tier == tier and "auroc" in r.mean}
        values = [row.mean["auroc"] for row in cells.values()]
        found.append({
            "title": tier_title(tier), "role": role_of(tier), "detectors": detectors,
            "fewer": of_most(seeds[tier], max(seeds.values())),
            "rows": [(m, [_cell(cells.get((m, d)), values) for d in detectors]) for m in methods],
        })  # fmt: skip
    return found


def _cell(row: SummaryRow | None, values: Sequence[float]) -> tuple[float, float | None, int] | None:
    """(mean, std, shade 0–9)."""
    if row is None:
        return None
    mean = row.mean["auroc"]
    return mean, row.std.get("auroc"), charts.heat_step(mean, min(values), max(values))


def _accuracies(rows: Sequence[AccuracyRow]) -> list[tuple[str, float, float | None, list[float]]]:
    """(method, mean, std, the seeds' values)."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row.method, []).append(row.accuracy)
    return [
        (method, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, values)
        for method, values in groups.items()
    ]


def _probes(rows: Sequence[ProbeRow]) -> list[dict[str, Any]]:
    """One row a probe, measure and tier: mean and standard deviation over seeds, tiers from near to far."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row.probe, row.metric, row.tier), []).append(row.value)
    order = {tier: at for at, tier in enumerate(by_tier(tier for _, _, tier in groups))}
    measures = list(dict.fromkeys((probe, metric) for probe, metric, _ in groups))
    most = max((len(values) for values in groups.values()), default=0)
    return [
        {"probe": probe, "metric": metric, "tier": tier, "mean": statistics.fmean(values)}
        | {"std": statistics.stdev(values) if len(values) > 1 else None, "fewer": of_most(len(values), most)}
        for (probe, metric, tier), values in sorted(
            groups.items(), key=lambda item: (measures.index(item[0][:2]), order[item[0][2]])
        )
    ]


def _null_control(rows: Sequence[NullRow]) -> dict[str, Any] | None:
    """The controls, the furthest from chance first."""
    if not rows:
        return None
    ordered = sorted(rows, key=lambda row: -abs(row.auroc - CHANCE))
    good = [abs(row.auroc - CHANCE) <= row.limit for row in ordered]
    return {"worst": ordered[0], "rows": list(zip(ordered, good, strict=True)), "bad": good.count(False)}


def _full(row: SummaryRow) -> dict[str, Any]:
    values = [(row.mean.get(name), row.std.get(name)) for name in METRICS]
    return {"row": row, "role": role_of(row.tier), "values": values}


def _seed_row(row: MetricRow) -> dict[str, Any]:
    return {"row": row, "role": role_of(row.tier), "values": [getattr(row, name) for name in METRICS]}
