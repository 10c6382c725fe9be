"""OOD metrics against scikit-learn, pytorch-ood, hand-made scores, and each other."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score

from datakit.rng import rng_for
from datakit.train import metrics
from datakit.train.metrics import auroc, bootstrap_auroc, macro_auroc, ood_metrics, oscr

Floats = npt.NDArray[np.float64]


def score_sets() -> list[tuple[Floats, Floats]]:
    """Pairs of every sort: apart, overlapping, reversed, tied, single, infinite, saturated at 1."""
    rng = rng_for(0, "score sets")
    wide = [
        (rng.normal(gap, 1, n), rng.normal(0, 2, m))
        for gap, n, m in ((2, 40, 60), (0, 100, 20), (-1, 21, 19))
    ]
    tied = [
        (rng.integers(0, 4, n) / 2.0, rng.integers(0, 3, m) / 2.0) for n, m in ((20, 20), (57, 3), (5, 80))
    ]
    odd = [
        (np.array([1.0]), np.array([0.0])),
        (np.ones(7), np.ones(5)),
        (np.array([np.inf, 2.0, 1.0]), np.array([-np.inf, 2.0])),
        (np.concatenate([np.ones(50), rng.random(10)]), np.concatenate([np.ones(20), rng.random(40)])),
    ]
    return wide + tied + odd


FINITE = [pair for pair in score_sets() if all(np.isfinite(part).all() for part in pair)]


@pytest.mark.parametrize(("id_N", "ood_M"), FINITE)
def test_areas_are_scikit_learns(id_N: Floats, ood_M: Floats) -> None:
    found = ood_metrics(id_N, ood_M)
    scores, is_id = np.concatenate([id_N, ood_M]), np.repeat([1, 0], [len(id_N), len(ood_M)])
    assert found.auroc == pytest.approx(roc_auc_score(is_id, scores), abs=1e-12)
    precision, recall, _ = precision_recall_curve(is_id, scores)
    assert found.aupr_in == pytest.approx(auc(recall, precision), abs=1e-12)
    precision, recall, _ = precision_recall_curve(1 - is_id, -scores)
    assert found.aupr_out == pytest.approx(auc(recall, precision), abs=1e-12)


@pytest.mark.parametrize(("id_N", "ood_M"), score_sets())
def test_everything_is_pytorch_oods(id_N: Floats, ood_M: Floats) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("pytorch_ood.metrics.functional")
    outlier_scores = torch.from_numpy(-np.concatenate([id_N, ood_M]))  # theirs: higher = more OOD
    labels = torch.tensor([0] * len(id_N) + [-1] * len(ood_M))
    found = ood_metrics(id_N, ood_M)
    assert found.auroc == pytest.approx(float(functional.auroc(outlier_scores, labels)), abs=1e-12)
    assert found.aupr_in == pytest.approx(float(functional.aupr(outlier_scores, labels, "id")), abs=1e-12)
    assert found.aupr_out == pytest.approx(float(functional.aupr(outlier_scores, labels, "ood")), abs=1e-12)
    assert found.fpr_at_95tpr_ood == pytest.approx(float(functional.fpr_at_tpr(outlier_scores, labels)))
    swapped = torch.tensor([-1] * len(id_N) + [0] * len(ood_M))
    assert found.fpr_at_95tpr_id == pytest.approx(float(functional.fpr_at_tpr(-outlier_scores, swapped)))
    right = rng_for(1, "right").random(len(id_N)) < 0.7
    predictions = torch.from_numpy(
        np.concatenate([np.where(right, 0, 1), np.zeros(len(ood_M), dtype=np.int64)])
    )
    theirs = functional.oscr_score(outlier_scores, predictions, labels)
    assert oscr(id_N, right, ood_M) == pytest.approx(theirs, abs=1e-12)


def test_fields_by_hand() -> None:
    id_N = np.arange(20.0)  # 95 % of 20 is 19: the threshold is 1
    ood_M = np.array([-1.0, 0.0, 0.5, 1.0, 5.0])
    found = ood_metrics(id_N, ood_M)
    assert found.fpr_at_95tpr_id == pytest.approx(2 / 5)  # 1.0 ties with the threshold: accepted, against us
    assert found.tnr_at_95tpr_id == pytest.approx(3 / 5)
    assert found.fpr_at_95tpr_ood == pytest.approx(
        6 / 20
    )  # all five OOD are caught only at <= 5: 0..5 are flagged
    pairs = [(a > b) + 0.5 * (a == b) for a in id_N for b in ood_M]
    assert found.auroc == pytest.approx(np.mean(pairs))


def test_id_positive_and_ood_positive_rates_can_be_far_apart() -> None:
    # half of OOD far below ID, a few OOD above everything: MixOE's figure looks fair, OpenOOD's is the worst there is
    rng = rng_for(0, "orientation")
    id_N = rng.normal(0, 1, 1000)
    ood_M = np.concatenate([rng.normal(-4, 0.5, 540), rng.normal(0, 1, 360), rng.normal(6, 0.5, 100)])
    found = ood_metrics(id_N, ood_M)
    assert 0.5 < found.tnr_at_95tpr_id < 0.6
    assert found.fpr_at_95tpr_id == pytest.approx(1 - found.tnr_at_95tpr_id)
    assert found.fpr_at_95tpr_ood == 1.0


def test_swapping_roles_and_sign_swaps_the_fields() -> None:
    for id_N, ood_M in score_sets():
        one, other = ood_metrics(id_N, ood_M), ood_metrics(-ood_M, -id_N)
        assert one.auroc == pytest.approx(other.auroc, abs=1e-12)
        assert one.aupr_in == other.aupr_out
        assert one.fpr_at_95tpr_id == other.fpr_at_95tpr_ood


def test_constant_scores_are_chance_and_thresholds_reject_nothing() -> None:
    found = ood_metrics(np.zeros(30), np.zeros(10))
    assert (found.auroc, found.tnr_at_95tpr_id, found.fpr_at_95tpr_ood) == (0.5, 0.0, 1.0)


def test_a_rank_preserving_change_of_scores_changes_nothing() -> None:
    id_N, ood_M = score_sets()[0]
    assert ood_metrics(np.exp(id_N), np.exp(ood_M)) == ood_metrics(id_N, ood_M)


def test_no_field_is_an_unqualified_fpr() -> None:
    fields = ood_metrics(np.ones(1), np.zeros(1)).as_dict()
    assert not [
        name for name in fields if name.startswith(("fpr", "tnr")) and not name.endswith(("_id", "_ood"))
    ]
    assert not [name for name in vars(metrics) if "fpr" in name]


def test_oscr_is_at_most_the_accuracy_and_reaches_it() -> None:
    right = np.array([True, True, False, True])
    assert oscr(np.full(4, 2.0), right, np.zeros(3)) == pytest.approx(0.75)
    assert oscr(np.zeros(4), right, np.zeros(3)) == pytest.approx(0.375)
    assert oscr(np.ones(2), np.array([False, False]), np.zeros(2)) == 0


def test_the_macro_average_gives_every_class_one_vote() -> None:
    id_N = np.array([1.0, 2.0])
    ood_M = np.array([0.0] * 98 + [3.0, 1.5])
    classes = ["easy"] * 98 + ["hard", "middling"]
    assert macro_auroc(id_N, ood_M, classes) == pytest.approx((1 + 0 + 0.5) / 3)
    assert auroc(id_N, ood_M) == pytest.approx((98 + 0 + 0.5) / 100)


@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, np.nan]), np.ones((2, 2))])
def test_empty_nan_and_wrong_shapes_are_refused(bad: Floats) -> None:
    good = np.array([0.0, 1.0])
    for id_N, ood_M in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match="scores"):
            ood_metrics(id_N, ood_M)
        with pytest.raises(ValueError, match="scores"):
            bootstrap_auroc(id_N, ood_M, rng=rng_for(0))
        with pytest.raises(ValueError, match="scores"):
            macro_auroc(id_N, ood_M, ["a"] * len(ood_M))


def test_lengths_that_differ_are_refused() -> None:
    two = np.array([0.0, 1.0])
    with pytest.raises(ValueError, match="id_correct"):
        oscr(two, np.array([True]), two)
    with pytest.raises(ValueError, match="3 OOD classes for 2"):
        macro_auroc(two, two, ["a", "b", "c"])
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_auroc(two, two, rng=rng_for(0), resamples=0)


def test_the_bootstrap_is_that_of_resampled_scores() -> None:
    id_N, ood_M = score_sets()[3]  # with ties
    rng = rng_for(3)
    found = bootstrap_auroc(id_N, ood_M, rng=rng_for(3), resamples=40)
    rows_N, rows_M = (
        rng.integers(0, len(id_N), (40, len(id_N))),
        rng.integers(0, len(ood_M), (40, len(ood_M))),
    )
    # counts are laid over sorted ID scores, so resampled positions are positions in that order
    slow = [auroc(np.sort(id_N)[a], ood_M[b]) for a, b in zip(rows_N, rows_M, strict=True)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=1e-12)


def test_the_bootstrap_covers_the_normal_theory_width() -> None:
    rng = rng_for(0, "coverage")
    id_N, ood_M = rng.normal(1, 1, 400), rng.normal(0, 1, 400)
    found = bootstrap_auroc(id_N, ood_M, rng=rng_for(1), resamples=2000)
    value = auroc(id_N, ood_M)
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)  # Hanley & McNeil 1982
    error = math.sqrt((value * (1 - value) + 399 * (q1 - value**2) + 399 * (q2 - value**2)) / 400**2)
    assert found.low < value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_the_bootstrap_repeats_with_its_generator_and_batches_change_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    id_N, ood_M = score_sets()[0]
    one = bootstrap_auroc(id_N, ood_M, rng=rng_for(7), resamples=300)
    assert one == bootstrap_auroc(id_N, ood_M, rng=rng_for(7), resamples=300)
    monkeypatch.setattr("datakit.train.metrics.CELLS", 1000)
    small = bootstrap_auroc(id_N, ood_M, rng=rng_for(7), resamples=300)
    assert small.low == pytest.approx(one.low, abs=0.03)


def test_drawing_whole_classes_widens_the_interval_where_classes_hang_together() -> None:
    rng = rng_for(0, "clustered")
    classes = [f"class {n}" for n in range(12) for _ in range(40)]
    ood_M = np.repeat(rng.normal(0, 1.5, 12), 40) + rng.normal(0, 0.2, 480)
    id_N = rng.normal(1.5, 1, 400)
    images = bootstrap_auroc(id_N, ood_M, rng=rng_for(1), resamples=500)
    drawn = bootstrap_auroc(id_N, ood_M, rng=rng_for(1), resamples=500, ood_classes=classes)
    assert drawn.high - drawn.low > 2 * (images.high - images.low)
