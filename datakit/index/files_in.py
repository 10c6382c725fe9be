"""Vectors and metadata out of files of others: .npy, Parquet, Arrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import ConfigError, StoreError, did_you_mean
from datakit.index.arrays import Floats, floats
from datakit.index.folder import UNREADABLE, read_mapped
from datakit.index.pack import KEY
from datakit.store.arrow_guard import sound_batches
from datakit.store.metadata import read_metadata
from datakit.store.parquet_guard import open_parquet

TABLES = (".parquet", ".arrow")


def rows_in(vectors: str, *, column: str, meta: str = "") -> tuple[Floats, pa.Table]:
    """Vectors (N, D) of a file and a row of metadata for each: `key`, and what filters may ask.

    vectors: .npy, or a table, whose `column` they are, its other columns being the metadata. meta: a table of as many
    rows, in the same order; without one the keys of an .npy are the numbers of its rows. Raises ConfigError naming the
    file and what is wrong in it.
    """
    path = Path(vectors)
    found, own = _array(path), None
    if found is None:
        table = table_in(path)
        found, own = vectors_of(table, column, path), table.drop_columns([column])
    if meta:
        given = table_in(Path(meta))
        _same_keys(given, own, Path(meta), path)
        return found, given
    if own is None:
        own = pa.table({KEY: pa.array([str(row) for row in range(len(found))], pa.string())})
    return found, own


def table_in(path: Path) -> pa.Table:
    """A Parquet or Arrow file with a column `key`, looked through. Raises ConfigError naming it."""
    _refuse_other(path)
    try:
        if path.suffix == ".parquet":
            table = read_metadata(path)
        else:
            batches = list(sound_batches(path))
            table = pa.Table.from_batches(batches) if batches else read_mapped(path)
    except StoreError as problem:
        raise ConfigError(str(problem)) from problem
    if KEY not in table.column_names:
        raise ConfigError(f"{path} has no column {KEY}; there are {', '.join(table.column_names)}")
    return table


def rows_of(path: Path) -> int:
    """How many rows such a file has; they are not read. Raises ConfigError naming it."""
    _refuse_other(path)
    try:
        if path.suffix == ".parquet":
            with open_parquet(path) as file:
                return int(file.metadata.num_rows)
        return sum(batch.num_rows for batch in sound_batches(path))
    except (StoreError, *UNREADABLE) as problem:
        raise ConfigError(f"{path} is no Parquet or Arrow file: {problem}") from problem


def _refuse_other(path: Path) -> None:
    if path.suffix not in TABLES:
        raise ConfigError(f"{path} is no Parquet or Arrow file, by its name: .parquet or .arrow")
    if not path.is_file():
        raise ConfigError(f"{path} is no Parquet or Arrow file: it is not there")


def vectors_of(table: pa.Table, column: str, path: Path) -> Floats:
    """float32 (N, D) of a table read from `path`. Raises ConfigError naming the file and what is wrong."""
    if column not in table.column_names:
        there = ", ".join(table.column_names)
        raise ConfigError(
            f"{path} has no column {column}{did_you_mean(column, table.column_names)}; there are {there}"
        )
    return matrix_of(table[column], str(path))


def matrix_of(column: pa.Array | pa.ChunkedArray, what: str) -> Floats:
    """float32 (N, D) of a column of lists of numbers. Raises ConfigError naming `what` and a row without one."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = lists.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise ConfigError(f"{what} is {kind}: vectors are lists of numbers")
    if lists.null_count:
        raise ConfigError(f"{what}: row {int(np.asarray(lists.is_null()).argmax())} has no vector")
    lengths = np.asarray(pc.list_value_length(lists))
    if len(lengths) and (lengths != lengths[0]).any():
        row = int((lengths != lengths[0]).argmax())
        raise ConfigError(f"{what}: row 0 has {lengths[0]} numbers and row {row} has {lengths[row]}")
    flat = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return floats(flat.reshape(len(lists), int(lengths[0]) if len(lengths) else 0), what=what)


def _array(path: Path) -> Floats | None:
    """Of an .npy; None for a table."""
    if path.suffix != ".npy":
        return None
    if not path.is_file():
        raise ConfigError(f"{path} is not there")
    try:
        found: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        plain = isinstance(found, np.ndarray) and found.dtype.kind in "fiu"
    except UNREADABLE as problem:
        raise ConfigError(f"{path} holds no vectors: {problem}") from problem
    if not plain:
        raise ConfigError(f"{path} holds no vectors: an array of numbers is wanted, (N, dim)")
    return floats(found, what=str(path))


def _same_keys(given: pa.Table, own: pa.Table | None, meta: Path, path: Path) -> None:
    """Where both files have keys, a row is that of the same key in each."""
    if own is None or KEY not in own.column_names or KEY not in given.column_names:
        return
    keys = [table[KEY].cast(pa.string()).combine_chunks() for table in (given, own)]
    if len(keys[0]) != len(keys[1]):
        raise ConfigError(f"{meta} has {len(keys[0])} rows and {path} has {len(keys[1])}")
    if not keys[0].equals(keys[1]):
        row = next(at for at, (a, b) in enumerate(zip(*keys, strict=True)) if a != b)
        raise ConfigError(
            f"row {row} is {keys[0][row]} in {meta} and {keys[1][row]} in {path}: sort one as the other"
        )
