"""The small multiples of the validation: ROC curves, score histograms, training curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from datakit.check.charts import Floats, counts, el, finite, nice_ticks, number, position, shared_edges, svg
from datakit.check.charts import steps as step_path
from datakit.check.report_data import CurveRow, ScoreRow
from datakit.check.report_summary import by_tier
from datakit.check.report_words import clean, role_of

MAX_SCORE_PANELS = 4  # models and detectors whose scores are drawn
WIDTH, HEIGHT = 320.0, 150.0  # px of a histogram or a curve
SQUARE = 260.0  # px of a ROC plot
MAX_POINTS = 160  # of a drawn curve; more cannot be told apart at this size
RANK_BINS = 24
PILED = 0.4  # share of the scores in one bin from which a linear axis shows nothing
KEPT = 0.95  # share of ID images kept by the threshold drawn


def auroc(id_scores: Iterable[float], ood_scores: Iterable[float]) -> float:
    """Probability that an ID score exceeds an OOD score, ties a half; NaN where one side is empty."""
    ours, others = np.sort(finite(id_scores)), finite(ood_scores)
    if not len(ours) or not len(others):
        return float("nan")
    below = np.searchsorted(ours, others, side="left")
    upto = np.searchsorted(ours, others, side="right")
    return float(1.0 - (below + upto).sum() / 2.0 / (len(ours) * len(others)))


def roc_points(id_scores: Iterable[float], ood_scores: Iterable[float]) -> list[tuple[float, float]]:
    """(share of OOD accepted, share of ID accepted) at every threshold, from (0, 0) to (1, 1); ID is positive."""
    ours, others = np.sort(finite(id_scores)), np.sort(finite(ood_scores))
    thresholds = np.unique(np.concatenate([ours, others]))[::-1]
    accepted = [1.0 - np.searchsorted(side, thresholds) / len(side) for side in (others, ours)]
    points = [(0.0, 0.0), *zip(accepted[0].tolist(), accepted[1].tolist(), strict=True)]
    if len(points) <= MAX_POINTS:
        return points
    return [points[at] for at in np.linspace(0, len(points) - 1, MAX_POINTS).round().astype(int)]


def threshold(id_scores: Iterable[float], ood_scores: Iterable[float]) -> tuple[float, float]:
    """The score that keeps at least 95 % of ID, and the share of OOD it keeps by mistake (FPR, ID positive)."""
    ours, others = np.sort(finite(id_scores)), finite(ood_scores)
    cut = float(ours[int(np.floor((1.0 - KEPT) * len(ours)))])
    return cut, float(np.mean(others >= cut))


def roc(curves: Sequence[tuple[str, Iterable[float], Iterable[float]]], label: str) -> Markup:
    """ROC curves of (role, id scores, ood scores), each named in its colour with its AUROC."""
    lines, words = [], []
    for at, (role, ours, others) in enumerate(curves):
        path = "".join(
            f"{'L' if i else 'M'}{number(SQUARE * x)} {number(SQUARE * (1.0 - y))}"
            for i, (x, y) in enumerate(roc_points(ours, others))
        )
        word = f"{role} {100 * auroc(ours, others):.1f}"
        lines.append(el("g", el("path", d=path, class_="curve"), class_=f"r-{role}"))
        y = SQUARE - 14.0 - 19.0 * (len(curves) - 1 - at)
        words.append(
            el("g", el("text", word, x=SQUARE - 10.0, y=y, text_anchor="end"), class_=f"r-{role} direct")
        )
    frame = el("rect", x=0, y=0, width=SQUARE, height=SQUARE, class_="frame")
    chance = el("line", x1=0, y1=SQUARE, x2=SQUARE, y2=0, class_="chance")
    return svg(frame, chance, *lines, *words, _below("0", "OOD accepted, %", "100", SQUARE, SQUARE),
               label=label, class_="plot roc", viewBox=f"-2 -2 {number(SQUARE + 4)} {number(SQUARE + 24)}")  # fmt: skip


def score_edges(groups: Iterable[Iterable[float]]) -> tuple[Floats, bool]:
    """Edges for histograms of scores, and whether they are ranks.

    Equal bins, unless 4 scores in 10 would fall into one of them (softmax scores pile up at 1): then each bin takes
    an equal share of all scores. Raises ValueError where no group has a finite value.
    """
    scores = np.concatenate([finite(group) for group in groups])
    edges = shared_edges([scores])
    ranks = np.unique(np.quantile(scores, np.linspace(0.0, 1.0, RANK_BINS + 1)))
    if counts(scores, edges).max() < PILED * len(scores) or len(ranks) < RANK_BINS // 2:
        return edges, False
    return ranks, True


def score_histogram(
    ours: Iterable[float],
    others: Iterable[float],
    edges: Floats,
    *,
    role: str,
    label: str,
    ranked: bool = False,
) -> Markup:
    """Shares of ID and of OOD scores by bin, all bins equally wide, with the threshold that keeps 95 % of ID."""
    ours, others = finite(ours), finite(others)
    shares = [counts(side, edges) / len(side) for side in (ours, others)]
    peak = float(max(share.max() for share in shares))
    drawn = [
        el("g", el("path", d=step_path([float(v) for v in share / peak], width=WIDTH, height=HEIGHT),
                   class_="area"), class_=f"r-{name}")
        for name, share in zip(("id", role), shares, strict=True)
    ]  # fmt: skip
    cut, kept = threshold(ours, others)
    return svg(
        *drawn, *_cut(float(np.interp(cut, edges, np.linspace(0.0, 1.0, len(edges)))), kept),
        _below(_short(edges[0]), f"{'rank of the ' * ranked}score: unlike ID ← → like ID", _short(edges[-1]),
               WIDTH, HEIGHT),
        label=label, class_="plot", viewBox=f"0 -18 {number(WIDTH)} {number(HEIGHT + 40)}",
    )  # fmt: skip


def _cut(share: float, kept: float) -> tuple[Markup, Markup]:
    """The threshold's line and, on the side with room, how much OOD passes it."""
    x, left = WIDTH * share, share > 0.5
    line = el("line", x1=x, x2=x, y1=-4, y2=HEIGHT, class_="cut")
    word = f"{100 * kept:.0f} % of OOD passes" + ("" if left else " →")
    return line, el("text", word, x=x + (-6 if left else 6), y=-6, text_anchor="end" if left else "start")


def lines(curves: Sequence[tuple[str, Sequence[float]]], label: str) -> Markup:
    """One quantity by epoch, a line a seed, the last value written at its end."""
    values = finite([value for _, curve in curves for value in curve])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    longest = max((len(curve) for _, curve in curves), default=1)
    grid = [
        el("g", el("line", x1=0, x2=WIDTH, y1=y, y2=y, class_="gl"),
           el("text", _short(tick), x=-8, y=y + 4, text_anchor="end"))
        for tick in nice_ticks(low, high, 4)
        if (y := HEIGHT * (1.0 - position(tick, (low, high)))) is not None
    ]  # fmt: skip
    drawn = [
        el("path", el("title", name), d=_polyline(curve, longest, (low, high)), class_="curve")
        for name, curve in curves
    ]
    return svg(*grid, el("g", *drawn, class_="r-id"), _below("1", "epoch", str(longest), WIDTH, HEIGHT),
               label=label, class_="plot", viewBox=f"-36 -10 {number(WIDTH + 36)} {number(HEIGHT + 32)}")  # fmt: skip


def _polyline(curve: Sequence[float], longest: int, domain: tuple[float, float]) -> str:
    """A path with a gap at each value that is not finite."""
    path, pen = [], "M"
    for at, value in enumerate(curve):
        if not np.isfinite(value):
            pen = "M"
            continue
        x = WIDTH * (at / (longest - 1) if longest > 1 else 0.5)
        path.append(f"{pen}{number(x)} {number(HEIGHT * (1.0 - position(float(value), domain)))}")
        pen = "L"
    return "".join(path)


def _below(left: str, middle: str, right: str, width: float, height: float) -> Markup:
    """The line and the three words under a plot."""
    y = height + 16.0
    return el(
        "g",
        el("line", x1=0, x2=width, y1=height, y2=height, class_="base"),
        el("text", left, x=0, y=y),
        el("text", middle, x=width / 2, y=y, text_anchor="middle"),
        el("text", right, x=width, y=y, text_anchor="end"),
        class_="below",
    )


def _short(value: float | np.float64) -> str:
    return f"{float(value):.3g}"


def _score_groups(scores: Sequence[ScoreRow]) -> dict[tuple[str, str, int], list[ScoreRow]]:
    """Score sets by (method, detector, seed): one model's scores share one scale."""
    groups: dict[tuple[str, str, int], list[ScoreRow]] = {}
    for row in scores:
        if len(finite(row.id_scores)) and len(finite(row.ood_scores)):
            groups.setdefault((row.method, row.detector, row.seed), []).append(row)
    return groups


def score_panels(scores: Sequence[ScoreRow]) -> list[dict[str, Any]]:
    """A ROC plot and a histogram a tier for each of the first models and detectors."""
    groups = list(_score_groups(scores).items())
    return [_score_panel(*key, rows) for key, rows in groups[:MAX_SCORE_PANELS]]


def scores_left(scores: Sequence[ScoreRow]) -> int:
    """How many models and detectors are not drawn."""
    return max(0, len(_score_groups(scores)) - MAX_SCORE_PANELS)


def _score_panel(method: str, detector: str, seed: int, rows: Sequence[ScoreRow]) -> dict[str, Any]:
    order = by_tier(row.tier for row in rows)
    rows = sorted(rows, key=lambda row: order.index(row.tier))
    name = clean(f"{method}, {detector}, seed {seed}")
    curves = [(role_of(row.tier), row.id_scores, row.ood_scores) for row in rows]
    edges, ranked = score_edges(s for row in rows for s in (row.id_scores, row.ood_scores))
    return {
        "method": method, "detector": detector, "seed": seed,
        "roc": roc(curves, f"ROC curves of {name}"),
        "histograms": [(row.tier, role_of(row.tier), _histogram(row, edges, name, ranked)) for row in rows],
    }  # fmt: skip


def _histogram(row: ScoreRow, edges: Floats, name: str, ranked: bool) -> Markup:
    label = clean(f"scores of ID and {row.tier}: {name}")
    return score_histogram(
        row.id_scores, row.ood_scores, edges, role=role_of(row.tier), label=label, ranked=ranked
    )


def curve_panels(rows: Sequence[CurveRow]) -> list[tuple[str, str, Markup]]:
    """One plot a method and quantity, a line a seed."""
    groups: dict[tuple[str, str], list[tuple[str, Sequence[float]]]] = {}
    for row in rows:
        if len(row.values):
            groups.setdefault((row.method, row.name), []).append((f"seed {row.seed}", row.values))
    return [
        (method, name, lines(curves, clean(f"{name} by epoch, {method}")))
        for (method, name), curves in groups.items()
    ]
