"""Small SVG charts as text: no library, no script, no clock; colours come from the page's style sheet.

A group of class `r-near` draws in the colour of near OOD (style: report.css). Wide charts give x in per cent and y
in px, so that they fill any width with their text undistorted; small multiples have a viewBox.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_BINS = 32
LEAST_WHOLE_BINS = 3  # one value alone would be a block as wide as the page
MAX_WHOLE_BINS = 24  # whole numbers over a range no wider get one bin each


def el(name: str, *children: str, **attributes: object) -> Markup:
    """One element; text that is not Markup is escaped, `_` in an attribute's name stands for `-`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{''.join(escape(child) for child in children)}</{name}>")


def number(value: object) -> str:
    """A float at 2 decimals without trailing zeros (0.01 px is less than anyone sees); others as they are."""
    if isinstance(value, float):
        text = f"{value:.2f}".rstrip("0").rstrip(".")
        return "0" if text == "-0" else text
    return str(value)


def percent(share: float) -> str:
    return f"{number(100.0 * share)}%"


def svg(*children: str, label: str, **attributes: object) -> Markup:
    """A picture for those who see it and `label` for those who do not."""
    return el("svg", *children, role="img", aria_label=label, **attributes)


def finite(values: Iterable[float]) -> Floats:
    """The finite values as float64."""
    array = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
    return array[np.isfinite(array)]


def shared_edges(groups: Iterable[Iterable[float]]) -> Floats:
    """Bin edges that fit all groups at once: one bin a whole number where all are whole and few, else 32 equal ones.

    Raises ValueError where no group has a finite value.
    """
    values = np.concatenate([finite(group) for group in groups])
    if not len(values):
        raise ValueError("no finite value to draw a histogram of")
    low, high = float(values.min()), float(values.max())
    if high - low < MAX_WHOLE_BINS and bool(np.all(values == np.round(values))):
        return np.arange(low - 0.5, max(high, low + LEAST_WHOLE_BINS - 1) + 1.0)
    if high == low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, MAX_BINS + 1)


def counts(values: Iterable[float], edges: Floats) -> NDArray[np.int64]:
    """Values a bin, [low, high) but for the last, which has both ends."""
    return np.histogram(finite(values), bins=edges)[0].astype(np.int64)


def steps(heights: Sequence[float], *, width: float, height: float) -> str:
    """A path of equal steps over `width`; heights in [0, 1] of `height`, baseline at the bottom."""
    each = width / len(heights)
    path = [f"M0 {number(height)}"]
    for at, value in enumerate(heights):
        path.append(f"V{number(height * (1.0 - value))}H{number(each * (at + 1))}")
    return "".join([*path, f"V{number(height)}Z"])


def ridge(values: Iterable[float], edges: Floats, *, role: str, label: str) -> Markup:
    """One row of a ridge plot: a histogram over shared edges, scaled to its own peak."""
    binned = counts(values, edges)
    peak = int(binned.max())
    shape = steps([float(count / peak) if peak else 0.0 for count in binned], width=100.0, height=40.0)
    path = el("path", d=shape, class_="area", vector_effect="non-scaling-stroke")
    return svg(
        el("g", path, class_=f"r-{role}"),
        label=label, class_="ridge", viewBox="0 0 100 40", preserveAspectRatio="none",
    )  # fmt: skip


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / max(most - 1, 1)
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(s * scale for s in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0) if s * scale >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(at * step, 10) for at in range(first, last + 1)]


def position(value: float, domain: tuple[float, float]) -> float:
    """Where `value` lies in `domain`, as a share of it, held within [0, 1]."""
    low, high = domain
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5


def axis(ticks: Sequence[float], domain: tuple[float, float], words: Sequence[str]) -> Markup:
    """Tick labels under a column of row charts."""
    texts = []
    for tick, word in zip(ticks, words, strict=True):
        share = position(tick, domain)
        anchor = "start" if share < 0.03 else "end" if share > 0.97 else "middle"
        texts.append(el("text", word, x=percent(share), y=13, text_anchor=anchor))
    return svg(*texts, label="axis: " + ", ".join(words), class_="axis", height=18, width="100%")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A mean with its spread: `low`–`high` is drawn as a bar, `seeds` as small dots; all in the axis' unit."""

    role: str
    label: str
    mean: float
    low: float
    high: float
    seeds: tuple[float, ...] = field(default=())


def dot_row(dots: Sequence[Dot], ticks: Sequence[float], domain: tuple[float, float], label: str) -> Markup:
    """Dots with error bars on one line each, a few px apart so that bars never hide one another."""
    height = 14 + 8 * len(dots)
    lines = [
        el("line", x1=percent(position(tick, domain)), x2=percent(position(tick, domain)),
           y1=0, y2=height, class_="gl")
        for tick in ticks
    ]  # fmt: skip
    marks = [_dot(dot, 11.0 + 8.0 * at, domain) for at, dot in enumerate(dots)]
    return svg(*lines, *marks, label=label, class_="dots", height=height, width="100%")


def _dot(dot: Dot, y: float, domain: tuple[float, float]) -> Markup:
    low, high, mean = (percent(position(value, domain)) for value in (dot.low, dot.high, dot.mean))
    return el(
        "g",
        el("title", dot.label),
        el("line", x1=low, x2=high, y1=y, y2=y, class_="bar"),
        *(el("circle", cx=percent(position(seed, domain)), cy=y, r=2.5, class_="seed") for seed in dot.seeds),
        el("circle", cx=mean, cy=y, r=5.5, class_="mean"),
        class_=f"r-{dot.role}",
    )


def direct_labels(dots: Sequence[Dot], domain: tuple[float, float], *, gap: float = 0.1) -> Markup:
    """The dots' roles written above the first row, pushed apart to `gap` of the width, with leader lines."""
    ordered = sorted(dots, key=lambda dot: (dot.mean, dot.role))
    shares = [position(dot.mean, domain) for dot in ordered]
    placed = spread(shares, gap=gap, low=0.04, high=0.96)
    marks = [
        el("g", el("text", dot.role, x=percent(at), y=12, text_anchor="middle"),
           el("line", x1=percent(at), x2=percent(share), y1=17, y2=30, class_="leader"),
           class_=f"r-{dot.role}")
        for dot, share, at in zip(ordered, shares, placed, strict=True)
    ]  # fmt: skip
    return svg(*marks, label="tiers from left to right: " + ", ".join(d.role for d in ordered),
               class_="direct", height=30, width="100%")  # fmt: skip


def spread(positions: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Sorted positions moved as little as a forward and a backward pass need to lie `gap` apart in [low, high]."""
    gap = min(gap, (high - low) / max(len(positions) - 1, 1))
    placed: list[float] = []
    for at in positions:
        placed.append(max(at, placed[-1] + gap if placed else low))
    limit = high
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - gap
    return placed


def stack(parts: Sequence[tuple[str, str, float]], label: str) -> Markup:
    """One bar of (role, label, amount) laid end to end."""
    total = sum(amount for _, _, amount in parts)
    at, drawn = 0.0, []
    for role, word, amount in parts:
        share = amount / total if total else 0.0
        rect = el("rect", el("title", word), x=percent(at), y=0, width=percent(share), height=22)
        drawn.append(el("g", rect, class_=f"r-{role} part"))
        at += share
    return svg(*drawn, label=label, class_="stack", height=22, width="100%")


def heat_step(value: float, low: float, high: float) -> int:
    """0–9: where `value` lies between `low` and `high`, for a cell's shade."""
    return min(9, int(10 * position(value, (low, high))))
