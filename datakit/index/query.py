"""Questions to a catalogue and their answers: examples in, an Arrow table of neighbours out, many at once if wanted.

    request = Request(text=("a red bird",), minus_key=("crow-003",), k=20, where="split = 'train'")
    answer(catalogue, request).table           # key, score, rank, and the columns of the index
    answers(catalogue, requests)               # a list, one search for those that are asked alike

An example never finds itself, nor one of those it should be unlike, unless `own` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.errors import ConfigError
from datakit.index.arrays import Floats, Longs
from datakit.index.catalogue import Catalogue
from datakit.index.examples import GAMMA, Examples, as_queries, metric_of, points_of, rocchio, same_rows
from datakit.index.opened import Index
from datakit.index.pack import KEY
from datakit.store.lines import jsonable

MAX_K = 10_000  # neighbours of one query


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question. text, image (encoded), key, vector: examples, whose mean is looked for; minus_…: what it should
    be unlike, weighed by `gamma` (see `examples.py`). index: its name ("": the first that can answer). own: examples
    may be found. exact, nprobe, shortlist, ef, dims: as `Index.search` has them; None is what tuning found.
    """

    text: tuple[str, ...] = ()
    image: tuple[bytes, ...] = ()
    key: tuple[str, ...] = ()
    vector: tuple[NDArray[Any], ...] = ()
    minus_text: tuple[str, ...] = ()
    minus_image: tuple[bytes, ...] = ()
    minus_key: tuple[str, ...] = ()
    minus_vector: tuple[NDArray[Any], ...] = ()
    gamma: float = GAMMA
    k: int = 10
    where: str = ""
    index: str = ""
    own: bool = False
    exact: bool = False
    nprobe: int | None = None
    shortlist: int | None = None
    ef: int | None = None
    dims: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise ConfigError(f"k={self.k}: ask for 1 to {MAX_K} neighbours")
        if not 0 <= self.gamma <= 10:  # NaN too
            raise ConfigError(f"gamma={self.gamma}: must be from 0 to 10")
        if not len(self.plus):
            but = ", not only for what it should be unlike" if len(self.minus) else ""
            raise ConfigError(f"ask for something: text, image, key or vector{but}")

    @property
    def plus(self) -> Examples:
        return Examples(text=self.text, image=self.image, key=self.key, vector=self.vector)

    @property
    def minus(self) -> Examples:
        return Examples(
            text=self.minus_text, image=self.minus_image, key=self.minus_key, vector=self.minus_vector
        )

    @property
    def kinds(self) -> set[str]:
        return self.plus.kinds | self.minus.kinds

    @property
    def search(self) -> dict[str, Any]:
        """The words of `Index.search`, without k."""
        names = ("where", "exact", "nprobe", "shortlist", "ef", "dims")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """table: key, score, rank (from 0) and the index's columns, the best first. rows: of the index. plan: how they
    were found. metric: cosine and ip (a higher score is nearer) or l2 (a lower one is).
    """

    index: str
    metric: str
    table: pa.Table
    rows: Longs
    plan: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """One object that JSON can hold; `hits`: a row each."""
        hits = [{name: jsonable(value) for name, value in row.items()} for row in self.table.to_pylist()]
        return {"index": self.index, "metric": self.metric, "plan": dict(self.plan), "hits": hits}


def answer(catalogue: Catalogue, request: Request) -> Answer:
    """Raises ConfigError for what cannot be asked, MissingExtra, StoreError for a damaged or a foreign index."""
    return answers(catalogue, [request])[0]


def answers(catalogue: Catalogue, requests: Sequence[Request]) -> list[Answer]:
    """As `answer`, in the order of the requests; those that differ in their examples alone are searched at once."""
    indices = [catalogue.index_for(request.kinds, request.index) for request in requests]
    alike: dict[Any, list[int]] = {}
    for number, (index, request) in enumerate(zip(indices, requests, strict=True)):
        alike.setdefault((id(index), *request.search.items()), []).append(number)
    found: dict[int, Answer] = {}
    for numbers in alike.values():
        group = [requests[number] for number in numbers]
        found |= zip(numbers, _searched(indices[numbers[0]], group, catalogue.trusted), strict=True)
    return [found[number] for number in range(len(requests))]


def query_vector(index: Index, request: Request, *, trusted: bool = False) -> Floats:
    """float32 (1, dim): what `Index.search` takes for this request."""
    plus = points_of(index, request.plus, trusted=trusted)
    minus = points_of(index, request.minus, trusted=trusted)
    return as_queries(index, rocchio(plus, minus, gamma=request.gamma)[None])


def answer_table(index: Index, rows: Longs, columns: Mapping[str, Any]) -> pa.Table:
    """`columns`, `key` first, then those of the index for these rows; one of a taken name as `meta.<name>`."""
    meta = index.meta.take(pa.array(rows))
    taken = {KEY, *columns}
    named = {
        f"meta.{name}" if name in taken else name: meta[name] for name in meta.column_names if name != KEY
    }
    return pa.table({KEY: meta[KEY], **columns, **named})


def _searched(index: Index, group: Sequence[Request], trusted: bool) -> list[Answer]:
    own = [same_rows(index, [] if one.own else [*one.key, *one.minus_key]) for one in group]
    most = max(one.k + len(rows) for one, rows in zip(group, own, strict=True))
    queries = np.concatenate([query_vector(index, one, trusted=trusted) for one in group])
    # So many more as there are examples to leave out: cheaper than a filter, and as exact.
    hits = index.search(queries, k=most, **group[0].search)
    return [
        _answer(index, hits.rows[number], hits.scores[number], own[number], one.k, hits.plan)
        for number, one in enumerate(group)
    ]


def _answer(
    index: Index, rows: Longs, scores: Floats, own: set[int], k: int, plan: Mapping[str, Any]
) -> Answer:
    kept = np.flatnonzero((rows >= 0) & ~np.isin(rows, list(own)))[:k]
    ours = {
        "score": pa.array(scores[kept], pa.float32()),
        "rank": pa.array(np.arange(len(kept)), pa.int32()),
    }
    table = answer_table(index, rows[kept], ours)
    return Answer(index=index.name, metric=metric_of(index), table=table, rows=rows[kept], plan=plan)
