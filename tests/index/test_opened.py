"""Whatever is asked of an index, and however: rows that match and no others, as many as there are, near ones first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.index import base as bases
from datakit.index import codes as lists_of_codes
from datakit.index import folder, upkeep
from datakit.index.make import make_index
from datakit.index.opened import Hits, Index, open_index
from datakit.index.spec import VARIANTS, Coarse, Codes, Rerank, Space, Spec, Target, variant
from tests.index.conftest import DIM, Cloud

METRICS = ("cosine", "ip", "l2")
# Every variant with one metric, and what is used most with all of them.
PAIRS = sorted(
    {*zip(VARIANTS, cycle(METRICS), strict=False), *product(("adanns-ivfpq4fs", "adanns-hnsw"), METRICS)}
)
ROWS = 1500
SMALL = Spec(coarse=Coarse(nlist=16, iterations=3), codes=Codes(kind="sq8"), rerank=Rerank(shortlist=60))


@pytest.fixture(scope="module")
def opened(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Index]:
    """An index by the name of its variant and its metric, made once."""
    kept: dict[tuple[str, str], Index] = {}

    def give(name: str, metric: Any = "cosine") -> Index:
        if (name, metric) not in kept:
            spec = variant(
                name, rows=ROWS, target=Target(queries=75), space=Space(metric=metric, center=True)
            )
            spec = spec if spec.coarse.nlist else replace(spec, coarse=Coarse(nlist=16, iterations=3))
            place = tmp_path_factory.mktemp(name)
            meta = cloud.meta.slice(0, ROWS)
            folder.write_files(place, make_index(cloud.vectors[:ROWS], meta, spec, name=name))
            kept[name, metric] = open_index(place)
        return kept[name, metric]

    return give


def scores_of(index: Index, queries: Any) -> Any:
    """(Q, N), the higher the nearer, in float64 and of the vectors themselves."""
    center, metric = index.base.axes.center, index.base.spec.space.metric
    asked = np.asarray(queries, np.float64) - (center if len(center) else 0)
    stored = index.points(np.arange(len(index.live))).astype(np.float64)
    if metric == "l2":
        return -((asked[:, None] - stored) ** 2).sum(axis=2)
    asked = asked / np.linalg.norm(asked, axis=1, keepdims=True) if metric == "cosine" else asked
    return asked @ stored.T


def share_found(index: Index, queries: Any, hits: Hits, match: Any) -> float:
    """Of the exact neighbours among rows that match; ties count."""
    scores = np.where(match, scores_of(index, queries), -np.inf)
    wanted = min(hits.rows.shape[1], int(match.sum()))
    limit = np.sort(scores, axis=1)[:, -wanted][:, None]
    there = np.where(hits.rows >= 0, np.take_along_axis(scores, np.maximum(hits.rows, 0), axis=1), -np.inf)
    return float((there >= limit - 1e-5 * np.abs(limit)).sum() / (len(queries) * wanted))


@pytest.mark.parametrize(("name", "metric"), PAIRS)
def test_a_filter_is_held_inside_the_search_whatever_share_it_leaves(
    name: str, metric: str, opened: Callable[..., Index], cloud: Cloud
) -> None:
    index, queries = opened(name, metric), cloud.queries[:60]
    draws = np.asarray(index.meta["draw"])
    for limit in (0.5, 0.1, 0.01, 0.001, float(np.sort(draws)[1]), 0.0):
        match = draws < limit
        hits = index.search(queries, k=10, where=f"draw < {limit!r}")
        found = hits.rows[hits.rows >= 0]
        assert match[found].all() and ((hits.rows >= 0).sum(axis=1) == min(10, match.sum())).all()
        assert hits.plan["matching"] == match.sum() and hits.plan["kind"]
        assert not match.sum() or share_found(index, queries, hits, match) >= 0.95, limit
        assert (hits.rows[:, min(10, match.sum()) :] == -1).all(), "what is missing is at the end"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["flat", "adanns-ivfpq4fs", "adanns-hnsw"])
def test_exact_is_exact_and_scores_are_what_they_are_called(
    name: str, metric: str, opened: Callable[..., Index], cloud: Cloud
) -> None:
    index, queries = opened(name, metric), cloud.queries[:40]
    for where in ("", "draw < 0.2", "draw < 0.005"):
        hits = index.search(queries, k=20, exact=True, where=where)
        match = np.asarray(index.meta["draw"]) < float(where[6:] or 2)
        assert share_found(index, queries, hits, match) == 1.0
        true = np.take_along_axis(scores_of(index, queries), np.maximum(hits.rows, 0), axis=1)
        said = -hits.scores if metric == "l2" else hits.scores
        there = hits.rows >= 0
        assert np.allclose(said[there], true[there], atol=2e-5)
        said = np.where(there, said, -1e9)
        assert (np.diff(said, axis=1) <= 1e-6).all(), "best first, and what is missing last"


@pytest.mark.parametrize("name", VARIANTS)
def test_as_many_come_as_there_are(name: str, opened: Callable[..., Index], cloud: Cloud) -> None:
    index = opened(name)
    for where, count in (("", ROWS), ("draw < 0.3", int((np.asarray(index.meta["draw"]) < 0.3).sum()))):
        for k in (count - 1, count, count + 7, 10 * ROWS):
            rows = index.search(cloud.queries[:2], k=k, where=where).rows
            assert ((rows >= 0).sum(axis=1) == min(k, count)).all()
            assert all(len(set(row[row >= 0])) == min(k, count) for row in rows), "each once"


def test_where_probed_lists_hold_too_few_the_rest_are_looked_at(
    opened: Callable[..., Index], cloud: Cloud
) -> None:
    index = opened("adanns-ivf")
    hits = index.search(cloud.queries[:20], k=400, nprobe=1)
    assert hits.plan["completed"] > 0 and (hits.rows >= 0).all()
    assert "completed" not in index.search(cloud.queries[:20], k=5, nprobe=4).plan


@pytest.mark.parametrize("name", ["flat", "adanns-ivfpq4fs", "adanns-hnsw", "adanns-d"])
def test_rows_left_out_never_come_in_any_way_of_asking(
    name: str, opened: Callable[..., Index], cloud: Cloud
) -> None:
    index, queries = opened(name), cloud.queries[:10]
    first = index.search(queries, k=3)
    for words in ({}, {"exact": True}, {"where": "draw < 0.5"}, {"k": ROWS}):
        hits = index.search(queries, **{"k": 10, **words}, not_rows=first.rows.ravel().tolist())
        assert not set(first.rows.ravel()) & set(hits.rows.ravel())
    # What hits are filled up with is no row, and not the last one.
    none = index.search(queries, k=3, where="draw < 0.0005 or key = 'k00007'", not_rows=[-1, -1])
    whole = index.search(queries, k=ROWS, not_rows=[-1])
    assert ROWS - 1 in whole.rows[0] and (none.rows >= 0).any()
    with pytest.raises(ConfigError, match=f"has no row {ROWS}"):
        index.search(queries, not_rows=[ROWS])


@pytest.mark.parametrize("name", VARIANTS)
def test_arrays_of_any_layout_are_asked_alike_and_none_is_changed(
    name: str, opened: Callable[..., Index], cloud: Cloud
) -> None:
    """AdANNS's own code normalises a slice in place, and so changes its caller's queries."""
    index, queries = opened(name), cloud.queries[:30]
    wide = np.zeros((60, 2 * DIM), np.float32)
    wide[::2, ::2] = queries
    frozen = queries.copy()
    frozen.flags.writeable = False
    want = index.search(queries, k=5)
    for other in (
        frozen,
        wide[::2, ::2],
        np.asfortranarray(queries),
        queries.astype(np.float64),
        queries.tolist(),
    ):
        before = np.array(other)
        found = index.search(other, k=5)
        assert (found.rows == want.rows).all() and (found.scores == want.scores).all()
        assert (np.array(other) == before).all()
    one = index.search(frozen[:1], k=5)
    assert (frozen == queries).all() and set(one.rows[0]) == set(want.rows[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_threads_change_no_answer(name: str, opened: Callable[..., Index], cloud: Cloud) -> None:
    import faiss

    index, before, found = opened(name), faiss.omp_get_max_threads(), []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        found.append(index.search(cloud.queries, k=10).rows)
    faiss.omp_set_num_threads(before)
    assert (found[0] == found[1]).mean() > 0.999


def test_a_margin_scans_no_more_lists_than_nprobe(
    opened: Callable[..., Index], cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, seen, scan = opened("adanns-ivf"), [], lists_of_codes.scan

    def spy(lists: Any, rows: Any, chosen: Any, *rest: Any, **words: Any) -> Any:
        seen.append((chosen >= 0).sum(axis=1))
        return scan(lists, rows, chosen, *rest, **words)

    monkeypatch.setattr(bases.lists_of_codes, "scan", spy)
    for nprobe in (1, 3, 9):
        for margin in (1e-6, 0.05, 0.3, 10.0):
            seen.clear()
            hits = index.search(cloud.queries, k=1, nprobe=nprobe, margin=margin)
            assert hits.plan["nprobe"] == nprobe
            assert seen[0].min() >= 1 and seen[0].max() <= nprobe
        assert (seen[0] == nprobe).all(), "the widest margin leaves none out"
    seen.clear()
    index.search(cloud.queries, k=1, nprobe=9, margin=0.05)
    narrow = seen[0].mean()
    assert 1 < narrow < 9


def test_vectors_of_rows_find_their_rows_and_there_are_none_of_others(
    opened: Callable[..., Index], cloud: Cloud
) -> None:
    for metric in ("cosine", "l2"):
        index = opened("adanns-ivfpq4fs", metric)
        rows = index.rows(["k00003", "k01400", "k00000"])
        assert index.search(index.vectors(rows), k=1).rows[:, 0].tolist() == rows.tolist()
        if metric == "l2":
            assert np.allclose(index.vectors(rows), cloud.vectors[[3, 1400, 0]], atol=1e-5)
    for wrong in (-1, ROWS):
        with pytest.raises(ConfigError, match=f"rows go from 0 to {ROWS - 1}"):
            index.vectors([0, wrong])
    assert index.vectors([]).shape == (0, DIM)


@pytest.mark.parametrize("name", ["adanns-ivfpq4fs", "adanns-hnsw"])
def test_rows_added_and_deleted_since_are_filtered_as_all_others(
    name: str, cloud: Cloud, tmp_path: Path
) -> None:
    meta = cloud.meta
    files = make_index(cloud.vectors[:ROWS], meta.slice(0, ROWS), variant(name, rows=ROWS), name=name)
    folder.write_files(tmp_path / "x", files)
    upkeep.add(tmp_path / "x", cloud.vectors[ROWS:], meta.slice(ROWS))
    gone = {f"k{at:05d}" for at in range(0, 3000, 4)}
    upkeep.delete(tmp_path / "x", sorted(gone))
    index = open_index(tmp_path / "x")
    for limit in (2.0, 0.5, 0.1, 0.01, 0.001):
        match = index.live & (np.asarray(index.meta["draw"]) < limit)
        hits = index.search(cloud.queries[:60], k=10, where=f"draw < {limit}")
        assert match[hits.rows[hits.rows >= 0]].all() and hits.plan["added"] == 3000 - ROWS
        assert ((hits.rows >= 0).sum(axis=1) == min(10, match.sum())).all()
        assert not match.sum() or share_found(index, cloud.queries[:60], hits, match) >= 0.95
        assert not set(hits.table(index)["key"].to_pylist()) & gone
