"""No near-duplicate crosses a border between published lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import Columns, count_of, read_split, used
from datakit.stage import Ref, Rows, reduce
from datakit.stages.columns import same_order, unit_vectors

BITS = 64
ROUNDING = 1e-4  # of a cosine: a pair on the very bound is nobody's mistake
BLOCK = 256  # hashes compared with a whole bucket at a time
Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]


@reduce(version=1)
def check_near_dup(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    seed: int | None = None,
    phash_bits: int = 6,
    flip: bool = True,
    embed_sim: float | None = None,
    features: Ref[Rows] | None = None,
) -> list[dict[str, Any]]:
    """No two images whose pHashes differ in at most `phash_bits` bits, mirrored or not, lie in two published
    lists, unless the source declares them variants within one class, or (with embed_sim) features tell them
    apart. Searched anew and by another way than the split's: hashes t bits apart agree on one of t + 1 bands.
    """
    columns = read_split(rows, split.value, "phash", "phash_flip", "variant_group")
    a, b = _undeclared(columns, _pairs(columns, phash_bits, flip))
    if embed_sim is not None and features is not None:
        same_order(rows, features.value, "features")
        alike = _cosine(features.value, a, b) >= embed_sim + ROUNDING
        a, b = a[alike], b[alike]
    borders = Counter(
        " | ".join(sorted((columns["publish"][i], columns["publish"][j]))) for i, j in zip(a, b, strict=True)
    )
    shown = [[columns["key"][i], columns["key"][j]] for i, j in zip(a[:50], b[:50], strict=True)]
    images = len(used(columns)["key"])
    return [
        Finding(
            id="near_dup",
            severity="fail",
            passed=not len(a),
            count=len(a),
            keys=first_keys(columns["key"][i] for i in np.concatenate([a, b])),
            value=float(len(a)),
            limit=0.0,
            summary=f"{count_of(len(a), 'pair')} of alike images in two lists, most in {borders.most_common(1)[0][0]}"
            if borders
            else f"{count_of(images, 'image')}, no alike pair in two lists",
            detail={
                "borders": dict(borders.most_common()),
                "pairs": shown,
                "bits": phash_bits,
                "flip": flip,
            },
            seed=seed,
        ).to_json()
    ]


def _pairs(columns: Columns, bits: int, flip: bool) -> tuple[Ints, Ints]:
    """Row numbers a < b of the alike images in different lists, each pair once."""
    lists = np.unique(np.array(columns["publish"]), return_inverse=True)[1]
    hashed = [
        index
        for index, (role, text) in enumerate(zip(columns["role"], columns["phash"], strict=True))
        if role != "unused" and text is not None
    ]
    rows = np.array(hashed, dtype=np.int64)
    hashes = _numbers([columns["phash"][index] for index in hashed])
    queries = [hashes]
    if flip:
        queries.append(
            _numbers([columns["phash_flip"][index] or columns["phash"][index] for index in hashed])
        )
    found = [np.empty((2, 0), dtype=np.int64)]
    for query in queries:
        for ours, theirs in _close(query, hashes, bits):
            a, b = rows[ours], rows[theirs]
            torn = lists[a] != lists[b]
            found.append(np.stack([np.minimum(a, b)[torn], np.maximum(a, b)[torn]]))
    a, b = np.unique(np.concatenate(found, axis=1), axis=1)
    return a, b


def _close(query: Hashes, base: Hashes, bits: int) -> Iterator[tuple[Ints, Ints]]:
    """(index in query, index in base) of hashes at most `bits` apart, band by band; some come up twice."""
    edges = np.linspace(0, BITS, bits + 2).astype(int)
    for low, high in pairwise(edges.tolist()):
        shift, mask = np.uint64(low), np.uint64((1 << high - low) - 1)
        ours, theirs = _buckets((query >> shift) & mask), _buckets((base >> shift) & mask)
        for band in ours.keys() & theirs.keys():
            members = theirs[band]
            for first in range(0, len(ours[band]), BLOCK):
                block = ours[band][first : first + BLOCK]
                i, j = np.nonzero(_popcount(query[block][:, None] ^ base[members][None, :]) <= bits)
                yield block[i], members[j]


def _buckets(bands: Hashes) -> dict[int, Ints]:
    if not len(bands):
        return {}
    order = np.argsort(bands, kind="stable")
    values, start = np.unique(bands[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, start[1:]), strict=True))


def _popcount(words: Hashes) -> Hashes:
    """Bits set in each 64-bit word, added up in ever larger fields."""
    one, two, four = (
        np.uint64(word) for word in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F)
    )
    words = words - ((words >> np.uint64(1)) & one)
    words = (words & two) + ((words >> np.uint64(2)) & two)
    words = (words + (words >> np.uint64(4))) & four
    return (words * np.uint64(0x0101010101010101)) >> np.uint64(56)


def _numbers(texts: list[str]) -> Hashes:
    return np.array([int(text, 16) for text in texts], dtype=np.uint64)


def _undeclared(columns: Columns, pairs: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    """Without the pairs that the source declares: variants of one drawing, within one class."""
    variant, name = columns["variant_group"], columns["class_name"]
    keep = np.array(
        [
            variant[i] is None or variant[i] != variant[j] or name[i] != name[j]
            for i, j in zip(*pairs, strict=True)
        ],
        dtype=bool,
    )
    return pairs[0][keep], pairs[1][keep]


def _cosine(features: Rows, a: Ints, b: Ints) -> NDArray[np.float32]:
    found = [np.empty(0, dtype=np.float32)]
    for first in range(0, len(a), BLOCK):
        block = slice(first, first + BLOCK)
        left, right = (unit_vectors(features, ends[block], name="features") for ends in (a, b))
        found.append((left * right).sum(axis=1))
    return np.concatenate(found)
