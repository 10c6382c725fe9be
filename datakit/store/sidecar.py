"""Columns that lie beside a store, zipped on by key: captions, relabels, embeddings, tokens. No image is copied.

A sidecar is a Parquet or Arrow file with the column `key`. One that `write_sidecar` wrote names the store that it
belongs to, and is refused beside any other.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datakit.errors import ConfigError, StoreError, did_you_mean
from datakit.manifest import atomic
from datakit.store.metadata import KEY
from datakit.store.parquet_guard import open_parquet
from datakit.tokens.opened import open_tokens

if TYPE_CHECKING:
    from datakit.store.reader import Store

MARK = b"datakit.store"  # in the schema: the digest of the store that a sidecar belongs to
_UNREADABLE = (OSError, ValueError, pa.ArrowException)


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """Columns by the rows of a view: `rows[i]` is the row of `table` for sample i; -1 where there is none."""

    name: str
    table: pa.Table
    rows: NDArray[np.int64]

    def column(self, name: str) -> pa.ChunkedArray:
        """The values for each sample of the view; null where there is none."""
        return self.table[name].take(pa.array(self.rows, mask=self.rows < 0))


def write_sidecar(path: str | os.PathLike[str], table: pa.Table, store: Store) -> None:
    """Write `table`, with its column `key`, as an Arrow file beside the store that it belongs to."""
    if KEY not in table.column_names:
        raise ConfigError(f"a sidecar needs the column {KEY}; there are {', '.join(table.column_names)}")
    marked = table.replace_schema_metadata({**(table.schema.metadata or {}), MARK: store.digest.encode()})
    with (
        atomic(Path(path)) as part,
        pa.OSFile(str(part), "wb") as sink,
        pa.ipc.new_file(sink, marked.schema) as writer,
    ):
        writer.write_table(marked.combine_chunks())


def open_sidecar(
    path: str | os.PathLike[str],
    keys: pa.ChunkedArray,
    store: Store,
    *,
    columns: Sequence[str] | None = None,
    partial: bool = False,
) -> Sidecar:
    """The sidecar for the samples `keys` of `store`. columns: of it (None: all).

    partial: samples that it does not name get null; without it, one is a StoreError. A key twice, a sidecar of
    another store and a file that is none are StoreErrors too.
    """
    name, table = os.fspath(path), _read(Path(path))
    if twice := next((column for column, count in Counter(table.column_names).items() if count > 1), None):
        raise StoreError(f"{name} has two columns {twice}")
    if KEY not in table.column_names:
        raise StoreError(f"{name} has no column {KEY}, by which a sidecar is zipped on")
    theirs = (table.schema.metadata or {}).get(MARK, store.digest.encode()).decode(errors="replace")
    if theirs != store.digest:
        raise StoreError(
            f"{name} belongs to another store ({theirs[:12]}…, not {store.digest[:12]}…); make it anew"
        )
    wanted = [column for column in table.column_names if column != KEY] if columns is None else list(columns)
    if unknown := next((column for column in wanted if column not in table.column_names), None):
        raise ConfigError(f"{name} has no column {unknown}{did_you_mean(unknown, table.column_names)}")
    if taken := next((column for column in wanted if column in ("__key__", "image")), None):
        raise StoreError(
            f"{name} has a column {taken}, which would hide each sample's own; leave it out by columns="
        )
    theirs_keys = table[KEY].cast(pa.string())
    if pc.count_distinct(theirs_keys).as_py() != len(theirs_keys):
        raise StoreError(f"{name} names a key twice")
    rows = pc.fill_null(pc.index_in(keys, value_set=theirs_keys), -1)
    found = np.asarray(rows, np.int64)
    if not partial and (missing := np.flatnonzero(found < 0)).size:
        raise StoreError(
            f"{name} lacks {missing.size} of {len(keys)} samples, the first {keys[int(missing[0])]}; "
            "give partial=True to have null there"
        )
    return Sidecar(name=name, table=table.select(wanted), rows=found)


def _tokens(folder: Path) -> pa.Table:
    """`key` and `tokens` (h, w) of the first view of each image: 2 bytes a token."""
    packed = open_tokens(folder)
    rows = np.flatnonzero(np.asarray(packed.rows["view"]) == 0)
    flat = pa.array(packed.read(rows).reshape(-1))
    for length in reversed(packed.grid):
        flat = pa.FixedSizeListArray.from_arrays(flat, length)
    return pa.table({KEY: packed.rows["key"].take(pa.array(rows)), "tokens": flat})


def _read(path: Path) -> pa.Table:
    """A Parquet file, or an Arrow file, which stays on disk: memory-mapped; or packed tokens, which do not."""
    if path.is_dir():
        return _tokens(path)
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if start == b"ARROW1":
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_file(source).read_all()
        else:
            with open_parquet(path) as parquet:
                table = parquet.read()
        table.validate(full=True)
        return table
    except _UNREADABLE as problem:
        raise StoreError(f"{path} is no readable sidecar (Parquet or Arrow): {problem}") from problem
