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
Bools = NDArray[np.bool_]


@reduce(version=2)
def check_near_dup(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    seed: int | None = None,
    phash_bits: int = 6,
    flip: bool = True,
    embed_sim: float | None = None,
    features: Ref[Rows] | None = None,
    mirrored: Ref[Rows] | None = None,
) -> list[dict[str, Any]]:
    """No two images whose pHashes differ in at most `phash_bits` bits, mirrored or not, lie in two published
    lists, unless the source declares them variants within one class, or (with embed_sim) features tell them
    apart: as they are, and, where the hash of the mirror image found the pair, those of the first image's mirror
    image (`mirrored`). Searched anew and by another way than the split's: hashes t bits apart agree on one of
    t + 1 bands.
    """
    columns = read_split(rows, split.value, "phash", "phash_flip", "variant_group")
    a, b, turned = _pairs(columns, phash_bits, flip)
    keep = _undeclared(columns, a, b)
    a, b, turned = a[keep], b[keep], turned[keep]
    if embed_sim is not None and features is not None:
        same_order(rows, features.value, "features")
        cosine = _cosine(features.value, features.value, a, b)
        if mirrored is not None and turned.any():
            same_order(rows, mirrored.value, "mirrored features")
            other_way = _cosine(mirrored.value, features.value, a[turned], b[turned], name="mirrored")
            cosine[turned] = np.maximum(cosine[turned], other_way)
        alike = cosine >= embed_sim + ROUNDING
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


def _pairs(columns: Columns, bits: int, flip: bool) -> tuple[Ints, Ints, Bools]:
    """Row numbers a < b of the alike images in different lists, each pair once; whether a mirror image was it."""
    lists = np.unique(np.array(columns["publish"]), return_inverse=True)[1]
    hashed = [
        index
        for index, (role, text) in enumerate(zip(columns["role"], columns["phash"], strict=True))
        if role != "unused" and text is not None
    ]
    rows = np.array(hashed, dtype=np.int64)
    hashes = _numbers([columns["phash"][index] for index in hashed])
    plain = _codes(rows, lists, _close(hashes, hashes, bits))
    mirrored = plain[:0]
    if flip:
        turned = _numbers([columns["phash_flip"][index] or columns["phash"][index] for index in hashed])
        mirrored = _codes(rows, lists, _close(turned, hashes, bits))
    found = np.union1d(plain, mirrored)
    return found // len(lists), found % len(lists), np.isin(found, mirrored)


def _codes(rows: Ints, lists: Ints, close: Iterator[tuple[Ints, Ints]]) -> Ints:
    """a * size + b of the pairs in different lists, a < b, each once."""
    found = [np.empty(0, dtype=np.int64)]
    for ours, theirs in close:
        a, b = rows[ours], rows[theirs]
        torn = lists[a] != lists[b]
        found.append(np.minimum(a, b)[torn] * len(lists) + np.maximum(a, b)[torn])
    return np.unique(np.concatenate(found))


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


def _undeclared(columns: Columns, a: Ints, b: Ints) -> Bools:
    """Which pairs the source does not declare: not variants of one drawing within one class."""
    variant, name = columns["variant_group"], columns["class_name"]
    return np.array(
        [
            variant[i] is None or variant[i] != variant[j] or name[i] != name[j]
            for i, j in zip(a, b, strict=True)
        ],
        dtype=bool,
    )


def _cosine(left: Rows, right: Rows, a: Ints, b: Ints, *, name: str = "features") -> NDArray[np.float32]:
    """Of the vectors `name` of the rows a to the features of the rows b."""
    found = [np.empty(0, dtype=np.float32)]
    for first in range(0, len(a), BLOCK):
        block = slice(first, first + BLOCK)
        found.append(
            (unit_vectors(left, a[block], name=name) * unit_vectors(right, b[block], name="features")).sum(
                axis=1
            )
        )
    return np.concatenate(found)
