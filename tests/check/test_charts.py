"""The page's charts: bins count right, curves agree with scikit-learn, text cannot break out."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from datakit.check import charts, report_plots


def test_histogram_counts_every_value_once_and_the_last_edge_too() -> None:
    edges = charts.shared_edges([[0.0, 0.5, 1.0]])
    counted = charts.counts([0.0, 0.25, 1.0, 1.0], edges)
    assert len(counted) == charts.MAX_BINS
    assert counted.sum() == 4
    assert (counted[0], counted[8], counted[-1]) == (1, 1, 2)


def test_whole_numbers_get_a_bin_each() -> None:
    edges = charts.shared_edges([[1, 1, 2], [4]])
    assert edges.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert charts.counts([1, 1, 2, 4], edges).tolist() == [2, 1, 0, 1]
    assert charts.shared_edges([[1, 1]]).tolist() == [0.5, 1.5, 2.5, 3.5]


@pytest.mark.parametrize("values", [[3.0], [0.25, 0.25], [-1e-9, 1e9], [5, 5.5, math.nan, math.inf]])
def test_all_finite_values_fall_into_the_bins(values: list[float]) -> None:
    edges = charts.shared_edges([values])
    assert charts.counts(values, edges).sum() == np.isfinite(values).sum()


def test_edges_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no finite value"):
        charts.shared_edges([[], [math.nan]])


def test_a_histograms_outline_is_as_high_as_its_counts() -> None:
    assert charts.steps([0.0, 1.0, 0.25], width=30, height=8) == "M0 8V8H10V0H20V6H30V8Z"


def test_text_and_attributes_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    drawn = charts.dot_row(
        [charts.Dot(role="near", label=evil, mean=0.8, low=0.7, high=0.9)], [0.5], (0.5, 1.0), evil
    )
    assert "<script" not in drawn
    assert drawn.count("&lt;script&gt;") == 2


def test_dots_stand_where_the_axis_says() -> None:
    dot = charts.Dot(role="near", label="x", mean=0.75, low=0.6, high=2.0, seeds=(0.7, 0.8))
    drawn = charts.dot_row([dot], [0.5, 1.0], (0.5, 1.0), "row")
    assert re.findall(r'cx="([^"]+)"', drawn) == ["40%", "60%", "50%"]
    assert '<line x1="20%" x2="100%"' in drawn  # an interval beyond the axis ends at its end


def test_labels_are_pushed_apart_and_stay_in_order_and_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        before = sorted(rng.random(rng.integers(1, 9)).tolist())
        after = charts.spread(before, gap=0.1, low=0.04, high=0.96)
        assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(after))
        assert after[-1] <= 0.96 + 1e-9 and after[0] >= 0.04 - 1e-9
    assert charts.spread([0.2, 0.5, 0.9], gap=0.1, low=0, high=1) == [0.2, 0.5, 0.9]


def test_ticks_are_round_few_and_inside() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        low, span = float(rng.normal(0, 100)), float(10 ** rng.uniform(-4, 5))
        ticks = charts.nice_ticks(low, low + span)
        assert 1 <= len(ticks) <= 6
        assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    assert charts.nice_ticks(0.5, 1.0) == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert charts.nice_ticks(2.0, 2.0) == [2.0]


def test_parts_of_a_stack_fill_it() -> None:
    drawn = charts.stack([("id", "a", 3.0), ("near", "b", 1.0), ("far", "c", 0.0)], "parts")
    assert re.findall(r'width="([\d.]+)%"', drawn) == ["100", "75", "25", "0"]  # the whole first
    assert "NaN" not in charts.stack([("id", "none", 0.0)], "empty")


def test_shades_run_from_0_to_9() -> None:
    assert [charts.heat_step(v, 0.5, 1.0) for v in (0.5, 0.75, 1.0, 2.0)] == [0, 5, 9, 9]
    assert charts.heat_step(0.7, 0.7, 0.7) == 5


def test_auroc_agrees_with_scikit_learn_on_ties() -> None:
    rng = np.random.default_rng(2)
    for digits in (0, 1, 6):
        ours, others = rng.normal(1, 1, 300).round(digits), rng.normal(0, 1, 200).round(digits)
        truth = np.r_[np.ones(300), np.zeros(200)]
        assert report_plots.auroc(ours, others) == pytest.approx(roc_auc_score(truth, np.r_[ours, others]))
    assert math.isnan(report_plots.auroc([], [1.0]))


def test_roc_points_lie_on_scikit_learns_curve() -> None:
    rng = np.random.default_rng(3)
    ours, others = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 30).round(1)
    fpr, tpr, _ = roc_curve(np.r_[np.ones(40), np.zeros(30)], np.r_[ours, others], drop_intermediate=False)
    np.testing.assert_allclose(report_plots.roc_points(ours, others), np.c_[fpr, tpr], atol=1e-12)


def test_a_long_roc_curve_is_thinned_but_keeps_its_ends() -> None:
    rng = np.random.default_rng(4)
    points = report_plots.roc_points(rng.normal(1, 1, 9000), rng.normal(0, 1, 9000))
    assert len(points) == report_plots.MAX_POINTS
    assert points[0] == (0.0, 0.0) and points[-1] == (1.0, 1.0)
    assert points == sorted(points)


@pytest.mark.parametrize("count", [1, 7, 20, 1000])
def test_the_threshold_keeps_95_per_cent_of_id(count: int) -> None:
    ours = np.random.default_rng(count).normal(0, 1, count)
    cut, passed = report_plots.threshold(ours, [-9.0, 9.0, 9.0, 9.0])
    assert np.mean(ours >= cut) >= 0.95
    assert passed == 0.75


def test_scores_that_pile_up_are_drawn_by_rank() -> None:
    rng = np.random.default_rng(5)
    softmax = 1.0 - np.exp(-rng.exponential(9, 2000))
    edges, ranked = report_plots.score_edges([softmax, rng.random(300)])
    assert ranked and len(edges) == report_plots.RANK_BINS + 1
    everything = charts.counts(softmax, edges).sum()
    assert everything == 2000
    assert not report_plots.score_edges([rng.normal(0, 1, 500), rng.normal(2, 1, 500)])[1]
    assert not report_plots.score_edges([[1.0] * 50, [0.0] * 50])[1]  # two values have no ranks to speak of


def test_a_training_curve_has_a_gap_where_it_is_not_a_number() -> None:
    drawn = report_plots.lines([("seed 0", [1.0, math.nan, 0.5, 0.25])], "loss")
    path = re.findall(r' d="([^"]+)"', drawn)[0]
    assert path.count("M") == 2 and path.count("L") == 1
    assert "nan" not in drawn
