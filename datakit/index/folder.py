"""An index on disk: `index.json`, which names every other file with its digest, and is written last.

vectors.arrow   the points that are compared, sorted by list, mapped into memory and never read whole
meta.arrow      a row each: `key` first, then the columns that filters ask
axes.npz        what was learned: centre, axes, centroids, means, where lists end
lists.faiss     codes in lists (or graph.faiss; nested.arrow)
delta-N.arrow   rows added since (upkeep.py); deleted-N.npy  which rows of all of these are gone

Nothing here is ever unpickled, and faiss reads no file whose digest is not the one written.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from datakit.errors import StoreError
from datakit.manifest import read_record, write_bytes
from datakit.store.contents import canonical

FORMAT = "datakit-index-1"
ABOUT = "index.json"
VECTOR = "vector"


def record_bytes(value: Mapping[str, Any]) -> bytes:
    """What `write_record` would write: JSON that holds its own digest."""
    return canonical({**value, "xxh3": xxhash.xxh3_128_hexdigest(canonical(value))})


def described(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """name → bytes and digest, for `index.json`."""
    return {
        name: {"bytes": len(data), "xxh3": xxhash.xxh3_128_hexdigest(data)}
        for name, data in sorted(files.items())
    }


def table_bytes(table: pa.Table) -> bytes:
    """An Arrow IPC file of one batch, so that a column is one piece of memory when it is mapped."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def matrix_bytes(rows: NDArray[Any]) -> bytes:
    """(N, D) as an Arrow column `vector`, fixed-size lists."""
    return table_bytes(pa.table({VECTOR: vector_column(rows)}))


def vector_column(rows: NDArray[Any]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def arrays_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """As .npz; numpy stamps its members with no time."""
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # type: ignore[arg-type]
    return sink.getvalue()


def read_about(folder: Path) -> dict[str, Any]:
    """`index.json`. Raises StoreError where there is none, or it is not the one written."""
    path = folder / ABOUT
    if not path.exists():
        raise StoreError(f"{folder} holds no index: there is no {ABOUT}; build one with datakit index build")
    found = read_record(path)
    if found is None:
        raise StoreError(f"{path} is damaged: its digest differs; build the index again")
    if found.get("format") != FORMAT:
        raise StoreError(f"{path} is of the format {found.get('format')}, and this version reads {FORMAT}")
    return found


def checked(folder: Path, name: str, about: Mapping[str, Any]) -> Path:
    """The path of a file of the index, whose every byte was compared with its digest."""
    path = folder / name
    noted = about["files"].get(name)
    if noted is None:
        raise StoreError(f"{path} belongs to no index: {ABOUT} does not name it")
    try:
        size = path.stat().st_size
        digest = _digest(path) if size == noted["bytes"] else ""
    except OSError as problem:
        raise StoreError(f"{path} cannot be read: {problem.strerror}; build the index again") from problem
    if size != noted["bytes"]:
        raise StoreError(f"{path} has {size} bytes, and {noted['bytes']} were written; build the index again")
    if digest != noted["xxh3"]:
        raise StoreError(f"{path} is not as written: its xxh3 differs; build the index again")
    return path


def _digest(path: Path) -> str:
    found = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            found.update(chunk)
    return found.hexdigest()


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def read_mapped(path: Path) -> pa.Table:
    """An Arrow file of ours, mapped: bytes come from disk when they are looked at."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def matrix_of(column: pa.ChunkedArray, dim: int) -> NDArray[Any]:
    """(N, dim) over the memory of a column of fixed-size lists, not copied."""
    if column.num_chunks == 0 or len(column) == 0:
        return np.empty((0, dim), column.type.value_type.to_pandas_dtype())
    if column.num_chunks > 1:
        raise StoreError("vectors lie in more than one batch")
    chunk = column.chunk(0)
    found: NDArray[Any] = chunk.flatten().to_numpy(zero_copy_only=True).reshape(len(chunk), dim)
    return found


def read_lists(path: Path) -> Any:
    """faiss's lists, of a file that `checked` let through. Raises StoreError naming it for what faiss cannot read."""
    import faiss

    try:
        return faiss.read_index(str(path))
    except RuntimeError as problem:
        raise StoreError(f"{path} is nothing that faiss {faiss.__version__} reads: {problem}") from problem


def lists_of(data: bytes) -> Any:
    """faiss's lists or graph, of bytes that are ours."""
    import faiss

    return faiss.deserialize_index(np.frombuffer(data, np.uint8))


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """All files, `index.json` last: until it is there, the index is the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if name != ABOUT:
            write_bytes(folder / name, data)
    if ABOUT in files:
        write_bytes(folder / ABOUT, files[ABOUT])


def about_bytes(value: Mapping[str, Any]) -> bytes:
    return record_bytes(json.loads(json.dumps(value)))
