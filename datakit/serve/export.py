"""A result to take away: a list of keys, or the samples themselves as a tar that any WebDataset reader takes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datakit.serve.site import Site
from datakit.store.lines import jsonable

LISTS = {"jsonl": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}
TAR = "application/x-tar"
AT_ONCE = 16  # samples read by a thread before others have their turn


def as_list(table: pa.Table, form: str) -> bytes:
    """Rows as JSON lines, or a Parquet file: key, score, rank and the index's columns."""
    if form == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
    return "".join(
        json.dumps(_fields(row), ensure_ascii=False, sort_keys=True) + "\n" for row in table.to_pylist()
    ).encode()


async def as_tar(site: Site, table: pa.Table) -> AsyncIterator[bytes]:
    """Image and json of each sample, key by key, in the order of the result."""
    extension, rows = site.catalogue.store.layout.image_extension, table.to_pylist()
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        yield await site.run(lambda some=some: _members(site, some, extension), refused=start == 0)  # type: ignore[misc]
    yield bytes(1024)  # the end of an archive


def _members(site: Site, rows: Sequence[Mapping[str, Any]], extension: str) -> bytes:
    found = []
    for row in rows:
        text = json.dumps(_fields(row), ensure_ascii=False, sort_keys=True).encode()
        found += [_member(f"{row['key']}.{extension}", site.catalogue.image(row["key"]))]
        found += [_member(f"{row['key']}.json", text)]
    return b"".join(found)


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: jsonable(value) for name, value in row.items()}


def _member(name: str, data: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)  # no time, no owner: equal samples give equal bytes
        tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    return sink.getvalue()[:end]
