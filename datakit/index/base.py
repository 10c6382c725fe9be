"""The rows that an index was built of, opened: codes in memory, vectors mapped from disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.errors import ConfigError
from datakit.index import codes as lists_of_codes
from datakit.index import exact, folder
from datakit.index.arrays import Bools, Floats, Longs
from datakit.index.basis import Axes
from datakit.index.build import Merged, Trained
from datakit.index.coarse import list_nearness, nearest_lists, within
from datakit.index.graph import walk
from datakit.index.nested import scan_nested
from datakit.index.plan import Words
from datakit.index.sound import check_fit, check_learned, spec_of_about
from datakit.index.spec import Spec
from datakit.index.torch_search import OnDevice

LEARNED = ("center", "coarse", "codes", "centroids", "means", "ends", "empty", "held")  # arrays of axes.npz
QUERIES = 512  # searched at once: what a chunk needs of memory stays small, whatever is asked


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """One segment. `points` (N, D) as compared, float32 or float16, perhaps mapped; `lists`, `graph`: faiss's."""

    spec: Spec
    axes: Axes
    points: exact.Stored
    centroids: Floats
    means: Floats
    ends: Longs
    lists: Any = None
    graph: Any = None
    nested: exact.Stored | None = None
    device: OnDevice | None = None  # where exact search runs, if not here
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def nlist(self) -> int:
        return len(self.centroids)

    @cached_property
    def sizes(self) -> Longs:
        """Rows of each list."""
        return np.diff(self.ends, prepend=0)

    def search(
        self, points: Floats, k: int, words: Words, allowed: Bools | None = None
    ) -> tuple[Floats, Longs]:
        """Best k of each of the query points (Q, D): scores and rows (Q, k), -1 where there are fewer.

        allowed: rows that may come. With kind=subset they are compared exactly, and no others are looked at.
        """
        parts = [
            self._chunk(points[start : start + QUERIES], k, words, allowed)
            for start in range(0, len(points), QUERIES)
        ]
        empty = np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        return (
            (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])) if parts else empty
        )

    def _chunk(self, points: Floats, k: int, words: Words, allowed: Bools | None) -> tuple[Floats, Longs]:
        metric = self.spec.space.metric
        if words.kind in ("flat", "subset"):
            rows = None if allowed is None else np.flatnonzero(allowed)
            if self.device is not None:
                return self.device.nearest(points, k, rows)
            return exact.nearest(points, self.points, k, metric, rows)
        shortlist = max(words.shortlist, k)
        coded = self.axes.for_codes(points)
        if words.kind == "graph":
            bits = None if allowed is None else lists_of_codes.bitmap(allowed)
            scores, ids = walk(self.graph, coded, k=shortlist, ef=max(words.ef, shortlist), allowed=bits)
        else:
            scores, ids = self._lists(points, coded, shortlist, words, allowed)
        if not words.shortlist:
            return exact.best(scores, ids, k, metric)
        return self.reranked(points, ids, k)

    def _lists(
        self, points: Floats, coded: Floats, shortlist: int, words: Words, allowed: Bools | None
    ) -> tuple[Floats, Longs]:
        chosen = self.probes(points, words.nprobe, words.margin)
        if self.nested is not None:
            dims = words.dims or self.spec.codes.dims
            return scan_nested(
                self.nested, self.ends, coded, chosen, k=shortlist, dims=dims, spec=self.spec, allowed=allowed
            )
        near = lists_of_codes.list_scores(coded, chosen, self.means, self.spec.space.metric)
        bits = None if allowed is None else lists_of_codes.bitmap(allowed)
        return lists_of_codes.scan(self.lists, coded, chosen, near, k=shortlist, allowed=bits)

    def probes(self, points: Floats, nprobe: int, margin: float = 0.0) -> Longs:
        """(Q, P) lists of each query point by d_c dims, P <= nprobe: the nearest ones, within `margin` of the first if
        one is given; -1 where there are fewer. In order of nearness without a margin.
        """
        if not 1 <= nprobe <= self.nlist:
            raise ConfigError(f"nprobe={nprobe}: the index has {self.nlist} lists")
        scores = list_nearness(self.axes.for_lists(points), self.centroids, self.spec.space.metric)
        return within(scores, nprobe, margin) if margin else nearest_lists(scores, nprobe)

    def reranked(self, points: Floats, ids: Longs, k: int) -> tuple[Floats, Longs]:
        """By stored vectors; through the funnel, each step on a longer prefix of those the last one left."""
        metric = self.spec.space.metric
        for dims, many in self.spec.rerank.funnel:
            cosine = metric == "cosine" and self.axes.nested
            short = exact.prefix_scores(points, self.points, ids, dims, metric, unit_length=cosine)
            ids = exact.best(short, ids, max(many, k), metric)[1]
        return exact.best(exact.compare(points, self.points, ids, metric), ids, k, metric)


def base_of(trained: Trained, merged: Merged) -> Base:
    """The segment as it would be read back, without a disk between."""
    stored = merged.points.astype(np.float16) if stores_half(trained.spec) else merged.points
    return Base(
        spec=trained.spec,
        axes=trained.axes,
        points=stored,
        centroids=trained.centroids,
        means=trained.means,
        ends=merged.ends,
        lists=folder.lists_of(merged.lists) if merged.lists else None,
        graph=folder.lists_of(merged.graph) if merged.graph else None,
        nested=merged.nested,
    )


def stores_half(spec: Spec) -> bool:
    """Whether vectors are kept as float16. Flat search promises exactness, so it keeps what it was given."""
    return spec.rerank.store == "fp16" and spec.structure != "flat"


def open_base(place: Path, about: Mapping[str, Any]) -> Base:
    """The base segment of an index. Raises StoreError naming the file that is damaged, or fits no other."""
    names = about["base"]
    spec, arrays = learned(place, about)
    found: dict[str, Any] = {}
    for name, read in (("lists", folder.read_lists), ("graph", folder.read_lists)):
        if name in names:
            found[name] = read(folder.checked(place, names[name], about))
    axes = axes_of(spec, arrays, about)
    if "nested" in names:
        found["nested"] = folder.read_matrix(folder.checked(place, names["nested"], about), axes.d_s)
    base = Base(
        spec=spec,
        axes=axes,
        points=folder.read_matrix(folder.checked(place, names["vectors"], about), about["dim"]),
        centroids=arrays["centroids"],
        means=arrays["means"],
        ends=arrays["ends"],
        **found,
    )
    check_fit(base, place, about)
    return base


def learned(place: Path, about: Mapping[str, Any]) -> tuple[Spec, dict[str, NDArray[Any]]]:
    """What was learned, of the folder of an index: its spec, and arrays by name. Raises StoreError naming the file."""
    spec = spec_of_about(place / folder.ABOUT, about)
    path = folder.checked(place, about["base"]["axes"], about)
    arrays = folder.read_arrays(path, LEARNED)
    check_learned(path, arrays, about)
    return spec, arrays


def axes_of(spec: Spec, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> Axes:
    return Axes(
        metric=spec.space.metric,
        d_c=spec.coarse.dims or about["dim"],
        d_s=spec.codes.dims or about["dim"],
        nested=about["nested"],
        **{name: arrays[name] for name in ("center", "coarse", "codes")},
    )
