"""What a recall costs: held-out queries against the exact truth, over every setting worth trying, flat among them.

autofaiss tunes for speed and reports what recall comes of it; here recall is the target, and the cheapest setting
that holds it is kept, with the whole curve.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from datakit.errors import ConfigError
from datakit.index import exact
from datakit.index.arrays import Bools, Floats, Longs, one_thread
from datakit.index.base import Base
from datakit.index.plan import Words, flat_cost, graph_cost, lists_cost, multiply_adds
from datakit.index.spec import Spec, Target
from datakit.index.sweep import Setting, Sweep
from datakit.rng import rng_for

SHORTLISTS = (0.3, 0.4, 0.5, 0.6, 0.75, 1, 1.5, 2, 3)  # times that of the spec
ENOUGH = 0.99  # recall beyond which nothing more costly is tried, unless the target is higher
JUDGES = 64  # rows held out, under which more are drawn from those learned from
CONFIDENCE = 0.5  # standard errors that recall must lie above the target: it is held more often than not
FILTERED = 2.0  # the same, of a search that a filter may thin out


def tune(
    base: Base,
    *,
    target: Target | None = None,
    queries: Any = None,
    rows: Longs | None = None,
    measure: bool = False,
) -> dict[str, Any]:
    """{"search": words, "curve": [points]}: the cheapest setting that reaches the target's recall.

    queries: (Q, D) as compared. Without them rows of the index are asked, which then do not find themselves: `rows`,
    that nothing was learned from, else some drawn by the seed. Lists lie nearer to what they were learned from.
    measure: by the clock and not by the cost model; so it is where the target has `max_ms`. Raises ConfigError where
    nothing meets max_bytes or max_ms; recall is always met, by flat search.
    """
    target = target or base.spec.target
    held, own = _held_out(base, target, queries, rows)
    k = min(target.k, len(base) - (own is not None))
    if k < 1:
        flat = {"kind": "flat", "recall": 1.0, "ms": 0.0, "cost_us": 0.0, "macs": 0, "scanned": len(base)}
        return {"search": {"kind": "flat"}, "curve": [flat]}
    with one_thread():
        limits = _limits(base, held, own, k)
        points = list(_points(base, held, own, limits, replace(target, k=k)))
        if measure or target.max_ms is not None:
            points = [point | {"ms": _milliseconds(base, held, point, k)} for point in points]
    return {"search": _cheapest(points, target, base), "curve": _front(points)}


def _held_out(base: Base, target: Target, queries: Any, rows: Longs | None) -> tuple[Floats, Longs | None]:
    if queries is not None:
        return np.ascontiguousarray(queries, np.float32), None
    if rows is None or len(rows) < JUDGES:
        rows = np.arange(len(base))
    if len(rows) > target.queries:
        rows = rng_for(base.spec.seed, "index", "queries").permutation(rows)[: target.queries]
    return np.ascontiguousarray(base.points[rows], np.float32), rows.astype(np.int64)


def _limits(base: Base, held: Floats, own: Longs | None, k: int) -> Floats:
    """(Q,) score of the k-th true neighbour: recall counts rows as near as that, so that ties count for us and against
    us alike. By `compare`, as what is found is scored: a row has one score, to the bit, and no slack is needed, which
    would be all the difference there is between vectors that are short, or much alike.
    """
    metric = base.spec.space.metric
    _, ids = exact.nearest(held, base.points, k + (own is not None), metric)
    scores = exact.compare(held, base.points, ids, metric)
    if own is not None:
        kept = ids != own[:, None]
        kept[kept.all(axis=1), -1] = False  # a twin was as near as the row itself, and took its place
        scores = scores[kept].reshape(len(scores), -1)
    last: Floats = scores.max(axis=1) if metric == "l2" else scores.min(axis=1)
    return last


def _points(
    base: Base, held: Floats, own: Longs | None, limits: Floats, target: Target
) -> Iterator[dict[str, Any]]:
    dim, sweep = base.points.shape[1], Sweep(base=base, held=held)
    yield {
        "kind": "flat",
        "recall": 1.0,
        "error": 0.0,
        "cost_us": flat_cost(len(base), dim, len(held)) / 1000,
        "macs": len(base) * dim,
        "scanned": len(base),
    }
    enough = max(ENOUGH, target.recall + 0.005)
    tried: dict[bool, list[list[dict[str, Any]]]] = {False: [], True: []}  # with a margin, without
    for setting in sweep.steps():
        of_kind = tried[setting.words.margin > 0]
        if not of_kind or of_kind[-1][-1]["recall"] <= enough:
            of_kind.append(_judged(base, held, own, limits, setting, target.k))
            yield from of_kind[-1]
    for low, high in {pair for of_kind in tried.values() for pair in _around(of_kind, target)}:
        for setting in sweep.between(low, high):
            yield from _judged(base, held, own, limits, setting, target.k)


def _around(tried: Sequence[Sequence[dict[str, Any]]], target: Target) -> Iterator[tuple[Words, Words]]:
    """The neighbours between which the target is reached, of each shortlist."""
    for low, high in pairwise(tried):
        for before, after in zip(low, high, strict=True):
            if not _sure(before, target) and _sure(after, target):
                yield replace(words_of(before), shortlist=0), replace(words_of(after), shortlist=0)


def _judged(
    base: Base, held: Floats, own: Longs | None, limits: Floats, setting: Setting, k: int
) -> list[dict[str, Any]]:
    """A point for each shortlist, the shortest first."""
    words, shortlists = setting.words, _shortlists(base.spec, k)
    if words.kind == "graph":  # which walks no further than it was asked for
        recalls = [_recalls(base, held, own, limits, words, [one], k)[0] for one in shortlists]
    else:
        recalls = _recalls(base, held, own, limits, words, shortlists, k)
    return [
        _point(base, setting, replace(words, shortlist=one), found, len(held))
        for one, found in zip(shortlists, recalls, strict=True)
    ]


def _recalls(
    base: Base,
    held: Floats,
    own: Longs | None,
    limits: Floats,
    words: Words,
    shortlists: Sequence[int],
    k: int,
) -> list[Any]:
    """For each shortlist (Q,) the share of true neighbours among the best k of it: of the best k by code, of none.

    A shortlist is the beginning of a longer one, and true neighbours are those as near as the limit: so one
    comparison of the longest tells all, unless a funnel stands between.
    """
    metric, most = base.spec.space.metric, max(*shortlists, k)
    _, ids = base.search(held, most + 1, replace(words, shortlist=0))
    if own is not None:  # a query is no neighbour of its own
        ids = np.where(ids == own[:, None], -1, ids)
        ids = np.take_along_axis(ids, np.argsort(ids < 0, axis=1, kind="stable"), axis=1)
    if base.spec.rerank.funnel:
        return [
            _near(base.reranked(held, ids[:, :one], k)[0], limits, metric).mean(axis=1) for one in shortlists
        ]
    true = np.cumsum(_near(exact.compare(held, base.points, ids[:, :most], metric), limits, metric), axis=1)
    return [np.minimum(true[:, min(one or k, true.shape[1]) - 1], k) / k for one in shortlists]


def _near(scores: Floats, limits: Floats, metric: str) -> Bools:
    found: Bools = scores <= limits[:, None] if metric == "l2" else scores >= limits[:, None]
    return found


def _shortlists(spec: Spec, k: int) -> list[int]:
    if not spec.rerank.shortlist:
        return [0]
    return sorted({max(2 * k, round(part * spec.rerank.shortlist)) for part in SHORTLISTS})


def _point(base: Base, setting: Setting, words: Words, recalls: Any, queries: int) -> dict[str, Any]:
    dim, spec, scanned, probed = base.points.shape[1], base.spec, setting.scanned, setting.probed
    if words.kind == "graph":
        cost = graph_cost(spec, dim=dim, ef=max(words.ef, words.shortlist), queries=queries)
    else:
        cost = lists_cost(
            spec, dim=dim, scanned=scanned, probed=probed, shortlist=words.shortlist, queries=queries
        )
    return {
        **words.to_json(),
        "recall": round(float(recalls.mean()), 5),
        "error": round(float(recalls.std() / max(1, len(recalls)) ** 0.5), 5),
        "cost_us": round(cost / 1000, 2),
        "macs": round(multiply_adds(spec, dim=dim, scanned=scanned, shortlist=words.shortlist)),
        "scanned": round(scanned, 1),
        "probed": round(probed, 1),
    }


def _milliseconds(base: Base, held: Floats, point: Mapping[str, Any], k: int) -> float:
    """The median time of one query alone."""
    times = []
    for query in held[:32]:
        started = time.perf_counter()
        base.search(query[None], k, words_of(point))
        times.append(time.perf_counter() - started)
    return round(float(np.median(times)) * 1000, 4)


def words_of(point: Mapping[str, Any]) -> Words:
    """A point of a curve, or tuned words, as words."""
    names = ("nprobe", "shortlist", "ef", "dims")
    numbers = {name: int(point[name]) for name in names if name in point}
    return Words(kind=str(point["kind"]), margin=float(point.get("margin", 0)), **numbers)


def _cheapest(points: list[dict[str, Any]], target: Target, base: Base) -> dict[str, Any]:
    fits = [point for point in points if target.max_ms is None or point["ms"] <= target.max_ms]
    if target.max_bytes is not None and base.spec.codes.bytes > target.max_bytes:
        raise ConfigError(
            f"target.max_bytes={target.max_bytes}: codes have {base.spec.codes.bytes}; give codes.bytes"
        )
    sure = [point for point in fits if _sure(point, target)]
    if not sure:
        reached = max((point["recall"] for point in fits), default=0.0)
        raise ConfigError(
            f"target: recall {target.recall} within {target.max_ms} ms is not to be had; within it it is {reached:.3f}"
        )
    by = "ms" if target.max_ms is not None else "cost_us"
    found = words_of(min(sure, key=lambda point: point[by])).to_json()
    # A filter thins lists out, and a margin knows nothing of that: filtered searches count lists. What a filter
    # leaves is not what was held out, so they must be surer of their recall.
    counted = [
        point
        for point in fits
        if point["kind"] == found["kind"] == "lists"
        and "margin" not in point
        and _sure(point, target, errors=FILTERED)
    ]
    if counted:
        best = min(counted, key=lambda point: point[by])
        found |= {"filtered": best["nprobe"], "filtered_shortlist": best.get("shortlist", 0)}
    return found


def _sure(point: Mapping[str, Any], target: Target, errors: float = CONFIDENCE) -> bool:
    return bool(point["kind"] == "flat" or point["recall"] - errors * point["error"] >= target.recall)


def _front(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points that no other beats in both recall and cost, by rising cost."""
    front: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda point: (point["cost_us"], -point["recall"])):
        if not front or point["recall"] > front[-1]["recall"]:
            front.append(point)
    return front
