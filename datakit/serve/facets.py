"""Columns whose values sort a result: how often each comes in it and in all, and the filter that a click adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datakit.index.opened import Index
from datakit.index.pack import KEY

REPEATED = 4  # rows of each value, on average, that a facet has at least
NUMBERS = 20  # different whole numbers that still are kinds, not amounts
SHOWN = 8  # values of each
COLUMNS = 8
LETTERS = 60  # of a value: beyond, it is prose
RESERVED = {
    "and",
    "or",
    "not",
    "in",
    "is",
    "null",
    "like",
    "between",
    "contains",
    "true",
    "false",
}  # of `where`
SKIPPED = {KEY, "licence", "attribution", "source_url", "label", "orig_label", "width", "height", "bytes"}


@dataclass(frozen=True, kw_only=True)
class Value:
    """here: rows of the result that have it; everywhere: rows of the index."""

    text: str
    here: int
    everywhere: int
    where: str


@dataclass(frozen=True, kw_only=True)
class Facet:
    column: str
    values: tuple[Value, ...]


def facet_columns(index: Index) -> dict[str, dict[Any, int]]:
    """column → value → rows, of columns whose values come again and again. Once an index: reads all rows."""
    found: dict[str, dict[Any, int]] = {}
    fields = [field for field in index.meta.schema if field.name not in SKIPPED and _may_sort(field.type)]
    for field in sorted(fields, key=lambda field: bool(pa.types.is_list(field.type))):  # those of lists last
        counts = _counts(index.meta[field.name])
        known = {value for values in found.values() for value in values}
        if _sorts(counts, index.meta.num_rows) and len(known & set(counts)) < len(counts) / 2:
            found[field.name] = counts
        if len(found) == COLUMNS:
            break
    return found


def _may_sort(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return bool(pa.types.is_string(kind.value_type))
    return bool(pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind))


def _sorts(counts: Mapping[Any, int], rows: int) -> bool:
    numbers = any(isinstance(value, int) and not isinstance(value, bool) for value in counts)
    most = NUMBERS if numbers else rows // REPEATED
    return 2 <= len(counts) <= most and all(len(str(value)) <= LETTERS for value in counts)


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    """Of each value that is there, or each element of a list."""
    flat = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    rows = pc.value_counts(flat.combine_chunks()).to_pylist() if len(flat) else []
    return {row["values"]: row["counts"] for row in rows if row["values"] not in (None, "")}


def facets_of(table: pa.Table, columns: Mapping[str, Mapping[Any, int]]) -> list[Facet]:
    """The facets of a result: the commonest values first."""
    found = []
    for name, everywhere in columns.items():
        if name not in table.column_names:
            continue
        here = sorted(_counts(table[name]).items(), key=lambda one: (-one[1], str(one[0])))[:SHOWN]
        contains = pa.types.is_list(table.schema.field(name).type)
        values = tuple(
            Value(
                text=str(value).lower() if isinstance(value, bool) else str(value),
                here=count,
                everywhere=everywhere.get(value, 0),
                where=condition(name, value, contains=contains),
            )
            for value, count in here
        )
        if values:
            found.append(Facet(column=name, values=values))
    return found


def condition(column: str, value: Any, *, contains: bool = False) -> str:
    """`column = 'value'`, or `column contains 'value'`, as `where` reads it."""
    quoted = "'" + str(value).replace("'", "''") + "'"
    literal = str(value).lower() if isinstance(value, int) else quoted
    plain = column.isidentifier() and column.isascii() and column.lower() not in RESERVED
    named = column if plain else "[" + column.replace("]", "]]") + "]"
    return f"{named} {'contains' if contains else '='} {literal}"
