"""k-means over all rows: sums that no order and no cut can change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.index import lloyd
from datakit.index.arrays import unit
from datakit.index.build import Trained, train
from datakit.index.coarse import list_of
from datakit.index.lloyd import BITS, InMemory, Sums, step_of, summed
from datakit.index.spec import Basis, Coarse, Codes, Space, Spec, settled
from tests.index.conftest import Cloud


def of(
    vectors: Any, *, trainer: Any = "distributed", metric: Any = "cosine", kept: Any = None, **how: Any
) -> Trained:
    coarse = Coarse(trainer=trainer, **how)
    spec = Spec(space=Space(metric=metric), basis=Basis(kind="raw"), coarse=coarse, codes=Codes(kind="sq8"))
    kept = np.ones(len(vectors), np.bool_) if kept is None else kept
    return train(vectors[kept], spec, rows=len(vectors), everything=InMemory(vectors, kept, metric))


def test_sums_are_those_of_any_order_and_any_cut() -> None:
    rng = np.random.default_rng(0)
    # Numbers of all sizes: float sums of these differ from order to order.
    rows = (rng.standard_normal((5000, 6)) * 10.0 ** rng.integers(-12, 6, (5000, 6))).astype(np.float32)
    lists = rng.integers(0, 40, 5000)
    step = step_of(float(np.abs(rows).max()), 6, 5000)
    whole = summed(rows, lists, 50, step)
    for cut in (1, 777, 4999):
        order = rng.permutation(5000)
        parts = [summed(rows[at], lists[at], 50, step) for at in (order[:cut], order[cut:])]
        both = parts[0] + parts[1]
        assert (both.total == whole.total).all() and (both.counts == whole.counts).all()
    exact = np.zeros((50, 6))
    np.add.at(exact, lists, rows.astype(np.float64))
    assert np.allclose(whole.total * step, exact, rtol=0, atol=1e-9 * np.abs(rows).max())


@pytest.mark.parametrize("largest", [1e-30, 0.1, 1.0, 3e38])
def test_no_sum_overflows(largest: float) -> None:
    """As many rows as may come, all of the largest number: in Python's whole numbers."""
    rows, dim = 10**9, 1024
    steps = int(largest * dim**0.5 / step_of(largest, dim, rows)) * rows
    assert 2 ** (BITS - 3) < steps < 2**62
    assert step_of(0.0, dim, 1) > 0


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_lists_are_as_good_as_those_of_faiss(metric: Any, cloud: Cloud) -> None:
    def error(trained: Trained) -> float:
        points = unit(cloud.vectors) if metric == "cosine" else cloud.vectors
        near = trained.centroids[list_of(points, trained.centroids, metric)]
        return float(((points - near) ** 2).sum()) if metric == "l2" else -float((points * near).sum())

    ours, faiss = of(cloud.vectors, metric=metric), of(cloud.vectors, trainer="faiss", metric=metric)
    assert len(ours.centroids) == len(faiss.centroids)
    assert error(ours) - error(faiss) < 0.03 * abs(error(faiss))


def test_an_empty_list_takes_half_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the rows lie at one place, and so half of the lists begin there: all but one have no row of their own."""
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((1000, 8)).astype(np.float32)
    vectors = rng.permutation(np.concatenate([np.repeat(spread[:1], 1000, axis=0), spread]))

    def filled() -> int:
        found = of(vectors, metric="l2", nlist=40)
        assert np.isfinite(found.centroids).all() and np.isfinite(found.means).all()
        return len(set(list_of(vectors, found.centroids, "l2").tolist()))

    assert filled() > 35
    monkeypatch.setattr(lloyd, "EPSILON", 0.0)  # the halves stay together
    assert filled() < 30


def test_nothing_is_learned_of_rows_held_out(cloud: Cloud) -> None:
    kept = np.arange(len(cloud.vectors)) % 20 > 0
    other = cloud.vectors.copy()
    other[~kept] = other[~kept][::-1]
    found, again = of(cloud.vectors, kept=kept), of(other, kept=kept)
    assert (found.centroids == again.centroids).all() and (found.means == again.means).all()
    other[kept] = other[kept][::-1] * [-1] * 48
    assert (of(other, kept=kept).centroids != found.centroids).any()


def test_passes_begin_at_random_rows_and_nowhere_else() -> None:
    with pytest.raises(ConfigError, match=r"coarse\.init=kmeans\+\+"):
        settled(Spec(coarse=Coarse(trainer="distributed", init="kmeans++")), rows=1000, dim=32)


def test_one_list_lies_at_the_mean(cloud: Cloud) -> None:
    found = of(cloud.vectors, metric="l2", nlist=1)
    assert np.allclose(found.centroids[0], cloud.vectors.mean(axis=0), atol=1e-6)
    assert np.allclose(found.means[0], cloud.vectors.mean(axis=0), atol=1e-6)


def test_sums_add_up() -> None:
    one = Sums(np.ones((2, 3), np.int64), np.ones(2, np.int64))
    assert ((one + one).total == 2).all() and ((one + one).counts == 2).all()
