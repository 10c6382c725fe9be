"""Queries for a set: the several crops of one photo → as many items of the gallery, which go together.

A photo of a room shows a sofa, a lamp and a table; wanted are the catalogue's sofa, lamp and table, all of one style if
that costs little. With s(i, j) the score of item j for crop i, the answer is the assignment a that maximises

    sum over crops of  s(i, a(i)) + together * [a(i) has the value v]        over all a and all values v of `set_by`

where a gives each crop one item and no item to two crops. For a given v that is a linear assignment, solved exactly
(scipy's linear_sum_assignment: Crouse 2016); values are tried in the order of a bound that ignores `used once`, until
the bound says that none can do better. Items are those of each crop's shortlist and, for the likeliest values, of its
shortlist among the items of that value: every one of them is then scored for every crop, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.errors import ConfigError, did_you_mean
from datakit.index.arrays import Floats, Longs
from datakit.index.catalogue import Catalogue
from datakit.index.examples import Examples, as_queries, metric_of, points_of, same_rows
from datakit.index.opened import Index
from datakit.index.query import Answer, answer_table

TOGETHER = 0.05  # of a cosine: what an item may lose so that its set shares a value
SHORTLIST = 50  # items of each crop
VALUES, OF_VALUE = 16, 5  # likeliest values for which more items are looked up, and how many for each crop
MAX_CROPS = 32
MAX_LITERAL = 500  # letters of a value that is looked up


@dataclass(frozen=True, kw_only=True)
class SetRequest:
    """One set. text, image (encoded), key, vector: its crops, one item wanted for each, in this order.

    set_by: column whose value all items should share ("": none). together: what sharing is worth, an item, in units of
    the score. sets: how many answers, each of another value. own: a key may be answered by itself.
    """

    text: tuple[str, ...] = ()
    image: tuple[bytes, ...] = ()
    key: tuple[str, ...] = ()
    vector: tuple[Any, ...] = ()
    set_by: str = ""
    together: float = TOGETHER
    sets: int = 1
    shortlist: int = SHORTLIST
    where: str = ""
    index: str = ""
    own: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.crops) <= MAX_CROPS:
            raise ConfigError(f"a set is of 1 to {MAX_CROPS} crops, not {len(self.crops)}")
        if not 0 <= self.together < float("inf"):
            raise ConfigError(f"together={self.together}: must be 0 or more")
        if not (1 <= self.sets <= 100 and 1 <= self.shortlist <= 1000):
            raise ConfigError(f"sets={self.sets}, shortlist={self.shortlist}: 1 to 100, and 1 to 1000")

    @property
    def crops(self) -> Examples:
        return Examples(text=self.text, image=self.image, key=self.key, vector=self.vector)


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedSet:
    """chosen: column of the item of each crop, -1 where items ran out. value: what they share, or None."""

    chosen: Longs
    value: Any
    total: float


def answer_set(catalogue: Catalogue, request: SetRequest) -> Answer:
    """table: key, score, set (from 0, the best first), crop (from 0), shared, and the index's columns.

    shared: whether the item has the value of its set. plan: the totals and values of the sets, and the search's own.
    Raises as `query.answer`.
    """
    index = catalogue.index_for(request.crops.kinds, request.index)
    if request.set_by and request.set_by not in index.meta.column_names:
        hint = did_you_mean(request.set_by, index.meta.column_names)
        raise ConfigError(f"set_by={request.set_by}: the index {index.name} has no such column{hint}")
    points = points_of(index, request.crops, trusted=catalogue.trusted)
    rows, values, plan = _candidates(index, request, points)
    scores = _scores(index, points, rows)
    found = best_sets(scores, values, together=request.together, sets=request.sets)
    table, chosen = _table(index, rows, values, scores, found)
    sets = [{"value": one.value, "total": round(one.total, 6)} for one in found]
    how = {"set_by": request.set_by, "together": request.together, "candidates": len(rows), "sets": sets}
    return Answer(index=index.name, metric=metric_of(index), table=table, rows=chosen, plan={**plan, **how})


def best_sets(
    scores_CG: Floats, values: Sequence[Any] | None = None, *, together: float = TOGETHER, sets: int = 1
) -> list[MatchedSet]:
    """The best assignments of G items to C crops, each for another shared value, best first; see the module.

    scores_CG: finite, higher is better. values: of each item, None shares with nothing; None: no value is wanted.
    """
    groups: dict[Any, list[int]] = {}
    for item, value in enumerate(values or []):
        if value is not None:
            groups.setdefault(value, []).append(item)
    if not groups or not scores_CG.shape[1]:
        return [_assigned(scores_CG, None)]
    best_each = scores_CG.max(axis=1)
    bounds = {
        value: float(np.maximum(best_each, scores_CG[:, items].max(axis=1) + together).sum())
        for value, items in groups.items()
    }
    found: list[MatchedSet] = []
    for value in sorted(groups, key=lambda value: -bounds[value]):
        if len(found) == sets and bounds[value] <= found[-1].total:
            break
        bonus = np.zeros(scores_CG.shape[1])
        bonus[groups[value]] = together
        one = _assigned(scores_CG + bonus, value)
        if not np.isin(one.chosen, groups[value]).any():
            one = replace(one, value=None)  # its own items are worth less than others without it
        # The same items may share another value too: what they are worth is the more of the two.
        same = [other for other in found if (one.chosen == other.chosen).all()]
        if all(one.total > other.total for other in same):
            rest = [other for other in found if not any(other is twin for twin in same)]
            found = sorted([*rest, one], key=lambda one: -one.total)[:sets]
    return found


def _assigned(scores_CG: Any, value: Any) -> MatchedSet:
    from scipy.optimize import linear_sum_assignment

    crops, items = linear_sum_assignment(scores_CG, maximize=True)
    chosen = np.full(len(scores_CG), -1, np.int64)
    chosen[crops] = items
    return MatchedSet(chosen=chosen, value=value, total=float(scores_CG[crops, items].sum(dtype=np.float64)))


def _candidates(
    index: Index, request: SetRequest, points: Floats
) -> tuple[Longs, list[Any] | None, Mapping[str, Any]]:
    """Rows that may be chosen, in order, and the value of each."""
    own = set() if request.own else same_rows(index, request.key)
    queries = as_queries(index, points)
    wanted = max(request.shortlist, len(points)) + len(own)
    hits = index.search(queries, k=wanted, where=request.where)
    rows = _kept(hits.rows, own)
    if not request.set_by:
        return rows, None, hits.plan
    column = index.meta[request.set_by]
    if pa.types.is_nested(column.type):
        raise ConfigError(
            f"set_by={request.set_by}: it is {column.type}; a value that items share is a text or number"
        )
    for where in _of_likely_values(index, request, points, rows):
        more = index.search(queries, k=OF_VALUE + len(points) + len(own), where=where)
        rows = np.union1d(rows, _kept(more.rows, own))
    return rows, column.take(pa.array(rows)).to_pylist(), hits.plan


def _kept(rows: Longs, own: set[int]) -> Longs:
    return np.setdiff1d(rows[rows >= 0], list(own)).astype(np.int64)


def _of_likely_values(index: Index, request: SetRequest, points: Floats, rows: Longs) -> Iterator[str]:
    """Filters that leave the items of one value each, for the values that promise most."""
    values = index.meta[request.set_by].take(pa.array(rows)).to_pylist()
    scores, best = _scores(index, points, rows), dict[Any, Floats]()
    for item, value in enumerate(values):
        if value is not None:
            best[value] = np.maximum(best.get(value, scores[:, item]), scores[:, item])
    column = "[" + request.set_by.replace("]", "]]") + "]"
    for value in sorted(best, key=lambda value: -float(best[value].sum()))[:VALUES]:
        if literal := _literal(value):
            yield (
                f"({request.where}) and {column} = {literal}"
                if request.where.strip()
                else f"{column} = {literal}"
            )


def _literal(value: Any) -> str:
    """As `where` reads it; empty for what it cannot hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value) if abs(value) < 1e300 else ""
    text = value.isoformat() if isinstance(value, date | datetime) else value
    return "'" + text.replace("'", "''") + "'" if isinstance(text, str) and len(text) <= MAX_LITERAL else ""


def _scores(index: Index, points: Floats, rows: Longs) -> Floats:
    """float32 (crops, rows), higher is nearer; under l2 the squared distance, negative."""
    items = index.points(rows)
    scores: Floats = points @ items.T
    if metric_of(index) == "l2":
        scores = 2 * scores - (items**2).sum(axis=1) - (points**2).sum(axis=1)[:, None]
    return scores


def _table(
    index: Index, rows: Longs, values: Sequence[Any] | None, scores: Floats, found: Sequence[MatchedSet]
) -> tuple[pa.Table, Longs]:
    places = [
        (number, crop, int(item), one)
        for number, one in enumerate(found)
        for crop, item in enumerate(one.chosen)
        if item >= 0
    ]
    chosen = np.array([rows[item] for _, _, item, _ in places], np.int64)
    turned = -1 if metric_of(index) == "l2" else 1
    columns = {
        "score": pa.array([turned * float(scores[crop, item]) for _, crop, item, _ in places], pa.float32()),
        "set": pa.array([number for number, *_ in places], pa.int32()),
        "crop": pa.array([crop for _, crop, _, _ in places], pa.int32()),
        "shared": pa.array(
            [
                bool(values) and one.value is not None and values[item] == one.value
                for _, _, item, one in places
            ]
            if values
            else [False] * len(places),
            pa.bool_(),
        ),
    }
    return answer_table(index, chosen, columns), chosen
