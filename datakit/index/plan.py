"""What a search costs, and so how to do it: all rows, lists, a graph, or only the rows that a filter leaves.

Costs are of operations, in nanoseconds of one core of a 2-vCPU Sapphire Rapids (AVX-512), fitted to what
tools/bench_index.py measures there; another machine scales them much alike. They are constants, and no clock is read,
so that a build chooses the same on every machine: `tune(measure=True)` asks the clock instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from datakit.index.codes import CHEAP
from datakit.index.spec import Spec

PRODUCT = 0.018  # a multiply-add of a product of matrices
FETCH = 0.25  # a number fetched from memory for one query alone: rows of a shortlist, of a subset
START = 1_000.0  # a query's share of calls
CALL = 60_000.0  # a call, whatever is in it
SELECT = 2.3  # a row of the first ones met: later ones are rarely among the best
FIRST = 3_000
TABLE = 25.0  # a dim of the codes: tables of a query's products with each code
OFFERED = 2.5  # a list that there is: its score is looked at
LIST = 125.0  # a list met
KEPT = 60.0  # a row of a shortlist: kept while scanning, sorted after
HOP = 55.0  # a row met in a graph, beside its dims
SCAN = {  # a dim of a row in a list
    "flat": 0.16,
    "fp16": 0.14,
    "sq8": 0.09,
    "pq4fs": 0.005,
    "pq8": 0.05,
    "rabitqfs": 0.016,
    "panorama": 0.06,
    "nested": 0.2,
}
FUNNEL_STEP = 20_000.0  # a step of the funnel, in numpy


@dataclass(frozen=True, kw_only=True)
class Words:
    """How one search is done. kind: flat | lists | graph | subset (exact on the rows a filter leaves).

    margin: of the nprobe nearest lists only those are scanned whose centroid scores at most this much less than the
    nearest one's (as SPANN prunes, Chen et al. 2021): a query in the middle of a list needs few, one between many more.
    """

    kind: str
    nprobe: int = 0
    shortlist: int = 0
    margin: float = 0.0
    ef: int = 0
    dims: int = 0

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value}


def flat_cost(rows: int, dim: int, queries: int = 1) -> float:
    """Nanoseconds a query, of `queries` at once: alone, each row is fetched for it."""
    met = rows * dim * (PRODUCT + FETCH / max(1, queries) * 0.5)
    return START + SELECT * min(rows, FIRST) + CALL / queries + met


def subset_cost(matching: int, dim: int, queries: int = 1) -> float:
    """As `flat_cost`, with the rows gathered first."""
    return flat_cost(matching, dim, queries) + matching * dim * FETCH / queries


def lists_cost(
    spec: Spec, *, dim: int, scanned: float, probed: float, shortlist: int, queries: int = 1
) -> float:
    """Nanoseconds a query: axes, centroids, means, codes scanned, shortlist. `scanned`: rows of the `probed` lists."""
    d_c, d_s, nlist = spec.coarse.dims, spec.codes.dims, spec.coarse.nlist
    turned = 0 if spec.basis.kind in ("raw", "mrl") else dim * (d_c + d_s)
    cost = (
        START
        + CALL / queries
        + PRODUCT * (turned + nlist * d_c + min(nlist, CHEAP * probed) * d_s)
        + TABLE * d_s
        + OFFERED * nlist
        + LIST * probed
    )
    cost += scanned * d_s * SCAN[spec.codes.kind]
    return cost + rerank_cost(spec, dim=dim, shortlist=shortlist)


def graph_cost(spec: Spec, *, dim: int, ef: int, queries: int = 1) -> float:
    """Nanoseconds a query: about ef · links rows are met, each compared on d_s dims."""
    met = ef * spec.graph.links
    turned = 0 if spec.basis.kind in ("raw", "mrl") else dim * spec.codes.dims
    walked = met * (HOP + spec.codes.dims * SCAN.get(spec.codes.kind, 0.1))
    return START + CALL / queries + PRODUCT * turned + walked + rerank_cost(spec, dim=dim, shortlist=ef)


def rerank_cost(spec: Spec, *, dim: int, shortlist: int) -> float:
    if not spec.rerank.shortlist:
        return 0.0
    steps = len(spec.rerank.funnel)
    last = min([shortlist, *(many for _, many in spec.rerank.funnel)])
    return KEPT * shortlist + last * dim * FETCH + steps * FUNNEL_STEP


def multiply_adds(spec: Spec, *, dim: int, scanned: float, shortlist: int) -> float:
    """Of a query, as the AdANNS paper counts compute: d_c · nlist + d_s · rows scanned, and the shortlist's dims."""
    return spec.coarse.dims * spec.coarse.nlist + spec.codes.dims * scanned + dim * shortlist


def expected_scan(rows: int, nlist: int, nprobe: int, measured: dict[int, float] | None = None) -> float:
    """Rows of `nprobe` lists: as measured for the nearest smaller count, scaled; else as if lists were equal."""
    known = {count: scanned for count, scanned in (measured or {}).items() if count <= nprobe}
    if known:
        count = max(known)
        return min(float(rows), known[count] * nprobe / count)
    return min(float(rows), rows * nprobe / nlist)


def raised(nprobe: int, nlist: int, share: float) -> int:
    """nprobe for a filter that leaves `share` of the rows: as many of them are met as without it."""
    return min(nlist, math.ceil(nprobe / max(share, 1e-9)))
