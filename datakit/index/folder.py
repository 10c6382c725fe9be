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
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from datakit.errors import StoreError
from datakit.manifest import read_record, write_bytes
from datakit.store.contents import canonical

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    MemoryError,
    NotImplementedError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    pa.ArrowException,
)  # what numpy and Arrow raise of a file that is none of theirs
FAISS_LIMIT = 1 << 40  # bytes of a vector of faiss's, as it comes
_READING = threading.Lock()
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


def array_bytes(array: NDArray[Any]) -> bytes:
    """As .npy."""
    sink = io.BytesIO()
    np.save(sink, array)
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


def read_arrays(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """These arrays of an .npz. Raises StoreError naming the file for one that lacks them."""
    try:
        with np.load(path, allow_pickle=False) as found:
            if any(member.compress_size != member.file_size for member in found.zip.infolist()):
                raise ValueError("its members are compressed, which ours are not")
            return {name: found[name] for name in names}
    except UNREADABLE as problem:
        raise StoreError(
            f"{path} does not hold what was learned: {problem}; build the index again"
        ) from problem


def read_longs(path: Path, below: int) -> NDArray[np.int64]:
    """Numbers of rows, of an .npy. Raises StoreError naming the file where they are none, or not `below` so many."""
    try:
        found = np.load(path, allow_pickle=False)
    except UNREADABLE as problem:
        raise StoreError(f"{path} holds no numbers of rows: {problem}; build the index again") from problem
    plain = isinstance(found, np.ndarray) and found.dtype == np.int64 and found.ndim == 1
    if not plain or (len(found) and not 0 <= found.min() <= found.max() < below):
        raise StoreError(f"{path} holds no numbers of {below} rows; build the index again")
    longs: NDArray[np.int64] = found
    return longs


def read_mapped(path: Path, *, full: bool = False) -> pa.Table:
    """An Arrow file of ours, mapped: bytes come from disk when they are looked at. full: text and lists are, now.

    Raises StoreError naming the file. Arrow believes offsets: damaged ones would be followed beyond its end.
    """
    try:
        found = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        found.validate(full=full)
    except UNREADABLE as problem:
        raise StoreError(f"{path} is not a sound Arrow file: {problem}; build the index again") from problem
    return found


def read_matrix(path: Path, dim: int, table: pa.Table | None = None) -> NDArray[Any]:
    """(N, dim) float32 or float16 over the memory of a file's column `vector`, not copied. table: of that file, read.

    Raises StoreError naming the file where there are none of that length.
    """
    table = read_mapped(path) if table is None else table
    kinds = [pa.list_(number, dim) for number in (pa.float32(), pa.float16())]
    column = table[VECTOR] if table.column_names.count(VECTOR) == 1 else None
    if column is None or column.type not in kinds or column.null_count or column.num_chunks > 1:
        raise StoreError(f"{path} holds no vectors of {dim} numbers in one piece; build the index again")
    if not len(column):
        return np.empty((0, dim), column.type.value_type.to_pandas_dtype())
    values = column.chunk(0).flatten()
    if values.null_count:
        raise StoreError(f"{path}: numbers are missing in its vectors; build the index again")
    found: NDArray[Any] = values.to_numpy(zero_copy_only=True).reshape(-1, dim)
    return found


def read_lists(path: Path) -> Any:
    """faiss's lists, of a file that `checked` let through. Raises StoreError naming it for what faiss cannot read."""
    import faiss

    limit = getattr(faiss, "set_deserialization_vector_byte_limit", lambda size: None)
    with _READING:  # the limit is the process's
        try:
            # No part of a file is longer than it, but faiss makes tables of it: for pq8 up to 26 times its bytes.
            limit(32 * path.stat().st_size + (64 << 20))
            return faiss.read_index(str(path))
        except (OSError, RuntimeError, MemoryError) as problem:
            raise StoreError(
                f"{path} is nothing that faiss {faiss.__version__} reads: {problem}"
            ) from problem
        finally:
            limit(FAISS_LIMIT)


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
