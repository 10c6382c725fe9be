"""Files written piece by piece are those written of the whole."""

from __future__ import annotations

import io
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

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


def test_a_file_is_described_as_it_lies(tmp_path: Path) -> None:
    noted: dict[str, dict[str, Any]] = {}
    with stream.written(tmp_path / "a", noted) as write:
        write(b"ab")
        write(np.frombuffer(b"cd", np.uint8))
    assert noted == {"a": folder.described({"a": b"abcd"})["a"]}
    assert (tmp_path / "a").read_bytes() == b"abcd"


def test_no_file_is_in_memory() -> None:
    piece, many = np.ones((4096, 256), np.float32), 64
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stream.matrix_to(len, many * len(piece), 256, np.float32, (piece for _ in range(many)))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < many * piece.nbytes / (1 << 20) / 4


def test_more_numbers_go_into_a_file_than_arrow_counts_by_default() -> None:
    """Three million vectors of 768 numbers: more than 2^31."""

    def asked() -> Any:
        raise KeyboardInterrupt  # by now Arrow has agreed
        yield

    with pytest.raises(KeyboardInterrupt):
        stream.matrix_to(len, 3_000_000, 768, np.float32, asked())
