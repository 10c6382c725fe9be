"""Exact search on a GPU: by faiss where its GPU build is installed, else by torch. Written for CUDA; not run on a GPU.

Where a GPU is at hand, all rows are compared there: at 10^7 rows that costs less than the lists on a CPU save.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datakit.errors import MissingExtra
from datakit.index.arrays import Floats, Longs
from datakit.index.exact import Stored, best, worst
from datakit.models.torch_net import pick_device

ROWS = 1 << 20  # compared at once: 4 MB of scores a query


def device_of(wanted: str) -> str:
    """`cpu`, or the CUDA device to use. Raises ConfigError for one that is not there, MissingExtra without torch."""
    if wanted == "cpu":
        return wanted
    try:
        return str(pick_device(wanted))
    except ImportError as problem:
        if wanted == "auto":
            return "cpu"
        raise MissingExtra(f"device={wanted}", "torch") from problem


class OnDevice:
    """Stored rows (N, D), copied to a device once and compared there."""

    def __init__(self, stored: Stored, metric: str, device: str) -> None:
        import torch

        self.metric, self.device, self.rows = metric, device, len(stored)
        self._stored = torch.from_numpy(np.ascontiguousarray(stored, np.float32)).to(device)
        self._faiss = _faiss_index(stored, metric) if device.startswith("cuda") else None

    def nearest(self, queries: Floats, k: int, rows: Longs | None = None) -> tuple[Floats, Longs]:
        """As `exact.nearest`: scores and rows (Q, k), -1 filled."""
        if self._faiss is not None and rows is None:
            scores, ids = self._faiss.search(queries, min(k, self.rows))
            return best(scores, ids, k, self.metric)
        return self._by_torch(queries, k, rows)

    def _by_torch(self, queries: Floats, k: int, rows: Longs | None) -> tuple[Floats, Longs]:
        import torch

        asked = torch.from_numpy(queries).to(self.device)
        chosen = None if rows is None else torch.from_numpy(rows).to(self.device)
        total = self.rows if rows is None else len(rows)
        scores = np.full((len(queries), k), worst(self.metric))
        ids = np.full((len(queries), k), -1, np.int64)
        for start in range(0, total, ROWS):
            part = slice(start, min(total, start + ROWS))
            block = self._stored[part] if chosen is None else self._stored[chosen[part]]
            near = asked @ block.T
            if self.metric == "l2":
                near = 2 * near - (block * block).sum(1) - (asked * asked).sum(1, keepdim=True)
            top = near.topk(min(k, near.shape[1]), dim=1)
            found = top.indices.cpu().numpy() + start
            at = found if rows is None else rows[found]
            value = -top.values.cpu().numpy() if self.metric == "l2" else top.values.cpu().numpy()
            both = np.concatenate([scores, value], axis=1), np.concatenate([ids, at], axis=1)
            scores, ids = best(*both, k, self.metric)
        return scores, ids


def _faiss_index(stored: Stored, metric: str) -> Any:
    """faiss's own on the first GPU; None where its CPU build is installed."""
    import faiss

    if not getattr(faiss, "get_num_gpus", lambda: 0)():
        return None
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, faiss.IndexFlat(stored.shape[1], kind))
    index.add(np.ascontiguousarray(stored, np.float32))
    return index
