"""Two tables of samples compared: a join on keys, then one column at a time; images only where digests differ.

Held at a time: the keys and places of both, one column of both, a byte for each pair of rows and each column that
differs. Never images: of those one pair at a time is read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from datakit.errors import StoreError
from datakit.store.files import Handle
from datakit.store.metadata import KEY
from datakit.store.reader import Store
from datakit.store.tar import SampleRecord
from datakit.store.tar_reader import read_sample_of

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

BLOCK = 1 << 16  # rows compared at a time
OPEN = 32  # shards kept open
_PLACE = (KEY, "shard", "offset", "size", "xxh3")


@dataclass(frozen=True)
class Side:
    """Rows of one store: those of some of its tables, which have the same columns. `rows`: how many there must be."""

    store: Store
    paths: Sequence[str]
    schema: pa.Schema
    rows: int | None = None

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all rows. Raises StoreError where a table lacks it, or has it in another type."""
        kind, chunks = self.schema.field(name).type, []
        for path in self.paths:
            found = self.store.metadata(path, [name])[name]
            if found.type != kind:
                raise self._damaged(f"{name} is {found.type} in {path}, and {kind} elsewhere")
            chunks += found.chunks
        return pa.chunked_array(chunks, kind)

    @functools.cached_property
    def keys(self) -> pa.ChunkedArray:
        """Raises StoreError for a key that comes twice or is null, and where rows are missing."""
        keys = self.column(KEY).cast(pa.string())
        if keys.null_count or pc.count_distinct(keys).as_py() != len(keys):
            raise self._damaged("a sample has no key, or one that another has")
        if self.rows not in (None, len(keys)):
            raise self._damaged(f"{len(keys)} rows where the manifest has {self.rows}")
        return keys

    def _damaged(self, what: str) -> StoreError:
        return StoreError(f"{self.store.files.name} is damaged: {what}; run datakit verify --deep")


@dataclass(frozen=True)
class Pairs:
    """Rows that belong together, and those of one side alone. `left[i]` of A is `right[i]` of B."""

    left: Ints
    right: Ints
    only_left: Ints
    only_right: Ints


def join(a: Side, b: Side) -> Pairs:
    """By key, in the order of B."""
    found = pc.index_in(b.keys, value_set=a.keys)
    there = np.asarray(pc.is_valid(found), bool)
    left = np.asarray(found.drop_null(), np.int64)
    alone = np.ones(len(a.keys), bool)
    alone[left] = False
    return Pairs(left, np.flatnonzero(there), np.flatnonzero(alone), np.flatnonzero(~there))


def differing(a: Side, b: Side, name: str, left: Ints, right: Ints) -> Bools:
    """Of each pair of rows, whether a column differs. Null is like null, and NaN like NaN."""
    one, other = a.column(name), b.column(name)
    found = np.zeros(len(left), bool)
    for start in range(0, len(left), BLOCK):
        block = slice(start, start + BLOCK)
        found[block] = _unequal(one.take(pa.array(left[block])), other.take(pa.array(right[block])))
    return found


def _unequal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> Bools:
    if one.type == other.type and not pa.types.is_nested(one.type):
        unlike = pc.fill_null(pc.not_equal(one, other), True)
        alike = pc.and_(pc.is_null(one), pc.is_null(other))
        if pa.types.is_floating(one.type):
            alike = pc.or_(alike, pc.fill_null(pc.and_(pc.is_nan(one), pc.is_nan(other)), False))
        return np.asarray(pc.and_not(unlike, alike), bool)
    if one.type == other.type and one.equals(other):
        return np.zeros(len(one), bool)
    pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
    # As text too, where a NaN within a list is like another.
    return np.array([x != y and repr(x) != repr(y) for x, y in pairs], bool)


def changed_members(a: Side, b: Side, left: Ints, right: Ints) -> tuple[Bools, Bools]:
    """Of each pair of rows: whether the image differs, and whether another member of the sample does.

    Reads the samples whose digests differ. Raises StoreError for one that is not what its own digest says.
    """
    image, others = np.zeros(len(left), bool), np.zeros(len(left), bool)
    unlike = np.flatnonzero(differing(a, b, "xxh3", left, right))
    ones, twos = _Samples(a), _Samples(b)
    types = a.store.layout.image_extension, b.store.layout.image_extension
    for at in unlike:
        one, two = dict(ones[int(left[at])]), dict(twos[int(right[at])])
        image[at] = one.pop(types[0], None) != two.pop(types[1], None) or types[0] != types[1]
        others[at] = one != two
    return image, others


def renamed(a: Side, b: Side, pairs: Pairs) -> tuple[Ints, Ints]:
    """Rows that only A has and rows that only B has, of the same image: pairs, each row in one at most."""
    none = np.zeros(0, np.int64)
    if not (len(pairs.only_left) and len(pairs.only_right)):
        return none, none
    of_a, of_b = (side.column("image_size") for side in (a, b))
    # Only images of a size that both sides have can be alike: most are never read.
    sizes_a, sizes_b = of_a.take(pa.array(pairs.only_left)), of_b.take(pa.array(pairs.only_right))
    likely_a = pairs.only_left[np.asarray(pc.is_in(sizes_a, value_set=sizes_b), bool)]
    likely_b = pairs.only_right[np.asarray(pc.is_in(sizes_b, value_set=sizes_a), bool)]
    waiting: dict[bytes, list[int]] = {}
    for row, digest in _digests(a, likely_a[::-1]):
        waiting.setdefault(digest, []).append(row)
    found = [(waiting[digest].pop(), row) for row, digest in _digests(b, likely_b) if waiting.get(digest)]
    both = np.array(found, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _digests(side: Side, rows: Ints) -> Iterator[tuple[int, bytes]]:
    samples, extension = _Samples(side), side.store.layout.image_extension
    for row in rows:
        yield int(row), xxhash.xxh3_128_digest(samples[int(row)].get(extension, b""))


class _Samples:
    """The members of a sample by its row, checked against its digest."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._columns: dict[str, Any] = {name: side.column(name) for name in _PLACE}
        self._open: Callable[[str], Handle] = functools.lru_cache(OPEN)(self._opened)

    def __getitem__(self, row: int) -> dict[str, bytes]:
        key, shard, offset, size, xxh3 = (self._columns[name][row].as_py() for name in _PLACE)
        path = f"data/{shard}.tar"
        name = f"{self._side.store.files.name}/{path}"
        return read_sample_of(self._open(path), name, SampleRecord(key, offset, size, xxh3))

    def _opened(self, path: str) -> Handle:
        store = self._side.store
        try:
            return store.files.open(store.contents.files[path])
        except (KeyError, FileNotFoundError):
            raise StoreError(f"{path} is missing from {store.files.name}; run datakit verify") from None
