"""The metadata of a shard: a row for each sample, in the order of its tar, with its place and its image's.

Same rows, same bytes: columns are rebuilt before they are written, whatever chunks they came in.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datakit.errors import ConfigError, StoreError, did_you_mean
from datakit.store.contents import canonical
from datakit.store.features import has_fieldless, is_jsonable, plain_type, without_fieldless
from datakit.store.layout import Layout, ShardPlan
from datakit.store.parquet_guard import open_parquet
from datakit.store.tar import BLOCK, SampleRecord

KEY = "key"
LOCATION = pa.schema(
    [
        ("file_name", pa.string()),  # of the image, as Croissant joins on it
        ("split", pa.string()),
        ("shard", pa.string()),  # data/<shard>.tar
        ("index_in_shard", pa.int32()),
        ("offset", pa.int64()),  # of the sample's first header, in the tar
        ("size", pa.int64()),  # of the sample with headers and padding
        ("image_offset", pa.int64()),
        ("image_size", pa.int64()),
        ("xxh3", pa.string()),  # xxh3_128 of the sample's range
    ]
)
_DAMAGED = (OSError, pa.ArrowException, ValueError)  # what pyarrow raises on damaged files
DISTINCT_FOR_DICTIONARY = 0.5  # share of distinct values above which a dictionary only costs


def published_rows(rows: pa.Table, layout: Layout, schema: pa.Schema | None = None) -> pa.Table:
    """The columns to publish, `key` first, in plain types and canonical buffers.

    The key is the column `key` or `__key__`. `schema`: types by name, where a shard alone would not tell
    (a column that is null in all its rows). Raises ConfigError on a missing, reserved or unfit column.
    """
    key = _key_column(rows)
    names = _names(rows, layout, key)
    kinds = [pa.string(), *(_type(rows, name, schema) for name in names)]
    wanted = pa.schema(list(zip([KEY, *names], map(plain_type, kinds), strict=True)))
    _check(wanted, layout)
    chosen = zip(rows.select([key, *names]).columns, kinds, strict=True)
    columns = [pa.array(_values(column, kind), plain_type(kind)) for column, kind in chosen]
    return pa.Table.from_arrays(columns, schema=wanted)


def with_location(
    rows: pa.Table, records: Sequence[SampleRecord], sizes: Sequence[int], *, plan: ShardPlan, extension: str
) -> pa.Table:
    """The rows with where each sample lies. `sizes`: bytes of each image, the first member of its sample."""
    values = [
        location(record, size, index, plan=plan, extension=extension)
        for index, (record, size) in enumerate(zip(records, sizes, strict=True))
    ]
    located = [pa.array([value[field.name] for value in values], field.type) for field in LOCATION]
    schema = pa.schema([rows.schema.field(0), *LOCATION, *list(rows.schema)[1:]])
    return pa.Table.from_arrays([rows.column(0), *located, *rows.columns[1:]], schema=schema)


def location(
    record: SampleRecord, image_size: int, index: int, *, plan: ShardPlan, extension: str
) -> dict[str, Any]:
    """The values of LOCATION for sample `index` of a shard."""
    return {
        "file_name": f"{record.key}.{extension}",
        "split": plan.split,
        "shard": plan.name,
        "index_in_shard": index,
        "offset": record.offset,
        "size": record.size,
        "image_offset": record.offset + BLOCK,
        "image_size": image_size,
        "xxh3": record.xxh3,
    }


def layout_mark(layout: Layout) -> dict[str, str]:
    """What the metadata of a shard keep of the layout that it was written with."""
    return {"datakit.layout": hashlib.sha256(canonical(layout.to_json())).hexdigest()}


def is_marked(schema: pa.Schema, layout: Layout) -> bool:
    """Whether metadata with this schema are those of a shard written with this layout."""
    marks = {name.encode(): value.encode() for name, value in layout_mark(layout).items()}
    return bool(schema.metadata == marks)


def to_parquet(table: pa.Table, marks: Mapping[str, str] | None = None) -> bytes:
    """The table as a parquet file; zstd, dictionaries only where values repeat. marks: kept in its schema."""
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(dict(marks) if marks else None),
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=_repeating(table),
    )
    return sink.getvalue()


def read_metadata(
    path: str | Path, columns: Sequence[str] | None = None, *, data: bytes | None = None
) -> pa.Table:
    """Rows of one shard. Raises StoreError naming the file, also where a column is not there.

    data: the file's bytes, where they are at hand.
    """
    try:
        # Not `read_table`, which loads the data set machinery: 8 MB for one file.
        with open_parquet(path if data is None else data) as file:
            names = file.schema_arrow.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise StoreError(f"{path} is not readable metadata: it has {', '.join(twice)} more than once")
            missing = set(columns or ()) - set(names)
            if missing:
                raise StoreError(
                    f"{path} is not readable metadata: it has no column {', '.join(sorted(missing))}"
                )
            # One shard's rows are little work: to wait for a pool of threads takes longer, on a busy machine 50 ms.
            rows = file.read(None if columns is None else list(columns), use_threads=False)
        rows.validate(full=True)  # damaged text would raise wherever it is first looked at
        return rows
    except _DAMAGED as problem:
        raise StoreError(f"{path} is not readable metadata: {problem}") from problem


def read_metadata_schema(path: str | Path, *, data: bytes | None = None) -> pa.Schema:
    """With the mark of the layout. Raises StoreError naming the file. data: its bytes, where they are at hand."""
    try:
        with open_parquet(path if data is None else data) as file:
            return file.schema_arrow
    except _DAMAGED as problem:
        raise StoreError(f"{path} is not readable metadata: {problem}") from problem


def _key_column(rows: pa.Table) -> str:
    for name in (KEY, "__key__"):
        if name in rows.column_names:
            return name
    raise ConfigError("the rows to publish have neither a column `key` nor `__key__`")


def _names(rows: pa.Table, layout: Layout, key: str) -> list[str]:
    known = [name for name in rows.column_names if name not in (key, "__key__", KEY)]
    names = list(layout.named)
    if layout.metadata is None:
        names += [name for name in known if name not in names and name not in LOCATION.names]
    if missing := next((name for name in names if name not in known), None):
        raise ConfigError(f"there is no column {missing} to publish{did_you_mean(missing, known)}")
    if reserved := next((name for name in names if name in LOCATION.names), None):
        raise ConfigError(f"the column {reserved} cannot be published: the store has its own; rename it")
    return names


def _type(rows: pa.Table, name: str, schema: pa.Schema | None) -> pa.DataType:
    if schema is not None and name in schema.names:
        return schema.field(name).type
    return rows.schema.field(name).type


def _values(column: pa.ChunkedArray, kind: pa.DataType) -> list[Any]:
    """Those of a column for the plain type of `kind`."""
    if has_fieldless(kind):  # which Arrow casts to nothing
        return [without_fieldless(value, kind) for value in column.to_pylist()]
    values: list[Any] = column.cast(plain_type(kind)).to_pylist()
    return values


def _check(wanted: pa.Schema, layout: Layout) -> None:
    for name in layout.json_fields:
        if not is_jsonable(wanted.field(name).type):
            raise ConfigError(f"the column {name} is {wanted.field(name).type}, which JSON cannot hold")
    if layout.label and not pa.types.is_integer(wanted.field(layout.label).type):
        raise ConfigError(f"the label {layout.label} is {wanted.field(layout.label).type}, not integer")
    if layout.caption and wanted.field(layout.caption).type != pa.string():
        raise ConfigError(f"the caption {layout.caption} is {wanted.field(layout.caption).type}, not text")


def _repeating(table: pa.Table) -> list[str]:
    """Columns of text whose values repeat; digests and names would pay for a dictionary and not use it."""
    texts = [field.name for field in table.schema if field.type == pa.string()]
    limit = table.num_rows * DISTINCT_FOR_DICTIONARY
    repeated = [name for name in texts if pc.count_distinct(table.column(name)).as_py() <= limit]
    return repeated + [
        f"{field.name}.list.element" for field in table.schema if field.type == pa.list_(pa.string())
    ]
