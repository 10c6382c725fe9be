"""verify finds every kind of damage, and names the file; deep, also forms that disagree though sealed."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from datakit.cli import cli
from datakit.errors import ConfigError, StoreError
from datakit.image import Image
from datakit.store.contents import canonical, is_data
from datakit.store.export import export_words
from datakit.store.layout import Layout, ShardPlan, StoreInfo
from datakit.store.metadata import LOCATION, published_rows, to_parquet, with_location
from datakit.store.reader import open_store
from datakit.store.sidecar import write_sidecar
from datakit.store.tar import TarWriter
from datakit.store.tar_reader import iter_samples
from datakit.store.tree import finish_tree, write_shard
from datakit.store.verify import verify
from datakit.store.verify_shard import Problem

TAR = "data/train-00001-of-00003.tar"
ROWS = "metadata/train-00001-of-00003.parquet"
ARROW = "arrow/train/data-00001-of-00003.arrow"
PNG = Image.from_array(np.zeros((2, 2, 3), np.uint8)).encoded  # whole, and no jpg


@pytest.fixture
def copy(store_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store_root, tmp_path / "copy"))


def without_splits(manifest: dict[str, Any]) -> None:
    manifest.update(splits={}, split_order=[], selections=[], samples=0)
    manifest["files"] = {path: file for path, file in manifest["files"].items() if not is_data(path)}


def reseal(root: Path, change: Callable[[dict[str, Any]], Any] = lambda manifest: None) -> None:
    """Make the manifest vouch for the files as they are now: only a comparison of contents can tell."""
    manifest = json.loads((root / "manifest.json").read_bytes())

    def now(path: str) -> dict[str, Any]:
        data = (root / path).read_bytes()
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    manifest["files"] = {path: now(path) for path in manifest["files"]}
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            for form in ("tar", "metadata", "arrow"):
                shard[form] |= now(shard[form]["path"])
    change(manifest)
    body = {name: value for name, value in manifest.items() if name != "digest"}
    sealed = {**body, "digest": hashlib.sha256(canonical(body)).hexdigest()}
    (root / "manifest.json").write_bytes(canonical(sealed))


def problems(root: Path, deep: bool = True) -> list[Problem]:
    """But for what other tools are told of a shard, its digest for one, which no longer fits once it changed."""
    return [problem for problem in verify(root, deep=deep).problems if problem.reason != "pairing"]


def found(root: Path, deep: bool = False) -> set[tuple[str, str]]:
    return {(problem.file, problem.reason) for problem in problems(root, deep)}


@pytest.mark.parametrize("deep", [False, True])
def test_a_store_as_written_has_no_problem(store_root: Path, deep: bool) -> None:
    report = verify(store_root, deep=deep)
    assert report.ok, report.text()
    assert report.samples == 32
    assert report.text().endswith("all as written")
    assert report.to_json()["ok"] is True


def test_a_bit_changed_in_any_file_is_found_and_the_file_named(copy: Path) -> None:
    rng = np.random.default_rng(7)
    for path in sorted(json.loads((copy / "manifest.json").read_bytes())["files"]):
        data = (copy / path).read_bytes()
        changed = bytearray(data)
        at = int(rng.integers(len(data)))
        changed[at] ^= 1 << int(rng.integers(8))
        (copy / path).write_bytes(changed)
        assert (path, "digest") in found(copy), (path, at)
        (copy / path).write_bytes(data)
    assert verify(copy).ok


def mutants(data: bytes, rng: np.random.Generator) -> list[bytes]:
    """A tar damaged in the ways that other readers take for a shorter or another one."""
    cut = int(rng.integers(1, len(data)))
    block = int(rng.integers(len(data) // 512)) * 512
    bit = int(rng.integers(len(data)))
    flipped = bytearray(data)
    flipped[bit] ^= 1 << int(rng.integers(8))
    zeroed = bytearray(data)
    zeroed[block : block + 512] = bytes(512) if any(data[block : block + 512]) else b"x" * 512
    swapped = data[512:1024] + data[:512] + data[1024:]
    return [data[:cut], data[:block], bytes(flipped), bytes(zeroed), swapped, data + data, b""]


def test_every_mutant_of_a_shard_is_found(copy: Path) -> None:
    rng = np.random.default_rng(3)
    data = (copy / TAR).read_bytes()
    tried = 0
    for _ in range(25):
        for mutant in mutants(data, rng):
            (copy / TAR).write_bytes(mutant)
            assert any(file == TAR for file, _ in found(copy))
            tried += 1
    assert tried == 175


def test_missing_and_unlisted_files(copy: Path) -> None:
    (copy / ROWS).unlink()
    (copy / "LICENSE").unlink()
    shutil.copy(copy / TAR, copy / "data" / "train-00003-of-00003.tar")
    (copy / "data" / "train-00001-of-00003.tar.part-77").write_bytes(b"")
    (copy / ".huggingface.yaml").write_bytes(b"configs: []")
    (copy / ".datakit").mkdir(exist_ok=True)
    (copy / ".datakit" / "x.tar").write_bytes(b"")
    assert found(copy, deep=True) == {
        (ROWS, "missing"),
        ("LICENSE", "missing"),
        ("data/train-00003-of-00003.tar", "unlisted"),
        (".huggingface.yaml", "unlisted"),
        ("data/train-00001-of-00003.tar.part-77", "unfinished"),
    }


def test_no_manifest_or_a_changed_one(copy: Path, tmp_path: Path) -> None:
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"samples": 20', b'"samples": 21'))
    assert found(copy) == {("manifest.json", "manifest")}
    report = verify(tmp_path / "nothing")
    assert not report.ok
    assert "no store" in report.text()


def rewrite_rows(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    rows = pq.read_table(root / ROWS)
    marks = {name.decode(): value.decode() for name, value in rows.schema.metadata.items()}
    (root / ROWS).write_bytes(to_parquet(change(rows), marks))


def rewrite_arrow(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    with pa.ipc.open_stream((root / ARROW).read_bytes()) as stream:
        table = change(stream.read_all())
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (root / ARROW).write_bytes(sink.getvalue())


def with_values(table: pa.Table, name: str, change: Callable[[list[Any]], list[Any]]) -> pa.Table:
    at, field = table.column_names.index(name), table.schema.field(name)
    return table.set_column(at, field, pa.array(change(table[name].to_pylist()), field.type))


def reindex(root: Path) -> None:
    """The size of the tar in the wids index, as it is now."""
    path = root / "data" / "train.index.json"
    index = json.loads(path.read_bytes())
    index["shardlist"][1]["filesize"] = (root / TAR).stat().st_size
    path.write_text(json.dumps(index, indent=1) + "\n")


def rewrite_tar(root: Path, change: Callable[[int, dict[str, bytes]], dict[str, bytes] | None]) -> None:
    """The shard anew, and its rows' places with it, so that only what `change` did is wrong."""
    samples, sizes = list(iter_samples(root / TAR)), []
    with TarWriter(root / TAR) as tar:
        for number, (record, fields) in enumerate(samples):
            if (changed := change(number, fields)) is not None:
                tar.add(record.key, changed)
                sizes.append(len(changed["jpg"]))
    reindex(root)
    records, plan = tar.record.records, ShardPlan(split="train", index=1, of=3)
    if len(records) == len(samples):
        rewrite_rows(
            root,
            lambda rows: with_location(
                rows.drop_columns(LOCATION.names), records, sizes, plan=plan, extension="jpg"
            ),
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


def forge(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for name in parents:
            manifest = manifest[int(name) if isinstance(manifest, list) else name]
        manifest[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        forge("samples", 33),
        forge("splits/train/samples", 21),
        forge("split_order", ["train", "test"]),
        forge("split_order", ["train", "test", "near_ood", "near_ood"]),
        forge("selections", []),
        lambda manifest: (
            manifest["splits"].update(val={"samples": 0, "shards": []}),
            manifest["split_order"].append("val"),
        ),
        forge("selections", ["seed1", "seed2"]),
        forge("layout/image_extension", "gif"),
        forge("layout/arrow", False),
        forge("layout/label", 5),
        forge("layout/metadata", "path"),
        forge("layout/class_names", [1, 2]),
        forge("splits/train/shards/1/metadata/path", "../outside.parquet"),
        forge("splits/train/shards/1/metadata/bytes", 1),
        forge("splits/train/shards/1/index", 0),
        forge("files/LICENSE", {"bytes": None, "sha256": ""}),
        forge("files/.", {"bytes": 0, "sha256": ""}),
        forge("files/data\u2028", {"bytes": 0, "sha256": ""}),
        lambda manifest: manifest["splits"]["near_ood"]["shards"].pop(),
        lambda manifest: (manifest["splits"].pop("near_ood"), manifest["split_order"].remove("near_ood")),
        without_splits,
        lambda manifest: manifest["files"].pop(ROWS),
        lambda manifest: manifest["files"].pop("lists/seed1.parquet"),
    ],
)
def test_a_manifest_that_contradicts_itself(copy: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    reseal(copy, change)
    assert found(copy) == {("manifest.json", "manifest")}
    with pytest.raises(StoreError):
        open_store(copy)


def test_a_manifest_that_is_a_folder(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").mkdir()
    assert found(copy, deep=True) == {("manifest.json", "manifest")}


@pytest.mark.parametrize(
    "name",
    ["README.md", "LICENSE", "croissant.json", "data/test.index.json", "arrow/dataset_dict.json",
     "arrow/test/state.json", "arrow/test/dataset_info.json"],
)  # fmt: skip
def test_a_file_that_every_store_has_is_neither_there_nor_listed(copy: Path, name: str) -> None:
    (copy / name).unlink()
    manifest = json.loads((copy / "manifest.json").read_bytes())
    del manifest["files"][name]
    (copy / "manifest.json").write_bytes(canonical(manifest))
    reseal(copy)
    assert found(copy) == {(name, "missing")}


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


def test_a_folder_that_is_a_link_is_looked_into(copy: Path, tmp_path: Path) -> None:
    for name in ("data", "arrow/train"):
        (copy / name).rename(tmp_path / name.replace("/", "-"))
        (copy / name).symlink_to(tmp_path / name.replace("/", "-"))
    (copy / "mine").symlink_to(tmp_path)  # nothing of the store behind it
    assert verify(copy, deep=True).ok
    (tmp_path / "data" / "train-00003-of-00003.tar").write_bytes(b"")
    (tmp_path / "arrow-train" / "data-00003-of-00003.arrow").write_bytes(b"")
    assert found(copy) == {
        ("data/train-00003-of-00003.tar", "unlisted"),
        ("arrow/train/data-00003-of-00003.arrow", "unlisted"),
    }


@pytest.fixture
def small(tmp_path: Path, toys: list[Any], toy_layout: Layout, toy_info: StoreInfo) -> Path:
    """One shard, one list."""
    plan, toy = ShardPlan(split="train", index=0, of=1), toys[0]
    entry = write_shard(tmp_path, plan, toy.rows, toy.images, layout=toy_layout)
    listed = pa.table({"key": toy.rows["__key__"], "split": ["train"] * 7, "label": [0] * 7})
    finish_tree(tmp_path, entries=[entry], layout=toy_layout, info=toy_info, selections={"seed1": listed})
    return tmp_path


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    ("name", "flips"),
    [
        ("metadata/train-00000-of-00001.parquet", 40),
        ("lists/seed1.parquet", 40),
        ("arrow/train/data-00000-of-00001.arrow", 20),
        ("data/train-00000-of-00001.tar", 20),
        ("data/train.index.json", 20),
        ("manifest.json", 20),
    ],
)
def test_a_flipped_bit_is_never_raised_and_only_new_digests_can_hide_it(
    small: Path, name: str, flips: int, sealed: bool
) -> None:
    rng, data = np.random.default_rng(53), (small / name).read_bytes()
    manifest = (small / "manifest.json").read_bytes()
    for at in rng.integers(len(data), size=flips):
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        (small / name).write_bytes(changed)
        if sealed and name != "manifest.json":
            reseal(small)
        reasons = {problem.reason for problem in verify(small, deep=True).problems if problem.file == name}
        assert sealed or reasons & {"digest", "manifest"}, at
        (small / "manifest.json").write_bytes(manifest)


def test_arrow_files_of_another_shard(copy: Path) -> None:
    shutil.copy(copy / "arrow/train/data-00000-of-00003.arrow", copy / ARROW)
    reseal(copy)
    assert (ARROW, "order") in found(copy, deep=True)
    (copy / ARROW).write_bytes((copy / ARROW).read_bytes()[:2000])
    reseal(copy)
    assert (ARROW, "sample") in found(copy, deep=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"nsamples": 6', b'"nsamples": 5'),
        (b'"filesize": ', b'"filesize": 1'),
        (b"wids-shard-index-v1", b"wids-shard-index-v2"),
        (b'"shardlist"', b'"base": "https://example.org", "shardlist"'),
        (b"{", b"["),
    ],
)
def test_a_wids_index_of_another_content(copy: Path, old: bytes, new: bytes) -> None:
    path = copy / "data" / "train.index.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(old, new, 1))
    assert path.read_bytes() != data
    reseal(copy)
    assert found(copy) == {("data/train.index.json", "count")}


def test_a_list_with_a_key_that_no_shard_holds(copy: Path) -> None:
    path = copy / "lists" / "seed1.parquet"
    table = pq.read_table(path)
    keys = pa.array(["bird-9999", *table["key"].to_pylist()[1:]])
    path.write_bytes(to_parquet(table.set_column(table.column_names.index("key"), "key", keys)))
    reseal(copy)
    assert verify(copy).ok
    assert found(copy, deep=True) == {("lists/seed1.parquet", "count")}


def test_a_manifest_cannot_point_outside(copy: Path) -> None:
    reseal(copy, lambda manifest: manifest["files"].update({"../secret": {"bytes": 1, "sha256": "0" * 64}}))
    report = verify(copy)
    assert [problem.file for problem in report.problems] == ["manifest.json"]
    assert "no path of a file within a store" in report.text()


def test_text_stays_short_however_many_problems(copy: Path) -> None:
    for number in range(80):
        (copy / "data" / f"more-{number:05d}.tar").write_bytes(b"")
    report = verify(copy)
    assert len(report.problems) == 80
    assert "… and 30 more" in report.text()
    assert len(report.text().splitlines()) == 53


OTHERS = {
    "README.md": "configs and dataset_info",
    "croissant.json": "distribution and recordSet",
    "arrow/train/state.json": "_data_files and _fingerprint",
    "arrow/train/dataset_info.json": "features",
    "arrow/dataset_dict.json": "splits",
}


def pairing(root: Path) -> set[tuple[str, str]]:
    return {(problem.file, problem.reason) for problem in verify(root, deep=True).problems}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, toys: list[Any], toy_info: StoreInfo) -> Path:
    """A store of the same name with two samples less, one class name changed and no column `tier`."""
    root, layout = (
        tmp_path_factory.mktemp("other") / "s",
        Layout(label="label", class_names=("no", "yes", "?")),
    )
    rows, plan = toys[0].rows.drop_columns("tier").slice(0, 5), ShardPlan(split="train", index=0, of=1)
    entry = write_shard(root, plan, rows, toys[0].images[:5], layout=layout)
    finish_tree(root, entries=[entry], layout=layout, info=toy_info)
    return root


@pytest.mark.parametrize("name", OTHERS)
def test_what_other_tools_are_told_is_of_this_store(copy: Path, other: Path, name: str) -> None:
    shutil.copy(other / name, copy / name)
    reseal(copy)
    assert verify(copy).ok
    (problem,) = verify(copy, deep=True).problems
    assert (problem.file, problem.reason) == (name, "pairing")
    assert problem.detail == f"its {OTHERS[name]} are not this store's"
    for data in (b"", b"\xff", b"[" * 100_000, b"[]"):
        (copy / name).write_bytes(data)
        reseal(copy)
        assert pairing(copy) == {(name, "pairing")}


def test_texts_for_people_may_change(copy: Path) -> None:
    path = copy / "README.md"
    path.write_text(
        path.read_text().replace("pretty_name: Toy birds", "pretty_name: Birds, as toys") + "\nMore.\n"
    )
    reseal(copy)
    assert verify(copy, deep=True).ok


def test_an_index_of_energon_may_be_there_and_may_not_lie(copy: Path) -> None:
    records = [record for record, _ in iter_samples(copy / TAR)]
    offsets = [*(record.offset for record in records), records[-1].offset + records[-1].size]
    index = copy / f"{TAR}.idx"
    index.write_bytes(np.array(offsets, "<u8").tobytes())
    assert verify(copy, deep=True).ok
    for wrong in (offsets[:-1], [*offsets[:3], 0, *offsets[4:]], [number + 512 for number in offsets]):
        index.write_bytes(np.array(wrong, "<u8").tobytes())
        assert verify(copy).ok
        assert pairing(copy) == {(f"{TAR}.idx", "pairing")}


def with_sidecar(root: Path, path: Path, keys: list[str] | None = None) -> None:
    """A sidecar that names the store at `root`."""
    store = open_store(root)
    keys = [key for split in store.splits for key in store[split].keys] if keys is None else keys
    write_sidecar(path, pa.table({"key": keys, "vector": list(range(len(keys)))}), store)


def test_sidecars_in_the_tree_and_elsewhere(copy: Path, other: Path, tmp_path: Path) -> None:
    inside, outside = copy / "embeddings" / "clip.arrow", tmp_path / "clip.arrow"
    (copy / "mine.parquet").write_bytes(b"no parquet, and nobody's")
    for path in (inside, outside):
        with_sidecar(copy, path)
    assert verify(copy, deep=True, sidecars=[outside]).ok
    with_sidecar(other, inside)
    with_sidecar(other, outside)
    problems = verify(copy, deep=True, sidecars=[outside]).problems
    assert [(problem.file, problem.reason) for problem in problems] == [
        ("embeddings/clip.arrow", "pairing"), (str(outside), "pairing"),
    ]  # fmt: skip
    assert all("belongs to another store" in problem.detail for problem in problems)


@pytest.mark.parametrize(
    ("change", "said", "key"),
    [
        (lambda keys: keys[1:], "1 of 32 samples have no row", "bird-0000"),
        (lambda keys: [*keys, "bird-x"], "1 of its rows are of no sample", "bird-x"),
        (lambda keys: [*keys, keys[0]], "names a key twice", ""),
    ],
)
def test_a_sidecar_with_other_rows_than_the_store(
    copy: Path, change: Callable[[list[str]], list[str]], said: str, key: str
) -> None:
    store = open_store(copy)
    with_sidecar(
        copy, copy / "clip.arrow", change([key for split in store.splits for key in store[split].keys])
    )
    (problem,) = verify(copy, deep=True).problems
    assert (problem.file, problem.reason, problem.key) == ("clip.arrow", "pairing", key)
    assert said in problem.detail
    shutil.copy(copy / "LICENSE", copy / "clip.arrow")
    (problem,) = verify(copy, deep=True, sidecars=[copy / "clip.arrow"]).problems
    assert "no readable sidecar" in problem.detail


def test_a_list_of_another_build_is_not_read(copy: Path) -> None:
    path = copy / "lists" / "seed1.parquet"
    table = pq.read_table(path)
    path.write_bytes(to_parquet(with_values(table, "label", lambda labels: [*labels[1:], labels[0]])))
    with pytest.raises(StoreError, match=r"lists/seed1\.parquet is not the one written"):
        _ = open_store(copy).select("seed1").splits


def test_the_verb_names_shard_and_key_and_exits_3(copy: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(cli, ["verify", str(copy), "--deep"]).exit_code == 0
    rewrite_tar(copy, lambda number, fields: {**fields, "txt": b"x"} if number == 3 else fields)
    reseal(copy)
    done = run(cli, ["verify", str(copy), "--deep"])
    assert isinstance(done.exception, StoreError) and done.exception.exit_code == 3
    assert f"{TAR} [bird-0010]: sample: txt not as the metadata make it" in done.output
    value = json.loads(run(cli, ["verify", str(copy), "--deep", "--json"]).output)
    assert (TAR, "bird-0010") in {(problem["file"], problem["key"]) for problem in value["problems"]}
    asked = run(cli, ["verify", str(copy), "--sidecar", "x.arrow"]).exception
    assert isinstance(asked, ConfigError) and "give both" in str(asked)
    with_sidecar(copy, tmp_path / "x.arrow", ["bird-0000"])
    done = run(cli, ["verify", str(copy), "--deep", "--sidecar", str(tmp_path / "x.arrow")])
    assert f"{tmp_path / 'x.arrow'} [bird-0001]: pairing: 31 of 32 samples have no row" in done.output


@pytest.mark.parametrize("materialize", ["true", "false"])
@pytest.mark.parametrize("format", ["imagefolder", "coco", "llava", "datajuicer", "openood"])
def test_keys_of_a_foreign_store_are_no_way_out_of_an_export(
    copy: Path, tmp_path: Path, format: str, materialize: str
) -> None:
    """Nor of its lists: whoever reads these opens what they name."""
    words = [f"format={format}", f"store={copy}", f"out={tmp_path / 'out' / format}"]
    if format != "imagefolder":
        words.append(f"materialize={materialize}")
    mine = tmp_path / "mine.jpg"
    mine.write_bytes(b"mine")

    def outward(table: pa.Table) -> pa.Table:
        keys = ["/".join([".."] * 6) + str(mine.with_suffix("")), *table["key"].to_pylist()[1:]]
        return table.set_column(0, "key", pa.array(keys))

    rewrite_rows(copy, outward)
    reseal(copy)
    with pytest.raises(StoreError, match="is no key"):
        export_words(words)
    assert mine.read_bytes() == b"mine"
    assert not [path for path in tmp_path.glob("*") if path not in (mine, copy, tmp_path / "out")]


def test_a_sidecar_that_unpacks_to_too_much_is_refused_by_its_head(copy: Path) -> None:
    digest = open_store(copy).digest
    rows = pa.table({"key": ["k"], "value": pa.array([bytes(80 << 20)], pa.binary())})
    marked = rows.replace_schema_metadata({"datakit.store": digest})
    pq.write_table(marked, copy / "captions.parquet", compression="zstd", use_dictionary=False)
    assert (copy / "captions.parquet").stat().st_size < 100_000
    report = verify(copy, deep=True)
    assert any(
        "captions.parquet" in problem.file and "out of" in problem.detail for problem in report.problems
    )
