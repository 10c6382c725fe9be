"""The published tree: same bytes each time, only ever in a folder of ours, complete or no store at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.blob import Blob
from datakit.errors import ConfigError, StoreError
from datakit.image import Image
from datakit.store.layout import ShardEntry
from datakit.store.reader import open_store
from datakit.store.tree import (
    Layout,
    Licence,
    ShardPlan,
    StoreInfo,
    finish_tree,
    shard_name,
    still_there,
    write_shard,
)
from datakit.store.verify import verify

Build = Callable[..., dict[str, Any]]
PLAN = ShardPlan(split="train", index=0, of=1)
PLAIN = StoreInfo(
    name="toy",
    title="Toy",
    description="d",
    homepage="https://example.org",
    creator="c",
    licences=(Licence(spdx="MIT"),),
    date_published="2026-01-02",
)


def published(root: Path) -> dict[str, str]:
    """Every file of the tree and its digest."""
    files = (path for path in root.rglob("*") if path.is_file() and ".datakit" not in path.parts)
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_tree_is_the_documented_one(store_root: Path) -> None:
    names = set(published(store_root))
    assert {
        "README.md", "LICENSE", "croissant.json", "manifest.json", "recipe.yaml", "provenance.json",
        "data/train-00000-of-00003.tar", "data/train.index.json", "metadata/near_ood-00001-of-00002.parquet",
        "arrow/train/data-00002-of-00003.arrow", "arrow/train/state.json", "arrow/train/dataset_info.json",
        "arrow/dataset_dict.json", "lists/seed1.parquet",
    } <= names  # fmt: skip
    assert shard_name("near_ood", 1, 2) == "near_ood-00001-of-00002"


def test_two_builds_are_equal_whatever_the_chunks_and_the_order_of_shards(
    tmp_path: Path,
    store_root: Path,
    toys: list[Any],
    toy_layout: Layout,
    toy_info: StoreInfo,
    selection: pa.Table,
) -> None:
    entries: dict[int, ShardEntry] = {}
    for number, toy in reversed(list(enumerate(toys))):
        pieces = pa.concat_tables([toy.rows.slice(0, 2), toy.rows.slice(2)])
        for name in ("class_name", "caption"):
            at = pieces.column_names.index(name)
            pieces = pieces.set_column(at, name, pieces[name].dictionary_encode())
        entry = write_shard(tmp_path, toy.plan, pieces, map(Image, toy.images), layout=toy_layout)
        entries[number] = ShardEntry.from_json(json.loads(json.dumps(entry.to_json())))
    finish_tree(
        tmp_path,
        entries=[entries[number] for number in sorted(entries)],
        layout=Layout.from_json(json.loads(json.dumps(toy_layout.to_json()))),
        info=toy_info,
        recipe="fraction: 0.5\n",
        provenance={"seed": 1},
        selections={"seed1": selection},
    )
    assert published(tmp_path) == published(store_root)


def test_images_may_lie_in_files(tmp_path: Path, toys: list[Any]) -> None:
    toy = toys[0]
    packed = tmp_path / "packed.bin"
    packed.write_bytes(b"xx" + b"".join(toy.images))
    blobs, at = [], 2
    for image in toy.images:
        blobs.append(Blob(str(packed), at, len(image)))
        at += len(image)
    for arrow in (True, False):
        layout = Layout(arrow=arrow)
        from_bytes = write_shard(tmp_path / "a", toy.plan, toy.rows, toy.images, layout=layout)
        from_files = write_shard(tmp_path / "b", toy.plan, toy.rows, blobs, layout=layout)
        assert from_bytes == from_files


def test_a_folder_with_other_peoples_files_is_refused_and_left_alone(
    tmp_path: Path, toys: list[Any], build_store: Build
) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"holiday\.jpg"):
        build_store(tmp_path)
    assert published(tmp_path) == {"holiday.jpg": hashlib.sha256(b"precious").hexdigest()}
    (tmp_path / ".datakit").mkdir()  # a log folder there does not make the rest ours
    (tmp_path / "manifest.json").write_text('{"format": "something else"}')
    with pytest.raises(ConfigError, match="did not write"):
        build_store(tmp_path)


def test_a_new_tree_removes_what_the_old_one_listed_and_nothing_else(
    tmp_path: Path, toys: list[Any], build_store: Build
) -> None:
    build_store(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "data" / "mine.txt").write_text("mine too")
    toy = toys[0]
    plan = replace(toy.plan, of=1)
    layout = Layout(arrow=False)
    entry = write_shard(tmp_path, plan, toy.rows, toy.images, layout=layout)
    manifest = finish_tree(tmp_path, entries=[entry], layout=layout, info=PLAIN)
    assert set(published(tmp_path)) == {*manifest["files"], "manifest.json", "notes.txt", "data/mine.txt"}
    assert not (tmp_path / "arrow").exists()
    assert verify(tmp_path, deep=True).ok


def test_an_interrupted_build_is_no_store_and_the_next_one_leaves_none_of_it(
    tmp_path: Path, toys: list[Any], build_store: Build
) -> None:
    build_store(tmp_path)
    whole = published(tmp_path)
    toy = toys[0]
    write_shard(tmp_path, ShardPlan(split="train", index=3, of=9), toy.rows, toy.images, layout=Layout())
    (tmp_path / "data" / "train-00004-of-00009.tar.part-123").write_bytes(b"torn")
    (tmp_path / "manifest.json.part-123").write_bytes(b"torn")  # killed while the last file was written
    with pytest.raises(StoreError, match="no store"):
        open_store(tmp_path)
    write_shard(tmp_path, ShardPlan(split="train", index=4, of=9), toy.rows, toy.images, layout=Layout())
    build_store(tmp_path)
    assert published(tmp_path) == whole
    assert [path.name for path in (tmp_path / ".datakit").iterdir()] == ["store.json"]


def test_a_shard_that_fails_leaves_no_file_of_it(tmp_path: Path, toys: list[Any]) -> None:
    toy = toys[0]
    with pytest.raises(StoreError, match="bird-0006"):
        write_shard(tmp_path, toy.plan, toy.rows, [*toy.images[:-1], b"GIF89a"], layout=Layout())
    assert published(tmp_path) == {}


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (lambda images: images[:-1], "fewer images than rows"),
        (lambda images: [*images, images[0]], "more images than"),
        (lambda images: [b"\x89PNG\r\n\x1a\n", *images[1:]], "bird-0000 .* is no jpg"),
        (lambda images: [Blob("/nowhere/x.jpg", 0, 9), *images[1:]], "bird-0000 .*nowhere"),
    ],
)
def test_images_that_do_not_fit_are_named(
    tmp_path: Path, toys: list[Any], images: Callable[[list[Any]], list[Any]], said: str
) -> None:
    for arrow in (True, False):
        with pytest.raises(StoreError, match=said):
            write_shard(
                tmp_path, toys[0].plan, toys[0].rows, images(toys[0].images), layout=Layout(arrow=arrow)
            )


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (Layout(label="lable"), "no column lable .*; did you mean label"),
        (Layout(label="class_name"), "label class_name is string, not integer"),
        (Layout(caption="label"), "caption label is int64, not text"),
        (Layout(label="label", class_names=("only one",)), "bird-0001 .* label 1 is none of 0 to 0"),
    ],
)
def test_columns_that_do_not_fit_are_named(
    tmp_path: Path, toys: list[Any], layout: Layout, said: str
) -> None:
    with pytest.raises((ConfigError, StoreError), match=said):
        write_shard(tmp_path, toys[0].plan, toys[0].rows, toys[0].images, layout=layout)


def test_values_that_json_cannot_hold_are_refused(tmp_path: Path, toys: list[Any]) -> None:
    image = toys[0].images[:1]
    nan = pa.table({"__key__": ["a"], "score": [float("nan")]})
    with pytest.raises(StoreError, match="sample a "):
        write_shard(tmp_path, PLAN, nan, image, layout=Layout(json_fields=("score",)))
    dated = pa.table({"__key__": ["a"], "day": pa.array([0], pa.date32())})
    with pytest.raises(ConfigError, match="day is date32"):
        write_shard(tmp_path, PLAN, dated, image, layout=Layout(json_fields=("day",)))
    reserved = pa.table({"__key__": ["a"], "offset": [1]})
    with pytest.raises(ConfigError, match="offset cannot be published"):
        write_shard(tmp_path, PLAN, reserved, image, layout=Layout(metadata=("offset",)))


def test_a_column_null_throughout_a_shard_keeps_the_type_of_the_others(
    tmp_path: Path, toys: list[Any]
) -> None:
    layout = Layout(json_fields=("size_mm",))
    tables = [pa.table({"__key__": ["a"], "size_mm": [None]}), pa.table({"__key__": ["b"], "size_mm": [3]})]
    plans = [ShardPlan(split="train", index=index, of=2) for index in range(2)]

    def write(schema: pa.Schema | None) -> list[ShardEntry]:
        parts = zip(plans, tables, strict=True)
        return [
            write_shard(tmp_path, plan, rows, toys[0].images[:1], layout=layout, schema=schema)
            for plan, rows in parts
        ]

    with pytest.raises(StoreError, match="size_mm is int64, unlike"):
        finish_tree(tmp_path, entries=write(None), layout=layout, info=PLAIN)
    finish_tree(tmp_path, entries=write(tables[1].schema), layout=layout, info=PLAIN)
    assert [row["size_mm"] for row in open_store(tmp_path)["train"]] == [None, 3]


def test_what_does_not_make_a_store_is_refused_before_the_manifest(
    tmp_path: Path, toys: list[Any], selection: pa.Table
) -> None:
    layout = Layout()
    entries = [write_shard(tmp_path, t.plan, t.rows, t.images, layout=layout) for t in toys]

    def finish(**keywords: Any) -> None:
        given = {"entries": entries, "layout": layout, "info": PLAIN, **keywords}
        finish_tree(tmp_path, **given)

    with pytest.raises(StoreError, match="train: shards 0, 2 of 3 do not make a whole split"):
        finish(entries=[entries[0], *entries[2:]])
    again = write_shard(tmp_path, ShardPlan(split="more", index=0, of=1), toys[0].rows, toys[0].images,
                        layout=layout)  # fmt: skip
    with pytest.raises(StoreError, match="key bird-0000 is there 2 times"):
        finish(entries=[*entries, again])
    with pytest.raises(StoreError, match="seed1 names bird-9, which no shard holds"):
        finish(selections={"seed1": pa.table({"key": ["bird-9"], "split": ["train"]})})
    with pytest.raises(StoreError, match="names a key twice"):
        finish(selections={"seed1": pa.concat_tables([selection, selection])})
    with pytest.raises(ConfigError, match="lacks the column split"):
        finish(selections={"seed1": pa.table({"key": ["bird-0000"]})})
    for path in ("../escaped", "/escaped", ".datakit/x", "", ".", "two\nlines", "two\u2028lines"):
        with pytest.raises(StoreError, match="no path of a file within a store"):
            finish(extra_files={path: b""})
    with pytest.raises(StoreError, match="no path of a file within a store"):
        finish(selections={"../../escaped": selection})
    with pytest.raises(StoreError, match=r"train-00000-of-00003\.parquet was written with another layout"):
        finish(layout=Layout(metadata=("score",)))
    (tmp_path / entries[0].tar.path).write_bytes(b"changed meanwhile")
    with pytest.raises(StoreError, match=r"00000-of-00003\.tar .* changed since it was written"):
        finish()
    assert not (tmp_path / "manifest.json").exists()
    assert not (tmp_path.parent / "escaped").exists()


def test_a_shard_written_over_by_another_build_is_not_taken_for_the_first(
    tmp_path: Path, toys: list[Any], toy_layout: Layout
) -> None:
    toy = toys[0]
    entry = write_shard(tmp_path, toy.plan, toy.rows, toy.images, layout=toy_layout)
    assert still_there(tmp_path, entry)
    other_names = replace(toy_layout, class_names=("x", "y", "z"))  # changes the types of the Arrow form only
    other = write_shard(tmp_path, toy.plan, toy.rows, toy.images, layout=other_names)
    assert (other.tar, other.samples) == (entry.tar, entry.samples)
    assert still_there(tmp_path, other)
    assert not still_there(tmp_path, entry)
    with pytest.raises(StoreError, match="bird-0000"):  # a kill, as far as the files can tell
        write_shard(tmp_path, toy.plan, toy.rows, [b""], layout=toy_layout)
    assert (tmp_path / other.tar.path).exists()
    assert not still_there(tmp_path, other)


def test_extra_files_are_copied_and_listed(tmp_path: Path, build_store: Build) -> None:
    page = tmp_path / "made elsewhere.html"
    page.write_text("<p>report")
    manifest = build_store(
        tmp_path / "out", extra_files={"report/index.html": page, "report/findings.json": b"[]"}
    )
    assert (tmp_path / "out" / "report" / "index.html").read_text() == "<p>report"
    assert manifest["files"]["report/index.html"]["bytes"] == 9
    assert verify(tmp_path / "out").ok


@pytest.mark.parametrize(
    "path",
    [
        "manifest.json",
        "README.md",
        "./README.md",
        "data/train.index.json",
        "data/train-00000-of-00003.tar",
        "data//train-00000-of-00003.tar",
        "data/more-00000-of-00001.tar",
        "metadata/test-extra.parquet",
        "arrow/train/x.arrow",
        "lists/mine.parquet",
    ],
)
def test_an_extra_file_takes_no_place_of_the_stores_own_nor_looks_like_a_shard(
    tmp_path: Path, build_store: Build, store_root: Path, path: str
) -> None:
    with pytest.raises(ConfigError, match="the store's own; give the file another name"):
        build_store(tmp_path, extra_files={path: b"x"})
    build_store(tmp_path)
    assert published(tmp_path) == published(store_root)


@pytest.mark.parametrize("path", ["../escaped", "/escaped", "two\nlines"])
def test_a_path_that_was_refused_is_in_nobodys_way(
    tmp_path: Path, build_store: Build, store_root: Path, path: str
) -> None:
    with pytest.raises(StoreError, match="no path of a file within a store"):
        build_store(tmp_path, extra_files={path: b"", "report.txt": b""})
    build_store(tmp_path)
    assert published(tmp_path) == published(store_root)


def test_a_copy_without_our_folder_is_no_store_while_it_is_rewritten(
    tmp_path: Path, toys: list[Any], build_store: Build, store_root: Path
) -> None:
    copy = Path(shutil.copytree(store_root, tmp_path / "copy", ignore=shutil.ignore_patterns(".datakit")))
    toy = toys[0]
    write_shard(copy, toy.plan, toy.rows.slice(0, 3), toy.images[:3], layout=Layout())
    with pytest.raises(StoreError, match="no store"):
        open_store(copy)
    build_store(copy)
    assert published(copy) == published(store_root)


@pytest.mark.parametrize("split", ["near-ood", "All", "all", "", "a" * 49, "../x", "1st"])
def test_split_names_that_some_reader_refuses(split: str) -> None:
    with pytest.raises(ConfigError, match="no name for a split"):
        ShardPlan(split=split, index=0, of=1)


def test_descriptions_must_be_complete() -> None:
    with pytest.raises(ConfigError, match="lacks homepage, licences"):
        replace(PLAIN, homepage="", licences=())
    with pytest.raises(ConfigError, match="not YYYY-MM-DD"):
        replace(PLAIN, date_published="today")
    with pytest.raises(ConfigError, match="twice"):
        Layout(label="label", class_names=("a", "a"))
