"""An order is a permutation, told by arithmetic; equal seeds give equal orders, whatever the machine."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.errors import ConfigError
from datakit.store.order import Order, permuted

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12)


def everything(order: Order) -> list[int]:
    return order.at(np.arange(len(order))).tolist()


@given(SIZES, st.sampled_from(["none", "window", "full"]), st.integers(0, 9), st.integers(1, 5))
def test_every_sample_stands_at_one_position(sizes: list[int], shuffle: str, epoch: int, window: int) -> None:
    order = Order(sizes, shuffle, epoch=epoch, window=window)  # type: ignore[arg-type]
    assert sorted(everything(order)) == list(range(sum(sizes)))


@given(SIZES, st.sampled_from(["window", "full"]), st.data())
def test_a_position_is_found_alone_as_among_all(sizes: list[int], shuffle: str, data: st.DataObject) -> None:
    order = Order(sizes, shuffle, window=2)  # type: ignore[arg-type]
    if not len(order):
        return
    whole = everything(order)
    positions = data.draw(st.lists(st.integers(0, len(order) - 1), min_size=1, max_size=20))
    assert order.at(np.array(positions)).tolist() == [whole[position] for position in positions]


def test_a_window_holds_whole_shards_mixed() -> None:
    sizes = [100, 50, 70, 100, 30]
    shard_of = np.repeat(np.arange(5), sizes)
    order = shard_of[everything(Order(sizes, "window", window=2, seed=3))]
    first = set(order[: sum(sizes[shard] for shard in set(order[:20].tolist()))].tolist())
    assert len(first) == 2
    start = sum(sizes[shard] for shard in first)
    assert set(order[:start].tolist()) == first and not first & set(order[start:].tolist())
    changes = int((np.diff(order[:start]) != 0).sum())
    assert changes > start / 4  # they take turns, they do not follow one another


@pytest.mark.parametrize("shuffle", ["window", "full"])
def test_epochs_and_seeds_differ_and_repeat(shuffle: str) -> None:
    orders = {
        (seed, epoch): everything(Order([100] * 10, shuffle, seed=seed, epoch=epoch))  # type: ignore[arg-type]
        for seed in range(3)
        for epoch in range(3)
    }
    assert len({tuple(order) for order in orders.values()}) == 9
    again = everything(Order([100] * 10, shuffle, seed=1, epoch=2))  # type: ignore[arg-type]
    assert again == orders[1, 2]


def test_a_shuffle_mixes_as_chance_does() -> None:
    """Over many epochs each of 64 samples stands at each of 64 positions about as often (chi-square, 63² degrees)."""
    counts = np.zeros((64, 64))
    for epoch in range(2000):
        counts[np.arange(64), everything(Order([64], "full", epoch=epoch))] += 1
    chi2 = ((counts - 2000 / 64) ** 2 / (2000 / 64)).sum()
    assert abs(chi2 - 63**2) < 5 * np.sqrt(2 * 63**2)
    # Neighbours do not stay neighbours: as often as in a random order, 2/64 of pairs.
    order = np.array(everything(Order([4096], "full", seed=5)))
    assert (np.abs(np.diff(order)) == 1).mean() < 0.005


def test_the_order_is_the_same_on_every_machine() -> None:
    """Integer arithmetic alone: these bytes may not change, or runs under way would go on in another order."""
    text = repr([everything(Order([7, 300, 1000], s, seed=1, epoch=2, window=2)) for s in ("window", "full")])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "4861f06f5b1bf873"
    assert permuted(np.arange(5), 5, 0).tolist() == [2, 0, 1, 3, 4]


def test_a_billion_samples_cost_no_list() -> None:
    order = Order([1_000_000] * 1000, "full", seed=1)
    found = order.at(np.arange(999_999_000, 1_000_000_000))
    assert len(set(found.tolist())) == 1000 and found.max() < 1_000_000_000
    window = Order([1_000_000] * 1000, "window", seed=1)
    assert len(set(window.at(np.arange(500_000_000, 500_001_000)).tolist())) == 1000


@given(SIZES, st.sampled_from(["none", "window"]), st.integers(1, 4), st.data())
def test_the_shards_that_come_next_are_told(
    sizes: list[int], shuffle: str, window: int, data: st.DataObject
) -> None:
    order = Order(sizes, shuffle, window=window, seed=1)  # type: ignore[arg-type]
    if not len(order):
        return
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    position = data.draw(st.integers(0, len(order) - 1))
    ahead = order.shards_from(position)
    assert shard_of[order.at(np.array([position]))[0]] in ahead and len(ahead) <= 2 * window
    # Those of the next window's worth of shards are among them, as far as there are any.
    coming = list(dict.fromkeys(shard_of[order.at(np.arange(position, len(order)))].tolist()))
    assert set(coming[: 1 if shuffle == "window" else window]) <= set(ahead)
    assert not Order(sizes, "full").shards_from(position)


def test_a_window_of_no_shard_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Order([1], "window", window=0)
