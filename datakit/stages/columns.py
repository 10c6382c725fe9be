"""Columns of a step in their standard types, whether or not the catalog has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datakit.errors import StageError
from datakit.stage import Image, Rows

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[Any]  # str or None

TEXT = pa.string()
TYPES: dict[str, pa.DataType] = {
    "orig_label": pa.int64(),
    "taxonomy": pa.list_(TEXT),
    "width": pa.int64(),
    "height": pa.int64(),
    "bytes": pa.int64(),
    "mean_rgb": pa.list_(pa.float64()),
}  # every other standard column is text


@dataclass(frozen=True)
class TableRows:
    """Rows over an Arrow table in memory, without images; for calling a reduce directly."""

    data: pa.Table

    def __len__(self) -> int:
        return int(self.data.num_rows)

    @property
    def columns(self) -> list[str]:
        return list(self.data.column_names)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        return self.data if columns is None else self.data.select(list(columns))

    def images(self, indices: Sequence[int] | None = None) -> Iterator[Image]:
        raise StageError("a table in memory has no images")


def read_columns(rows: Rows, *names: str) -> pa.Table:
    """The named columns of all rows; one that the catalog lacks is all null."""
    present = set(rows.columns)
    table = rows.table([name for name in names if name in present])
    arrays = {
        name: table.column(name).cast(TYPES.get(name, TEXT))
        if name in present
        else pa.nulls(len(rows), TYPES.get(name, TEXT))
        for name in names
    }
    return pa.table(arrays)


def words(column: pa.ChunkedArray) -> Words:
    """A text column as an object array of str and None."""
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)


def codes(column: pa.ChunkedArray | pa.Array) -> tuple[Ints, list[Any]]:
    """A number for each value, -1 for null, and the values by number, sorted."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = pc.drop_null(pc.unique(flat)).sort()
    found = pc.fill_null(pc.index_in(flat, value_set=values), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64), values.to_pylist()


def unit_vectors(rows: Rows, indices: Ints | None = None, *, name: str) -> NDArray[np.float32]:
    """float32 (N, D) of the list column `name`, each row of length 1 (a zero row stays zero).

    Raises StageError where a row has no vector, as a half-embedded step must not pass for a whole one, and where
    one has another length.
    """
    column = rows.table([name]).column(name)
    if indices is not None:
        column = column.take(pa.array(indices))
    if column.null_count:
        raise StageError(f"{column.null_count} rows have no {name}; embed all rows first")
    widths = pc.unique(pc.list_value_length(column)).to_pylist() or [0]
    if len(widths) > 1:
        raise StageError(
            f"{name}: vectors of {widths[0]} and of {widths[1]} numbers; all must be of one length"
        )
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return unit(flat.reshape(len(column), widths[0]).astype(np.float32))


def unit(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; a zero row stays zero."""
    length = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return (vectors_ND / np.where(length > 0, length, 1)).astype(np.float32)


def same_order(rows: Rows, other: Rows, what: str) -> None:
    """Raises StageError unless `other` holds the same samples in the same order."""
    same = len(rows) == len(other)
    if same and "__key__" in other.columns:
        same = rows.table(["__key__"]).column(0).equals(other.table(["__key__"]).column(0))
    if not same:
        raise StageError(f"{what} are of other rows: make them from the same step")
