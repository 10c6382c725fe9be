"""An index that finds what exact search finds passes; one that lost rows, mixed them up or found too little fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datakit.check.index_recall import index_recall, index_rows, without_own
from datakit.index.ranking import exact_neighbors
from datakit.rng import rng_for

N, K = 400, 10
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def vectors() -> Array:
    return rng_for(0, "index recall").standard_normal((N, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def queries() -> Array:
    return rng_for(0, "index recall", "queries").standard_normal((60, 16)).astype(np.float32)


def recall(found: Array, vectors: Array, queries: Array, **more: Any) -> dict[str, Any]:
    (finding,) = index_recall(found, queries_QD=queries, vectors_ND=vectors, target=0.95, **more)
    assert finding["id"] == "index_recall" and finding["severity"] == "fail"
    return finding


def test_an_exact_index_passes(vectors: Array, queries: Array) -> None:
    found = recall(exact_neighbors(queries, vectors, K), vectors, queries)
    assert found["passed"] and found["value"] == 1 and found["count"] == 0


def test_an_index_that_lost_half_of_its_rows_fails(vectors: Array, queries: Array) -> None:
    kept = np.flatnonzero(np.arange(N) % 2)
    found = recall(kept[exact_neighbors(queries, vectors[kept], K)], vectors, queries)
    assert not found["passed"] and 0.35 < found["value"] < 0.65


def test_an_index_whose_rows_are_mixed_up_fails(vectors: Array, queries: Array) -> None:
    mixed = rng_for(0, "mixed").permutation(N)
    found = recall(mixed[exact_neighbors(queries, vectors, K)], vectors, queries)
    assert not found["passed"] and found["value"] < 0.1 and found["detail"]["none_found"] > 30


def test_an_index_that_gives_nothing_or_one_row_many_times_fails(vectors: Array, queries: Array) -> None:
    nothing = np.full((len(queries), K), -1)
    first = np.repeat(exact_neighbors(queries, vectors, 1), K, axis=1)
    assert recall(nothing, vectors, queries)["value"] == 0
    assert recall(first, vectors, queries)["value"] == pytest.approx(1 / K)


def test_a_recall_a_little_below_its_target_is_noise_and_a_good_deal_below_is_not(
    vectors: Array, queries: Array
) -> None:
    truth = exact_neighbors(queries, vectors, K)
    for lost, passes in ((0.054, True), (0.12, False)):
        found = np.where(rng_for(0, "lost").random(truth.shape) < lost, -1, truth)
        finding = recall(found, vectors, queries)
        assert finding["passed"] == passes, finding["summary"]
        assert finding["limit"] == pytest.approx(0.95 - 2 * finding["detail"]["standard_error"])


def test_rows_that_ask_are_no_answers_to_themselves(vectors: Array) -> None:
    """With themselves counted, queries of the store would be worth one hit in k + 1 that no index can miss."""
    asking = np.arange(0, N, 8)
    wide = exact_neighbors(vectors[asking], vectors, K + 1)
    assert recall(wide, vectors, vectors[asking], own_Q=asking)["value"] == 1
    themselves = np.full_like(wide, -1)
    themselves[:, 0] = asking
    assert recall(themselves, vectors, vectors[asking], own_Q=asking)["value"] == 0


def test_without_own_leaves_one_answer_fewer() -> None:
    rows = np.array([[7, 1, 2], [3, 8, 4], [5, 6, 1], [9, 9, 2]])
    assert without_own(rows, np.array([7, 8, 0, 9])).tolist() == [[1, 2], [3, 4], [5, 6], [-1, 2]]


def test_every_sample_is_in_the_index_once(vectors: Array) -> None:
    keys = [f"k{i}" for i in range(9)]
    assert index_rows(keys[::-1], keys)[0]["passed"]
    for broken, count in ((keys[:5], 4), ([*keys, "other"], 1), ([*keys, "k3"], 1), (["x", *keys[1:]], 2)):
        (finding,) = index_rows(broken, keys)
        assert not finding["passed"] and finding["count"] == count, finding["summary"]
    assert index_rows(["x", *keys[1:]], keys)[0]["keys"] == ["k0", "x"]
