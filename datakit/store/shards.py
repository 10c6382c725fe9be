"""The shards of a split, open for a loader: rows of metadata held against their sha256, samples against their xxh3.

What a loader gives is what was written, or a StoreError names shard and key: the manifest vouches for itself, it
holds the sha256 of each metadata file, and those hold the digest of each sample.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from datakit.errors import StoreError
from datakit.memory import Slabs
from datakit.store.files import Files, Handle
from datakit.store.layout import Layout, ShardEntry
from datakit.store.metadata import KEY, read_metadata
from datakit.store.tar import END, SampleRecord
from datakit.store.tar_reader import fields_of

HANDLES = 128  # files open at once
TRIES = 3  # of a damaged copy: what another thread opened before it was let go of may come once more
_PLACE = ("offset", "size", "image_offset", "image_size")

Get = Callable[[int], Any]
T = TypeVar("T")


class _NotAsWritten(StoreError):
    """Bytes of a tar whose digest is not theirs."""


class Shard:
    """One shard: its samples by row."""

    def __init__(self, files: Files, entry: ShardEntry, layout: Layout, columns: Sequence[str]) -> None:
        self.entry = entry
        self._layout = layout
        table = _checked_rows(files, entry, [KEY, *_PLACE, "xxh3", *columns])
        self._keys = table[KEY].combine_chunks()
        self._offset, self._size, self._image_offset, self._image_size = (
            _numbers(table[name], entry) for name in _PLACE
        )
        self._digests = _digests(table["xxh3"], entry)
        self.columns: dict[str, Get] = {name: getter(table[name]) for name in columns}

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def end(self) -> int:
        """Where the last sample ends and the end of the archive begins."""
        return int(self._offset[-1] + self._size[-1]) if len(self) else 0

    def key(self, row: int) -> str:
        return str(self._keys[row])

    def image(self, row: int, handle: Handle, slabs: Slabs) -> bytes | memoryview:
        """The image of a sample, whose every byte was compared with the digest; in a slab where one has room."""
        start, size = int(self._offset[row]), int(self._size[row])
        first = int(self._image_offset[row]) - start
        last = first + int(self._image_size[row])
        space = slabs.take(size)
        if space is None:
            return self._read(row, handle)[0][first:last]
        self._check(row, space[: handle.read_into(start, space)])
        return space[first:last].toreadonly()

    def members(self, row: int, handle: Handle) -> dict[str, bytes]:
        """All members of a sample by extension, as they lie in the tar."""
        data, start = self._read(row, handle)
        return fields_of(data, SampleRecord(self.key(row), start, len(data), ""), self.entry.tar.path)

    def _read(self, row: int, handle: Handle) -> tuple[bytes, int]:
        start = int(self._offset[row])
        data = handle.read(start, int(self._size[row]))
        self._check(row, data)
        return data, start

    def _check(self, row: int, data: bytes | memoryview) -> None:
        if xxhash.xxh3_128_digest(data) != self._digests[16 * row : 16 * row + 16]:
            size = int(self._size[row])
            what = f"{len(data)} of {size} bytes are there" if len(data) < size else "its xxh3 differs"
            raise _NotAsWritten(f"{self.entry.tar.path}: sample {self.key(row)} is not as written: {what}")


class Shards:
    """All shards of a split, each opened when first asked for; any thread may ask.

    keep: how many stay in memory, about 100 bytes a sample and the columns asked for; the least used goes first.
    """

    def __init__(
        self,
        files: Files,
        entries: Sequence[ShardEntry],
        layout: Layout,
        columns: Sequence[str],
        *,
        keep: int,
    ) -> None:
        self.files, self.entries, self.layout, self.columns = files, entries, layout, tuple(columns)
        self._keep = keep
        self._slabs = Slabs()
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._handles: OrderedDict[int, Handle] = OrderedDict()
        self._checked: set[int] = set()
        self._lock = threading.Lock()

    def shard(self, index: int) -> Shard:
        with self._lock:
            if index in self._shards:
                self._shards.move_to_end(index)
                return self._shards[index]
            shard = Shard(self.files, self.entries[index], self.layout, self.columns)
            self._shards[index] = shard
            if len(self._shards) > self._keep:
                self._shards.popitem(last=False)
            return shard

    def handle(self, index: int) -> Handle:
        """The tar of a shard, of the size written and with its end."""
        with self._lock:
            if index in self._handles:
                self._handles.move_to_end(index)
                return self._handles[index]
        shard = self.shard(index)
        handle = _opened(self.files, shard)
        # The samples have digests; what is left are the zeros that end the archive.
        if index not in self._checked and not _ends(shard, handle):
            if self.files.forget(shard.entry.tar, handle):
                handle = _opened(self.files, shard)
            if not _ends(shard, handle):
                raise StoreError(
                    f"{shard.entry.tar.path} is not as written: after its last sample the end of archive is "
                    "damaged"
                )
        with self._lock:
            self._checked.add(index)
            self._handles[index] = handle
            if len(self._handles) > HANDLES:
                self._handles.popitem(last=False)  # closes when the thread that still reads it lets go
        return handle

    def image(self, index: int, row: int) -> bytes | memoryview:
        """As it lies in the tar. A view keeps up to 2 MiB of memory from being used again: let go of it soon."""
        shard = self.shard(index)
        return self._sound(index, lambda handle: shard.image(row, handle, self._slabs))

    def members(self, index: int, row: int) -> dict[str, bytes]:
        shard = self.shard(index)
        return self._sound(index, lambda handle: shard.members(row, handle))

    def _sound(self, index: int, read: Callable[[Handle], T]) -> T:
        """What `read` makes of the tar; read again where it was a copy that the disk of this machine damaged."""
        for _ in range(TRIES):
            handle = self.handle(index)
            try:
                return read(handle)
            except _NotAsWritten:
                if not self.files.forget(self.entries[index].tar, handle):
                    raise
                with self._lock:
                    if self._handles.get(index) is handle:
                        del self._handles[index]
        return read(self.handle(index))

    def __getstate__(self) -> dict[str, Any]:
        """For another process: which shards, not what is open of them."""
        return {name: getattr(self, name) for name in ("files", "entries", "layout", "columns", "_keep")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(  # type: ignore[misc]
            state["files"], state["entries"], state["layout"], state["columns"], keep=state["_keep"]
        )


def _checked_rows(files: Files, entry: ShardEntry, columns: Sequence[str]) -> pa.Table:
    path = entry.metadata.path
    try:
        data = files.read(path)
    except FileNotFoundError:
        raise StoreError(f"{path} is missing from {files.name}") from None
    if hashlib.sha256(data).hexdigest() != entry.metadata.sha256:
        raise StoreError(f"{path} is not as written: its sha256 is not the manifest's")
    table = read_metadata(path, list(dict.fromkeys(columns)), data=data)
    if table.num_rows != entry.samples:
        raise StoreError(f"{path} has {table.num_rows} rows, not {entry.samples}")
    return table


def _numbers(column: pa.ChunkedArray, entry: ShardEntry) -> NDArray[np.int64]:
    """By its buffer: pyarrow's own way to numpy imports pandas, most of a second, before the first batch."""
    whole = column.combine_chunks()
    if whole.null_count or whole.type != pa.int64():
        raise StoreError(f"{entry.metadata.path}: a place of a sample is no number")
    return np.frombuffer(whole.buffers()[1] or b"", np.int64)[whole.offset : whole.offset + len(whole)]


def _digests(column: pa.ChunkedArray, entry: ShardEntry) -> bytes:
    """16 bytes a sample."""
    try:
        digests = bytes.fromhex("".join(column.to_pylist()))
    except (TypeError, ValueError) as problem:
        raise StoreError(f"{entry.metadata.path}: its digests are none: {problem}") from problem
    if len(digests) != 16 * entry.samples:
        raise StoreError(
            f"{entry.metadata.path}: it was published without digests; build it again to stream it"
        )
    return digests


def _opened(files: Files, shard: Shard) -> Handle:
    entry = shard.entry
    try:
        handle = files.open(entry.tar)
    except FileNotFoundError:
        raise StoreError(f"{entry.tar.path} is missing from {files.name}") from None
    if handle.size != entry.tar.bytes:
        raise StoreError(f"{entry.tar.path} has {handle.size} bytes and was written with {entry.tar.bytes}")
    return handle


def _ends(shard: Shard, handle: Handle) -> bool:
    return shard.end + len(END) == handle.size and handle.read(shard.end, len(END)) == END


def getter(column: pa.ChunkedArray) -> Get:
    """The value of a row: numbers of a fixed-size list (or of such lists in one another) as a numpy array, everything
    else as Python has it.
    """
    kind, shape = column.type, list[int]()
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    if shape and _is_number(kind) and not column.null_count:
        values = column.combine_chunks()
        for _ in shape:
            values = values.flatten()
        if not values.null_count:
            flat: NDArray[Any] = np.asarray(values)
            rows = flat.reshape(-1, *shape)
            return lambda row: rows[row]
    kind = column.type
    if pa.types.is_primitive(kind) or pa.types.is_string(kind):
        items: list[Any] = column.to_pylist()
        return items.__getitem__
    # Nested values cost to convert, and an epoch may look at few of them: one by one.
    whole = column.combine_chunks()
    return lambda row: whole[row].as_py()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
