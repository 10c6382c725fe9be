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
    """Pairs of row numbers, a < b, each once. distance in bits, of the mirrored image where `flipped`; mirrored:
    within the bits through the mirror image, whether or not the plain one is as near.
    """

    a: Ints
    b: Ints
    distance: Ints
    flipped: Bools
    mirrored: Bools

    def take(self, keep: Bools) -> Pairs:
        return Pairs(
            a=self.a[keep],
            b=self.b[keep],
            distance=self.distance[keep],
            flipped=self.flipped[keep],
            mirrored=self.mirrored[keep],
        )


@reduce(version=1)
def mirror_images(rows: Rows, *, phash_bits: int = 6, max_pairs: int = 5_000_000) -> pa.Table:
    """`__key__` of one image of each pair of which one looks like the other's mirror image: those whose mirrored
    features `near_duplicates` asks for. Raises ConfigError as that does.
    """
    table = read_columns(rows, "__key__", "phash", "phash_flip")
    _refuse_crowds(codes(table["phash"])[0], table["__key__"], max_pairs)
    first = [pairs.a for pairs in _mirrored(table, phash_bits)]
    chosen = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *first]))
    return pa.table({"__key__": table["__key__"].take(pa.array(chosen))})


@reduce(version=2)
def near_duplicates(
    rows: Rows,
    *,
    phash_bits: int = 6,
    flip: bool = True,
    embed_sim: float | None = None,
    features: Ref[Rows] | None = None,
    mirrored: Ref[Rows] | None = None,
    max_pairs: int = 5_000_000,
) -> pa.Table:
    """Pairs of near-duplicates: key_a, key_b, distance, flipped, exact, similarity, declared.

    Every pair of rows whose 64-bit pHashes differ in at most `phash_bits` bits, also against the mirror image
    if `flip`, and every pair of equal bytes (exact). With `embed_sim`, a pair that is not exact must also
    have features of at least that cosine (similarity); one found through the mirror image may have them to the
    other's `mirrored` features instead, which the first image of the pair must have (see `mirror_images`).
    declared: the source says the two are variants of one drawing; exact copies are never excused so. Six bits:
    JPEG, scale and brightness stay below, most distinct photographs lie above 18. Raises ConfigError on more than
    `max_pairs` pairs.
    """
    table = read_columns(rows, "__key__", "content", "phash", "phash_flip", "variant_group")
    content, _ = codes(table["content"])
    hashes, _ = codes(table["phash"])
    for same in (content, hashes):
        _refuse_crowds(same, table["__key__"], max_pairs)
    found = [_equal(content), *_alike(table, phash_bits)]
    pairs = _merge([*found, *_mirrored(table, phash_bits)] if flip else found, len(rows))
    exact = (content[pairs.a] == content[pairs.b]) & (content[pairs.a] >= 0)
    similarity = None
    if embed_sim is not None:
        if features is None:
            raise ConfigError("embed_sim needs features; give a step that has them")
        same_order(rows, features.value, "features")
        similarity = _cosines(features.value, pairs)
        if mirrored is not None and pairs.mirrored.any():
            same_order(rows, mirrored.value, "mirrored features")
            flips = pairs.take(pairs.mirrored)
            turned = _cosines(features.value, flips, mirrored.value)
            similarity[pairs.mirrored] = np.maximum(similarity[pairs.mirrored], turned)
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


def _alike(table: pa.Table, bits: int) -> Iterator[Pairs]:
    """Pairs within `bits`, each once."""
    _check_bits(bits)
    rows, hashes = pack_hashes(table["phash"])
    for first in range(0, len(rows), CHUNK):
        # Only against the rows from here on: every pair once.
        query, hit, distance = _within(hashes[first : first + CHUNK], hashes[first:], bits)
        keep = query < hit
        yield _pairs(rows[first + query[keep]], rows[first + hit[keep]], distance[keep], flipped=False)


def _mirrored(table: pa.Table, bits: int) -> Iterator[Pairs]:
    """Pairs within `bits` through the mirror images; most come up twice."""
    _check_bits(bits)
    rows, hashes = pack_hashes(table["phash"])
    owners, mirrored = pack_hashes(table["phash_flip"])
    for first in range(0, len(owners), CHUNK):
        # Against all rows: a's mirror against b and b's against a may differ by a bit.
        query, hit, distance = _within(mirrored[first : first + CHUNK], hashes, bits)
        a, b = owners[first + query], rows[hit]
        yield _pairs(a[a != b], b[a != b], distance[a != b], flipped=True)


def _check_bits(bits: int) -> None:
    if not 0 <= bits < BITS // 2:
        raise ConfigError(f"phash_bits is {bits}; it must lie from 0 to {BITS // 2 - 1}")


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
        mirrored=np.full(len(a), flipped),
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
    mirrored = np.logical_or.reduceat(flipped[order], first) if len(first) else flipped
    return Pairs(a=a[best], b=b[best], distance=distance[best], flipped=flipped[best], mirrored=mirrored)


def _cosines(features: Rows, pairs: Pairs, mirrored: Rows | None = None) -> NDArray[np.float32]:
    """Of each pair's features; with `mirrored`, of b's to those of a's mirror image."""
    rows, name = (features, "features") if mirrored is None else (mirrored, "mirrored")
    of_a, left = _vectors(rows, pairs.a, name)
    of_b, right = _vectors(features, pairs.b, "features")
    found = [
        np.einsum("nd,nd->n", of_a[left[first : first + CHUNK]], of_b[right[first : first + CHUNK]])
        for first in range(0, len(left), CHUNK)
    ]
    return np.concatenate([np.empty(0, dtype=np.float32), *found])


def _vectors(rows: Rows, indices: Ints, name: str) -> tuple[NDArray[np.float32], Ints]:
    """Vectors of the rows in `indices`, each read once, and where each index has its own."""
    used, place = np.unique(indices, return_inverse=True)
    return unit_vectors(rows, used, name=name), place
