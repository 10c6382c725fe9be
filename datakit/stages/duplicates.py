"""Near-duplicates: the same picture recompressed, resized, brightened or mirrored, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datakit.errors import ConfigError
from datakit.stage import Ref, Rows, reduce
from datakit.stages.columns import Bools, Ints, codes, read_columns, same_order, unit_vectors

BITS = 64
CHUNK = 1024  # queries a search, so that the memory for their hits stays small


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs of row numbers, a < b, each once. distance in bits, of the mirrored image where `flipped`."""

    a: Ints
    b: Ints
    distance: Ints
    flipped: Bools

    def take(self, keep: Bools) -> Pairs:
        return Pairs(
            a=self.a[keep],
            b=self.b[keep],
            distance=self.distance[keep],
            flipped=self.flipped[keep],
        )


@reduce(version=1)
def near_duplicates(
    rows: Rows,
    *,
    phash_bits: int = 6,
    flip: bool = True,
    embed_sim: float | None = None,
    features: Ref[Rows] | None = None,
    max_pairs: int = 5_000_000,
) -> pa.Table:
    """Pairs of near-duplicates: key_a, key_b, distance, flipped, exact, similarity, declared.

    Every pair of rows whose 64-bit pHashes differ in at most `phash_bits` bits, also against the mirror image
    if `flip`, and every pair of equal bytes (exact). With `embed_sim`, a pair that is not exact must also
    have features of at least that cosine (similarity). declared: the source says the two are variants of one
    drawing; exact copies are never excused so. Six bits: JPEG, scale and brightness stay below, most distinct
    photographs lie above 18. Raises ConfigError on more than `max_pairs` pairs.
    """
    table = read_columns(rows, "__key__", "content", "phash", "phash_flip", "variant_group")
    content, _ = codes(table["content"])
    hashes, _ = codes(table["phash"])
    for same in (content, hashes):
        _refuse_crowds(same, table["__key__"], max_pairs)
    pairs = _merge([_equal(content), *_alike(table, phash_bits, flip)], len(rows))
    exact = (content[pairs.a] == content[pairs.b]) & (content[pairs.a] >= 0)
    similarity = None
    if embed_sim is not None:
        if features is None:
            raise ConfigError("embed_sim needs features; give a step that has them")
        same_order(rows, features.value, "features")
        similarity = _cosines(features.value, pairs)
        keep = exact | (similarity >= embed_sim)
        pairs, exact, similarity = pairs.take(keep), exact[keep], similarity[keep]
    variant, _ = codes(table["variant_group"])
    declared = (variant[pairs.a] == variant[pairs.b]) & (variant[pairs.a] >= 0) & ~exact
    keys = table["__key__"]
    return pa.table(
        {
            "key_a": keys.take(pa.array(pairs.a)),
            "key_b": keys.take(pa.array(pairs.b)),
            "distance": pairs.distance,
            "flipped": pairs.flipped,
            "exact": exact,
            "similarity": pa.array(similarity, pa.float32())
            if similarity is not None
            else pa.nulls(len(pairs.a), pa.float32()),
            "declared": declared,
        }
    )


def pack_hashes(column: pa.ChunkedArray) -> tuple[Ints, NDArray[np.uint8]]:
    """(row numbers, uint8 (N, 8) hashes) of a column of 16 hex digits, nulls left out."""
    rows = np.flatnonzero(pc.is_valid(column).to_numpy())
    text = "".join(column.drop_null().to_pylist())
    return rows, np.frombuffer(bytes.fromhex(text), dtype=np.uint8).reshape(-1, BITS // 8)


def _refuse_crowds(same: Ints, keys: pa.ChunkedArray, max_pairs: int) -> None:
    """A placeholder image in thousands of copies is no near-duplicate problem, and its pairs fill the memory."""
    if not (same >= 0).any():
        return
    sizes = np.bincount(same[same >= 0])
    if int((sizes * (sizes - 1) // 2).sum()) > max_pairs:
        largest = int(np.argmax(sizes))
        key = keys[int(np.flatnonzero(same == largest)[0])].as_py()
        raise ConfigError(
            f"more than {max_pairs:,} pairs of alike images: {sizes[largest]:,} look like {key}; "
            "drop that placeholder, or raise max_pairs"
        )


def _equal(content: Ints) -> Pairs:
    """All pairs of rows with the same content."""
    order = np.argsort(content, kind="stable")
    order = order[content[order] >= 0]
    _, start, count = np.unique(content[order], return_index=True, return_counts=True)
    found: list[Ints] = [np.empty((2, 0), dtype=np.int64)]
    for first, size in zip(start[count > 1], count[count > 1], strict=True):
        members = order[first : first + size]
        found.append(members[np.stack(np.triu_indices(size, k=1))])
    a, b = np.concatenate(found, axis=1)
    return _pairs(a, b, np.zeros(len(a), dtype=np.int64), flipped=False)


def _alike(table: pa.Table, bits: int, flip: bool) -> Iterator[Pairs]:
    """Pairs within `bits`, found plainly and through the mirror images; a pair may come up twice."""
    if not 0 <= bits < BITS // 2:
        raise ConfigError(f"phash_bits is {bits}; it must lie from 0 to {BITS // 2 - 1}")
    rows, hashes = pack_hashes(table["phash"])
    for first in range(0, len(rows), CHUNK):
        # Only against the rows from here on: every pair once.
        query, hit, distance = _within(hashes[first : first + CHUNK], hashes[first:], bits)
        keep = query < hit
        yield _pairs(rows[first + query[keep]], rows[first + hit[keep]], distance[keep], flipped=False)
    owners, mirrored = pack_hashes(table["phash_flip"]) if flip else (rows[:0], hashes[:0])
    for first in range(0, len(owners), CHUNK):
        # Against all rows: a's mirror against b and b's against a may differ by a bit.
        query, hit, distance = _within(mirrored[first : first + CHUNK], hashes, bits)
        a, b = owners[first + query], rows[hit]
        yield _pairs(a[a != b], b[a != b], distance[a != b], flipped=True)


def _within(queries: NDArray[np.uint8], base: NDArray[np.uint8], bits: int) -> tuple[Ints, Ints, Ints]:
    """(query, hit, distance) for every pair at most `bits` apart, by FAISS's exact binary range search."""
    import faiss

    index = faiss.IndexBinaryFlat(BITS)
    index.add(base)
    limits, distance, hits = index.range_search(queries, bits + 1)  # it wants less than, not at most
    query = np.repeat(np.arange(len(queries)), limits[1:].astype(np.int64) - limits[:-1].astype(np.int64))
    return query, hits.astype(np.int64), distance.astype(np.int64)


def _pairs(a: Ints, b: Ints, distance: Ints, *, flipped: bool) -> Pairs:
    return Pairs(
        a=np.minimum(a, b),
        b=np.maximum(a, b),
        distance=distance,
        flipped=np.full(len(a), flipped),
    )


def _merge(parts: Iterable[Pairs], size: int) -> Pairs:
    """Each pair once, at its smallest distance; sorted by a, then b."""
    parts = list(parts)
    a, b, distance, flipped = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("a", "b", "distance", "flipped")
    )
    order = np.lexsort((flipped, distance, b, a))
    _, first = np.unique((a * size + b)[order], return_index=True)
    best = order[first]
    return Pairs(a=a[best], b=b[best], distance=distance[best], flipped=flipped[best])


def _cosines(features: Rows, pairs: Pairs) -> NDArray[np.float32]:
    used = np.unique(np.concatenate([pairs.a, pairs.b]))
    vectors = unit_vectors(features, used, name="features")
    left, right = np.searchsorted(used, pairs.a), np.searchsorted(used, pairs.b)
    found = [
        np.einsum("nd,nd->n", vectors[left[first : first + CHUNK]], vectors[right[first : first + CHUNK]])
        for first in range(0, len(left), CHUNK)
    ]
    return np.concatenate([np.empty(0, dtype=np.float32), *found])
