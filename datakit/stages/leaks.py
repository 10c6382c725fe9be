"""Taking leaks out of a split: of two alike images in different sets, the one we can better do without goes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import StageError
from datakit.stage import Rows
from datakit.stages.columns import Bools, Ints, unit_vectors

CHUNK = 4096  # outliers compared at a time


def pair_rows(keys: pa.ChunkedArray, duplicates: pa.Table | None, classes: Ints) -> tuple[Ints, Ints]:
    """Row numbers of the pairs that count: all but declared variants within one class."""
    if duplicates is None or duplicates.num_rows == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    a, b = (pc.index_in(duplicates[name], value_set=keys.combine_chunks()) for name in ("key_a", "key_b"))
    if a.null_count or b.null_count:
        raise StageError("the duplicates are of other rows: make them from the same step as the split")
    first, second = a.to_numpy().astype(np.int64), b.to_numpy().astype(np.int64)
    declared = duplicates["declared"].to_numpy()
    counts = ~declared | (classes[first] != classes[second])
    return first[counts], second[counts]


def drop_leaks(rank: Ints, a: Ints, b: Ints) -> Bools:
    """Which images to drop so that no pair a–b lies in two sets any more.

    rank: of each image's set, 0 for unused; of a pair in two sets the lower rank goes. Sets are gone through
    from the highest rank down, so that an image that is dropped itself drops no other.
    """
    torn = (rank[a] != rank[b]) & (rank[a] > 0) & (rank[b] > 0)
    a, b = a[torn], b[torn]
    high, low = np.where(rank[a] > rank[b], a, b), np.where(rank[a] > rank[b], b, a)
    dropped = np.zeros(len(rank), dtype=bool)
    for level in np.unique(rank[high])[::-1]:
        now = (rank[high] == level) & ~dropped[high]
        dropped[low[now]] = True
    return dropped


def too_similar(features: Rows, outliers: Ints, tests: Ints, limit: float) -> Bools:
    """Which of the rows `outliers` have a test image within cosine `limit`: each one's nearest, by FAISS."""
    import faiss

    if not len(outliers) or not len(tests):
        return np.zeros(len(outliers), dtype=bool)
    vectors = unit_vectors(features, tests, name="features")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    nearest = [
        index.search(unit_vectors(features, outliers[first : first + CHUNK], name="features"), 1)[0]
        for first in range(0, len(outliers), CHUNK)
    ]
    return np.concatenate(nearest)[:, 0] > limit
