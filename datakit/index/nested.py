"""AdANNS-D: one build on full nested vectors, searched on as many of their dims as a query asks for.

faiss scans whole codes; here a list's rows lie side by side with all their dims, and a query reads the first of each.
"""

from __future__ import annotations

import numpy as np

from datakit.index.arrays import Bools, Floats, Longs, unit
from datakit.index.exact import Stored, best
from datakit.index.spec import Spec


def scan_nested(
    nested: Stored,
    ends: Longs,
    coded: Floats,
    chosen: Longs,
    *,
    k: int,
    dims: int,
    spec: Spec,
    allowed: Bools | None,
) -> tuple[Floats, Longs]:
    """The best k of each query (Q, d_s) over the first `dims` dims of its lists' rows: scores and rows, -1 filled.

    Prefixes of MRL vectors are compared as vectors of their own, of length one, under cosine.
    """
    metric, starts = spec.space.metric, np.concatenate([[0], ends[:-1]])
    own = metric == "cosine" and spec.basis.kind in ("raw", "mrl")
    queries = np.ascontiguousarray(coded[:, :dims])
    queries = unit(queries) if own else queries
    scores = np.empty((len(coded), k), np.float32)
    ids = np.empty((len(coded), k), np.int64)
    for at, (query, lists) in enumerate(zip(queries, chosen, strict=True)):
        rows = np.concatenate([np.arange(starts[one], ends[one]) for one in lists if one >= 0])
        if allowed is not None:
            rows = rows[allowed[rows]]
        short = (
            np.concatenate([nested[starts[one] : ends[one], :dims] for one in lists if one >= 0])
            if allowed is None
            else nested[rows, :dims]
        )
        short = short.astype(np.float32, copy=False)
        if own:
            short = unit(short)
        found = ((short - query) ** 2).sum(axis=1) if metric == "l2" else short @ query
        scores[at], ids[at] = (part[0] for part in best(found[None], rows[None], k, metric))
    return scores, ids
