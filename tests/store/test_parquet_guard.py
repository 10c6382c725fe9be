"""Parquet and Arrow of others: what they would unpack to is known before; damage is an error and never a crash."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.errors import CatalogError, StoreError
from datakit.sources import records
from datakit.store import parquet_guard
from datakit.store.arrow_guard import sound_batches
from datakit.store.metadata import read_metadata
from datakit.store.parquet_guard import MAX_SCHEMA, batches, check_parquet
from datakit.store.thrift import read_struct
from datakit.texts import TooLarge

TABLE = pa.table(
    {
        "path": [f"{index}.jpg" for index in range(500)],
        "tags": [["a"] * (index % 3) for index in range(500)],
        "image": [{"bytes": bytes(index), "path": None} for index in range(500)],
        "deep": [[{"x": [[1.5]], "y": "é"}]] * 500,
    }
)


@pytest.mark.parametrize(
    "options", [{}, {"data_page_version": "2.0"}, {"row_group_size": 90, "use_dictionary": False}]
)
def test_a_sound_file_is_read_whole(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, **options)
    assert pa.Table.from_batches(batches(path)).equals(TABLE) and read_metadata(path).equals(TABLE)
    assert check_parquet(path.read_bytes()) == check_parquet(path) == parquet_guard.BATCH


def bomb(path: Path, column: pa.Array, **options: object) -> Path:
    pq.write_table(pa.table({"path": column}), path, compression="zstd", **options)
    return path


def test_what_unpacks_to_far_more_than_it_is_is_refused_with_its_figures(tmp_path: Path) -> None:
    zeros, names = pa.array([0]).take(pa.array([0] * 3_000_000)), pa.array([bytes(80 << 20)])
    runs = pa.ListArray.from_arrays(pa.array([0, len(zeros)], pa.int32()), zeros)
    one_name = pa.DictionaryArray.from_arrays(zeros, ["a.jpg"])
    for number, (column, options, said) in enumerate(
        [
            (names, {"use_dictionary": False}, "pages of"),
            (names, {}, "pages of"),
            (one_name, {}, "3000000 rows"),
            (runs, {}, "lists of 3000000"),
        ]
    ):
        path = bomb(tmp_path / f"{number}.parquet", column, **options)
        with pytest.raises(TooLarge, match=said):
            check_parquet(path)
        with pytest.raises(CatalogError, match=path.name):
            list(records.read(path))
        with pytest.raises(StoreError, match=path.name):
            read_metadata(path)


def test_a_large_dictionary_is_taken_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"path": [random.Random(0).randbytes(100_000)] * 100}), path)
    assert check_parquet(path) == 64
    monkeypatch.setattr(parquet_guard, "BATCH_BYTES", 250_000)
    assert check_parquet(path) == 2 and {len(batch) for batch in batches(path)} == {2}


def test_every_cut_and_many_flips_are_errors_that_name_the_file(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.parquet", random.Random(3)
    pq.write_table(TABLE, path)
    whole = path.read_bytes()
    for case in range(400):
        data = bytearray(whole)
        if case % 4:
            data[-1 - rng.randrange(3000)] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            read_metadata(path)
        except StoreError as problem:
            assert "a.parquet" in str(problem)


def test_an_arrow_file_is_looked_through_before_it_is_believed(tmp_path: Path) -> None:
    path, rng, found = tmp_path / "a.arrow", random.Random(5), 0
    for make in (pa.ipc.new_file, pa.ipc.new_stream):
        with pa.OSFile(str(path), "wb") as sink, make(sink, TABLE.schema) as writer:
            writer.write_table(TABLE, max_chunksize=100)
        assert pa.Table.from_batches(sound_batches(path)).equals(TABLE)
        whole = path.read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            data[rng.randrange(len(data))] ^= 0x80
            path.write_bytes(data)
            try:
                assert [batch.to_pylist() for batch in sound_batches(path)]
            except StoreError as problem:
                found += "a.arrow" in str(problem)
    assert found > 30


def test_thrift_believes_no_length_beyond_its_bytes() -> None:
    assert read_struct(b"\x15\x04\x1c\x15\x01\x00\x00") == ({1: 2, 2: {1: -1}}, 7)
    for data in (
        b"",
        b"\x15",
        b"\x18\x7f",
        b"\x19\xfc\xff\xff\xff\x7f",
        b"\x1c" * 50,
        b"\x1e",
        b"\x15" + b"\xff" * 12,
    ):
        with pytest.raises((IndexError, ValueError)):
            read_struct(data)


def test_thrift_keeps_a_bounded_number_of_values() -> None:
    """A byte of a footer may be a dict: 16 MiB of them would be a gigabyte."""
    most = 1000

    def of(size: int) -> bytes:  # a struct whose first field is a list of so many empty structs
        return b"\x19\xfc" + bytes([size & 127 | 128, size >> 7]) + bytes(size) + b"\0"

    assert len(read_struct(of(most - 1), most)[0][1]) == most - 1  # the list itself is one, too
    with pytest.raises(TooLarge):
        read_struct(of(most), most)
    for field in (b"\x15\x02", b"\x11"):  # numbers, and truths, which take no byte of their own
        several = field * most + b"\0"
        assert read_struct(several, most)[1] == len(several)
        with pytest.raises(TooLarge):
            read_struct(field + several, most)


def test_a_footer_that_would_fill_memory_is_refused() -> None:
    nodes = MAX_SCHEMA + 1
    size = bytes([nodes & 127 | 128, nodes >> 7 & 127 | 128, nodes >> 14])
    for footer in (
        b"\x19\xfc\x80\x80\x80\x04" + bytes(8 << 20) + b"\0",  # empty structs
        b"\x29\xfc" + size + bytes(nodes) + b"\x16\x00\x19\x0c\0",  # a schema
    ):
        data = b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
        with pytest.raises(TooLarge):
            check_parquet(data)
