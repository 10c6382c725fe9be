from __future__ import annotations

import json
import math
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.store.layout import Layout, ShardPlan, StoreInfo
from datakit.store.metadata import LOCATION, published_rows, to_parquet
from datakit.store.tar import TarWriter
from datakit.store.tar_reader import iter_samples
from datakit.store.tree import finish_tree, write_shard
from datakit.store.verify import verify

from .damage import (
    ARROW,
    PNG,
    ROWS,
    TAR,
    forge,
    found,
    problems,
    reindex,
    reseal,
    rewrite_arrow,
    rewrite_rows,
    rewrite_tar,
    with_values,
)


def test_rows_in_another_order_than_the_tar(copy: Path) -> None:
    rewrite_rows(copy, lambda table: table.take([1, 0, *range(2, table.num_rows)]))
    reseal(copy)
    assert verify(copy).ok
    assert (TAR, "order") in found(copy, deep=True)


def test_a_row_too_few(copy: Path) -> None:
    rewrite_rows(copy, lambda table: table.slice(1))
    reseal(copy)
    assert (ROWS, "count") in found(copy)
    assert {(ROWS, "count"), (TAR, "order")} <= found(copy, deep=True)


def test_a_sample_too_few_in_the_tar(copy: Path) -> None:
    rewrite_tar(copy, lambda number, fields: None if number == 6 else fields)
    reseal(copy)
    assert (TAR, "count") in found(copy, deep=True)


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("cls", b"0", "sample"),
        ("cls", b"zero", "sample"),
        ("txt", b"another caption", "sample"),
        ("json", b'{"class_name":"no"}', "sample"),
        ("json", b"{", "sample"),
        ("json", b"[" * 100_000, "sample"),
        ("jpg", PNG, "image"),
        ("jpg", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "image"),
        ("jpg", b"\xff\xd8\xff\xe0 no image after all", "image"),
        ("extra", b"", "sample"),
    ],
)
def test_a_sample_that_is_not_what_the_metadata_says(
    copy: Path, member: str, value: bytes, reason: str
) -> None:
    rewrite_tar(copy, lambda number, fields: {**fields, member: value} if number == 3 else fields)
    reseal(copy)
    said = problems(copy)
    assert (TAR, reason, "bird-0010") in {(p.file, p.reason, p.key) for p in said}
    assert {p.key for p in said} == {"bird-0010"}


@pytest.mark.parametrize(
    ("member", "old", "new"),
    [
        ("json", b"{", b'{"class_name":"z",'),  # the name is there twice: readers differ in which they take
        ("json", b'"score":1.0', b'"score":true'),
        ("json", b",", b", "),
        ("cls", b"", b" +0_"),
    ],
)
def test_a_member_that_reads_alike_in_other_bytes(copy: Path, member: str, old: bytes, new: bytes) -> None:
    changed = []

    def change(number: int, fields: dict[str, bytes]) -> dict[str, bytes]:
        if changed or old not in fields[member]:
            return fields
        changed.append(number)
        return {**fields, member: fields[member].replace(old, new, 1)}

    rewrite_tar(copy, change)
    reseal(copy)
    (problem,) = problems(copy)
    assert (problem.file, problem.reason) == (TAR, "sample")
    assert problem.key == f"bird-{7 + changed[0]:04d}"
    assert problem.detail.startswith(f"{member} ")


def test_one_sample_more_in_the_tar(copy: Path) -> None:
    samples = list(iter_samples(copy / TAR))
    with TarWriter(copy / TAR) as tar:
        for key, fields in [*((record.key, fields) for record, fields in samples), ("bird-x", samples[0][1])]:
            tar.add(key, fields)
    reindex(copy)
    reseal(copy)
    assert found(copy, deep=True) == {(TAR, "count")}


def test_one_row_more_in_the_arrow_file(copy: Path) -> None:
    rewrite_arrow(copy, lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    reseal(copy)
    assert found(copy, deep=True) == {(ARROW, "count")}


def test_a_member_of_no_sample_in_the_tar(copy: Path) -> None:
    data = (copy / TAR).read_bytes()
    # A directory of 0 bytes, before the end of the archive; other readers step over it as well.
    member = tarfile.TarInfo("folder")
    member.type = tarfile.DIRTYPE
    (copy / TAR).write_bytes(data[:-1024] + member.tobuf(tarfile.USTAR_FORMAT) + data[-1024:])
    reindex(copy)
    reseal(copy)
    assert found(copy, deep=True) == {(TAR, "sample")}


@pytest.mark.parametrize("name", LOCATION.names)
def test_a_place_in_the_metadata_that_is_not_the_samples(copy: Path, name: str) -> None:
    # The last value of each: all of another sample, or for what is one in the shard, of another shard.
    other = {"split": "test", "shard": "train-00000-of-00003"}
    rewrite_rows(
        copy,
        lambda rows: with_values(rows, name, lambda values: [*values[:-1], other.get(name, values[0])]),
    )
    reseal(copy)
    said = problems(copy)
    assert (TAR, "sample", "bird-0013") in {(p.file, p.reason, p.key) for p in said}
    assert {p.key for p in said} == {"bird-0013"}


@pytest.mark.parametrize("name", ["key", "label", "tier", "mean_rgb", "boxes", "image"])
def test_an_arrow_value_that_is_not_the_metadatas(copy: Path, name: str) -> None:
    rewrite_arrow(
        copy,
        lambda table: with_values(
            table, name, lambda values: ["far", *values[1:]] if name == "tier" else [values[5], *values[1:]]
        ),
    )
    reseal(copy)
    said = problems(copy)
    assert {(p.file, p.key) for p in said} == {(ARROW, "bird-0007")}


@pytest.mark.parametrize("part", ["bytes", "path"])
def test_an_arrow_image_that_is_not_the_tars(copy: Path, part: str) -> None:
    def change(values: list[Any]) -> list[Any]:
        return [values[0] | {part: values[5][part]}, *values[1:]]

    rewrite_arrow(copy, lambda table: with_values(table, "image", change))
    reseal(copy)
    said = problems(copy)
    assert [(p.file, p.key) for p in said] == [(ARROW, "bird-0007")]
    assert said[0].detail.startswith("image ")


def test_a_struct_without_fields_is_published_as_null(
    tmp_path: Path, toys: list[Any], toy_layout: Layout, toy_info: StoreInfo
) -> None:
    layout = replace(toy_layout, json_fields=(*toy_layout.json_fields, "meta", "metas", "exif"))
    toy = replace(toys[0], plan=ShardPlan(split="train", index=0, of=1))
    number, fieldless, rows = toy.rows.num_rows, pa.struct([]), toy.rows
    for name, value, kind in (
        ("meta", {}, fieldless),
        ("metas", [{}, None], pa.list_(fieldless)),
        ("exif", {"exif": {}, "year": 3}, pa.struct([("exif", fieldless), ("year", pa.int64())])),
    ):
        rows = rows.append_column(name, pa.array([value] * (number - 1) + [None], kind))
    entry = write_shard(tmp_path, toy.plan, rows, toy.images, layout=layout)
    finish_tree(tmp_path, entries=[entry], layout=layout, info=toy_info)
    assert (report := verify(tmp_path, deep=True)).ok, report.text()
    table = pq.read_table(tmp_path / entry.metadata.path)
    assert table["meta"].to_pylist() == [None] * number
    assert table["metas"].to_pylist() == [[None, None]] * (number - 1) + [None]
    assert table["exif"].to_pylist() == [{"exif": None, "year": 3}] * (number - 1) + [None]
    _, fields = next(iter(iter_samples(tmp_path / entry.tar.path)))
    assert json.loads(fields["json"])["exif"] == {"exif": None, "year": 3}


def test_a_struct_that_has_fields_in_another_shard_keeps_them() -> None:
    kind = pa.struct([("a", pa.int64()), ("b", pa.struct([]))])
    rows = pa.table({"key": ["x", "y"], "v": pa.array([{}, None], pa.struct([]))})
    plain = published_rows(rows, Layout(), pa.schema([("v", kind)]))
    assert plain["v"].to_pylist() == [{"a": None, "b": None}, None]


def test_a_column_that_is_there_twice(copy: Path) -> None:
    for name in (ROWS, "lists/seed1.parquet"):
        table = pq.read_table(copy / name)
        twice = pa.Table.from_arrays([table["key"], *table.columns], ["key", *table.column_names])
        pq.write_table(twice, copy / name)
    reseal(copy)
    assert found(copy, deep=True) == {
        (ROWS, "count"), (ROWS, "sample"), ("lists/seed1.parquet", "count"),
    }  # fmt: skip


def test_features_nested_too_deeply_to_be_read(copy: Path) -> None:
    deep = {"huggingface": "[" * 100_000}
    rewrite_arrow(copy, lambda table: table.replace_schema_metadata(deep))
    reseal(copy)
    assert found(copy, deep=True) == {(ARROW, "sample")}


def test_a_list_without_splits(copy: Path) -> None:
    path = copy / "lists" / "seed1.parquet"
    path.write_bytes(to_parquet(pq.read_table(path).drop_columns("split")))
    reseal(copy)
    (problem,) = problems(copy)
    assert (problem.file, problem.reason) == ("lists/seed1.parquet", "count")
    assert "no column split" in problem.detail


def test_a_column_of_the_metadata_alone_that_the_arrow_file_has_otherwise(copy: Path) -> None:
    rewrite_rows(copy, lambda rows: with_values(rows, "tier", lambda values: ["far", *values[1:]]))
    reseal(copy)
    assert {(p.file, p.key) for p in problems(copy)} == {(ARROW, "bird-0007")}


def test_a_score_that_is_no_number_is_equal_to_itself(
    tmp_path: Path, toys: list[Any], toy_info: StoreInfo
) -> None:
    toy = replace(toys[0], plan=ShardPlan(split="train", index=0, of=1))
    rows = with_values(toy.rows, "score", lambda values: [math.nan, *values[1:]])
    rows = with_values(rows, "mean_rgb", lambda values: [[math.nan], *values[1:]])
    entry = write_shard(tmp_path, toy.plan, rows, toy.images, layout=Layout())
    finish_tree(tmp_path, entries=[entry], layout=Layout(), info=toy_info)
    assert verify(tmp_path, deep=True).ok


def test_columns_and_features_of_the_arrow_file(copy: Path) -> None:
    data = (copy / ARROW).read_bytes()
    for change in (
        lambda table: table.drop_columns("tier"),
        lambda table: table.replace_schema_metadata(None),
        lambda table: table.replace_schema_metadata({"huggingface": '{"info": {"features": {}}}'}),
    ):
        rewrite_arrow(copy, change)
        reseal(copy)
        assert found(copy, deep=True) == {(ARROW, "sample")}
        (copy / ARROW).write_bytes(data)


def test_metadata_without_a_column_that_is_needed(copy: Path) -> None:
    for name, reasons in (("key", {"count", "sample"}), ("offset", {"sample"}), ("label", {"sample"})):
        data = (copy / ROWS).read_bytes()
        rewrite_rows(copy, lambda rows, name=name: rows.drop_columns(name))  # type: ignore[misc]
        reseal(copy)
        assert found(copy, deep=True) == {(ROWS, reason) for reason in reasons}
        (copy / ROWS).write_bytes(data)


def test_too_few_rows_before_a_damaged_header(copy: Path) -> None:
    record = list(iter_samples(copy / TAR))[5][0]
    data = bytearray((copy / TAR).read_bytes())
    data[record.offset + 3] ^= 1
    (copy / TAR).write_bytes(data)
    rewrite_rows(copy, lambda rows: rows.slice(0, 3))
    assert found(copy, deep=True) == {(ROWS, "size"), (TAR, "digest")}
    reseal(copy)
    assert found(copy, deep=True) >= {(ROWS, "count"), (TAR, "sample"), (ARROW, "count")}


def test_a_layout_that_is_not_the_shards(copy: Path) -> None:
    reseal(copy, forge("layout/class_names", ["a", "b", "c"]))
    assert verify(copy).ok
    assert {(ROWS, "manifest"), (ARROW, "sample")} <= found(copy, deep=True)


def test_a_key_that_comes_twice(copy: Path) -> None:
    path = copy / "lists" / "seed1.parquet"
    table = pq.read_table(path)
    path.write_bytes(to_parquet(pa.concat_tables([table, table.slice(31)]).combine_chunks()))
    reseal(copy)
    assert [(p.file, p.reason, p.key) for p in problems(copy)] == [
        ("lists/seed1.parquet", "count", "bird-0000")
    ]
    for name in (TAR, ROWS, ARROW):
        shutil.copy(copy / name.replace("00001", "00000"), copy / name)
    reseal(copy)
    said = problems(copy)
    assert {f"bird-{number:04d}" for number in range(7)} == {
        p.key for p in said if p.file == ROWS and "there before" in p.detail
    }


def test_arrow_files_of_another_shard(copy: Path) -> None:
    shutil.copy(copy / "arrow/train/data-00000-of-00003.arrow", copy / ARROW)
    reseal(copy)
    assert (ARROW, "order") in found(copy, deep=True)
    (copy / ARROW).write_bytes((copy / ARROW).read_bytes()[:2000])
    reseal(copy)
    assert (ARROW, "sample") in found(copy, deep=True)
