from __future__ import annotations

import numpy as np
import pytest

from datakit.rng import rng_for
from datakit.stages.groups import by_value, components, draw_whole, same_value


def test_components_follow_chains_and_take_the_smallest_name() -> None:
    a, b = np.array([5, 3, 1]), np.array([3, 1, 7])
    assert components(9, a, b).tolist() == [0, 1, 2, 1, 4, 1, 6, 1, 8]
    assert components(3, a[:0], b[:0]).tolist() == [0, 1, 2]


def test_components_of_a_long_chain_equal_a_walk() -> None:
    order = rng_for(0, "chain").permutation(3000)
    assert set(components(3000, order[:-1], order[1:]).tolist()) == {0}
    half = components(3000, order[:1499], order[1:1500])
    assert sorted(half[order[:1500]].tolist()) == [order[:1500].min()] * 1500


def test_same_values_are_joined_and_negative_ones_not() -> None:
    items, firsts = same_value(np.array([7, -1, 7, 2, -1, 7]))
    assert sorted(zip(items.tolist(), firsts.tolist(), strict=True)) == [(0, 0), (2, 0), (3, 3), (5, 0)]
    assert (
        by_value(np.array([3, 1, 3]))[3].tolist() == [0, 2] and by_value(np.array([], dtype=np.int64)) == {}
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_draw_never_breaks_a_group_nor_takes_more_than_wanted(seed: int) -> None:
    rng = rng_for(seed, "groups")
    groups = rng.integers(0, 12, 60)
    taken = draw_whole(groups, 15, rng, leave=2)
    assert not set(groups[taken]) & set(groups[~taken])
    assert 0 < taken.sum() <= 15 and len(set(groups[~taken])) >= 2


def test_a_draw_takes_the_smallest_group_where_none_is_small_enough() -> None:
    groups = np.array([0] * 9 + [1] * 5 + [2] * 7)
    assert set(groups[draw_whole(groups, 2, rng_for(0))]) == {1}
    assert not draw_whole(groups, 2, rng_for(0), leave=3).any(), "no group is to spare"
    assert not draw_whole(groups, 0, rng_for(0)).any()
