#!/usr/bin/env python
"""Time indices over the same vectors: queries a CPU second at a recall, latency of one query, build, filters, AdANNS.

    python tools/bench_index.py --peers-python X/bin/python [--rounds 3] [--rows 200000] [--cache DIR] [--out DIR]

One thread, CPU seconds of the process, medians of rounds; a cell is the cheapest setting measured that reaches the
recall, of a sweep fine enough not to harm a peer. Queries are never indexed; recall@10 counts ties by score. Sets A and
B: tools/index_sets.py (B needs Debian's wordnet-base). X, where the peers are:

    python -m venv X && X/bin/pip install numpy hnswlib wordllama

Without --peers-python hnswlib and set B are left out. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from index_sets import PEERS, VectorSet, real, synthetic
from threadpoolctl import threadpool_limits

from datakit.index import folder
from datakit.index.base import base_of
from datakit.index.build import encode, held_rows, merge, sample_rows, train
from datakit.index.opened import Index, open_index
from datakit.index.pack import index_files
from datakit.index.spec import Basis, Spec, Target, settled, variant
from datakit.index.tune import tune

K, ALONE, LISTS = 10, 200, 1024
NPROBES = (
    1,
    2,
    4,
    8,
    12,
    16,
    20,
    24,
    28,
    32,
    36,
    40,
    44,
    48,
    52,
    56,
    60,
    64,
    72,
    80,
    88,
    96,
    104,
    112,
    120,
    128,
    144,
)
NPROBES += (160, 176, 192, 224, 256, 320, 384, 448, 512)
SLACK = 1e-5
cpu = time.process_time


def limits_of(found: VectorSet) -> Any:
    """(Q,) the score of each query's tenth neighbour."""
    return faiss.knn(found.queries, found.rows, K, metric=faiss.METRIC_INNER_PRODUCT)[0][:, K - 1]


def recall_of(found: VectorSet, ids: Any, limits: Any) -> float:
    scores = np.einsum("qd,qkd->qk", found.queries, found.rows[np.maximum(ids, 0)])
    return float(((scores >= limits[:, None] - SLACK) & (ids >= 0)).mean())


def timed(search: Callable[[], Any], rounds: int) -> tuple[Any, float]:
    """What a search gives, and its median CPU seconds."""
    times, given = [], None
    for _ in range(rounds):
        started = cpu()
        given = search()
        times.append(cpu() - started)
    return given, float(np.median(times))


def alone(search: Callable[[Any], Any], queries: Any, many: int = ALONE) -> dict[str, float]:
    """Latency of one query, ms: 25th percentile and median of wall time."""
    times = []
    for at in range(min(many, len(queries))):
        started = time.perf_counter()
        search(queries[at : at + 1])
        times.append(time.perf_counter() - started)
    return {"p25_ms": float(np.percentile(times, 25)) * 1e3, "p50_ms": float(np.median(times)) * 1e3}


def exact(found: VectorSet, rounds: int) -> dict[str, Any]:
    index = faiss.IndexFlatIP(found.rows.shape[1])
    index.add(found.rows)
    _, took = timed(lambda: index.search(found.queries, K), rounds)
    return {"build_cpu_s": 0.0, "points": [{"setting": "", "recall": 1.0, "qps": len(found.queries) / took,
            **alone(lambda query: index.search(query, K), found.queries, 40)}]}  # fmt: skip


def plain_ivf(found: VectorSet, limits: Any, rounds: int, until: float) -> dict[str, Any]:
    """faiss's IVF on all dims, with as many lists and training vectors as ours."""
    dim, started = found.rows.shape[1], cpu()
    lists = min(LISTS, len(found.rows) // 39)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.niter, index.cp.min_points_per_centroid = True, 10, 1
    index.train(found.rows[: 60 * lists])
    index.add(found.rows)
    made: dict[str, Any] = {"build_cpu_s": cpu() - started, "points": []}
    for nprobe in (one for one in NPROBES if one <= lists):
        words = faiss.SearchParametersIVF(nprobe=nprobe)
        (_, ids), took = timed(lambda words=words: index.search(found.queries, K, params=words), rounds)
        point = {
            "setting": f"nprobe {nprobe}",
            "recall": recall_of(found, ids, limits),
            "qps": len(ids) / took,
        }
        single = alone(lambda query, words=words: index.search(query, K, params=words), found.queries, 60)
        made["points"].append(point | single)
        if point["recall"] > until:
            break
    return made


def hnswlib(found: VectorSet, limits: Any, rounds: int, python: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as work:
        for name, array in (("rows", found.rows), ("queries", found.queries), ("limits", limits)):
            np.save(f"{work}/{name}.npy", array)
        words = [python, str(PEERS), "hnsw", work, str(rounds), str(K)]
        answer: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        return answer


def build_ours(found: VectorSet, spec: Spec, place: Path) -> tuple[Index, dict[str, float]]:
    """The index as `make_index` builds it, its phases timed."""
    rows, started = found.rows, cpu()
    sample = rows[sample_rows(len(rows), settled(spec, rows=len(rows), dim=rows.shape[1]))]
    trained = train(sample, spec, rows=len(rows))
    merged = merge(trained, [encode(trained, rows)])
    built = cpu()
    held = np.flatnonzero(np.isin(merged.order, held_rows(len(rows), trained.spec)))
    tuned = tune(base_of(trained, merged), rows=held)
    took = {"build_cpu_s": built - started, "tune_cpu_s": cpu() - built}
    nearness = np.argsort(
        np.argsort(rows @ rows[0])
    )  # near rows get near numbers: a filter by it is correlated
    columns = {"draw": np.random.default_rng(7).random(len(rows)), "place": nearness / len(rows)}
    meta = pa.table({"key": [f"k{at:07d}" for at in range(len(rows))], **columns})
    folder.write_files(place, index_files(trained, merged, meta, name=found.name, tuned=tuned))
    return open_index(place), took


def ours(found: VectorSet, index: Index, took: dict[str, float], limits: Any, rounds: int) -> dict[str, Any]:
    hits, seconds = timed(lambda: index.search(found.queries, k=K), rounds)
    order = np.array([int(key[1:]) for key in index.keys.to_pylist()])
    reached = recall_of(found, order[hits.rows], limits)
    setting = ", ".join(f"{name} {value}" for name, value in index.about["search"].items())
    point = {"setting": setting, "recall": reached, "qps": len(found.queries) / seconds}
    return {**took, "points": [point | alone(lambda query: index.search(query, k=K), found.queries)]}


def cheapest(points: list[dict[str, Any]], recall: float) -> dict[str, Any] | None:
    return max((one for one in points if one["recall"] >= recall), key=lambda one: one["qps"], default=None)


def filters(found: VectorSet, index: Index, rounds: int) -> list[dict[str, Any]]:
    """Ours beside faiss's HNSW with a selector (ef 128) and beside searching 100 and filtering after."""
    graph = faiss.IndexHNSWFlat(found.rows.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 80
    order = np.array([int(key[1:]) for key in index.keys.to_pylist()])
    graph.add(np.ascontiguousarray(found.rows[order]))
    made = []
    for column in ("draw", "place"):
        for share in (0.1, 0.01, 0.001):
            where = f"{column} < {share}"
            mask = np.asarray(index.meta[column]) < share
            truth = index.search(found.queries, k=K, where=where, exact=True).rows
            selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
            words = faiss.SearchParametersHNSW(efSearch=128, sel=selector)
            ways: dict[str, Callable[[], Any]] = {
                "ours": lambda where=where: index.search(found.queries, k=K, where=where).rows,
                "HNSW ef 128 + selector": lambda words=words: graph.search(found.queries, K, params=words)[1],
                "filtered after 100": lambda mask=mask: _after(index, found.queries, mask),
            }
            for name, way in ways.items():
                rows, took = timed(way, rounds)
                pairs = zip(rows, truth, strict=True)
                hit = np.mean(
                    [len(set(a[a >= 0]) & set(b[b >= 0])) / max(1, (b >= 0).sum()) for a, b in pairs]
                )
                made.append({"filter": where, "way": name, "recall": float(hit), "qps": len(rows) / took})
            single = alone(
                lambda query, where=where: index.search(query, k=K, where=where), found.queries, 50
            )
            made[-3] |= single
    return made


def _after(index: Index, queries: Any, mask: Any) -> Any:
    rows = index.search(queries, k=100).rows
    left = [[row for row in found if row >= 0 and mask[row]][:K] for found in rows]
    return np.array([found + [-1] * (K - len(found)) for found in left])


def report(name: str, found: dict[str, dict[str, Any]], target: float) -> list[str]:
    """A line each, and the ratios the goals are about."""
    mine, plain, flat = found["datakit"]["points"][0], found["IVF, all dims"], found["exact"]["points"][0]
    lines = [f"set {name}, recall@10 >= {target}", ""]
    lines.append(
        f"{'index':22} {'recall':>7} {'q/CPU-s':>9} {'alone p25 ms':>13} {'build CPU-s':>12}  setting"
    )
    for way, one in found.items():
        point = one["points"][0] if way in ("datakit", "exact") else cheapest(one["points"], target)
        if point is None:
            lines.append(f"{way:22} never reaches it")
            continue
        lines.append(
            f"{way:22} {point['recall']:7.4f} {point['qps']:9,.0f} {point['p25_ms']:13.3f} "
            f"{one['build_cpu_s']:12.1f}  {point['setting']}"
        )
    at_target, at_ours = cheapest(plain["points"], target), cheapest(plain["points"], mine["recall"])
    ratios = {"tuned over IVF at the target": at_target, "tuned over IVF at the tuned recall": at_ours}
    if "hnswlib" in found:
        ratios["tuned over hnswlib at the target"] = cheapest(found["hnswlib"]["points"], target)
    lines += [
        "",
        *(f"{words}: {mine['qps'] / point['qps']:.1f} times" for words, point in ratios.items() if point),
    ]
    lines.append(f"alone, exact over tuned (p25): {flat['p25_ms'] / mine['p25_ms']:.0f} times")
    lines.append(f"build over IVF's: {found['datakit']['build_cpu_s'] / plain['build_cpu_s']:.2f}; "
                 f"tuning {found['datakit']['tune_cpu_s']:.1f} CPU-s more")  # fmt: skip
    return [*lines, ""]


def measure(found: VectorSet, spec: Spec, words: argparse.Namespace) -> dict[str, Any]:
    limits, target = limits_of(found), spec.target.recall
    with tempfile.TemporaryDirectory() as work:
        index, took = build_ours(found, spec, Path(work) / "index")
        mine = ours(found, index, took, limits, words.rounds)
        until = max(target, mine["points"][0]["recall"]) + 0.002
        ways = {
            "datakit": mine,
            "exact": exact(found, words.rounds),
            "IVF, all dims": plain_ivf(found, limits, words.rounds, until),
        }
        if words.peers_python:
            ways["hnswlib"] = hnswlib(found, limits, words.rounds, words.peers_python)
        print("\n".join(report(found.name, ways, target)))
        result: dict[str, Any] = {
            "set": found.name,
            "target": target,
            "ways": ways,
            "curve": index.about["curve"],
        }
        if words.filters:
            result["filters"] = filters(found, index, words.rounds)
            print(f"{'filter':16} {'way':24} {'recall':>7} {'q/CPU-s':>9}")
            for one in result["filters"]:
                print(f"{one['filter']:16} {one['way']:24} {one['recall']:7.4f} {one['qps']:9,.0f}")
            print()
        return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sets", default="AB")
    parser.add_argument("--filters", action="store_true")
    parser.add_argument("--curves", action="store_true", help="AdANNS against rigid search, on set B")
    parser.add_argument("--peers-python", default="")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "bench_index")
    parser.add_argument("--out", type=Path, default=None)
    words = parser.parse_args()
    words.cache.mkdir(parents=True, exist_ok=True)
    faiss.omp_set_num_threads(1)
    results = []
    with threadpool_limits(1):
        if "A" in words.sets:
            spec = variant("adanns-ivfpq4fs", rows=words.rows)
            results.append(measure(synthetic(words.rows, words.queries), spec, words))
        if "B" in words.sets and words.peers_python:
            spec = variant("adanns-ivfpq4fs", rows=words.rows, basis=Basis(kind="mrl"))
            found = real(words.rows, words.queries, cache=words.cache, peers_python=words.peers_python)
            results.append(measure(found, replace(spec, target=Target(recall=0.9)), words))
            if words.curves:
                from index_curves import curves

                results.append(curves(found, words.out))
    if words.out is not None:
        words.out.mkdir(parents=True, exist_ok=True)
        (words.out / "bench_index.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
