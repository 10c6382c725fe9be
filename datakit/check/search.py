"""The claims of a search build: every sample is in its index, and the index finds what exact search finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.check.index_recall import index_recall, index_rows, without_own
from datakit.index.ranking import exact_neighbors, mean_ap_at_k
from datakit.index.stages import opened, vectors_of
from datakit.rng import rng_for
from datakit.stage import Files, Ref, Rows, reduce
from datakit.stages.columns import codes

QUERIES = 500  # rows that ask, at most; drawn otherwise than those the tuner chose by


@reduce(version=2)
def check_index(rows: Rows, *, index: Ref[Files], column: str, seed: int = 0) -> list[dict[str, Any]]:
    """`index_rows` and `index_recall` of an index over `column`: rows ask, and do not count as their own answer."""
    found, k = opened(index.value), 0
    keys, vectors = rows.table(["__key__"])["__key__"], vectors_of(rows, column)
    findings = index_rows(found.keys.to_pylist(), keys.to_pylist())
    k = min(found.base.spec.target.k, len(rows) - 1)
    if k < 1 or not findings[0]["passed"]:
        return [finding | {"id": f"{found.name}_{finding['id']}"} for finding in findings]
    drawn = np.sort(rng_for(seed, "check", "index queries").permutation(len(rows))[:QUERIES])
    center = found.base.axes.center
    compared = vectors - center if len(center) else vectors
    hits = found.search(vectors[drawn], k=k + 1)
    place = pc.index_in(found.keys.combine_chunks(), value_set=keys.combine_chunks()).to_numpy()
    findings += index_recall(
        np.where(hits.rows >= 0, place[hits.rows], -1),
        queries_QD=compared[drawn],
        vectors_ND=compared,
        target=found.base.spec.target.recall,
        metric=found.base.spec.space.metric,
        k=k,
        own_Q=drawn,
        searched=", ".join(f"{name} {value}" for name, value in hits.plan.items() if name != "rows"),
    )
    return [finding | {"id": f"{found.name}_{finding['id']}"} for finding in findings]


@reduce(version=1)
def ranking_figures(
    rows: Rows, *, index: Ref[Files], column: str, group: str, seed: int = 0, k: int = 10
) -> dict[str, Any]:
    """What the index's answers are worth beside exact ones: top-1 and mAP@k of finding rows of one's own `group`.

    mAP@k divides by k, as in AdANNS. Rows of no group ask nothing; {} where none has one.
    """
    table = (
        rows.table([group]) if group in rows.columns else pa.table({group: pa.nulls(len(rows), pa.string())})
    )
    label = codes(table[group])[0]
    asking = np.flatnonzero(label >= 0)
    k = min(k, len(rows) - 1)
    if not len(asking) or k < 1:
        return {}
    drawn = np.sort(rng_for(seed, "figures", "queries").permutation(asking)[:QUERIES])
    found, vectors = opened(index.value), vectors_of(rows, column)
    center = found.base.axes.center
    compared = vectors - center if len(center) else vectors
    keys = rows.table(["__key__"])["__key__"].combine_chunks()
    place = pc.index_in(found.keys.combine_chunks(), value_set=keys).to_numpy()
    hits = found.search(vectors[drawn], k=k + 1).rows
    ways = {
        "index": np.where(hits >= 0, place[hits], -1),
        "exact": exact_neighbors(compared[drawn], compared, k + 1, metric=found.base.spec.space.metric),
    }
    figures = {}
    for name, answers in ways.items():
        near = without_own(answers, drawn)
        right = (label[near] == label[drawn][:, None]) & (near >= 0)
        figures[name] = {"top1": float(right[:, 0].mean()), f"map_at_{k}": float(mean_ap_at_k(right))}
    return {"group": group, "queries": len(drawn), "k": k, **figures}
