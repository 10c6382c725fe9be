"""AdANNS against rigid search at equal compute, on real nested vectors with labels (set B of tools/index_sets.py).

Rigid: lists and codes of one dim d. AdANNS-IVF: lists of d_c dims, scanned on d_s (Rege et al. 2023). Compute is
multiply-adds a query: d_c · lists + d_s · rows scanned. Top-1 is the label of the nearest row; mAP@10 divides by 10, as
the paper's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from index_sets import VectorSet

from datakit.check.retrieval_plots import Cost, cost_curves
from datakit.index import codes as lists_of_codes
from datakit.index.arrays import in_blocks, one_thread, unit
from datakit.index.coarse import list_nearness, list_of, means_of, nearest_lists, train_centroids
from datakit.index.ranking import mean_ap_at_k
from datakit.index.spec import Basis, Coarse, Codes, Spec

DIMS = (16, 32, 64, 128, 256)
CASES = {1024: (1, 2, 4, 8, 16), 8192: (1, 2, 4, 8)}  # lists → nprobe
K = 10


def prefix(rows: Any, dims: int) -> Any:
    return unit(np.ascontiguousarray(rows[:, :dims]))


def curves(found: VectorSet, out: Path | None) -> dict[str, Any]:
    """Points of every (lists, d_c, d_s, nprobe), printed by what is best at equal compute, and drawn under `out`."""
    assert found.row_labels is not None and found.query_labels is not None
    result: dict[str, Any] = {"set": f"{found.name}, AdANNS against rigid"}
    pages = []
    for lists, nprobes in CASES.items():
        if lists > len(found.rows) // 24:
            continue
        with one_thread():
            points = [point for d_c in DIMS for point in _of_lists(found, lists, d_c, nprobes)]
        result[str(lists)] = points
        for measure in ("top1", "map10"):
            series = _series(points, measure)
            pages.append((f"{lists:,} lists, {measure}", cost_curves(series, recall=measure)))
        _say(lists, points)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "adanns.html").write_text(_page(pages), encoding="utf-8")
    return result


def _of_lists(found: VectorSet, lists: int, d_c: int, nprobes: tuple[int, ...]) -> list[dict[str, Any]]:
    spec = Spec(
        basis=Basis(kind="mrl"), codes=Codes(kind="flat"), coarse=Coarse(dims=d_c, nlist=lists, iterations=5)
    )
    narrow, asked = prefix(found.rows, d_c), prefix(found.queries, d_c)
    centroids = train_centroids(narrow, replace(spec, coarse=replace(spec.coarse, points_per_list=24)))
    assigned = list_of(narrow, centroids, "cosine")
    order = np.argsort(assigned, kind="stable")
    sizes = np.bincount(assigned, minlength=lists)
    chosen = nearest_lists(list_nearness(asked, centroids, "cosine"), max(nprobes))
    points = []
    for d_s in DIMS:
        coded = in_blocks(lambda block, d=d_s: prefix(block, d), found.rows)
        of_codes = replace(spec, codes=replace(spec.codes, dims=d_s, bytes=4 * d_s))
        means = means_of(coded, assigned, lists)
        index = lists_of_codes.train_lists(coded, assigned, means, of_codes)
        lists_of_codes.fill(
            index, assigned[order], lists_of_codes.encode(index, coded[order], assigned[order])
        )
        for nprobe in nprobes:
            near = np.ascontiguousarray(chosen[:, :nprobe])
            scores = np.zeros(near.shape, np.float32)
            rows = lists_of_codes.scan(index, prefix(found.queries, d_s), near, scores, k=K)[1]
            right = (found.row_labels[order[np.maximum(rows, 0)]] == found.query_labels[:, None]) & (
                rows >= 0
            )
            scanned = float(sizes[near].sum(axis=1).mean())
            points.append({
                "lists": lists, "d_c": d_c, "d_s": d_s, "nprobe": nprobe, "macs": d_c * lists + d_s * scanned,
                "top1": float(right[:, 0].mean()), "map10": float(mean_ap_at_k(right)),
            })  # fmt: skip
    return points


def _series(points: list[dict[str, Any]], measure: str) -> dict[str, list[Cost]]:
    groups = {
        "rigid": [one for one in points if one["d_c"] == one["d_s"]],
        "d_c > d_s": [one for one in points if one["d_c"] > one["d_s"]],
        "d_c < d_s": [one for one in points if one["d_c"] < one["d_s"]],
    }
    return {name: [_cost(one, measure) for one in group] for name, group in groups.items()}


def _cost(one: dict[str, Any], measure: str) -> Cost:
    setting = f"d_c {one['d_c']}, d_s {one['d_s']}, nprobe {one['nprobe']}"
    return Cost(cost=one["macs"], recall=one[measure], setting=setting)


def _say(lists: int, points: list[dict[str, Any]]) -> None:
    """At the compute of each rigid point on the front: the best rigid one and the best of all."""
    print(f"{lists:,} lists: {'multiply-adds':>14} {'rigid top-1':>12} {'AdANNS':>8}  at")
    rigid = [one for one in points if one["d_c"] == one["d_s"]]
    for budget in (50_000, 100_000, 200_000, 400_000, 800_000, 1_600_000, 3_200_000):
        ours, theirs = (
            max((one for one in some if one["macs"] <= budget), key=lambda one: one["top1"], default=None)
            for some in (points, rigid)
        )
        if ours is not None:
            said = f"{theirs['top1']:12.4f}" if theirs else f"{'none':>12}"
            where = f"d_c {ours['d_c']}, d_s {ours['d_s']}, nprobe {ours['nprobe']}"
            print(f"{'':15}{budget:14,} {said} {ours['top1']:8.4f}  {where}")
    print()


def _page(plots: list[tuple[str, Any]]) -> str:
    from datakit.check.report import resource

    style = resource("report.css") + resource("retrieval.css")
    figures = "".join(
        f"<figure><figcaption><b>{title}</b></figcaption>{plot}</figure>" for title, plot in plots
    )
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>AdANNS</title><style>{style}</style>"
    body = f"<main><h1>AdANNS against rigid search</h1><div class='grid two'>{figures}</div></main>"
    return f"{head}<body>{body}</body></html>"
