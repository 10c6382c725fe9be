"""Curves as SVG: every point where it belongs, names that never overlap, nothing that a strict page would refuse."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from datakit.check.curves import HEIGHT, LINE, WIDTH, Axes, Series, amount, curves, log_ticks
from datakit.check.retrieval_plots import Cost, cost_curves, pareto, rank_curves, training_curves

AXES = Axes(x="k", y="R@k, %")


def parsed(drawing: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawing)


def texts(drawing: str) -> list[str]:
    return [element.text or "" for element in parsed(drawing).iter("text")]


def ends(drawing: str) -> list[tuple[float, str]]:
    """Height and name at the end of every line, from above."""
    found = [e for e in parsed(drawing).iter("text") if e.get("class") == "end"]
    return sorted((float(e.get("y", "")), e.text or "") for e in found)


def path_of(drawing: str) -> list[tuple[float, float]]:
    (path,) = (e for e in parsed(drawing).iter("path") if "curve" in (e.get("class") or ""))
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+) ([^ML]+)", path.get("d") or "")]


def line(points: Sequence[tuple[float, float]], **more: Any) -> Series:
    return Series(name=more.pop("name", "one"), points=points, **more)


def test_points_lie_where_the_axes_say() -> None:
    axes = Axes(x="k", y="share", x_domain=(0.0, 10.0), y_domain=(0.0, 1.0))
    drawn = path_of(curves([line([(0, 0), (5, 0.25), (10, 1)])], axes, label="a line"))
    assert drawn == [(0, HEIGHT), (WIDTH / 2, HEIGHT * 0.75), (WIDTH, 0)]
    log = Axes(x="k", y="share", x_domain=(1.0, 100.0), y_domain=(0.0, 1.0), log_x=True)
    assert path_of(curves([line([(1, 0), (10, 0.5), (100, 1)])], log, label="a line"))[1][0] == WIDTH / 2


def test_values_outside_of_the_axes_stay_within_the_frame() -> None:
    drawn = curves([line([(0, -3), (10, 7)])], Axes(x="x", y="y", y_domain=(0.0, 1.0)), label="a line")
    assert path_of(drawn) == [(0, HEIGHT), (WIDTH, 0)]


@pytest.mark.parametrize("count", [2, 6, 12])
def test_names_of_lines_that_end_together_are_pushed_apart(count: int) -> None:
    lines = [line([(0, 0), (1, 1 - i / 1e4)], name=f"line {i}") for i in range(count)]
    found = ends(curves(lines, AXES, label="many"))
    assert [name for _, name in found] == [f"line {i}" for i in range(count)], "in the order of their ends"
    gaps = [b - a for (a, _), (b, _) in pairwise(found)]
    assert min(gaps) > LINE - 0.1
    assert found[0][0] >= 0 and found[-1][0] <= HEIGHT + 5


def test_points_that_are_no_numbers_are_left_out() -> None:
    drawn = curves([line([(1, 0.1), (2, float("nan")), (3, 0.3)]), line([], name="empty")], AXES, label="gap")
    assert len(path_of(drawn)) == 2 and "empty" not in texts(drawn)
    with pytest.raises(ValueError, match="no finite point to draw: nothing"):
        curves([line([(1, float("inf"))])], AXES, label="nothing")
    with pytest.raises(ValueError, match="no place on a logarithmic axis"):
        curves([line([(0, 1)])], Axes(x="cost", y="y", log_x=True), label="zero")


def test_one_point_is_a_dot() -> None:
    drawn = curves([line([(3, 0.5)])], Axes(x="x", y="y", log_x=True), label="dot")
    assert [e.get("class") for e in parsed(drawn).iter("circle")] == ["front"]


def test_names_are_escaped_and_nothing_is_fetched_styled_or_run() -> None:
    hostile = '"><script>alert(1)</script>'
    drawn = cost_curves({hostile: [Cost(cost=1, recall=0.5, setting=hostile), Cost(cost=2, recall=0.7)]})
    assert "<script" not in drawn and "&lt;script&gt;" in drawn
    for element in parsed(drawn).iter():
        assert element.tag in {"svg", "g", "path", "line", "text", "circle", "title"}
        assert not {name for name in element.attrib if name.startswith("on") or name in ("style", "href")}


def test_the_front_has_what_nothing_cheaper_beats() -> None:
    settings = [
        Cost(cost=c, recall=r) for c, r in ((4, 0.9), (1, 0.5), (2, 0.4), (2, 0.8), (3, 0.8), (9, 0.95))
    ]
    assert [(c.cost, c.recall) for c in pareto(settings)] == [(1, 0.5), (2, 0.8), (4, 0.9), (9, 0.95)]
    drawn = parsed(cost_curves({"ivf": settings}, target=0.85))
    assert len([e for e in drawn.iter("circle") if e.get("class") == "front"]) == 4
    assert len([e for e in drawn.iter("circle") if e.get("class") == "point"]) == 2
    assert "target 85 %" in [e.text for e in drawn.iter("text")]
    assert any("95.0 % at 9 multiply-adds" in (e.text or "") for e in drawn.iter("title"))


def test_a_rank_curve_rises_to_the_share_found_and_has_its_control_beside_it() -> None:
    drawn = rank_curves(
        [1, 1, 3, 200], [50, 150, 150, 150], {"r1": 0.01, "r100": 0.1}, direction="image_to_text"
    )
    assert [name for _, name in ends(drawn)] == ["own captions", "dealt out anew", "chance"]
    heights = [y for y, _ in ends(drawn)]
    assert heights == pytest.approx([HEIGHT * 0.25 + 4, HEIGHT * 0.75 + 4, HEIGHT * 0.9 + 4], abs=0.1)
    assert parsed(drawn).get("aria-label") == "R@k against k, image to text"
    alone = rank_curves([1, 2], [], {}, direction="text_to_image")
    assert [name for _, name in ends(alone)] == ["own captions"]


def test_a_training_has_a_plot_of_its_loss_and_one_a_direction() -> None:
    history = [
        {"epoch": e, "loss": 1 / e, **{f"image_to_text_r{k}": e / 10 for k in (1, 5, 10)}} for e in (1, 2, 3)
    ]
    titles = [title for title, _ in training_curves(history, history[:2])]
    assert titles == ["Training loss", "Image to text, held-out groups"], (
        "a direction never measured has none"
    )
    assert training_curves([]) == []
    assert training_curves([{"epoch": 1, "loss": float("nan")}]) == []


def test_amounts_and_ticks_are_short() -> None:
    assert [amount(v) for v in (12, 1500, 2.5e6, 3e9, 0.5)] == ["12", "1.5k", "2.5M", "3G", "0.5"]
    assert log_ticks(1, 1000) == [1, 10, 100, 1000]
    assert log_ticks(14_000, 500_000) == [30_000, 100_000, 300_000]
    assert log_ticks(20, 90) == [20, 50]
    assert log_ticks(3.1, 3.2) == [3.1, 3.2]
