"""Columns whose values sort a result: how often each comes in it and in all, and the filter that a click adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datakit.index.opened import Index
from datakit.index.pack import KEY

VALUES = 60  # different ones that a column has at most, to be a facet
SHOWN = 8  # of each
COLUMNS = 6
SKIPPED = {
    KEY,
    "name",
    "caption",
    "said",
    "licence",
    "attribution",
    "source_url",
    "format",
    "pool",
    "catalog",
}


@dataclass(frozen=True, kw_only=True)
class Value:
    text: str
    here: int
    everywhere: int
    where: str


@dataclass(frozen=True, kw_only=True)
class Facet:
    column: str
    values: tuple[Value, ...]


def facet_columns(index: Index) -> dict[str, dict[str, int]]:
    """column → value → rows, of text columns with 2 to 60 different values. Once an index: reads all rows."""
    found = {}
    for name in index.meta.column_names:
        column = index.meta[name]
        if name in SKIPPED or not pa.types.is_string(column.type):
            continue
        counts = pc.value_counts(column.combine_chunks()).to_pylist()
        known = {count["values"]: count["counts"] for count in counts if count["values"]}
        if 2 <= len(known) <= VALUES:
            found[name] = known
    return dict(list(found.items())[:COLUMNS])


def facets_of(table: pa.Table, columns: dict[str, dict[str, int]]) -> list[Facet]:
    """The facets of a result: the commonest values first."""
    found = []
    for name, everywhere in columns.items():
        if name not in table.column_names:
            continue
        counts = pc.value_counts(table[name].combine_chunks()).to_pylist()
        here = sorted(
            ((one["counts"], one["values"]) for one in counts if one["values"]),
            key=lambda one: (-one[0], one[1]),
        )
        values = [
            Value(text=value, here=count, everywhere=everywhere.get(value, 0), where=condition(name, value))
            for count, value in here[:SHOWN]
        ]
        if values:
            found.append(Facet(column=name, values=tuple(values)))
    return found


def condition(column: str, value: Any) -> str:
    """`column = 'value'` as `where` reads it."""
    text = str(value).replace("'", "''")
    plain = column.isidentifier() and column.isascii()
    return f"{column if plain else '[' + column.replace(']', ']]') + ']'} = '{text}'"
