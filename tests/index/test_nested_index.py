"""An index over embeddings trained to be nested: lists and codes of a few dims are worth more than of any others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from datakit.index.folder import write_files
from datakit.index.make import make_index
from datakit.index.opened import open_index
from datakit.index.spec import Basis, Coarse, Codes, Rerank, Space, Spec
from datakit.models.projection import from_table
from datakit.rng import rng_for
from datakit.train.mrl import MrlOptions, nested_embeddings

TRAIN = 1000
# 4 of 64 dims sort into lists and are all that is compared, as AdANNS-IVF with d_c = d_s = 4
SPEC = Spec(
    space=Space(metric="cosine"),
    basis=Basis(kind="mrl"),
    coarse=Coarse(dims=4, nlist=16),
    codes=Codes(kind="flat", dims=4),
    rerank=Rerank(shortlist=0),
)


def test_at_equal_cost_nested_embeddings_find_more_of_their_class(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = rng_for(0, "digits").permutation(len(x))
    x, y = x[order].astype(np.float32), y[order]

    def top1(dims: tuple[int, ...], seed: int) -> float:
        options = MrlOptions(dims=dims, epochs=12, batch_size=64, lr=3e-3, device="cpu")
        learned = nested_embeddings(x[:TRAIN], y[:TRAIN], seed=seed, options=options).projection
        projection = from_table(learned.to_table())  # as it comes from a step, without torch
        folder = tmp_path / f"{len(dims)}-{seed}"
        meta = pa.table({"key": [f"k{i}" for i in range(TRAIN)]})
        write_files(folder, make_index(projection.transform(x[:TRAIN]), meta, SPEC, tuning=False))
        index = open_index(folder)
        hits = index.search(projection.transform(x[TRAIN:]), k=1, nprobe=4)
        # a row is a place in the index, which lies in the order of its lists
        found = [int(key[1:]) for key in index.keys.take(pa.array(hits.rows[:, 0])).to_pylist()]
        return float((y[found] == y[TRAIN:]).mean())

    nested, whole = (
        np.mean([top1(dims, seed) for seed in (0, 1, 2)]) for dims in ((2, 4, 8, 16, 32, 64), (64,))
    )
    assert nested > whole + 0.03, (nested, whole)
