"""The validation on the page: means over the seeds there are, and what may be missing."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from datakit.check.report import render_report
from datakit.check.report_data import ProbeRow, ReportData, ScoreRow, Validation
from datakit.check.report_summary import summarise

from .report_makers import missing, report, validation, words


def test_parts_of_a_validation_may_be_missing() -> None:
    bare = Validation(rows=validation().rows[:1], notes=("no outliers: OE, MixOE not run",))
    page = words(render_report(ReportData(title="t", validation=bare)))
    assert "No outliers: OE, MixOE not run." in page
    assert "so a leak in the protocol itself would not show" in page
    assert "The reference loop gave no AUROC." in words(
        render_report(ReportData(title="t", validation=Validation()))
    )


def test_scores_that_are_not_numbers_or_all_equal_are_drawn_or_left_out() -> None:
    row = ScoreRow(seed=0, method="ce", detector="msp", tier="near", id_scores=[1.0, 1.0], ood_scores=[1.0])
    broken = replace(row, tier="far", ood_scores=[float("nan"), float("inf")])
    page = render_report(ReportData(title="t", validation=Validation(scores=(row, broken))))
    assert "near 50.0" in page and not missing(page)


def test_means_are_over_seeds_with_the_sample_standard_deviation() -> None:
    rows = [
        replace(validation().rows[0], seed=seed, auroc=auroc) for seed, auroc in enumerate((0.7, 0.8, 0.9))
    ]
    (summary,) = summarise(rows)
    assert summary.seeds == 3 and summary.mean["auroc"] == pytest.approx(0.8)
    assert summary.std["auroc"] == pytest.approx(np.std([0.7, 0.8, 0.9], ddof=1))
    assert "oscr" not in summary.mean
    assert summarise(rows[:1])[0].std["auroc"] is None


def test_a_false_positive_rate_is_never_without_its_positive_class() -> None:
    heads = re.findall(r"<th[^>]*>(.*?)</th>", render_report(report()), re.DOTALL)
    rates = [head for head in heads if re.search("FPR|TNR", head)]
    assert rates and all("ID+" in head or "OOD+" in head for head in rates)


def uneven(seeds: dict[str, tuple[int, ...]]) -> Validation:
    """One measurement for each tier and seed, with an interval; the probe's likewise."""
    row = validation().rows[0]
    return Validation(
        rows=tuple(
            replace(row, tier=tier, seed=seed, auroc=0.8 + 0.01 * seed, auroc_low=0.7, auroc_high=0.95)
            for tier, given in seeds.items()
            for seed in given
        ),
        probes=tuple(
            ProbeRow(seed=seed, probe="linear", metric="AUROC", value=0.8, tier=tier)
            for tier, given in seeds.items()
            for seed in given
        ),
    )


def test_a_tier_of_fewer_seeds_says_so_wherever_its_number_stands() -> None:
    shown = render_report(
        ReportData(title="t", validation=uneven({"near": (0, 1, 2), "mid": (2,), "far": (0, 1)}))
    )
    page = words(shown)
    assert "reaches an AUROC of 81.0 on near, 82.0 on mid (1 seed of 3), 80.5 on far (2 seeds of 3)." in page
    assert (
        "Large dot: mean of 3 seeds (mid: 1, far: 2); small dots: the seeds; bar: ± 1 standard deviation;"
        in page
    )
    assert "where there is one seed (mid), its 95 % bootstrap interval" in page
    assert re.search(r"Mid ?1 seed of 3 Method", page) and re.search(r"Far ?2 seeds of 3 Method", page)
    assert re.search(r"AUROC mid ?80\.0 ?1 seed of 3", page)
    dots = re.findall(r"CE, MSP, (\w+): (AUROC[^<]+)", shown)
    assert dict(dots) == {
        "near": "AUROC 81.0, 3 seeds (80.0–82.0: ± 1 standard deviation)",
        "mid": "AUROC 82.0, 1 seed (70.0–95.0: 95 % bootstrap interval)",
        "far": "AUROC 80.5, 2 seeds (79.8–81.2: ± 1 standard deviation)",
    }


def test_the_number_at_the_top_says_how_few_seeds_it_has() -> None:
    page = words(render_report(ReportData(title="t", validation=uneven({"near": (1,), "far": (0, 1)}))))
    assert "MSP on CE, 1 seed of 2" in page


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_tiers_of_equally_many_seeds_need_no_such_words(seeds: tuple[int, ...]) -> None:
    page = words(render_report(ReportData(title="t", validation=uneven({"near": seeds, "mid": seeds}))))
    assert not re.search(r"seeds? of \d|where there is one seed", page)
    assert ("mean of 3 seeds;" in page) == (len(seeds) == 3)
    assert ("One seed. Bar: its 95 % bootstrap interval" in page) == (len(seeds) == 1)


@pytest.mark.parametrize("broken", ["msp", "energy"])
def test_a_detector_without_a_finite_auroc_has_no_panel(broken: str) -> None:
    rows = [
        replace(row, auroc=float("nan"), auroc_low=None, auroc_high=None) if row.detector == broken else row
        for row in validation().rows
    ]
    page = render_report(ReportData(title="t", validation=Validation(rows=tuple(rows))))
    panels = re.findall(r'<figure class="dotplot.*?<bdi>(.*?)</bdi>', page, re.DOTALL)
    assert panels == ["Energy" if broken == "msp" else "MSP"]


def test_an_interval_is_named_once() -> None:
    page = words(render_report(report()))
    assert "In brackets: 95 % bootstrap interval of AUROC over images." in page
    assert "bootstrap 95 % bootstrap" not in page
