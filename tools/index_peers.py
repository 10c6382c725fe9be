"""Run by the peers' Python for tools/bench_index.py: embeds texts with wordllama, times hnswlib. Imports no datakit."""

import json
import sys
import time
from pathlib import Path

import numpy as np


def embed(texts: str, out: str) -> None:
    import wordllama

    home = Path(
        wordllama.__file__
    ).parent  # holds weights/ and tokenizers/, where the loader does not look by itself
    model = wordllama.WordLlama.load(cache_dir=home, dim=256, disable_download=True)
    np.save(out, model.embed(json.loads(Path(texts).read_text())).astype(np.float32))


def hnsw(folder: str, rounds: int, k: int) -> None:
    """hnswlib, M 16, ef_construction 80, one thread: build CPU, then for each ef recall and queries a CPU second."""
    import hnswlib

    rows, queries = np.load(f"{folder}/rows.npy"), np.load(f"{folder}/queries.npy")
    limits = np.load(f"{folder}/limits.npy")
    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    started = time.process_time()
    index.init_index(max_elements=len(rows), ef_construction=80, M=16, random_seed=1)
    index.set_num_threads(1)
    index.add_items(rows, num_threads=1)
    found = {"build_cpu_s": time.process_time() - started, "points": []}
    for ef in (10, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256, 320, 384, 512):
        index.set_ef(max(ef, k))
        times = []
        for _ in range(rounds):
            started = time.process_time()
            labels, _ = index.knn_query(queries, k=k, num_threads=1)
            times.append(time.process_time() - started)
        scores = np.einsum("qd,qkd->qk", queries, rows[labels.astype(np.int64)])
        recall = float((scores >= limits[:, None] - 1e-5).mean())
        alone = []
        for query in queries[:200]:
            started = time.perf_counter()
            index.knn_query(query, k=k, num_threads=1)
            alone.append(time.perf_counter() - started)
        point = {"setting": f"ef {ef}", "recall": recall, "qps": len(queries) / float(np.median(times))}
        found["points"].append(point | {"p25_ms": float(np.percentile(alone, 25)) * 1e3})
        if recall > 0.99:
            break
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "embed":
        embed(sys.argv[2], sys.argv[3])
    else:
        hnsw(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
