"""Vectors in Parquet and Arrow files, cut into parts that a job can hold; the metadata beside them.

Cuts come from the data: between row groups of Parquet, which are decoded whole, and at any row of Arrow, which is
mapped. So a part does not depend on who works on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from datakit.errors import ConfigError, StoreError, did_you_mean
from datakit.index import folder
from datakit.index.arrays import Floats
from datakit.index.pack import KEY

PART_BYTES = 256 << 20  # of a part's vectors, about; a job holds a few times that
GUESS = 1024  # dims of vectors whose type does not say how many
PARQUET = ".parquet"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows start to stop of a file; `first`: the number of the first of them in the whole data."""

    path: str
    start: int
    stop: int
    first: int

    def __len__(self) -> int:
        return self.stop - self.start


def cut(sources: Sequence[Path], column: str, part_rows: int = 0) -> list[Part]:
    """The parts of all files, in their order, each of `part_rows` rows at most if it can be (0: of PART_BYTES).

    Raises ConfigError naming a file that is neither Arrow nor Parquet, or lacks a column.
    """
    parts: list[Part] = []
    first = 0
    for path in sources:
        schema, sizes = _layout(path)
        for name in (KEY, column):
            if schema.names.count(name) != 1:
                hint = did_you_mean(name, schema.names) or f"; there are {', '.join(schema.names)}"
                raise ConfigError(f"{path} has no column {name}{hint}")
        kind = schema.field(column).type
        dim = kind.list_size if types.is_fixed_size_list(kind) else GUESS
        most = part_rows or max(1, PART_BYTES // (4 * dim))
        if path.suffix != PARQUET:
            sizes = [min(most, sum(sizes) - at) for at in range(0, sum(sizes), most)]
        ends = np.cumsum([0, *sizes]).tolist()
        for low, high in grouped(sizes, most):
            start, stop = ends[low], ends[high]
            if start < stop:
                parts.append(Part(path=str(path), start=start, stop=stop, first=first + start))
        first += ends[-1]
    return parts


def grouped(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """(from, to) of neighbours that are taken together: as many as add up to `most`, one at least."""
    ends, held = list[int](), 0
    for at, size in enumerate(sizes):
        if held and held + size > most:
            ends.append(at)
            held = 0
        held += size
    ends += [len(sizes)] if sizes else []
    return list(zip([0, *ends], ends, strict=False))


def _layout(path: Path) -> tuple[pa.Schema, list[int]]:
    """The columns of a file, and the rows of each of its pieces."""
    try:
        if path.suffix == PARQUET:
            found = pq.read_metadata(path)
            return found.schema.to_arrow_schema(), [
                found.row_group(at).num_rows for at in range(found.num_row_groups)
            ]
        table = folder.read_mapped(path)
        return table.schema, [table.num_rows]
    except (OSError, StoreError, pa.ArrowException) as problem:
        raise ConfigError(f"{path} is no Parquet or Arrow file: {problem}") from problem


def read_vectors(part: Part, column: str) -> Floats:
    """float32 (N, dim), mapped where they lie so. Raises ConfigError naming file and row of one that is missing, of
    another length than those before it, or not finite.
    """
    lists = _column(part, column)
    kind = lists.type
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)) or not (
        types.is_floating(kind.value_type) or types.is_integer(kind.value_type)
    ):
        raise ConfigError(f"{part.path}: {column} is {kind}, and vectors are lists of numbers")
    if lists.null_count:
        raise ConfigError(f"{_place(part, np.asarray(lists.is_null()))}: there is no vector")
    lengths = np.asarray(pc.list_value_length(lists))
    dim = int(lengths[0]) if len(lengths) else 0
    if (lengths != dim).any():
        raise ConfigError(
            f"{_place(part, lengths != dim)}: {lengths[lengths != dim][0]} numbers, and {dim} in those before"
        )
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    vectors: Floats = np.ascontiguousarray(flat, np.float32).reshape(len(lists), dim)
    if not (good := np.isfinite(vectors).all(axis=1)).all():
        raise ConfigError(f"{_place(part, ~good)} holds a number that is missing or not finite")
    return vectors


def refuse_zeros(part: Part, vectors: Floats) -> None:
    """Raises ConfigError naming file and row of a vector without a direction."""
    if not (good := vectors.any(axis=1)).all():
        raise ConfigError(
            f"{_place(part, ~good)} is zero, which has no direction: leave it out, or use metric=l2"
        )


def _place(part: Part, which: Any) -> str:
    return f"{part.path}, row {part.start + int(np.flatnonzero(which)[0])}"


def _column(part: Part, column: str) -> Any:
    try:
        if not part.path.endswith(PARQUET):
            found = folder.read_mapped(Path(part.path))[column].slice(part.start, len(part))
        else:
            with pq.ParquetFile(part.path) as file:
                sizes = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
                starts = np.cumsum([0, *sizes])[:-1]
                groups = np.flatnonzero((starts >= part.start) & (starts < part.stop)).tolist()
                found = file.read_row_groups(groups, columns=[column])[column]
    except (OSError, StoreError, KeyError, pa.ArrowException) as problem:
        raise ConfigError(f"{part.path} cannot be read: {problem}") from problem
    if len(found) != len(part):
        raise ConfigError(f"{part.path} changed since the build began; begin it again")
    chunks = found.combine_chunks()
    return chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) else chunks


def read_meta(sources: Sequence[Path], column: str) -> pa.Table:
    """All but the vectors, of all files. Raises ConfigError naming a file whose columns are not those of the first."""
    tables: list[pa.Table] = []
    for path in sources:
        if path.suffix == PARQUET:
            names = [name for name in pq.read_schema(path).names if name != column]
            tables.append(pq.read_table(path, columns=names, partitioning=None))
        else:
            tables.append(folder.read_mapped(path).drop_columns([column]))
        if not tables[-1].schema.equals(tables[0].schema):
            first = ", ".join(f"{field.name} {field.type}" for field in tables[0].schema)
            here = ", ".join(f"{field.name} {field.type}" for field in tables[-1].schema)
            raise ConfigError(f"{path} has the columns {here}, and {sources[0]} has {first}")
    return pa.concat_tables(tables)
