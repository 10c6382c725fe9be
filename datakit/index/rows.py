"""What an index knows of its rows: metadata, vectors added since it was built, and which rows are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.errors import StoreError
from datakit.index import folder
from datakit.index.arrays import Bools
from datakit.index.exact import Stored
from datakit.index.pack import KEY


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Those of the base first, then those of each delta. `added`: the points of the latter; `live`: not deleted."""

    meta: pa.Table
    added: Stored
    live: Bools


def read_rows(place: Path, about: Mapping[str, Any]) -> Rows:
    """The rows of the index in this folder. Raises StoreError naming the file that is damaged, or fits no other."""
    path = folder.checked(place, about["base"]["meta"], about)
    meta = folder.read_mapped(path, full=True)
    if meta.column_names[:1] != [KEY] or meta.schema.field(KEY).type != pa.string() or meta[KEY].null_count:
        raise StoreError(f"{path} does not begin with a column {KEY} of text; build the index again")
    if meta.num_rows != about["rows"]:
        raise StoreError(
            f"{path}: {meta.num_rows} rows of metadata, not {about['rows']}; build the index again"
        )
    tables, pieces = [meta], []
    for name in about["deltas"]:
        points, more = _delta(folder.checked(place, name, about), about["dim"], meta.schema)
        pieces.append(points)
        tables.append(more)
    added = np.concatenate(pieces) if pieces else np.empty((0, about["dim"]), np.float32)
    live = np.ones(about["rows"] + len(added), dtype=bool)
    if about["deleted"] is not None:
        live[folder.read_longs(folder.checked(place, about["deleted"], about), len(live))] = False
    return Rows(meta=pa.concat_tables(tables).combine_chunks(), added=added, live=live)


def _delta(path: Path, dim: int, schema: pa.Schema) -> tuple[Stored, pa.Table]:
    table = folder.read_mapped(path, full=True)
    points = folder.read_matrix(path, dim, table)
    more = table.drop_columns([folder.VECTOR])
    if not more.schema.equals(schema) or more[KEY].null_count:
        raise StoreError(f"{path} has other columns than the index; build the index again")
    return points, more
