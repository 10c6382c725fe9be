"""Nested embeddings on scikit-learn's digits: prefixes that are embeddings, because they were trained to be."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.index.ranking import exact_neighbors, mean_ap_at_k
from datakit.models.projection import Projection
from datakit.rng import rng_for
from datakit.train.mrl import MrlOptions, nested_embeddings, nested_views

DIMS = (2, 4, 8, 16, 32, 64)
TRAIN = 1000  # of 1,797 digits
SEEDS = (0, 1, 2)
Floats = np.ndarray[Any, np.dtype[np.float32]]


def options(**changed: Any) -> MrlOptions:
    given: dict[str, Any] = {"dims": DIMS, "epochs": 12, "batch_size": 64, "lr": 3e-3, "device": "cpu"}
    return MrlOptions(**(given | changed))


@dataclass(frozen=True)
class Digits:
    """8 x 8 grey digits as 64 features, and their labels, in an order of our own."""

    x: Floats
    y: np.ndarray[Any, np.dtype[np.int64]]

    def learn(self, *, seed: int, labels: Any = None, **changed: Any) -> Projection:
        y = self.y[:TRAIN] if labels is None else labels
        return nested_embeddings(self.x[:TRAIN], y, seed=seed, options=options(**changed)).projection

    def retrieves(self, projection: Projection, dim: int) -> tuple[float, float]:
        """Top-1 and mAP@10 of finding training digits of the same label from a prefix of held-out ones."""
        base, queries = projection.transform(self.x[:TRAIN], dim), projection.transform(self.x[TRAIN:], dim)
        near = exact_neighbors(queries, base, 10)
        relevant = self.y[near] == self.y[TRAIN:, None]
        return float(relevant[:, 0].mean()), mean_ap_at_k(relevant)


@pytest.fixture(scope="module")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = rng_for(0, "digits").permutation(len(x))
    return Digits(x[order].astype(np.float32), y[order].astype(np.int64))


@pytest.fixture(scope="module")
def nested(digits: Digits) -> list[Projection]:
    return [digits.learn(seed=seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def whole_only(digits: Digits) -> list[Projection]:
    """The same training with the loss of the full size alone."""
    return [digits.learn(seed=seed, dims=DIMS[-1:]) for seed in SEEDS]


def mean_over_seeds(digits: Digits, projections: list[Projection], dim: int) -> tuple[float, float]:
    top1, ap = np.mean([digits.retrieves(projection, dim) for projection in projections], axis=0)
    return float(top1), float(ap)


@pytest.mark.parametrize(
    ("dim", "top1_margin", "ap_margin"), [(2, 0.03, 0.03), (4, 0.04, 0.06), (8, 0.0, 0.02)]
)
def test_prefixes_trained_as_embeddings_retrieve_better(
    digits: Digits,
    nested: list[Projection],
    whole_only: list[Projection],
    dim: int,
    top1_margin: float,
    ap_margin: float,
) -> None:
    ours, theirs = mean_over_seeds(digits, nested, dim), mean_over_seeds(digits, whole_only, dim)
    assert ours[0] > theirs[0] + top1_margin and ours[1] > theirs[1] + ap_margin, (ours, theirs)


def test_the_whole_loses_little_by_it(
    digits: Digits, nested: list[Projection], whole_only: list[Projection]
) -> None:
    assert mean_over_seeds(digits, nested, 64)[0] > mean_over_seeds(digits, whole_only, 64)[0] - 0.015


def test_shuffled_labels_leave_prefixes_that_know_nothing(digits: Digits, nested: list[Projection]) -> None:
    """The broken build: nothing of what the test above shows may come from the features or the loop alone."""
    shuffled = rng_for(0, "shuffled").permutation(digits.y[:TRAIN])
    broken = [digits.learn(seed=seed, labels=shuffled) for seed in SEEDS]
    for dim in (4, 8):
        (top1, ap), (broken_top1, broken_ap) = (
            mean_over_seeds(digits, projections, dim) for projections in (nested, broken)
        )
        assert broken_top1 < top1 - 0.25 and broken_ap < ap - 0.35


def test_one_matrix_for_all_sizes_nests_too(digits: Digits, whole_only: list[Projection]) -> None:
    efficient = [digits.learn(seed=seed, shared=True) for seed in SEEDS]
    assert mean_over_seeds(digits, efficient, 4)[1] > mean_over_seeds(digits, whole_only, 4)[1] + 0.06


def test_a_weight_of_zero_takes_a_size_out_of_the_loss(digits: Digits, nested: list[Projection]) -> None:
    last = digits.learn(seed=0, weights=(0, 0, 0, 0, 0, 1))
    assert digits.retrieves(last, 4)[1] < digits.retrieves(nested[0], 4)[1] - 0.05


def test_views_without_labels_nest(digits: Digits) -> None:
    """Two noisy views of each digit: prefixes find the other view; not where views were paired at random."""
    rng = rng_for(0, "views")
    left, right = (digits.x + rng.normal(0, 4, digits.x.shape).astype(np.float32) for _ in range(2))

    def first_found(trained_on: Floats, dims: tuple[int, ...], dim: int) -> float:
        chosen = options(dims=dims, epochs=10, hidden=64)
        learned = nested_views(left[:TRAIN], trained_on, seed=0, options=chosen).projection
        found = exact_neighbors(
            learned.transform(left[TRAIN:], dim), learned.transform(right[TRAIN:], dim), 1
        )
        return float((found[:, 0] == np.arange(len(left) - TRAIN)).mean())

    ours = first_found(right[:TRAIN], DIMS, 4)
    assert ours > 1.5 * first_found(right[:TRAIN], DIMS[-1:], 4)
    assert ours > 3 * first_found(right[:TRAIN][rng.permutation(TRAIN)], DIMS, 4)


def test_equal_arguments_give_equal_bits_and_another_seed_does_not(digits: Digits) -> None:
    quick = options(epochs=2, hidden=16, dropout=0.1)
    runs = [nested_embeddings(digits.x[:99], digits.y[:99], seed=seed, options=quick) for seed in (0, 0, 1)]
    tables = [run.projection.to_table() for run in runs]
    assert tables[0].equals(tables[1]) and not tables[0].equals(tables[2])
    assert runs[0].history == runs[1].history
    views = [nested_views(digits.x[:9], digits.x[9:18], seed=0, options=quick) for _ in range(2)]
    assert views[0].projection.to_table().equals(views[1].projection.to_table())


def test_the_history_has_the_loss_of_every_size(digits: Digits) -> None:
    run = nested_embeddings(digits.x[:200], digits.y[:200], seed=0, options=options(epochs=3))
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    first, last = run.history[0], run.history[-1]
    assert last["loss"] < first["loss"] and last["loss_2"] > last["loss_64"]
    assert last["loss"] == pytest.approx(sum(last[f"loss_{m}"] for m in DIMS), rel=1e-5)
    assert run.settings["classes"] == 10 and run.settings["device"] == "cpu"


def test_names_are_labels_too(digits: Digits) -> None:
    names = np.array([f"digit {label}" for label in digits.y[:99]])
    quick = options(epochs=1)
    by_name = nested_embeddings(digits.x[:99], names, seed=0, options=quick).projection
    by_number = nested_embeddings(digits.x[:99], digits.y[:99], seed=0, options=quick).projection
    assert by_name.to_table().equals(by_number.to_table())


def test_data_that_teach_nothing_are_refused(digits: Digits) -> None:
    x, y = digits.x[:20], digits.y[:20]
    quick = options(epochs=1)
    for features, labels, message in (
        (x, y[:19], "do not fit together"),
        (x, np.zeros(20), "of 1 class"),
        (np.where(np.arange(64) == 3, np.nan, x), y, "NaN"),
        (x[:1], y[:1], "too few"),
    ):
        with pytest.raises(ValueError, match=message):
            nested_embeddings(features, labels, seed=0, options=quick)
    with pytest.raises(ValueError, match="of one encoder"):
        nested_views(x, x[:, :9], seed=0, options=quick)
    with pytest.raises(ValueError, match="3 groups for 20 rows"):
        nested_views(x, x, seed=0, groups_N=np.arange(3), options=quick)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dims": (8, 4)}, "must ascend"),
        ({"dims": ()}, "must ascend"),
        ({"weights": (1.0,)}, "one for each of the 6"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"batch_size": 1}, "batch_size=1 must be at least 2"),
        ({"dropout": 1.0}, "dropout=1.0 must be 0 to 0.9"),
        ({"lr": float("nan")}, "lr=nan must be at least 0"),
    ],
)
def test_options_are_checked(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(**changed)


def test_importing_the_trainers_loads_no_torch() -> None:
    code = (
        "import datakit.train.mrl, datakit.train.dual_encoder, datakit.train.retrieval_stages, sys; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
