"""Recall against exact truth, and average precision: against brute force, by hand, and with ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datakit.index.ranking import (
    average_precision,
    exact_neighbors,
    mean_ap_at_k,
    recall_at_k,
    repeated,
)
from datakit.rng import rng_for

METRICS: tuple[Any, ...] = ("cosine", "ip", "l2")


def vectors(name: str, n: int, dim: int = 12) -> np.ndarray[Any, np.dtype[np.float32]]:
    return rng_for(0, "ranking", name).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
def test_exact_neighbors_are_those_of_one_pair_at_a_time(metric: Any) -> None:
    base, queries = vectors("base", 60), vectors("queries", 7)
    found = exact_neighbors(queries, base, 5, metric=metric)
    for query, row in zip(queries.astype(float), found, strict=True):
        score = {
            "ip": base @ query,
            "cosine": base @ query / np.linalg.norm(base, axis=1),
            "l2": -((base - query) ** 2).sum(axis=1),
        }[metric]
        assert row.tolist() == np.argsort(-score)[:5].tolist()
    assert exact_neighbors(queries, base, 100, metric=metric).shape == (7, 60)


@pytest.mark.parametrize("metric", METRICS)
def test_recall_is_one_for_the_truth_and_falls_with_every_row_lost(metric: Any) -> None:
    base, queries = vectors("base", 200), vectors("queries", 30)
    truth = exact_neighbors(queries, base, 10, metric=metric)
    far = exact_neighbors(queries, base, 200, metric=metric)[:, -1:]
    for lost in (0, 3, 10):
        found = np.concatenate([truth[:, lost:], np.repeat(far, lost, axis=1)], axis=1)
        recall = recall_at_k(found, truth, queries_QD=queries, vectors_ND=base, metric=metric)
        assert np.allclose(recall, 1 - lost / 10)


@pytest.mark.parametrize("metric", METRICS)
def test_any_of_equally_near_rows_is_right(metric: Any) -> None:
    base = np.repeat(vectors("base", 50), 4, axis=0)  # every vector four times
    queries = vectors("queries", 20)
    truth = exact_neighbors(queries, base, 6, metric=metric)
    twins = truth // 4 * 4 + (truth + 1) % 4  # the next of the four: another row, the same vector
    assert not np.array_equal(np.sort(twins), np.sort(truth))
    assert recall_at_k(twins, truth, queries_QD=queries, vectors_ND=base, metric=metric).min() == 1


def test_a_tie_wins_no_more_than_there_is_room_for() -> None:
    base = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    recall = recall_at_k(
        np.array([[0, 1, 2, 3]]), np.array([[2, 1]]), queries_QD=np.array([[1.0, 0]]), vectors_ND=base
    )
    assert recall.tolist() == [1]


def test_a_row_given_twice_counts_once_and_no_row_counts_nothing() -> None:
    base, queries = vectors("base", 100), vectors("queries", 5)
    truth = exact_neighbors(queries, base, 4)
    doubled = np.repeat(truth[:, :2], 2, axis=1)
    short = np.concatenate([truth[:, :1], np.full((5, 3), -1)], axis=1)
    assert np.allclose(recall_at_k(doubled, truth, queries_QD=queries, vectors_ND=base), 0.5)
    assert np.allclose(recall_at_k(short, truth, queries_QD=queries, vectors_ND=base), 0.25)
    assert repeated(np.array([[3, 1, 3, -1, -1, 1]])).tolist() == [[False, False, True, False, False, True]]


def test_where_fewer_rows_match_than_were_asked_for_recall_is_of_those() -> None:
    base, queries = vectors("base", 100), vectors("queries", 2)
    truth = np.array([[4, 9, -1], [-1, -1, -1]])
    truth[0, :2] = exact_neighbors(queries, base, 2)[0]
    found = np.array([[truth[0, 1], -1, -1], [-1, -1, -1]])
    assert recall_at_k(found, truth, queries_QD=queries, vectors_ND=base).tolist() == [0.5, 1]


def test_more_found_than_true_columns_is_k_recall_at_n() -> None:
    base, queries = vectors("base", 300), vectors("queries", 10)
    wide = exact_neighbors(queries, base, 50)
    recall = recall_at_k(wide[:, ::-1], wide[:, :5], queries_QD=queries, vectors_ND=base)
    assert recall.min() == 1


def test_a_tiny_scale_does_not_make_all_rows_ties() -> None:
    base, queries = vectors("base", 100) * 1e-4, vectors("queries", 10) * 1e-4
    truth = exact_neighbors(queries, base, 10, metric="l2")
    far = exact_neighbors(queries, base, 100, metric="l2")[:, -10:]
    assert recall_at_k(far, truth, queries_QD=queries, vectors_ND=base, metric="l2").max() == 0


def test_an_index_of_other_vectors_is_refused() -> None:
    base, queries = vectors("base", 10), vectors("queries", 2)
    truth = exact_neighbors(queries, base, 2)
    with pytest.raises(ValueError, match="found rows must be -1 to 9"):
        recall_at_k(truth + 9, truth, queries_QD=queries, vectors_ND=base)
    with pytest.raises(ValueError, match="differ in number"):
        recall_at_k(truth[:1], truth, queries_QD=queries, vectors_ND=base)
    with pytest.raises(ValueError, match="k=0"):
        exact_neighbors(queries, base, 0)


def test_average_precision_by_hand() -> None:
    relevant = np.array([[True, False, True, False], [False, True, False, False]])
    first, second = (1 / 1 + 2 / 3), 1 / 2
    assert mean_ap_at_k(relevant) == pytest.approx((first / 4 + second / 4) / 2), "AdANNS divides by k"
    found = average_precision(relevant, np.array([2, 9]))
    assert found == pytest.approx([first / 2, second / 4]), "the usual one by what could be found"
    assert np.isnan(average_precision(np.zeros((1, 4), dtype=bool), np.array([0]))[0])


def test_average_precision_equals_sklearns_on_whole_rankings() -> None:
    from sklearn.metrics import average_precision_score

    rng = rng_for(0, "ap")
    score, relevant = rng.standard_normal((20, 40)), rng.random((20, 40)) < 0.3
    order = np.argsort(-score, axis=1)
    ours = average_precision(np.take_along_axis(relevant, order, axis=1), relevant.sum(axis=1))
    theirs = [average_precision_score(r, s) for r, s in zip(relevant, score, strict=True)]
    assert ours == pytest.approx(theirs)


def test_relevance_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="more relevant rows were found"):
        average_precision(np.ones((1, 3), dtype=bool), np.array([2]))
    for wrong in (np.zeros((0, 3), dtype=bool), np.zeros((3, 0), dtype=bool), np.zeros((2, 2))):
        with pytest.raises(ValueError, match="relevance must be bool"):
            mean_ap_at_k(wrong)
