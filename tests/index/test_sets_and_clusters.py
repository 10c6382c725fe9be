"""Sets: the best of all assignments, better for sharing a room; near-duplicates: what chains of pairs tie together."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.errors import ConfigError
from datakit.index import clusters as clustering
from datakit.index import folder
from datakit.index.catalogue import Catalogue, open_catalogue
from datakit.index.clusters import clusters, components
from datakit.index.make import make_index
from datakit.index.sets import MatchedSet, SetRequest, answer_set, best_sets
from datakit.index.spec import Space, variant

ROOMS, KINDS, DIM = 40, 5, 32


def index_of(place: Path, vectors: Any, meta: pa.Table, metric: Any = "cosine") -> Catalogue:
    spec = variant("flat", rows=len(vectors), space=Space(metric=metric))
    folder.write_files(place, make_index(vectors, meta, spec, name="toy"))
    return open_catalogue(place)


@pytest.fixture(scope="module")
def furniture() -> tuple[Any, pa.Table]:
    """Of each room a sofa, a lamp …: what is of one kind looks much alike, what is of one room a little."""
    rng = np.random.default_rng(0)
    kinds, rooms = rng.standard_normal((KINDS, DIM)), rng.standard_normal((ROOMS, DIM))
    room, kind = np.repeat(np.arange(ROOMS), KINDS), np.tile(np.arange(KINDS), ROOMS)
    vectors = 2 * kinds[kind] + 0.5 * rooms[room] + 0.3 * rng.standard_normal((ROOMS * KINDS, DIM))
    keys = [f"r{r:02d}-{k}" for r, k in zip(room, kind, strict=True)]
    meta = pa.table({"key": keys, "room": [f"it's [{r}]" for r in room], "kind": kind})
    return vectors.astype(np.float32), meta


def photos(vectors: Any, seed: int = 1) -> Any:
    """Each item as a photo shows it: moved by more than rooms differ."""
    rng = np.random.default_rng(seed)
    return (vectors + 1.3 * rng.standard_normal(vectors.shape)).astype(np.float32)


def right(catalogue: Catalogue, seen: Any, **how: Any) -> float:
    """Share of the items of all rooms that are found from their photo."""
    found = 0
    for room in range(ROOMS):
        crops = tuple(seen[room * KINDS : (room + 1) * KINDS])
        table = answer_set(catalogue, SetRequest(vector=crops, **how)).table
        pairs = zip(table["crop"].to_pylist(), table["key"].to_pylist(), strict=True)
        found += sum(key == f"r{room:02d}-{crop}" for crop, key in pairs)
    return found / (ROOMS * KINDS)


def test_items_of_one_room_are_found_together_more_often_than_alone(
    furniture: tuple[Any, pa.Table], tmp_path: Path
) -> None:
    catalogue = index_of(tmp_path / "i", *furniture)
    seen = photos(furniture[0])
    alone, together = right(catalogue, seen), right(catalogue, seen, set_by="room")
    assert together > alone + 0.2 and together > 0.9, (alone, together)
    assert right(catalogue, seen, set_by="room", together=0.0) == pytest.approx(alone, abs=0.02)
    assert right(catalogue, photos(furniture[0])[::-1], set_by="room") < 0.3  # and not whatever is shown


def test_a_value_that_shortlists_miss_is_looked_up(furniture: tuple[Any, pa.Table], tmp_path: Path) -> None:
    catalogue = index_of(tmp_path / "i", *furniture)
    seen = photos(furniture[0])[:KINDS]
    short = answer_set(catalogue, SetRequest(vector=tuple(seen), set_by="room", shortlist=1, together=0.5))
    assert set(short.table["room"].to_pylist()) == {"it's [0]"} and all(short.table["shared"].to_pylist())
    assert short.plan["sets"][0]["value"] == "it's [0]"


def test_sets_of_other_values_come_after_the_best_and_a_filter_is_held(
    furniture: tuple[Any, pa.Table], tmp_path: Path
) -> None:
    catalogue = index_of(tmp_path / "i", *furniture)
    request = SetRequest(
        vector=tuple(photos(furniture[0])[:KINDS]), set_by="room", sets=4, where="key not like 'r00%'"
    )
    found = answer_set(catalogue, request)
    totals = [one["total"] for one in found.plan["sets"]]
    assert totals == sorted(totals, reverse=True) and len({one["value"] for one in found.plan["sets"]}) == 4
    assert "it's [0]" not in found.table["room"].to_pylist()
    assert sorted(set(found.table["set"].to_pylist())) == [0, 1, 2, 3]


def test_a_key_is_not_its_own_match_and_scores_are_those_of_a_search(
    furniture: tuple[Any, pa.Table], tmp_path: Path
) -> None:
    for metric in ("cosine", "l2", "ip"):
        catalogue = index_of(tmp_path / metric, *furniture, metric)
        found = answer_set(catalogue, SetRequest(key=("r03-0", "r03-1"))).table
        assert not {"r03-0", "r03-1"} & set(found["key"].to_pylist())
        index = catalogue.index_for("key")
        hits = index.search(index.vectors(index.rows(["r03-0"])), k=len(index), exact=True)
        rows = dict(zip(hits.table(index)["key"].to_pylist(), hits.scores[0].tolist(), strict=True))
        assert found["score"][0].as_py() == pytest.approx(rows[found["key"][0].as_py()], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "1 to 32 crops, not 0"),
        ({"key": ("r03-0",) * 33}, "1 to 32 crops, not 33"),
        ({"key": ("r03-0",), "together": -1.0}, "together=-1.0"),
        ({"key": ("r03-0",), "together": float("nan")}, "together=nan"),
        ({"key": ("r03-0",), "set_by": "romm"}, "did you mean room?"),
        ({"key": ("r03-0",), "set_by": "tags"}, "a value that items share is a text or number"),
        ({"key": ("r03-0",), "sets": 0}, "sets=0"),
    ],
)
def test_a_set_that_cannot_be_asked_is_told(
    furniture: tuple[Any, pa.Table], tmp_path: Path, words: dict[str, Any], said: str
) -> None:
    vectors, meta = furniture
    tags = pa.array([["a"]] * meta.num_rows, pa.list_(pa.string()))
    catalogue = index_of(tmp_path / "i", vectors, meta.append_column("tags", tags))
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        answer_set(catalogue, SetRequest(**words))


SCORES = st.integers(1, 3).flatmap(
    lambda crops: st.integers(0, 5).flatmap(
        lambda items: st.lists(
            st.tuples(
                st.lists(st.integers(-8, 8), min_size=crops, max_size=crops),
                st.sampled_from(["a", "b", "c", None]),
            ),
            min_size=items,
            max_size=items,
        ).map(lambda drawn: (crops, drawn))
    )
)


def best_of_all(scores: Any, bonus: Any) -> float:
    """By trying: of each crop an item, as far as there are, none twice."""
    crops, items = scores.shape
    if items < crops:
        scores, bonus, crops, items = scores.T, np.repeat(bonus[:, None], crops, 1), items, crops
        chosen = itertools.permutations(range(items), crops)
        return max(sum(scores[at, to] + bonus[at, to] for at, to in enumerate(one)) for one in chosen)
    chosen = itertools.permutations(range(items), crops)
    return max(sum(scores[at, to] + bonus[to] for at, to in enumerate(one)) for one in chosen)


@settings(max_examples=200, deadline=None)
@given(drawn=SCORES, together=st.sampled_from([0.0, 0.5, 3.0]), sets=st.integers(1, 3))
def test_the_best_set_is_the_best_of_all_assignments(
    drawn: tuple[int, list[Any]], together: float, sets: int
) -> None:
    crops, items = drawn
    scores = np.array([item[0] for item in items], np.float32).reshape(-1, crops).T
    values = [item[1] for item in items]
    found = best_sets(scores, values, together=together, sets=sets)
    wanted = [
        best_of_all(scores, together * np.array([value == one is not None for value in values], float))
        for one in sorted({value for value in values if value is not None}) or [None]
    ]
    assert found[0].total == pytest.approx(max(wanted)) and 1 <= len(found) <= max(sets, 1)
    assert [one.total for one in found] == sorted((one.total for one in found), reverse=True)
    for one in found:
        used = one.chosen[one.chosen >= 0].tolist()
        assert len(used) == len(set(used)) == min(scores.shape)
        assert one.value is None or one.value in {values[item] for item in used}
    assert distinct(found)


def distinct(found: list[MatchedSet]) -> bool:
    return len({tuple(one.chosen.tolist()) for one in found}) == len(found)


def tied(close: Any) -> set[frozenset[int]]:
    """Clusters of a matrix of pairs, by walking from each point."""
    left, found = set(range(len(close))), set()
    while left:
        group, edge = set(), {left.pop()}
        while edge:
            group |= edge
            edge = {other for one in edge for other in np.flatnonzero(close[one]).tolist()} - group
        left -= group
        found.add(frozenset(group))
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    count=st.integers(0, 40),
    threshold=st.sampled_from([-0.5, 0.3, 0.8, 0.99]),
    metric=st.sampled_from(["cosine", "l2"]),
    block=st.integers(1, 20),
)
def test_clusters_are_what_chains_of_close_pairs_tie_together(
    seed: int, count: int, threshold: float, metric: str, block: int
) -> None:
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((count, 3)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    if metric == "l2":
        close = ((points[:, None] - points) ** 2).sum(axis=2) <= threshold
    else:
        close = points @ points.T >= threshold
    with pytest.MonkeyPatch.context() as patch:  # so that small data crosses blocks
        patch.setattr(clustering, "BLOCK", block)
        patch.setattr(clustering, "WIDE", 2 * block + 1)
        labels = components(points, threshold, metric)
    groups = {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}
    assert groups == tied(close)
    sizes = np.bincount(labels, minlength=1)
    assert (np.diff(sizes) <= 0).all() and len(sizes) == max(1, len(groups))


def test_many_equal_rows_are_one_cluster(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([np.tile(rng.standard_normal(16), (3000, 1)), rng.standard_normal((50, 16))])
    keys = [f"k{at:04d}" for at in range(len(vectors))]
    catalogue = index_of(tmp_path / "i", vectors.astype(np.float32), pa.table({"key": keys}))
    table = clusters(catalogue.index_for("key"))
    assert table["size"].to_pylist()[0] == 3000 and set(table["key"].to_pylist()) == set(keys)
    assert len(set(table["cluster"].to_pylist())) == 51


@pytest.mark.parametrize("rows", [[], [3], [5, 4, 5]])
def test_clusters_of_chosen_rows_keep_their_order(
    rows: list[int], furniture: tuple[Any, pa.Table], tmp_path: Path
) -> None:
    index = index_of(tmp_path / "i", *furniture).index_for("key")
    found = clusters(index, 1.5, rows=rows)
    assert found["key"].to_pylist() == [index.keys[row].as_py() for row in rows]
