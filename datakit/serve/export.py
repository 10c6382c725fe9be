"""A result to take away: a list of keys, or the samples themselves as a tar that any WebDataset reader takes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from datakit.serve.site import Site
from datakit.store.lines import jsonable

LISTS = {"jsonl": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}
MAX_TAR = 1000  # samples


def as_jsonl(table: pa.Table) -> bytes:
    rows = ({name: jsonable(value) for name, value in row.items()} for row in table.to_pylist())
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()


def as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def as_tar(site: Site, table: pa.Table) -> Iterator[bytes]:
    """Image and json of each sample, key by key, in the order of the result."""
    extension = site.catalogue.store.layout.image_extension
    for row in table.to_pylist():
        fields = {name: jsonable(value) for name, value in row.items()}
        text = json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()
        yield _member(f"{row['key']}.{extension}", site.catalogue.image(row["key"]))
        yield _member(f"{row['key']}.json", text)
    yield bytes(1024)  # the end of an archive


def _member(name: str, data: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)  # no time, no owner: equal samples give equal bytes
        tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    return sink.getvalue()[:end]
