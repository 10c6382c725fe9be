"""An index in one go: learn, encode, merge, tune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.errors import ConfigError
from datakit.index.arrays import Floats, floats
from datakit.index.base import base_of
from datakit.index.build import encode, held_rows, merge, sample_rows, train
from datakit.index.lloyd import InMemory
from datakit.index.pack import KEY, index_files
from datakit.index.spec import Spec, settled
from datakit.index.tune import tune


def make_index(
    vectors: Any,
    meta: pa.Table,
    spec: Spec,
    *,
    name: str = "index",
    encoders: Mapping[str, Mapping[str, str]] | None = None,
    pairing: Mapping[str, str] | None = None,
    tuning: bool = True,
) -> dict[str, bytes]:
    """The files of an index over vectors (N, D); write them with `folder.write_files`.

    meta: a row for each vector: `key`, and the columns that filters may ask. Raises ConfigError naming the first row
    that is not finite, a key that is there twice, a word of the spec that does not fit.
    """
    vectors = floats(vectors)
    if meta.num_rows != len(vectors):
        raise ConfigError(f"{meta.num_rows} rows of metadata came with {len(vectors)} vectors")
    refuse_zero(vectors, meta, spec)
    ready = settled(spec, rows=len(vectors), dim=vectors.shape[1])
    held = held_rows(len(vectors), ready)
    kept = np.ones(len(vectors), np.bool_)
    kept[held] = False
    everything = InMemory(vectors, kept, spec.space.metric)
    trained = train(vectors[sample_rows(len(vectors), ready)], spec, rows=len(vectors), everything=everything)
    merged = merge(trained, [encode(trained, vectors)])
    held = np.flatnonzero(np.isin(merged.order, held))
    found = tune(base_of(trained, merged), rows=held) if tuning else None
    return index_files(
        trained, merged, meta, name=name, encoders=encoders, pairing=pairing, tuned=found, held=held
    )


def refuse_zero(vectors: Floats, meta: pa.Table, spec: Spec) -> None:
    """Raises ConfigError naming the key of a vector without a direction, where directions are compared."""
    zero = np.flatnonzero(~vectors.any(axis=1))
    if spec.space.metric == "cosine" and len(zero) and KEY in meta.column_names:
        raise ConfigError(
            f"vector of key {meta[KEY][int(zero[0])]} is zero, which has no direction: leave it out, or use metric=l2"
        )
