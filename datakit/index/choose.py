"""How one search is done: what tuning found, what the caller asks for, and what a filter leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datakit.errors import ConfigError
from datakit.index.base import Base
from datakit.index.plan import (
    Words,
    expected_scan,
    flat_cost,
    graph_cost,
    lists_cost,
    raised,
    subset_cost,
)

NPROBE = 16  # of an index that was not tuned
EF = 64
DEEP = 10  # rows met for each neighbour asked for, at least


def chosen_words(
    base: Base, about: Mapping[str, Any], asked: Words, *, k: int, queries: int, matching: int
) -> Words:
    """The cheapest way that keeps the recall tuned for. `matching`: rows of the base that a filter leaves.

    A filter never takes rows off an answer: either all rows that match are compared, or lists are scanned for
    matching rows alone, so many more lists as the filter leaves fewer rows. Raises ConfigError for a word that this
    kind of index does not have.
    """
    spec, rows = base.spec, len(base)
    filtered = matching < rows
    subset = Words(kind="subset" if filtered else "flat")
    _refuse(base, asked)
    if base.device is not None or asked.kind == "flat" or spec.structure == "flat" or not rows:
        return subset
    tuned: Mapping[str, Any] = about.get("search") or {}
    if tuned.get("kind") == "flat" and not (asked.nprobe or asked.shortlist or asked.ef):
        return subset
    words = _words(base, tuned, asked, k, matching)
    if asked.nprobe or asked.ef:
        return words
    dim = base.points.shape[1]
    whole = subset_cost(matching, dim, queries) if filtered else flat_cost(rows, dim, queries)
    return subset if filtered and whole < _cost(base, words, about, queries) else words


def _words(base: Base, tuned: Mapping[str, Any], asked: Words, k: int, matching: int) -> Words:
    spec, share = base.spec, max(matching, 1) / len(base)
    usual = tuned.get("shortlist", spec.rerank.shortlist)
    shortlist = (asked.shortlist or max(usual, 2 * k)) if spec.rerank.shortlist or asked.shortlist else 0
    shortlist = min(max(shortlist, k) if shortlist else 0, len(base))
    if base.graph is not None:
        ef = asked.ef or max(tuned.get("ef", EF), shortlist, k)
        # A graph meets rows that do not match on its way: it must meet so many more of them.
        return Words(kind="graph", ef=ef if asked.ef else int(ef / share), shortlist=shortlist)
    least = -(-DEEP * k * base.nlist // len(base))
    as_tuned = share == 1 and k <= base.spec.target.k and not asked.nprobe
    if as_tuned and tuned.get("margin"):
        return Words(
            kind="lists", nprobe=base.nlist, margin=tuned["margin"], shortlist=shortlist, dims=asked.dims
        )
    if not as_tuned and shortlist and not (asked.nprobe or asked.shortlist):
        shortlist = min(max(shortlist, tuned.get("filtered_shortlist", 0)), len(base))
    usual = tuned.get("nprobe", NPROBE) if as_tuned else tuned.get("filtered", tuned.get("nprobe", NPROBE))
    nprobe = asked.nprobe or raised(max(usual, least), base.nlist, share)
    margin = asked.margin if asked.nprobe else 0.0
    return Words(
        kind="lists", nprobe=min(nprobe, base.nlist), margin=margin, shortlist=shortlist, dims=asked.dims
    )


def _cost(base: Base, words: Words, about: Mapping[str, Any], queries: int) -> float:
    dim = base.points.shape[1]
    if words.kind == "graph":
        return graph_cost(base.spec, dim=dim, ef=words.ef, queries=queries)
    curve = [point for point in about.get("curve", ()) if point.get("kind") == "lists"]
    if words.margin:
        same: Mapping[str, Any] = next((point for point in curve if point.get("margin") == words.margin), {})
        scanned, probed = same.get("scanned", 0.0), same.get("probed", 0.0)
    else:
        probed = words.nprobe
        known = {point["nprobe"]: point["scanned"] for point in curve if "margin" not in point}
        scanned = expected_scan(len(base), base.nlist, words.nprobe, known)
    return lists_cost(
        base.spec, dim=dim, scanned=scanned, probed=probed, shortlist=words.shortlist, queries=queries
    )


def _refuse(base: Base, asked: Words) -> None:
    if asked.nprobe and base.graph is not None:
        raise ConfigError("nprobe is of lists, and this index is a graph: give ef")
    if asked.ef and base.graph is None:
        raise ConfigError("ef is of a graph, and this index has lists: give nprobe")
    if asked.nprobe > max(1, base.nlist) and base.lists is not None:
        raise ConfigError(f"nprobe={asked.nprobe}: the index has {base.nlist} lists")
    if asked.dims and base.nested is None:
        raise ConfigError("dims can be chosen only of codes=nested (adanns-d)")
    if asked.dims > base.axes.d_s:
        raise ConfigError(f"dims={asked.dims}: the codes have {base.axes.d_s}")
