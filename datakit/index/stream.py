"""Files of an index written piece by piece, so that none of it need be in memory: vectors, faiss's lists.

The bytes are those that Arrow and faiss write of the whole; `pack` makes the files of a build in memory by the
same functions.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.disk import sealed
from datakit.errors import StoreError
from datakit.index.folder import VECTOR

Blocks = Iterable[NDArray[Any]]
Write = Callable[[Any], Any]
BUFFER = 1 << 20  # bytes gathered before they are written: faiss gives numbers one at a time


def matrix_to(write: Write, rows: int, dim: int, kind: Any, blocks: Blocks) -> None:
    """(rows, dim) of the numpy type `kind`, of blocks of rows, as an Arrow file with the column `vector`.

    One batch, so that the column is one piece of memory when it is mapped: Arrow writes it around a hole, memory that
    is promised, never read and so never there, and the blocks go where the hole was.
    """
    kind = np.dtype(kind)
    size = rows * dim * kind.itemsize
    promised = mmap.mmap(-1, max(1, size), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    hole = pa.py_buffer(promised)[:size]
    numbers = pa.Array.from_buffers(pa.from_numpy_dtype(kind), rows * dim, [None, hole])
    table = pa.table({VECTOR: pa.FixedSizeListArray.from_arrays(numbers, dim)})
    sink = _Around(write, size, dim, kind, blocks)
    # Else 2.8 million vectors of 768 numbers would be too many for a batch.
    options = pa.ipc.IpcWriteOptions(allow_64bit=True)
    with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), table.schema, options=options) as writer:
        for batch in table.to_batches():
            writer.write_batch(batch)
    if sink.missing:
        raise StoreError(f"{sink.missing} bytes are missing of {rows} vectors")


class Sink:
    """What Arrow takes for a file to write to."""

    closed = False

    def __init__(self, write: Write) -> None:
        self._write, self._at = write, 0

    def write(self, data: Any) -> int:
        self._write(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Around(Sink):
    """Of the hole it takes the blocks instead."""

    def __init__(self, write: Write, size: int, dim: int, kind: Any, blocks: Blocks) -> None:
        super().__init__(write)
        self.missing, self._dim, self._kind, self._blocks = size, dim, kind, blocks

    def write(self, data: Any) -> int:
        if not isinstance(data, pa.Buffer) or not self.missing:
            return super().write(data)
        if len(data) != self.missing:
            raise StoreError("Arrow wrote vectors otherwise than in one piece")
        for block in self._blocks:
            if block.shape[1] != self._dim:
                raise StoreError(f"vectors of {block.shape[1]} numbers among those of {self._dim}")
            piece = np.ascontiguousarray(block, self._kind)
            self._write(piece.reshape(-1).view(np.uint8))
            self.missing -= piece.nbytes
        self._at += len(data)
        return len(data)


def matrix_bytes(rows: NDArray[Any]) -> bytes:
    """The file of (N, D), in memory."""
    sink = io.BytesIO()
    matrix_to(sink.write, len(rows), rows.shape[1], rows.dtype, [rows])
    return sink.getvalue()


def lists_to(write: Write, lists: Any) -> None:
    """faiss's lists or graph."""
    import faiss

    faiss.write_index(lists, faiss.PyCallbackIOWriter(write))


@contextmanager
def written(path: Path, noted: dict[str, dict[str, Any]]) -> Iterator[Write]:
    """What to write the file by; once it is there, `noted` describes it as `index.json` does."""
    with sealed(path) as file:
        buffer = io.BufferedWriter(cast(Any, file), BUFFER)
        yield buffer.write
        buffer.flush()
        buffer.detach()
    noted[path.name] = {"bytes": file.size, "xxh3": file.digest}
