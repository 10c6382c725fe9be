"""Curves of retrieval: recall against cost, R@k against k beside its control, a training by epoch.

Style: report.css and retrieval.css. No script, no clock; a series' name stands at the end of its line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from datakit.check.charts import finite
from datakit.check.curves import Axes, Points, Series, amount, curves
from datakit.train.dual_encoder import DIRECTIONS
from datakit.train.pair_metrics import CURVE_KS, KS, recall_of_ranks

ROLES = ("id", "near", "far", "coarse", "mid")  # colours in turn; grey is the control's


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One setting of an index: multiply-adds a query, and the recall it reached, in [0, 1]."""

    cost: float
    recall: float
    setting: str = ""


def cost_curves(
    settings: Mapping[str, Sequence[Cost]], *, target: float | None = None, recall: str = "recall@10"
) -> Markup:
    """Recall against multiply-adds a query, a line a series through its Pareto front; other settings as faint dots."""
    series = []
    for at, (name, found) in enumerate(settings.items()):
        front = pareto(found)
        series.append(
            Series(
                name=name,
                role=ROLES[at % len(ROLES)],
                points=[(cost.cost, cost.recall) for cost in front],
                notes=[_spoken(name, cost) for cost in front],
                others=[(cost.cost, cost.recall) for cost in found if cost not in front],
                marked=True,
            )
        )
    cut = None if target is None else (target, f"target {100 * target:g} %")
    axes = Axes(x="multiply-adds a query", y=f"{recall}, %", log_x=True, cut=cut)
    return curves(series, axes, label=f"{recall} against multiply-adds a query: {', '.join(settings)}")


def pareto(settings: Sequence[Cost]) -> list[Cost]:
    """The settings that no cheaper or equally cheap one beats, cheapest first."""
    front: list[Cost] = []
    for cost in sorted(settings, key=lambda cost: (cost.cost, -cost.recall)):
        if not front or cost.recall > front[-1].recall:
            front.append(cost)
    return front


def rank_curves(
    ranks: Sequence[int], control: Sequence[int], chance: Mapping[str, float], *, direction: str
) -> Markup:
    """R@k against k, beside the model trained on captions dealt out anew, and chance."""
    drawn = [("own captions", ranks, "id", False), ("dealt out anew", control, "outlier", True)]
    series = [
        Series(name=name, role=role, dashed=dashed, points=_recalls(found))
        for name, found, role, dashed in drawn
        if len(found)
    ]
    by_chance = [(float(k), chance[f"r{k}"]) for k in CURVE_KS if f"r{k}" in chance]
    if by_chance:
        series.append(Series(name="chance", role="mid", points=by_chance))
    axes = Axes(x="k", y="R@k, %", log_x=True, x_domain=(1.0, float(CURVE_KS[-1])), y_domain=(0.0, 1.0))
    return curves(series, axes, label=f"R@k against k, {direction.replace('_', ' ')}")


def training_curves(
    history: Sequence[Mapping[str, float]], control: Sequence[Mapping[str, float]] = ()
) -> list[tuple[str, Markup]]:
    """Title and plot of the loss, then of R@1, R@5 and R@10 on the held-out part in each direction, by epoch."""
    found = [("Training loss", _by_epoch([("own captions", history, "loss", "id", False),
                                          ("dealt out anew", control, "loss", "outlier", True)],
                                         y="loss", share=False))]  # fmt: skip
    for direction in DIRECTIONS:
        lines = [
            (f"R@{k}", history, f"{direction}_r{k}", role, False)
            for k, role in zip(KS, ("id", "far", "coarse"), strict=True)
        ]
        lines.append(("R@10, dealt anew", control, f"{direction}_r10", "outlier", True))
        title = f"{direction.replace('_', ' ').capitalize()}, held-out groups"
        found.append((title, _by_epoch(lines, y="R@k, %", share=True)))
    return [(title, plot) for title, plot in found if plot]


def _by_epoch(
    lines: Sequence[tuple[str, Sequence[Mapping[str, float]], str, str, bool]], *, y: str, share: bool
) -> Markup:
    series = [
        Series(
            name=name, role=role, dashed=dashed,
            points=[(float(row["epoch"]), float(row[field])) for row in rows if field in row],
        )
        for name, rows, field, role, dashed in lines
    ]  # fmt: skip
    values = finite([value for line in series for _, value in line.points])
    if not len(values):
        return Markup("")
    highest = float(values.max())
    axes = Axes(x="epoch", y=y, share=share, y_domain=(0.0, 1.05 * highest or 1.0))
    return curves(series, axes, label=f"{y} by epoch")


def _recalls(ranks: Sequence[int]) -> Points:
    array = np.asarray(ranks, dtype=np.int64)
    return [(float(k), recall_of_ranks(array, k)) for k in CURVE_KS]


def _spoken(name: str, cost: Cost) -> str:
    setting = f" {cost.setting}" if cost.setting else ""
    return f"{name}{setting}: {100 * cost.recall:.1f} % at {amount(cost.cost)} multiply-adds"
