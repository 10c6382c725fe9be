"""From data to panels and tables: classes go by the role they play, distances by the name of what was measured."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

import datakit
import datakit.recipes
from datakit.check.finding import Finding, first_keys
from datakit.check.report import render_report
from datakit.check.report_checks import checks_view
from datakit.check.report_data import ClassRow, ReportData
from datakit.check.report_words import REASONS

from .report_makers import report, words


def spared(data: ReportData, *names: str) -> ReportData:
    """The same with these held-out classes kept for choosing thresholds; they keep the tier that they lie in."""
    return replace(
        data,
        classes=tuple(replace(row, role="val_ood") if row.name in names else row for row in data.classes),
    )


def test_a_class_of_val_ood_is_in_no_tier_that_is_tested() -> None:
    page = render_report(spared(report(), "x near 0", "x near 5"))
    rows = re.findall(r'<tr data-role="(\w+)">.*?<th scope="row"><bdi>(.*?)</bdi>', page, re.DOTALL)
    roles = [role for role, _ in rows]
    assert roles == ["near"] * 10 + ["val_ood"] * 2 + ["id"] * 12
    assert [name for role, name in rows if role == "val_ood"] == ["x near 0", "x near 5"]
    assert '<span class="chip r-val_ood">Validation OOD</span>' in page
    held = re.findall(r'<span class="held"><bdi>(.*?)</bdi>', page)
    assert len(held) == 10 and not {"x near 0", "x near 5"} & set(held)


def test_a_class_of_val_ood_is_no_picture_of_the_near_panel() -> None:
    data = report()
    named = tuple(replace(shown, key="", caption=f"p{at}") for at, shown in enumerate(data.pictures))
    page = render_report(replace(spared(data, "x near 0"), pictures=named))
    near = re.search(r'aria-label="9 Near pictures: ([^"]+)"', page)
    assert near and "p12" not in near[1].split(", ")


def test_distances_are_named_after_what_was_measured() -> None:
    row = ClassRow(name="swift", role="ood", tier="near", nearest_id_class="lark", attr_distance=0.125)
    page = render_report(ReportData(title="t", classes=(row,), attributes="the beaks' vectors"))
    assert '<abbr title="1 − cosine to the nearest ID class in the beaks&#39; vectors">' in page
    assert '<td class="num">0.125</td>' in page
    pairs = words(render_report(replace(report(), attributes="the beaks' vectors")))
    assert "d = 1 distance 0.250" in pairs and "1 − cosine to it in the beaks' vectors." in pairs


@pytest.mark.parametrize(("named", "cut"), [(49, False), (60, True)])
def test_a_finding_counts_no_images_that_it_does_not_know_of(named: int, cut: bool) -> None:
    """`count` is of violations: one image may be in many, and one of them may name many images."""
    keys = first_keys(f"k{at:02}" for at in range(named))
    found = Finding(id="x", severity="fail", passed=False, summary="s", count=200, keys=keys).to_json()
    (group,) = checks_view([found])["groups"]
    assert group["rows"][0]["cut"] == cut and len(group["rows"][0]["keys"]) == min(named, 50)
    text = words(render_report(ReportData(title="t", findings=(found,))))
    assert ("the first 50" in text) == cut and not re.search(r"and \d+ more", text)


def reasons_in(text: str) -> set[str]:
    """The literal reasons that Python code gives for a sample it leaves out."""
    found = set()
    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        named = getattr(call.func, "id", getattr(call.func, "attr", ""))
        given = [*call.args[:1]] if named in ("Drop", "SampleError") else []
        given += [word.value for word in call.keywords if named == "Problem" and word.arg == "reason"]
        found |= {one.value for one in given if isinstance(one, ast.Constant)}
    return found


def test_every_reason_has_its_words() -> None:
    given = set[str]()
    for path in [
        *Path(datakit.__file__).parent.rglob("*.py"),
        *Path(datakit.recipes.__path__[0]).glob("*.py"),
    ]:
        if not path.name.startswith("verify"):  # whose problems are of files
            given |= reasons_in(path.read_text(encoding="utf-8"))
    assert {"skin_tone", "too_small", "filtered", "vector_not_finite"} <= given
    assert not given - set(REASONS) - {"alone"}, "alone: a batch is done again one by one, and nobody is told"
    assert reasons_in('Drop("no_words_for_this")') - set(REASONS), "one without words would be found"
