"""The rows of a step: Arrow shards on disk, seen as one table; images stay where they lie.

An image column on disk is struct<path, offset, size>. A path is `@<token>/<rest>`, the token naming a root: a
catalog's images, the folder of steps or that of listings. So steps outlive a move of any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.blob import Blob
from datakit.errors import StoreError
from datakit.image import Image
from datakit.manifest import sealed
from datakit.stage import Sample
from datakit.store.columns import IMAGE, one_schema, one_table

STEPS, LISTINGS = "@steps", "@listings"


@dataclass(frozen=True)
class Roots:
    """Where the `@token` of a path stands for."""

    folders: Mapping[str, str]

    def blob(self, place: Mapping[str, Any]) -> Blob:
        token, _, rest = place["path"].partition("/")
        if not token.startswith("@"):
            return Blob(place["path"], place["offset"], place["size"])
        try:
            return Blob(f"{self.folders[token]}/{rest}", place["offset"], place["size"])
        except KeyError:
            raise StoreError(f"{place['path']}: nothing is known of the root {token}") from None

    def place(self, blob: Blob) -> dict[str, Any]:
        """The inverse of `blob`: what a shard's table holds."""
        for token, folder in self.folders.items():
            if folder and blob.path.startswith(folder + "/"):
                path = f"{token}/{blob.path[len(folder) + 1 :]}"
                return {"path": path, "offset": blob.offset, "size": blob.size}
        return {"path": blob.path, "offset": blob.offset, "size": blob.size}


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """Rows of a step, whole or one shard of it: its tables, and those of its annotations beside them.

    `paths`: the tables of each shard, read when asked for; `left`: gives what left on the way here; `catalogs`:
    provenance; `types`: the columns' types over all shards, where they are known without looking.
    """

    paths: Sequence[Sequence[Path]]
    roots: Roots
    left: Callable[[], pa.Table]
    slices: Sequence[tuple[int, int]] | None = None  # (offset, length) of a shard's first table
    catalogs: Sequence[Mapping[str, Any]] = ()
    types: pa.Schema | None = None
    _last: dict[int, pa.Table] = field(default_factory=dict, repr=False)
    _read: dict[str, pa.ChunkedArray] = field(default_factory=dict, repr=False)  # columns asked for so far

    def shard(self, index: int) -> pa.Table:
        """All columns of one shard; the last one asked for is kept, and no more."""
        if index not in self._last:
            tables = [read_table(path) for path in self.paths[index]]
            if self.slices is not None:
                tables[0] = tables[0].slice(*self.slices[index])
            self._last.clear()
            self._last[index] = zip_tables(tables)
        return self._last[index]

    def only(self, index: int, types: pa.Schema) -> StepRows:
        """The rows of one shard, with all columns that the whole has. types: those of the whole."""
        slices = None if self.slices is None else [self.slices[index]]
        return replace(self, paths=[self.paths[index]], slices=slices, types=types, _last={}, _read={})

    @cached_property
    def outcomes(self) -> pa.Table:
        return self.left()

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns' types over all shards: one shard alone may hold nothing but nulls."""
        if self.types is not None:
            return self.types
        if not self.paths:
            return pa.schema([("__key__", pa.string())])
        return one_schema([zip_schemas([read_schema(path) for path in paths]) for paths in self.paths])

    def __len__(self) -> int:
        return len(self._columns(["__key__"]))

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The named columns of all rows; all but images, if None. Raises StoreError on an unknown name."""
        if columns is None:
            columns = [name for name in self.columns if self.schema.field(name).type != IMAGE]
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise StoreError(f"no column {', '.join(missing)}; there are {', '.join(self.columns)}")
        return self._columns(columns)

    def _columns(self, names: Sequence[str]) -> pa.Table:
        """These columns of all rows, in one piece each; the others stay on disk."""
        new = list(dict.fromkeys(["__key__", *(name for name in names if name not in self._read)]))
        if len(new) > 1 or not self._read:  # the keys count the rows of a shard that has none of the columns
            shards = (self.shard(index) for index in range(len(self.paths)))
            chosen = [table.select([name for name in new if name in table.column_names]) for table in shards]
            types = pa.schema([self.schema.field(name) for name in new])
            table = one_table(chosen, types).combine_chunks()
            self._read.update(zip(table.column_names, table.columns, strict=True))
        return pa.Table.from_arrays([self._read[name] for name in names], names=list(names))

    def images(self, indices: Sequence[int] | None = None) -> Iterator[Image]:
        """The images of these rows (all, if None), lazily."""
        places = self._columns(["image"]).column("image")
        chosen = places if indices is None else places.take(pa.array(np.asarray(indices, np.int64)))
        for place in chosen:
            yield Image(self.roots.blob(place.as_py()))

    def samples(self, table: pa.Table) -> Iterator[Sample]:
        """The rows of `table` as samples, images lazy."""
        for batch in table.to_batches(max_chunksize=256):
            for row in batch.to_pylist():
                yield {
                    name: Image(self.roots.blob(value)) if _is_image(table, name, value) else value
                    for name, value in row.items()
                }


def _is_image(table: pa.Table, name: str, value: Any) -> bool:
    return value is not None and table.schema.field(name).type == IMAGE


def zip_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables side by side; each must have as many rows, and a later column replaces an earlier one."""
    first = tables[0]
    for table in tables[1:]:
        if table.num_rows != first.num_rows:
            raise StoreError(f"an annotation has {table.num_rows} rows beside {first.num_rows}")
        for name in table.column_names:
            if name == "__key__":
                # min_count: `all` of no rows is null otherwise, and every sample of a shard may have left.
                if not pc.all(pc.equal(first["__key__"], table["__key__"]), min_count=0).as_py():
                    raise StoreError("an annotation's keys are not those of its rows")
                continue
            at = first.column_names.index(name) if name in first.column_names else -1
            column = table.column(name)
            named = table.schema.field(name)
            first = first.set_column(at, named, column) if at >= 0 else first.append_column(named, column)
    return first


def zip_schemas(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The schema of what `zip_tables` makes of tables with these."""
    named = {column.name: column for schema in schemas[:1] for column in schema}
    for schema in schemas[1:]:
        named |= {column.name: column for column in schema if column.name != "__key__"}
    return pa.schema(list(named.values()))


def read_table(path: Path) -> pa.Table:
    """An Arrow IPC file, memory-mapped. Raises StoreError naming the file."""
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as problem:
        raise StoreError(f"{path} is not a readable Arrow file: {problem}") from problem


def read_schema(path: Path) -> pa.Schema:
    """The schema of an Arrow IPC file, without its rows."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).schema


def write_table(path: Path, table: pa.Table) -> int:
    """The table as an Arrow IPC file, atomically; its size in bytes."""
    with sealed(path) as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        return file.size
