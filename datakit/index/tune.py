"""What a recall costs: held-out queries against the exact truth, over every setting worth trying, flat among them.

autofaiss tunes for speed and reports what recall comes of it; here recall is the target, and the cheapest setting
that holds it is kept, with the whole curve.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from datakit.errors import ConfigError
from datakit.index import exact
from datakit.index.arrays import Floats, Longs, one_thread
from datakit.index.base import Base
from datakit.index.coarse import list_nearness, nearest_lists
from datakit.index.plan import Words, flat_cost, graph_cost, lists_cost, multiply_adds
from datakit.index.spec import Spec, Target
from datakit.rng import rng_for

SHORTLISTS = (0.3, 0.5, 1, 1.5, 2, 3)  # times that of the spec
ENOUGH = 0.99  # recall beyond which nothing more costly is tried, unless the target is higher
JUDGES = 64  # rows held out, under which more are drawn from those learned from
CONFIDENCE = (
    0.5  # standard errors that a setting's recall must lie above the target: it holds it more often than not
)


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


def _recalls(scores: Floats, limits: Floats, metric: str) -> Any:
    """(Q,) share of true neighbours among what was found (Q, k)."""
    near = scores <= limits[:, None] if metric == "l2" else scores >= limits[:, None]
    return near.mean(axis=1)


def _points(
    base: Base, held: Floats, own: Longs | None, limits: Floats, target: Target
) -> Iterator[dict[str, Any]]:
    dim, k = base.points.shape[1], target.k
    yield {
        "kind": "flat",
        "recall": 1.0,
        "error": 0.0,
        "cost_us": flat_cost(len(base), dim, len(held)) / 1000,
        "macs": len(base) * dim,
        "scanned": len(base),
    }
    enough = {False: False, True: False}  # with a margin, without
    for words, *looked in _settings(base, held):
        if enough[words.margin > 0]:
            continue
        most = max(_shortlists(base.spec, k))
        found = _candidates(base, held, words, max(most, k), own)
        for shortlist in _shortlists(base.spec, k):
            if words.kind == "graph":  # which walks no further than it was asked for
                found = _candidates(base, held, words, max(shortlist, k), own)
            scores = _best(base, held, found, shortlist, k)
            recalls = _recalls(scores, limits, base.spec.space.metric)
            yield _point(base, replace(words, shortlist=shortlist), looked, recalls, len(held))
        enough[words.margin > 0] = bool(recalls.mean() > max(ENOUGH, target.recall + 0.005))


def _settings(base: Base, held: Floats) -> Iterator[tuple[Words, float, float]]:
    """Every setting worth trying, with the rows it scans and the lists it probes."""
    if base.spec.structure == "flat":
        return
    if base.graph is not None:
        for ef in (16, 32, 64, 128, 256, 512):
            yield Words(kind="graph", ef=ef), float(ef * base.spec.graph.links), 0.0
        return
    steps = range(4 * base.nlist.bit_length())  # of a fourth of an octave
    scores = list_nearness(base.axes.for_lists(held), base.centroids, base.spec.space.metric)
    order = nearest_lists(scores, base.nlist)
    falling, sizes = np.take_along_axis(scores, order, axis=1), base.sizes[order]
    for nprobe in sorted({min(base.nlist, round(2 ** (step / 4))) for step in steps}):
        scanned = float(sizes[:, :nprobe].sum(axis=1).mean())
        if scanned <= len(base) / 2 or nprobe == 1:  # beyond that flat search is nearer at hand
            yield Words(kind="lists", nprobe=nprobe), scanned, float(nprobe)
        # The margin that as many lists lie within, on the whole.
        margin = float(f"{float((falling[:, 0] - falling[:, nprobe - 1]).mean()):.4g}")
        near = falling >= falling[:, :1] - np.float32(margin)
        scanned = float((sizes * near).sum(axis=1).mean())
        if margin and scanned <= len(base) / 2:
            yield (
                Words(kind="lists", nprobe=base.nlist, margin=margin),
                scanned,
                float(near.mean() * base.nlist),
            )


def _shortlists(spec: Spec, k: int) -> list[int]:
    if not spec.rerank.shortlist:
        return [0]
    return sorted({max(2 * k, round(part * spec.rerank.shortlist)) for part in SHORTLISTS})


def _candidates(base: Base, held: Floats, words: Words, many: int, own: Longs | None) -> Longs:
    """(Q, many) rows by code, the nearest first; never the query itself."""
    by_code = replace(words, shortlist=0)
    _, ids = base.search(held, many + 1, by_code)
    return ids if own is None else np.where(ids == own[:, None], -1, ids)


def _best(base: Base, held: Floats, ids: Longs, shortlist: int, k: int) -> Floats:
    """(Q, k) exact scores of what a shortlist leaves. Without one, codes have chosen, and their choice is judged."""
    if not shortlist:
        order = np.argsort(ids < 0, axis=1, kind="stable")[:, :k]
        return exact.compare(
            held, base.points, np.take_along_axis(ids, order, axis=1), base.spec.space.metric
        )
    return base.reranked(held, ids[:, : shortlist + 1], k)[0]


def _point(base: Base, words: Words, looked: Sequence[float], recalls: Any, queries: int) -> dict[str, Any]:
    dim, spec, (scanned, probed) = base.points.shape[1], base.spec, looked
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
    sure = [
        point
        for point in fits
        if point["kind"] == "flat" or point["recall"] - CONFIDENCE * point["error"] >= target.recall
    ]
    if not sure:
        best = max((point["recall"] for point in fits), default=0.0)
        raise ConfigError(
            f"target: recall {target.recall} within {target.max_ms} ms is not to be had; within it recall is {best:.3f}"
        )
    by = "ms" if target.max_ms is not None else "cost_us"
    found = words_of(min(sure, key=lambda point: point[by])).to_json()
    # A filter thins lists out, and a margin knows nothing of that: filtered searches count lists.
    plain = [point for point in sure if point["kind"] == "lists" and "margin" not in point]
    if "margin" in found and plain:
        found["filtered"] = min(point["nprobe"] for point in plain)
    return found


def _front(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points that no other beats in both recall and cost, by rising cost."""
    front: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda point: (point["cost_us"], -point["recall"])):
        if not front or point["recall"] > front[-1]["recall"]:
            front.append(point)
    return front
