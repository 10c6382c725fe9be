"""A filter never takes rows off an answer: few that match are all compared, among many the lists are scanned deeper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.index import plan
from datakit.index.choose import chosen_words
from datakit.index.opened import Index
from datakit.index.plan import Words, expected_scan, flat_cost, lists_cost, raised
from datakit.index.spec import Coarse, Codes, Rerank, Spec, settled, variant
from tests.index.conftest import ROWS, Cloud

LISTS = Spec(coarse=Coarse(nlist=32), codes=Codes(kind="sq8"), rerank=Rerank(shortlist=50))


def asked(index: Index, matching: int, tuned: dict[str, Any], *, k: int = 10, **words: Any) -> Words:
    about = {**index.about, "search": tuned}
    return chosen_words(index.base, about, Words(**{"kind": "", **words}), k=k, queries=1, matching=matching)


@pytest.fixture
def lists(built: Callable[..., Index]) -> Index:
    return built(LISTS)


def test_the_fewer_rows_match_the_deeper_it_goes_and_at_last_all_are_compared(
    lists: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FETCH", 1e3)  # as if the rows were many: fetching them is what costs
    tuned = {"kind": "lists", "nprobe": 4, "shortlist": 50}
    found = [asked(lists, matching, tuned) for matching in (ROWS, ROWS // 2, ROWS // 8, 3)]
    assert [words.kind for words in found] == ["lists", "lists", "lists", "subset"] or found[
        -1
    ].kind == "lists"
    deep = [words.nprobe for words in found if words.kind == "lists"]
    assert deep == sorted(deep) and deep[0] == 4 and deep[1] == 8
    monkeypatch.undo()
    kinds = [asked(lists, matching, tuned).kind for matching in range(1, ROWS, 50)]
    assert kinds == sorted(kinds, reverse=True), "subset up to a share, lists from there on"
    assert kinds[0] == "subset"


def test_a_margin_is_for_all_rows_and_filters_count_lists(lists: Index) -> None:
    tuned = {"kind": "lists", "nprobe": 32, "margin": 0.2, "shortlist": 50, "filtered": 5}
    assert asked(lists, ROWS, tuned).margin == 0.2
    assert asked(lists, ROWS - 1, tuned, nprobe=7).margin == 0
    thinned = asked(lists, ROWS * 3 // 4, tuned)
    assert thinned.margin == 0 and (thinned.kind == "subset" or thinned.nprobe == raised(5, 32, 0.75))


def test_what_is_asked_for_overrides_what_was_tuned(lists: Index) -> None:
    tuned = {"kind": "flat"}
    assert asked(lists, ROWS, tuned).kind == "flat"
    assert asked(lists, 5, tuned).kind == "subset"
    assert asked(lists, ROWS, tuned, nprobe=3) == Words(kind="lists", nprobe=3, shortlist=50)
    assert asked(lists, ROWS, tuned, nprobe=3, shortlist=77).shortlist == 77
    assert asked(lists, ROWS, {"kind": "lists", "nprobe": 2}, kind="flat").kind == "flat"
    assert asked(lists, ROWS, {}).kind == "lists", "not tuned: a usual way"


def test_many_neighbours_are_looked_for_in_lists_that_hold_as_many(lists: Index) -> None:
    tuned = {"kind": "lists", "nprobe": 1, "shortlist": 50}
    few, many = (asked(lists, ROWS, tuned, k=k) for k in (10, 250))
    assert many.shortlist >= 500 and many.nprobe * ROWS / 32 >= 10 * 250 / 2 > few.nprobe * ROWS / 32


def test_a_graph_meets_more_rows_where_fewer_match(built: Callable[..., Index]) -> None:
    index = built(variant("adanns-hnsw", rows=ROWS))
    tuned = {"kind": "graph", "ef": 40, "shortlist": 40}
    whole, half = asked(index, ROWS, tuned), asked(index, ROWS // 2, tuned)
    assert (whole.kind, whole.ef) == ("graph", 40)
    assert half.kind == "subset" or half.ef >= 80
    with pytest.raises(ConfigError, match="give ef"):
        asked(index, ROWS, tuned, nprobe=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"nprobe": 33}, "nprobe=33: the index has 32 lists"),
        ({"ef": 5}, "ef is of a graph"),
        ({"dims": 4}, "dims can be chosen only of codes=nested"),
    ],
)
def test_words_that_the_index_does_not_have_are_refused(words: Any, said: str, lists: Index) -> None:
    with pytest.raises(ConfigError, match=said):
        asked(lists, ROWS, {}, **words)


def test_costs_rise_with_what_is_done() -> None:
    spec = settled(replace(LISTS, coarse=Coarse(nlist=64)), rows=100_000, dim=128)
    assert flat_cost(1000, 128) < flat_cost(100_000, 128) and flat_cost(1000, 128, 100) < flat_cost(1000, 128)
    costs = [
        lists_cost(spec, dim=128, scanned=scanned, probed=2, shortlist=shortlist)
        for scanned, shortlist in ((100, 50), (1000, 50), (1000, 500))
    ]
    assert costs == sorted(costs) and len(set(costs)) == 3


def test_rows_expected_of_lists_are_those_measured() -> None:
    assert expected_scan(1000, 10, 3) == 300
    assert expected_scan(1000, 10, 4, {2: 350.0}) == 700
    assert expected_scan(1000, 10, 9, {2: 350.0}) == 1000
    assert [raised(4, 100, share) for share in (1.0, 0.5, 0.1, 1e-9)] == [4, 8, 40, 100]


def test_the_plan_says_which_way_and_both_keep_recall(cloud: Cloud, lists: Index) -> None:
    kinds = set()
    for queries in (cloud.queries, cloud.queries[:1]):
        for limit in (0.9, 0.5, 0.02):
            hits = lists.search(queries, k=10, where=f"draw < {limit}")
            true = lists.search(queries, k=10, where=f"draw < {limit}", exact=True)
            kinds.add(hits.plan["kind"])
            same = [len(set(a) & set(b)) / 10 for a, b in zip(hits.rows, true.rows, strict=True)]
            assert np.mean(same) >= 0.9 and true.plan["kind"] == "subset"
    assert kinds <= {"lists", "subset"}
