"""Ranks of the right answer: by hand, with ties against us, and as chance has it."""

from __future__ import annotations

import numpy as np
import pytest

from datakit.rng import rng_for
from datakit.train.pair_metrics import (
    chance_recall,
    cross_ranks,
    first_ranks,
    once_a_group,
    rank_row,
    recall_of_ranks,
)


def test_the_rank_is_of_the_best_right_answer() -> None:
    score = np.array([[0.9, 0.5, 0.4], [0.1, 0.2, 0.3], [0.5, 0.4, 0.3]])
    relevant = np.array([[False, True, True], [False, False, True], [False, False, False]])
    assert first_ranks(score, relevant).tolist() == [2, 1, 4]


def test_ties_count_against_us_but_right_answers_never_stand_before_one_another() -> None:
    same = np.zeros((1, 4))
    assert first_ranks(same, np.array([[True, False, False, False]])).tolist() == [4]
    assert first_ranks(same, np.array([[True, True, True, False]])).tolist() == [2]


def test_nan_does_not_rank_first() -> None:
    with pytest.raises(ValueError, match="NaN"):
        first_ranks(np.array([[np.nan, 1.0]]), np.array([[True, False]]))
    with pytest.raises(ValueError, match="differ in shape"):
        first_ranks(np.zeros((1, 2)), np.zeros((2, 1), dtype=bool))


def test_vectors_that_are_all_alike_find_nothing() -> None:
    ranks = cross_ranks(np.ones((5, 3)), np.ones((5, 3)), np.arange(5), np.arange(5))
    assert ranks.tolist() == [5] * 5


def test_ranks_do_not_depend_on_the_length_of_vectors() -> None:
    rng = rng_for(0, "cross")
    queries, candidates = rng.standard_normal((8, 6)), rng.standard_normal((30, 6))
    groups = rng.integers(0, 8, 30)
    longer = candidates * rng.uniform(0.1, 10, (30, 1))
    once = cross_ranks(queries, candidates, np.arange(8), groups)
    assert np.array_equal(once, cross_ranks(queries * 7, longer, np.arange(8), groups))


def test_recall_and_the_median_follow_from_the_ranks() -> None:
    ranks = np.array([1, 2, 5, 6, 11])
    assert [recall_of_ranks(ranks, k) for k in (1, 5, 10)] == [0.2, 0.6, 0.8]
    assert rank_row(ranks, "x") == {"x_r1": 0.2, "x_r5": 0.6, "x_r10": 0.8, "x_median_rank": 5.0}


def test_chance_is_what_random_scores_get() -> None:
    rng = rng_for(0, "chance")
    relevant = np.zeros((4000, 30), dtype=bool)
    counts = np.repeat([1, 3], 2000)
    for row, count in zip(relevant, counts, strict=True):
        row[:count] = True
    ranks = first_ranks(rng.standard_normal(relevant.shape), relevant)
    for k in (1, 5, 10):
        assert recall_of_ranks(ranks, k) == pytest.approx(chance_recall(counts, 30, k), abs=0.02)
    assert chance_recall(np.array([1]), 5, 10) == 1 and chance_recall(np.array([0]), 5, 3) == 0


def test_a_caption_that_a_group_has_twice_counts_once() -> None:
    vectors = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]], dtype=np.float32)
    assert once_a_group(vectors, np.array([0, 0, 1, 0])).tolist() == [0, 2, 3]
