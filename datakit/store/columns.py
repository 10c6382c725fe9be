"""Values of samples as Arrow columns, shard by shard, and the columns of all shards as one.

One column, two types (a JSON field that is a number here and a word there) is text, in a shard and over shards:
text keeps both readable. Only values as of JSON, and moments, are ever text: that of an array lacks what it
holds, and that of an object is its address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from datakit.blob import Blob
from datakit.errors import StoreError

if TYPE_CHECKING:
    from datakit.store.rows import Roots

IMAGE = pa.struct([("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
_PLAIN = (str, int, float, bytes, date, Decimal, np.generic)  # a bool is an int, a datetime a date
_UNFIT = (pa.ArrowException, OverflowError, UnicodeEncodeError)  # what Arrow raises at a value


def columns_of(samples: Sequence[Mapping[str, Any]], roots: Roots) -> pa.Table:
    """Samples as a table: the union of their fields, images as places, arrays as lists of their own type.

    Raises StoreError naming column and sample for a value that no column can hold.
    """
    if not samples:
        return pa.table({"__key__": pa.array([], pa.string())})
    names = list(dict.fromkeys(name for sample in samples for name in sample))
    return pa.table({name: _named(name, samples, roots) for name in names})


def _named(name: str, samples: Sequence[Mapping[str, Any]], roots: Roots) -> pa.Array:
    values = [sample.get(name) for sample in samples]
    try:
        name.encode()
        return _column(values, roots)
    except _UNFIT as problem:
        first = next((value for value in values if value is not None), None)
        pairs = zip(samples, values, strict=True)
        given = ((sample["__key__"], value) for sample, value in pairs if value is not None)
        unfit = next((key for key, value in given if not _fit([first, value], roots)), None)
        where = f" of {unfit}" if unfit else ""
        raise StoreError(
            f"the column {name!r}{where} cannot be stored: {problem}; mend the value, or leave the column out"
        ) from problem


def _fit(values: list[Any], roots: Roots) -> bool:
    try:
        _column(values, roots)
    except _UNFIT:
        return False
    return True


def _column(values: list[Any], roots: Roots) -> pa.Array:
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, Blob) for value in there):
        return pa.array([None if value is None else roots.place(value) for value in values], IMAGE)
    first = there[0] if there else None
    if isinstance(first, np.ndarray):
        if first.ndim == 1 and len(first) and all(_like(value, first) for value in there):
            return _vectors(values, np.zeros_like(first))
        values = [_rows_of(value) for value in values]
    try:
        column = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        if not all(_is_plain(value) for value in values):
            raise
        return _texts(values)
    # Arrow takes a moment beside a date for a date, and loses its hour.
    if "date32" in str(column.type) and any(_loses_hour(value, column.type) for value in values):
        return _texts(values)
    return column


def _vectors(values: list[Any], blank: np.ndarray[Any, Any]) -> pa.Array:
    """Vectors of one length and type; some may be None, so that a shard with gaps has the type of one without."""
    flat = pa.array(np.concatenate([blank if value is None else value for value in values]))
    gaps = pa.array([value is None for value in values])
    return pa.FixedSizeListArray.from_arrays(flat, len(blank), mask=gaps if gaps.true_count else None)


def _like(value: Any, first: np.ndarray[Any, Any]) -> bool:
    return isinstance(value, np.ndarray) and value.shape == first.shape and value.dtype == first.dtype


def _rows_of(value: Any) -> Any:
    """An array of several axes as nested lists of its rows: Arrow takes arrays of one axis alone."""
    if not isinstance(value, np.ndarray) or value.ndim == 1:
        return value
    return [_rows_of(row) for row in value] if value.ndim else value[()]


def _is_plain(value: Any) -> bool:
    return all(item is None or isinstance(item, _PLAIN) for item in _leaves(value))


def _leaves(value: Any) -> Iterator[Any]:
    """All that is in dicts, lists and tuples; else the value."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _loses_hour(value: Any, kind: pa.DataType) -> bool:
    """Whether a moment, at any depth, is where the type has a date."""
    if value is None:
        return False
    if pa.types.is_list(kind):
        return any(_loses_hour(item, kind.value_type) for item in value)
    if pa.types.is_struct(kind):
        return any(_loses_hour(value.get(field.name), field.type) for field in kind)
    return pa.types.is_date32(kind) and isinstance(value, datetime)


def _texts(values: list[Any]) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def one_table(shards: Sequence[pa.Table], schema: pa.Schema | None = None) -> pa.Table:
    """The rows of all shards, in the types of `one_schema`. Raises StoreError where a number does not fit its.

    schema: that of more shards than these; columns that only others have are null.
    """
    if schema is None:
        schema = one_schema([table.schema for table in shards])
    else:
        shards = [schema.empty_table(), *shards]
    try:
        return pa.concat_tables([_in_texts(table, schema) for table in shards], promote_options="permissive")
    except pa.ArrowInvalid as problem:
        raise StoreError(
            f"shards differ in the type of a number: {problem}; give its column one type"
        ) from problem


def one_schema(shards: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of all shards, each in a type that holds them all, or else in text.

    Raises StoreError naming a column whose vectors or images would be text.
    """
    try:
        return pa.unify_schemas(shards, promote_options="permissive")
    except pa.ArrowTypeError:
        names = dict.fromkeys(name for schema in shards for name in schema.names)
        return pa.schema([(name, _one_type(name, shards)) for name in names])


def _one_type(name: str, shards: Sequence[pa.Schema]) -> pa.DataType:
    first: dict[pa.DataType, int] = {}  # the first shard of each type
    for number, schema in enumerate(shards):
        if name in schema.names:
            first.setdefault(schema.field(name).type, number)
    try:
        alone = [pa.schema([(name, kind)]) for kind in first]
        return pa.unify_schemas(alone, promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        if any(kind == IMAGE or pa.types.is_fixed_size_list(kind) for kind in first):
            found = ", ".join(f"{kind} in shard {number}" for kind, number in first.items())
            raise StoreError(f"the column {name} is {found}; give it one type") from None
        return pa.string()


def _in_texts(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table, with those columns as text that are text in `schema`."""
    for at, column in enumerate(table.schema):
        if schema.field(column.name).type == pa.string() and column.type not in (pa.string(), pa.null()):
            table = table.set_column(at, column.name, _texts(table.column(at).to_pylist()))
    return table
