"""An index, open: queries in, neighbours out, filters inside the search.

index = open_index("builds/search/indices/image")
hits = index.search(queries, k=10, where="price < 50 and brand = 'x'")
hits.table(index), hits.plan
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.errors import ConfigError, StoreError, did_you_mean
from datakit.index import exact, folder
from datakit.index.arrays import Bools, Floats, Longs, floats
from datakit.index.base import Base, open_base
from datakit.index.choose import chosen_words
from datakit.index.pack import KEY
from datakit.index.plan import Words
from datakit.index.rows import read_rows
from datakit.index.torch_search import OnDevice, device_of
from datakit.index.where import matches

INDICES = "indices"  # of a built tree


@dataclass(frozen=True, kw_only=True, eq=False)
class Hits:
    """Neighbours of Q queries: `rows` int64 (Q, k), -1 where there are fewer; `scores` float32 (Q, k), best first:
    the cosine or product, the higher the nearer, or the squared distance under l2. `plan`: how they were found.
    """

    rows: Longs
    scores: Floats
    plan: Mapping[str, Any]

    def table(self, index: Index) -> pa.Table:
        """query, rank, key, score: a row for each neighbour found."""
        query, rank = np.nonzero(self.rows >= 0)
        found = self.rows[query, rank]
        return pa.table(
            {
                "query": pa.array(query, pa.int32()),
                "rank": pa.array(rank, pa.int32()),
                KEY: index.keys.take(pa.array(found)),
                "score": pa.array(self.scores[query, rank]),
            }
        )


def find_indices(tree: str | os.PathLike[str]) -> dict[str, Path]:
    """name → folder of the indices of a built tree."""
    return {path.parent.name: path.parent for path in sorted(Path(tree).glob(f"{INDICES}/*/{folder.ABOUT}"))}


def open_index(place: str | os.PathLike[str], *, device: str = "cpu") -> Index:
    """The index in this folder. Raises StoreError naming a file whose digest is not the one written.

    device: auto, cpu, cuda or cuda:N. On CUDA all rows are compared there, exactly; the plan says where.
    """
    path, there = Path(place), device_of(device)
    while True:
        about = folder.read_about(path)
        try:
            base, rows = open_base(path, about), read_rows(path, about)
            break
        except StoreError:
            if folder.read_about(path) == about:
                raise
            # upkeep has put another index in its place meanwhile, and taken away files of the one before
    if there != "cpu":
        base = replace(base, device=OnDevice(base.points, base.spec.space.metric, there))
    return Index(path=path, about=about, base=base, added=rows.added, meta=rows.meta, live=rows.live)


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """Rows are counted from 0: those of the base sorted by list, then what was added since. `live`: not deleted."""

    path: Path
    about: Mapping[str, Any]
    base: Base
    added: exact.Stored
    meta: pa.Table
    live: Bools

    @property
    def name(self) -> str:
        return str(self.about["name"])

    @property
    def dim(self) -> int:
        """Length of a vector, and of a query."""
        return int(self.about["dim"])

    @property
    def encoders(self) -> dict[str, dict[str, str]]:
        """`image` and `text`, each with name and weights; what is missing cannot be asked with."""
        return {kind: dict(one) for kind, one in self.about["encoders"].items()}

    @property
    def keys(self) -> pa.ChunkedArray:
        return self.meta[KEY]

    def __len__(self) -> int:
        """Rows that can be found."""
        return self._count

    @cached_property
    def _count(self) -> int:
        return int(self.live.sum())

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.keys.to_pylist()) if self.live[row]}

    def rows(self, keys: Sequence[str]) -> Longs:
        """The row of each key. Raises ConfigError for one that is not there."""
        for key in keys:
            if key not in self._row_of:
                near = did_you_mean(key, list(self._row_of)[:10_000])
                raise ConfigError(f"the index {self.name} has no key {key}{near}")
        return np.array([self._row_of[key] for key in keys], np.int64)

    def vectors(self, rows: Longs | Sequence[int]) -> Floats:
        """float32 (n, dim): as queries they find their own rows. Under cosine their length is not what it was."""
        wanted = np.asarray(rows, np.int64)
        points = self.points(wanted)
        center = self.base.axes.center
        return points + center if len(center) else points

    def points(self, rows: Longs) -> Floats:
        """float32 (n, dim) as they are compared: centred, of length one under cosine. ConfigError for no such row."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.live):
            raise ConfigError(f"rows go from 0 to {len(self.live) - 1}, not {rows.min()} to {rows.max()}")
        found = np.empty((len(rows), self.dim), np.float32)
        old = rows < len(self.base)
        found[old] = self.base.points[rows[old]]
        found[~old] = self.added[rows[~old] - len(self.base)]
        return found

    def search(
        self,
        queries: Any,
        *,
        k: int = 10,
        where: str = "",
        exact: bool = False,
        nprobe: int | None = None,
        shortlist: int | None = None,
        margin: float = 0.0,
        ef: int | None = None,
        dims: int | None = None,
        not_rows: Sequence[int] = (),
    ) -> Hits:
        """The k nearest rows of each query (Q, dim), as the encoder gives it: centring and length are the index's.

        where: a filter over `meta` (see `where.matches`), held inside the search, so that k rows come where k match.
        exact: compare every row that matches. The other words override what tuning found; `dims`: of codes=nested,
        how many are scanned. not_rows: rows that must not come. Raises ConfigError for queries of another length.
        """
        queries = floats(queries, self.dim, "queries")
        if k < 1:
            raise ConfigError(f"k={k}: ask for one neighbour or more")
        asked = Words(
            kind="flat" if exact else "",
            nprobe=nprobe or 0,
            shortlist=shortlist or 0,
            margin=margin,
            ef=ef or 0,
            dims=dims or 0,
        )
        points = self.base.axes.points(queries)
        allowed, matching = self._allowed(where, not_rows)
        return self._found(points, min(k, max(1, len(self.live))), asked, allowed, matching)

    def _allowed(self, where: str, not_rows: Sequence[int]) -> tuple[Bools | None, int]:
        """Rows that may come (None: all) and how many."""
        if not where and not len(not_rows) and self._count == len(self.live):
            return None, len(self.live)
        mask = self.live & matches(self.meta, where) if where else self.live.copy()
        left_out = np.asarray(not_rows, np.int64)
        if len(left_out) and left_out.max() >= len(mask):
            raise ConfigError(f"not_rows: the index has no row {left_out.max()}")
        mask[left_out[left_out >= 0]] = False  # -1 is where hits were fewer
        return mask, int(mask.sum())

    def _found(self, points: Floats, k: int, asked: Words, allowed: Bools | None, matching: int) -> Hits:
        base_allowed = None if allowed is None else allowed[: len(self.base)]
        in_base = len(self.base) if base_allowed is None else int(base_allowed.sum())
        words = chosen_words(self.base, self.about, asked, k=k, queries=len(points), matching=in_base)
        plan = {**words.to_json(), "rows": len(self), "matching": matching}
        if self.base.device is not None:
            plan["device"] = self.base.device.device
        scores, rows = self._base(points, k, words, base_allowed, in_base, plan)
        if len(self.added):
            plan["added"] = len(self.added)
            scores, rows = self._with_added(points, k, scores, rows, allowed)
        return Hits(rows=rows, scores=scores, plan=plan)

    def _base(
        self, points: Floats, k: int, words: Words, allowed: Bools | None, matching: int, plan: dict[str, Any]
    ) -> tuple[Floats, Longs]:
        if not matching:
            return np.full((len(points), k), exact.worst(self.base.spec.space.metric)), np.full(
                (len(points), k), -1
            )
        scores, rows = self.base.search(points, k, words, allowed)
        short = np.flatnonzero((rows >= 0).sum(axis=1) < min(k, matching))
        if len(short):
            # The probed lists, or the walk, held fewer than there are: these queries see every row.
            plan["completed"] = len(short)
            rest = Words(kind="flat" if allowed is None else "subset")
            scores[short], rows[short] = self.base.search(points[short], k, rest, allowed)
        return scores, rows

    def _with_added(
        self, points: Floats, k: int, scores: Floats, rows: Longs, allowed: Bools | None
    ) -> tuple[Floats, Longs]:
        """Rows added since are few: all of them are compared."""
        metric, first = self.base.spec.space.metric, len(self.base)
        chosen = None if allowed is None else np.flatnonzero(allowed[first:])
        near, at = exact.nearest(points, self.added, k, metric, chosen)
        at = np.where(at < 0, -1, at + first)
        return exact.best(
            np.concatenate([scores, near], axis=1), np.concatenate([rows, at], axis=1), k, metric
        )
