"""Vectors that know their class pass; permuted, collapsed or broken ones fail, and so does a gap in what is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.check.retrieval import check_retrieval, retrieval
from datakit.rng import rng_for
from datakit.stages.columns import TableRows

CLASSES, EACH, DIM = 30, 8, 24
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def labels() -> Array:
    return np.repeat(np.arange(CLASSES), EACH).astype(np.int64)


@pytest.fixture(scope="module")
def vectors(labels: Array) -> Array:
    """Classes are directions, and rows of one lie about it; all are far from the origin, as features are."""
    rng = rng_for(0, "retrieval")
    mean = rng.standard_normal((CLASSES, DIM))
    return (mean[labels] + rng.normal(0, 1.0, (len(labels), DIM)) + 5).astype(np.float32)


def first(vectors: Array, labels: Array, **more: Any) -> dict[str, Any]:
    (finding,) = retrieval(vectors, labels, **more)
    return finding


def test_vectors_that_know_their_class_pass(vectors: Array, labels: Array) -> None:
    found = first(vectors, labels)
    assert found["passed"] and found["id"] == "class_retrieval" and found["severity"] == "fail"
    assert found["value"] > 0.3 > 2 * found["limit"]
    detail = found["detail"]
    assert detail["queries"] == len(labels) and detail["r1"] > 0.5 > detail["shuffled"]["r1"]
    assert detail["shuffled"]["r1"] == pytest.approx((EACH - 1) / (len(labels) - 1), abs=0.02)


def test_permuted_vectors_fail(vectors: Array, labels: Array) -> None:
    for seed in range(5):
        found = first(vectors[rng_for(seed, "permuted").permutation(len(vectors))], labels, seed=seed)
        assert not found["passed"], found["summary"]


def test_an_encoder_that_says_the_same_of_all_fails_in_whatever_order_rows_lie(labels: Array) -> None:
    same = np.ones((len(labels), DIM), np.float32)
    for centered in (True, False):
        found = first(same, labels, centered=centered)
        assert not found["passed"] and found["value"] < 0.1


def test_vectors_that_are_not_numbers_fail(vectors: Array, labels: Array) -> None:
    broken = vectors.copy()
    broken[3, 0] = np.nan
    found = first(broken, labels)
    assert not found["passed"] and found["value"] is None and "1 vectors hold NaN" in found["summary"]


def test_a_figure_that_is_asked_for_must_be_reached(vectors: Array, labels: Array) -> None:
    value = first(vectors, labels)["value"]
    assert first(vectors, labels, at_least=value - 0.01)["passed"]
    assert not first(vectors, labels, at_least=value + 0.01)["passed"]


def test_a_row_never_finds_itself() -> None:
    """Every row is alone with its direction: that it is nearest to itself is worth nothing."""
    vectors, labels = np.eye(40, dtype=np.float32), np.repeat(np.arange(20), 2).astype(np.int64)
    found = first(vectors, labels)
    assert not found["passed"] and found["detail"]["r1"] < 0.2


def test_mean_average_precision_is_sklearns(vectors: Array, labels: Array) -> None:
    from sklearn.metrics import average_precision_score

    x = vectors - vectors.mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    others = ~np.eye(len(x), dtype=bool)
    theirs = [
        average_precision_score((labels == labels[i])[others[i]], (x @ x[i])[others[i]])
        for i in range(len(x))
    ]
    assert first(vectors, labels)["value"] == pytest.approx(np.mean(theirs), abs=1e-5)


def test_a_view_is_searched_by_the_others(vectors: Array) -> None:
    """Two drawings of 60 things: in its own style a drawing has no right answer, and many that look like it."""
    rng = rng_for(0, "views")
    thing = rng.standard_normal((60, DIM))
    style = np.array([np.zeros(DIM), np.full(DIM, 4.0)])
    vectors = np.concatenate([thing + rng.normal(0, 0.5, thing.shape) + style[i] for i in (0, 1)])
    labels, view = np.tile(np.arange(60), 2), np.repeat([0, 1], 60)
    rows = TableRows(
        pa.table({
            "features": pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).reshape(-1)), DIM),
            "emoji": [f"e{label}" for label in labels],
            "style": [("open", "twitter")[i] for i in view],
        })
    )  # fmt: skip
    within = check_retrieval(label="emoji", level="instance", centered=False)(rows)[0]
    (across,) = check_retrieval(label="emoji", level="instance", view="style")(rows)
    assert across["passed"] and across["id"] == "instance_retrieval"
    assert across["detail"]["r1"] > within["detail"]["r1"] + 0.2
    assert list(across["detail"]["by_view"]) == ["open", "twitter"]
    mean = np.mean([row["r1"] for row in across["detail"]["by_view"].values()])
    assert mean == pytest.approx(across["detail"]["r1"])


def test_rows_without_a_label_ask_nothing(vectors: Array, labels: Array) -> None:
    some = np.where(labels < 10, labels, -1)
    assert first(vectors, some)["detail"]["queries"] == 10 * EACH
    for nobody in (np.full_like(labels, -1), np.arange(len(labels))):
        found = first(vectors, nobody)
        assert not found["passed"] and "no two rows share a class" in found["summary"]


def test_the_same_twice(vectors: Array, labels: Array) -> None:
    assert first(vectors, labels, seed=3) == first(vectors, labels, seed=3)
