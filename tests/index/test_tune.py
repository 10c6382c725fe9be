"""What tuning claims holds on queries that it never saw, at any scale of the data, and broken indices claim nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from datakit.index import exact, sweep, tune
from datakit.index.base import Base, base_of
from datakit.index.build import encode, held_rows, merge, sample_rows, train
from datakit.index.make import make_index
from datakit.index.opened import Index
from datakit.index.plan import Words
from datakit.index.spec import Basis, Coarse, Codes, Graph, Rerank, Space, Spec, Target, settled, variant
from tests.index.conftest import DIM, ROWS, Cloud

LISTS = Spec(coarse=Coarse(nlist=32), codes=Codes(kind="sq8"), rerank=Rerank(shortlist=20))


def built_of(vectors: Any, spec: Spec) -> Base:
    trained = train(vectors, spec, rows=len(vectors))
    return base_of(trained, merge(trained, [encode(trained, vectors)]))


def dealt(base: Base) -> Base:
    """Codes of other rows."""
    return replace(base, points=base.points[np.random.default_rng(0).permutation(len(base))])


def of_lists(found: dict[str, Any]) -> list[float]:
    return [point["recall"] for point in found["curve"] if point["kind"] == "lists"]


def recalls(index: Index, queries: Any, k: int = 10, **words: Any) -> Any:
    """(Q,) share of true neighbours, ties by score, in float64 and without anything of the layer."""
    points = index.base.axes.points(queries).astype(np.float64)
    stored = index.base.points.astype(np.float64)
    if index.base.spec.space.metric == "l2":
        scores = -((points[:, None] - stored) ** 2).sum(axis=2)
    else:
        scores = points @ stored.T
    limit = np.sort(scores, axis=1)[:, -k][:, None]
    found = np.take_along_axis(scores, index.search(queries, k=k, **words).rows, axis=1)
    return (found >= limit - 1e-5 * np.abs(limit)).mean(axis=1)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("name", ["adanns-ivf", "adanns-ivfpq4fs", "adanns-hnsw"])
def test_every_point_that_is_claimed_holds_on_unseen_queries(
    name: str, metric: Any, cloud: Cloud, built: Callable[..., Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "_front", lambda points: points)
    index = built(variant(name, rows=ROWS, metric=metric))
    claimed = [point for point in index.about["curve"] if point["kind"] != "flat"]
    assert claimed
    for point in claimed[:: max(1, len(claimed) // 8)]:
        words = {name: point[name] for name in ("nprobe", "margin", "ef", "shortlist") if name in point}
        held = recalls(index, cloud.queries, **words)
        error = np.hypot(point["error"], held.std() / len(held) ** 0.5) + 0.002
        assert point["recall"] - held.mean() < 3.5 * error, words


def test_tuning_asks_with_rows_that_nothing_was_learned_from() -> None:
    for rows in (10, 999, 5_000, 100_000):
        spec = settled(variant("adanns-ivf", rows=rows), rows=rows, dim=DIM)
        held, sample = held_rows(rows, spec), sample_rows(rows, spec)
        assert not set(held) & set(sample) and len(held) == min(spec.target.queries, rows // 20)
        assert len(sample) == min(rows - len(held), max(65_536, 60 * spec.coarse.nlist))
    assert not len(held_rows(5000, Spec(structure="flat")))


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_short_and_long_vectors_are_judged_alike(metric: Any, scale: float, cloud: Cloud) -> None:
    sound = built_of(cloud.vectors * np.float32(scale), replace(LISTS, space=Space(metric=metric)))
    assert max(of_lists(tune.tune(sound))) > 0.98
    found = tune.tune(dealt(sound))
    assert found["search"] == {"kind": "flat"} and max(of_lists(found)) < 0.2


def test_vectors_that_are_much_alike_are_told_apart(cloud: Cloud) -> None:
    sound = built_of(cloud.vectors + np.float32(100), LISTS)  # all within a hundredth of a degree
    assert tune.tune(dealt(sound))["search"] == {"kind": "flat"}


def test_rows_as_near_as_the_last_true_neighbour_count(cloud: Cloud) -> None:
    twins = np.repeat(
        cloud.vectors[:100], 30, axis=0
    )  # k=10 of 30 equal ones: which of them is nobody's fault
    found = tune.tune(built_of(twins, LISTS))
    assert found["search"]["kind"] == "lists" and max(of_lists(found)) == 1.0
    assert tune.tune(dealt(built_of(twins, LISTS)))["search"] == {"kind": "flat"}


def test_a_funnel_that_loses_neighbours_is_not_claimed_to_keep_them(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "_front", lambda points: points)
    spec = replace(LISTS, basis=Basis(kind="raw"), rerank=Rerank(shortlist=200))
    assert max(of_lists(tune.tune(built_of(cloud.vectors, spec)))) > 0.98
    narrow = replace(spec, rerank=Rerank(shortlist=200, funnel=((2, 10),)))
    assert max(of_lists(tune.tune(built_of(cloud.vectors, narrow)))) < 0.8


def test_a_graph_is_judged_by_as_long_a_walk_as_a_search_takes(
    cloud: Cloud, built: Callable[..., Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "_front", lambda points: points)
    weak = Graph(links=3, ef_construction=4)  # whose walks lose their way unless they are long
    index = built(replace(variant("adanns-hnsw", rows=ROWS), graph=weak, rerank=Rerank(shortlist=20)))
    claimed = [point for point in index.about["curve"] if point.get("ef") == 16]
    found = [recalls(index, cloud.queries, ef=16, shortlist=one["shortlist"]).mean() for one in claimed]
    said = [point["recall"] for point in claimed]
    assert np.allclose(said, found, atol=0.06) and max(said) - min(said) > 0.05


@pytest.mark.parametrize("rows", [1, 2, 11, 40])
def test_few_rows_are_tuned_to_flat_search(rows: int, cloud: Cloud) -> None:
    for name in ("flat", "ivf", "adanns-ivf", "adanns-hnsw"):
        found = tune.tune(built_of(cloud.vectors[:rows], variant(name, rows=rows)))
        assert found["search"]["kind"] == "flat" and found["curve"][-1]["recall"] == 1.0


def test_what_is_asked_of_time_is_measured(cloud: Cloud) -> None:
    base = built_of(cloud.vectors, LISTS)
    found = tune.tune(base, target=Target(recall=0.9, max_ms=10_000.0))
    assert all(point["ms"] > 0 for point in found["curve"]) and found["search"]
    assert "ms" not in tune.tune(base)["curve"][0], "no clock: the same on every machine"


def test_a_higher_recall_than_the_specs_is_tuned_for_to_its_end(cloud: Cloud) -> None:
    base = built_of(cloud.vectors, replace(LISTS, target=Target(recall=0.5)))
    found = tune.tune(base, target=Target(recall=0.995))
    assert found["search"]["kind"] == "flat" or max(of_lists(found)) >= 0.995
    assert max(of_lists(found)) > max(of_lists(tune.tune(base, target=Target(recall=0.3)))) - 1e-9


def test_between_two_steps_the_tuner_looks_closer(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    base = built_of(cloud.vectors, replace(LISTS, coarse=Coarse(nlist=76)))
    targets = [Target(recall=share / 100) for share in range(70, 96, 2)]

    def costs() -> list[float]:
        found = [tune.tune(base, target=target) for target in targets]
        return [
            next(
                point["cost_us"]
                for point in one["curve"]
                if tune.words_of(point) == tune.words_of(one["search"])
            )
            for one in found
        ]

    close = costs()
    monkeypatch.setattr(sweep, "FINE", 1)
    coarse = costs()
    assert all(near <= far for near, far in zip(close, coarse, strict=True)) and sum(close) < sum(coarse)


def test_a_filtered_search_is_tuned_with_a_shortlist_of_its_own(cloud: Cloud) -> None:
    base = built_of(cloud.vectors, replace(LISTS, coarse=Coarse(nlist=76)))
    target = Target(recall=0.9)
    words = tune.tune(base, target=target)["search"]
    points = base.axes.points(cloud.queries)
    many = Words(kind="lists", nprobe=words["filtered"], shortlist=words["filtered_shortlist"])
    truth = exact.nearest(points, base.points, 10, base.spec.space.metric)[1]
    found = base.search(points, 10, many)[1]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)]) >= target.recall


def test_queries_may_be_given_and_need_not_be_rows(cloud: Cloud) -> None:
    base = built_of(cloud.vectors, LISTS)
    found = tune.tune(base, queries=base.axes.points(cloud.queries))
    assert max(of_lists(found)) > 0.95
    far = np.random.default_rng(1).standard_normal((100, DIM)).astype(np.float32)
    assert max(of_lists(tune.tune(base, queries=base.axes.points(far)))) < max(of_lists(found))


def test_a_score_is_the_same_whatever_it_is_compared_beside(cloud: Cloud) -> None:
    for stored in (cloud.vectors, cloud.vectors.astype(np.float16)):
        for metric in ("ip", "l2"):
            rows = np.arange(300)[None].repeat(3, axis=0)
            whole = exact.compare(cloud.queries[:3], stored, rows, metric)
            for start, stop in ((0, 1), (3, 10), (77, 300)):
                part = exact.compare(cloud.queries[:3], stored, rows[:, start:stop], metric)
                assert (part == whole[:, start:stop]).all()
            none = exact.compare(cloud.queries[:2], stored, np.array([[3, -1], [-1, -1]]), metric)
            assert (none[[0, 1, 1], [1, 0, 1]] == exact.worst(metric)).all() and np.isfinite(none[0, 0])


def test_tuned_twice_it_is_tuned_alike(cloud: Cloud) -> None:
    spec = variant("adanns-ivfpq4fs", rows=ROWS)
    assert make_index(cloud.vectors, cloud.meta, spec) == make_index(cloud.vectors, cloud.meta, spec)
