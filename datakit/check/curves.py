"""Lines over two axes, as SVG: their names at their ends, dots where something was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from datakit.check.charts import el, finite, nice_ticks, number, position, spread, svg

WIDTH, HEIGHT = 400.0, 240.0  # px of the frame
LEFT, RIGHT, ABOVE, BELOW = 44.0, 132.0, 26.0, 40.0  # px beside it
LINE = 15.0  # px between two names
LEAST_ROOM = 0.04  # of the range, left free above and below the points

Points = Sequence[tuple[float, float]]
Domain = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: points (x, y) in the order drawn; a colour of report.css; what a pointer is told at each point.

    marked: every point of the line has a dot. others: dots beside the line.
    """

    name: str
    points: Points
    role: str = "id"
    dashed: bool = False
    marked: bool = False
    notes: Sequence[str] = ()
    others: Points = ()


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What x and y are; a domain of None is that of the points. share: y is one, written in per cent.

    cut: a level of y, and its name.
    """

    x: str
    y: str
    log_x: bool = False
    share: bool = True
    x_domain: Domain | None = None
    y_domain: Domain | None = None
    cut: tuple[float, str] | None = None


def curves(series: Sequence[Series], axes: Axes, *, label: str) -> Markup:
    """All series in one frame. Raises ValueError where none has a finite point, or a logarithmic x is not above 0."""
    drawn = [_finite(line) for line in series]
    drawn = [line for line in drawn if line.points or line.others]
    if not drawn:
        raise ValueError(f"no finite point to draw: {label}")
    frame = _Frame.of(drawn, axes)
    return svg(
        *frame.grid(axes), *[frame.line(line) for line in drawn], *frame.cut(axes), *frame.names(drawn),
        el("text", axes.y, x=-LEFT, y=-12.0, class_="title"),
        el("text", axes.x, x=WIDTH / 2, y=HEIGHT + 34.0, text_anchor="middle", class_="title"),
        label=label, class_="plot curves",
        viewBox=f"{number(-LEFT)} {number(-ABOVE)} {number(LEFT + WIDTH + RIGHT)} {number(ABOVE + HEIGHT + BELOW)}",
    )  # fmt: skip


def amount(value: float) -> str:
    """1500000 as 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high]; their doubles and fives too where there are fewer than three."""
    powers = [10.0**at for at in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        ticks = [p * f for p in powers for f in factors if low * 0.999 <= p * f <= high * 1.001]
        if len(ticks) >= 3:
            return ticks
    return ticks or [low, high]


@dataclass(frozen=True)
class _Frame:
    """Where a value lies in the frame, in px."""

    x_domain: Domain
    y_domain: Domain
    log_x: bool

    @classmethod
    def of(cls, series: Sequence[Series], axes: Axes) -> _Frame:
        points = [point for line in series for point in (*line.points, *line.others)]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        if axes.log_x and min(xs) <= 0:
            raise ValueError(f"{axes.x} of {min(xs):g} has no place on a logarithmic axis")
        if axes.cut:
            ys = [*ys, axes.cut[0]]
        room = LEAST_ROOM * (max(ys) - min(ys) or 1.0)
        low, high = min(ys) - room, max(ys) + room
        if axes.share:
            low, high = max(0.0, low), min(1.0, high)
        return cls(axes.x_domain or (min(xs), max(xs)), axes.y_domain or (low, high), axes.log_x)

    def x(self, value: float) -> float:
        if self.log_x:
            low, high = self.x_domain
            return WIDTH * position(math.log(value), (math.log(low), math.log(high)))
        return WIDTH * position(value, self.x_domain)

    def y(self, value: float) -> float:
        return HEIGHT * (1.0 - position(value, self.y_domain))

    def grid(self, axes: Axes) -> list[Markup]:
        """Lines of y with their values left of them, ticks of x below."""
        factor = 100.0 if axes.share else 1.0
        drawn = [
            el("g", el("line", x1=0, x2=WIDTH, y1=self.y(tick), y2=self.y(tick), class_="gl"),
               el("text", f"{factor * tick:.4g}", x=-8, y=self.y(tick) + 4, text_anchor="end"))
            for tick in nice_ticks(*self.y_domain, 6)
        ]  # fmt: skip
        drawn.append(el("line", x1=0, x2=WIDTH, y1=HEIGHT, y2=HEIGHT, class_="base"))
        ticks = log_ticks(*self.x_domain) if self.log_x else nice_ticks(*self.x_domain, 7)
        return [
            *drawn,
            *(
                el("text", amount(tick), x=self.x(tick), y=HEIGHT + 16.0, text_anchor="middle")
                for tick in ticks
            ),
        ]

    def line(self, line: Series) -> Markup:
        at = [(self.x(x), self.y(y)) for x, y in line.points]
        path = "".join(f"{'L' if i else 'M'}{number(x)} {number(y)}" for i, (x, y) in enumerate(at))
        notes = line.notes or [""] * len(at)
        return el(
            "g",
            *(el("circle", cx=self.x(x), cy=self.y(y), r=3.0, class_="point") for x, y in line.others),
            *([el("path", d=path, class_="curve dashed" if line.dashed else "curve")] if len(at) > 1 else []),
            *(el("circle", *([el("title", note)] if note else []), cx=x, cy=y, r=4.0, class_="front")
              for (x, y), note in zip(at, notes, strict=True) if line.marked or len(at) == 1),
            class_=f"r-{line.role}",
        )  # fmt: skip

    def cut(self, axes: Axes) -> list[Markup]:
        if axes.cut is None:
            return []
        y = self.y(axes.cut[0])
        return [
            el("line", x1=0, x2=WIDTH, y1=y, y2=y, class_="cut"),
            el("text", axes.cut[1], x=4.0, y=y - 5.0),
        ]

    def names(self, series: Sequence[Series]) -> list[Markup]:
        """Each name right of the frame, level with its line's end or pushed off it, a leader between."""
        ends = [(line.points or line.others)[-1] for line in series]
        order = sorted(range(len(series)), key=lambda i: self.y(ends[i][1]))
        wanted = [self.y(ends[i][1]) / HEIGHT for i in order]
        placed = spread(wanted, gap=LINE / HEIGHT, low=0.0, high=1.0)
        return [
            el("g",
               el("path", d=f"M{number(self.x(ends[i][0]) + 5)} {number(self.y(ends[i][1]))}"
                            f"L{number(WIDTH + 8.0)} {number(HEIGHT * y)}", class_="leader"),
               el("text", series[i].name, x=WIDTH + 12.0, y=HEIGHT * y + 4.0, class_="end"),
               class_=f"r-{series[i].role}")
            for i, y in zip(order, placed, strict=True)
        ]  # fmt: skip


def _finite(line: Series) -> Series:
    """The series without the points that have no place."""
    notes = line.notes or [""] * len(line.points)
    kept = [(p, note) for p, note in zip(line.points, notes, strict=True) if len(finite(p)) == 2]
    return Series(
        name=line.name, role=line.role, dashed=line.dashed, marked=line.marked,
        points=[p for p, _ in kept], notes=[note for _, note in kept],
        others=[p for p in line.others if len(finite(p)) == 2],
    )  # fmt: skip
