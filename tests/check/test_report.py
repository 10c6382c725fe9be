"""The report page: the same bytes from the same data, every part of it shown, honest where something is missing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

from datakit.check.report import render_report
from datakit.check.report_data import ClassRow, Picture, ReportData, TierRow
from datakit.image import Image

from . import report_makers
from .report_makers import Page, finding, missing, picture, report, words


def test_equal_data_gives_equal_bytes_in_another_process_too() -> None:
    here = render_report(report())
    assert here == render_report(report())
    code = (
        "import importlib.util, sys, hashlib; from datakit.check.report import render_report; "
        "spec = importlib.util.spec_from_file_location('t', sys.argv[1]); "
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t); "
        "print(hashlib.sha256(render_report(t.report()).encode()).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code, str(report_makers.__file__)], env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert there.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()


def test_every_check_appears_with_its_verdict_the_most_serious_first() -> None:
    rows = [
        (f"{severity}_{passed}", severity, passed)
        for passed in (True, False)
        for severity in ("info", "warn", "fail")
    ]
    page = render_report(ReportData(title="t", findings=tuple(finding(*row) for row in rows)))
    groups = re.findall(
        r'<details class="check .*?</svg>(\w+)</span>.*?<code><bdi>(\w+)</bdi>', page, re.DOTALL
    )
    expected = {"fail_False": "Failed", "warn_False": "Warning", "info_False": "Note"}
    assert dict((check, word) for word, check in groups) == {
        row[0]: expected.get(row[0], "Passed") for row in rows
    }
    assert [word for word, _ in groups] == ["Failed", "Warning", "Note", "Passed", "Passed", "Passed"]


def test_a_check_that_fails_under_one_seed_is_failed() -> None:
    rows = tuple(
        finding("shortcut", "warn", seed != 1, seed=seed, summary=f"seed {seed}") for seed in (0, 1, 2)
    )
    page = render_report(ReportData(title="t", findings=rows))
    assert re.search("checks passed ?2 ?of 3: 1 warning", words(page))
    assert page.count('<details class="check r-warn" open') == 1
    assert re.findall(r'class="seed">seed (\d)', page) == ["1", "0", "2"]


def test_a_severity_we_do_not_know_counts_as_failure() -> None:
    page = render_report(ReportData(title="t", findings=(finding("x", "whatever", passed=False),)))
    assert "1 failed of 1 finding." in words(page)


def test_an_empty_report_says_so_in_every_section() -> None:
    page = render_report(ReportData(title="nothing"))
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.DOTALL)
    assert len(sections) == 8
    assert all('<p class="none">' in body for _, body in sections)
    assert not missing(page)


@pytest.mark.parametrize(
    "without",
    [
        "splits",
        "tiers",
        "classes",
        "duplicates",
        "findings",
        "validation",
        "outcomes",
        "catalogs",
        "licences",
        "config",
    ],
)
def test_each_part_may_be_missing(without: str) -> None:
    empty: Any = {"validation": None, "config": {}}.get(without, ())
    assert not missing(render_report(replace(report(), **{without: empty})))


def test_numbers_at_the_top_come_from_the_data() -> None:
    page = words(render_report(report()))
    for wanted in (
        "40 in 4 splits",
        "12 beside 12 OOD classes",
        "2 0, 1",
        "0 of 2: 1 failed, 1 warning",
        "60.5 MSP on CE",
    ):
        label, _, note = wanted.partition(" ")
        assert re.search(rf"{re.escape(label)} ?{re.escape(note)}", page), wanted


def test_in_the_hero_each_id_picture_is_the_class_nearest_to_the_near_one() -> None:
    count = iter(range(10_000))
    data = report(lambda: f"w{next(count)}")
    named = tuple(replace(p, key="", caption=f"p{i}") for i, p in enumerate(data.pictures))
    page = render_report(replace(data, pictures=named))
    ours, near = (re.search(rf'aria-label="9 {t} pictures: ([^"]+)"', page) for t in ("ID", "Near"))
    assert ours and near
    left, right = ([int(name[1:]) for name in found[1].split(", ")] for found in (ours, near))
    assert [i + 12 for i in left] == right and len(left) == 9


def test_a_picture_that_cannot_be_decoded_is_a_crossed_tile_and_counted() -> None:
    data = ReportData(
        title="t",
        pictures=(Picture(image=Image(b"<html>not an image</html>")),),
        tiers=(TierRow(name="near", pictures=(0,)),),
    )
    assert "could not be drawn: 2 not_an_image." in words(render_report(data))  # in the hero and in its tier


def test_a_picture_that_is_not_there_or_no_picture_is_refused() -> None:
    tiers = (TierRow(name="near", pictures=(1,)),)
    with pytest.raises(ValueError, match="picture 1 is named but the report has 1 pictures"):
        render_report(ReportData(title="t", pictures=(Picture(image=picture(0)),), tiers=tiers))
    grey: Any = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"must be uint8 \(height, width, 3\), not uint8 \(4, 4\)"):
        render_report(ReportData(title="t", pictures=(Picture(image=grey),) * 2, tiers=tiers))


@pytest.mark.parametrize("classes", [200, 1000])
def test_the_page_stays_small_with_many_classes(classes: int) -> None:
    rng = np.random.default_rng(0)
    noise = tuple(
        Picture(
            image=np.asarray(
                pil.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((96, 96))
            )
        )
        for _ in range(50)
    )
    rows = tuple(
        ClassRow(name=f"a fine-grained class {i}", role="id", taxonomy=("order", "family"), counts={"train": 30},
                 pictures=tuple((i + k) % 50 for k in range(6)))
        for i in range(classes)
    )  # fmt: skip
    page = render_report(ReportData(title="t", classes=rows, pictures=noise))
    assert page.count("a fine-grained class") == classes
    assert len(page.encode()) < 6_000_000


def test_counts_of_a_class_leave_the_reserve_out() -> None:
    row = ClassRow(name="x", role="ood", tier="near", counts={"near_ood": 3, "val_ood": 4, "reserve": 50})
    page = render_report(ReportData(title="t", classes=(row,)))
    assert re.findall(r'data-v="(\d*)"', page) == ["", "", "", "7"]


def test_outcomes_add_up_to_what_came_in() -> None:
    page = words(render_report(report()))
    assert "100 images came in; each is in one row below." in page


def test_the_class_table_is_whole_without_the_script() -> None:
    page = render_report(report())
    tools = next(a for t, a in Page(page).tags if "data-tools" in a)
    assert "hidden" in tools  # only the script can use them, so only the script shows them
    assert page.split("<script>")[0].count("<tr data-role=") == 24


def test_all_but_the_pictures_is_plain_json() -> None:
    assert json.loads(json.dumps(asdict(replace(report(), pictures=()))))["title"] == "x"


def test_a_cut_detail_points_to_no_file_that_is_not_there() -> None:
    long = finding("x", "warn", passed=False, detail={f"line {at}": at for at in range(60)})
    page = words(render_report(ReportData(title="t", findings=(long,))))
    assert "line 39" in page and "line 40" not in page
    assert re.search(r"… ?20 more not shown", page) and "report.json" not in page
