"""Files written piece by piece are those written of the whole."""

from __future__ import annotations

import io
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.disk import digest_of
from datakit.errors import StoreError
from datakit.index import folder, stream


@pytest.mark.parametrize("rows", [0, 1, 2, 63, 1000])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_vectors_in_pieces_make_the_file_that_arrow_writes(rows: int, kind: Any) -> None:
    for dim in (1, 3, 48):
        whole = np.random.default_rng(dim).random((rows, dim)).astype(kind)
        wanted = folder.table_bytes(pa.table({folder.VECTOR: folder.vector_column(whole)}))
        sink = io.BytesIO()
        pieces = [whole[: rows // 3], whole[rows // 3 : rows // 3], whole[rows // 3 :].astype(np.float64)]
        stream.matrix_to(sink.write, rows, dim, kind, pieces)
        assert sink.getvalue() == stream.matrix_bytes(whole) == wanted


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (1000, 7), (5, 0), (9,)])
def test_arrays_in_pieces_make_the_file_that_numpy_writes(shape: tuple[int, ...], tmp_path: Path) -> None:
    whole = np.arange(np.prod(shape)).reshape(shape)
    np.save(tmp_path / "whole.npy", whole)
    noted: dict[str, dict[str, Any]] = {}
    with stream.written(tmp_path / "pieces.npy", noted) as write:
        stream.array_to(write, shape, whole.dtype, [whole[:1], whole[1:]])
    data = (tmp_path / "pieces.npy").read_bytes()
    assert data == (tmp_path / "whole.npy").read_bytes()
    assert noted == {"pieces.npy": {"bytes": len(data), "xxh3": digest_of(tmp_path / "pieces.npy")}}
    assert (np.load(tmp_path / "pieces.npy", mmap_mode="r") == whole).all()


def test_pieces_that_do_not_add_up_are_no_file(tmp_path: Path) -> None:
    three = np.ones((3, 4), np.float32)
    for rows, pieces, said in (
        (4, [three], "16 bytes are missing"),
        (2, [three], "-16 bytes"),
        (6, [three, three[:, :3]], "vectors of 3 numbers among those of 4"),
    ):
        with pytest.raises(StoreError, match=said), stream.written(tmp_path / "a.arrow", {}) as write:
            stream.matrix_to(write, rows, 4, np.float32, pieces)
    assert not list(tmp_path.iterdir())


def test_no_file_is_in_memory() -> None:
    piece, many = np.ones((4096, 256), np.float32), 64
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stream.matrix_to(len, many * len(piece), 256, np.float32, (piece for _ in range(many)))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < many * piece.nbytes / (1 << 20) / 4
