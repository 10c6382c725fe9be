"""HNSW over a prefix (Malkov & Yashunin 2018; AdANNS-HNSW): faiss's graph, built on one thread to come out alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from datakit.index.arrays import Bytes, Floats, Longs, floats, pointer
from datakit.index.spec import Spec


def build_graph(rows: Floats, spec: Spec) -> bytes:
    """The graph over rows (N, d_s), as faiss keeps it."""
    import faiss

    metric = faiss.METRIC_L2 if spec.space.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    dims, links, kind = rows.shape[1], spec.graph.links, spec.codes.kind
    if kind == "flat":
        graph = faiss.IndexHNSWFlat(dims, links, metric)
    else:
        scalar = faiss.ScalarQuantizer.QT_fp16 if kind == "fp16" else faiss.ScalarQuantizer.QT_8bit
        graph = faiss.IndexHNSWSQ(dims, scalar, links, metric)
    graph.hnsw.efConstruction = spec.graph.ef_construction
    rows = floats(rows)
    graph.train(rows)
    graph.add(rows)
    return faiss.serialize_index(graph).tobytes()  # type: ignore[no-any-return]


def walk(graph: Any, rows: Floats, *, k: int, ef: int, allowed: Bytes | None = None) -> tuple[Floats, Longs]:
    """The best k found by keeping `ef` candidates: scores and ids (Q, k), -1 where there are fewer."""
    import faiss

    rows = floats(rows, graph.d, "queries")
    scores, ids = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int64)
    words: dict[str, Any] = {"efSearch": max(ef, k)}
    if allowed is not None:
        if len(allowed) * 8 < graph.ntotal:
            raise ValueError(f"a bitmap of {len(allowed) * 8} bits for {graph.ntotal} rows")
        words["sel"] = faiss.IDSelectorBitmap(allowed)
    parameters = faiss.SearchParametersHNSW(**words)
    graph.search_c(len(rows), pointer(rows), k, pointer(scores), pointer(ids), parameters)
    return scores, ids
