"""The reader gives back what went in, and never a sample that is not as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datakit.errors import ConfigError, StoreError
from datakit.image import Image
from datakit.stage import Rows
from datakit.store.reader import open_store


def test_samples_come_back_as_they_went_in(store_root: Path, toys: list[Any]) -> None:
    store = open_store(store_root)
    assert store.splits == {"train": 20, "test": 5, "near_ood": 7}
    assert list(store.splits) == ["train", "test", "near_ood"]
    rows = [row for toy in toys if toy.plan.split == "train" for row in toy.rows.to_pylist()]
    kept = ("__key__", "label", "caption", "class_name", "taxonomy", "boxes", "orig_label", "score")
    for row, sample in zip(rows, store["train"], strict=True):
        assert isinstance(sample["image"], Image)
        assert {name: sample[name] for name in kept} == {name: row[name] for name in kept}
        assert set(sample) == {*kept, "image"}


def test_random_access_counts_as_lists_do(store_root: Path) -> None:
    view = open_store(store_root)["train"]
    assert view[13]["__key__"] == view.keys[13] == "bird-0013"
    assert view[-1]["__key__"] == "bird-0019"
    assert view[0]["image"].array.shape == (20, 24, 3)
    for outside in (20, -21):
        with pytest.raises(IndexError):
            view[outside]


def test_tables_have_the_rows_in_order_and_only_the_columns_asked_for(store_root: Path) -> None:
    view = open_store(store_root)["near_ood"]
    table = view.table(["tier", "key"])
    assert table.column_names == ["tier", "key"]
    assert table["key"].to_pylist() == view.keys
    assert set(table["tier"].to_pylist()) == {"near"}
    assert {"shard", "offset", "xxh3", "mean_rgb"} <= set(view.table().column_names)
    with pytest.raises(ConfigError, match="no column teir; did you mean tier"):
        view.table(["teir"])


def test_an_image_can_be_read_alone_by_its_place(store_root: Path, toys: list[Any]) -> None:
    table = open_store(store_root)["test"].table(["shard", "image_offset", "image_size"])
    row = table.to_pylist()[2]
    data = (store_root / "data" / f"{row['shard']}.tar").read_bytes()
    found = data[row["image_offset"] : row["image_offset"] + row["image_size"]]
    assert found == next(toy for toy in toys if toy.plan.split == "test").images[2]


def test_a_view_gives_rows_as_steps_do(store_root: Path, toys: list[Any]) -> None:
    for store in (open_store(store_root), open_store(store_root).select("seed1")):
        view = store["train"]
        rows: Rows = view
        samples = [sample["image"].encoded for sample in view]
        assert [image.encoded for image in rows.images()] == samples
        assert [image.encoded for image in rows.images([5, 0])] == [samples[5], samples[0]]
        assert (len(rows), set(rows.columns)) == (len(samples), set(rows.table().column_names))


def test_a_selection_is_the_same_images_under_other_labels(store_root: Path, selection: Any) -> None:
    store = open_store(store_root)
    other = store.select("seed1")
    assert sum(other.splits.values()) == sum(store.splits.values()) == 32
    assert other.class_names == ["1.0", "a: b # c", "no", "odd bird 0"]
    assert store.class_names == ["no", "1.0", "a: b # c"]
    listed = {row["key"]: row for row in selection.to_pylist()}
    images = {sample["__key__"]: sample["image"].encoded for name in store.splits for sample in store[name]}
    for name in other.splits:
        view = other[name]
        assert view.table(["key", "label"]).to_pylist() == [
            {"key": key, "label": listed[key]["label"]} for key in view.keys
        ]
        for sample in view:
            row = listed[sample["__key__"]]
            assert (sample["label"], sample["split"]) == (row["label"], name)
            assert sample["image"].encoded == images[sample["__key__"]]
    # A column that the list lacks comes from the shards, in the list's order.
    scores = other["train"].table(["key", "score"]).to_pylist()
    assert all(row["score"] == int(row["key"][-4:]) / 8 for row in scores)


def test_names_that_are_not_there(store_root: Path, tmp_path: Path) -> None:
    store = open_store(store_root)
    with pytest.raises(ConfigError, match="no split trian; did you mean train"):
        store["trian"]
    with pytest.raises(ConfigError, match="no selection seed2; did you mean seed1"):
        store.select("seed2")
    with pytest.raises(StoreError, match="is no store"):
        open_store(tmp_path)


@pytest.mark.parametrize("kept", [0, 512, 512 * 12, -512, -1024, -1])
def test_a_short_shard_is_named_however_cleanly_it_was_cut(copy: Path, kept: int) -> None:
    shard = copy / "data" / "train-00001-of-00003.tar"
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(StoreError, match=r"train-00001-of-00003\.tar has \d+ bytes and was written with"):
        list(open_store(copy)["train"])
    assert len(list(open_store(copy)["test"])) == 5


def test_a_changed_bit_is_found_in_the_sample_that_holds_it(copy: Path) -> None:
    view = open_store(copy)["train"]
    row = view.table(["shard", "offset", "size"]).to_pylist()[8]
    shard = copy / "data" / f"{row['shard']}.tar"
    data = bytearray(shard.read_bytes())
    for at in (row["offset"] + 5, row["offset"] + 512 + 40, row["offset"] + row["size"] - 1):
        changed = bytearray(data)
        changed[at] ^= 4
        shard.write_bytes(changed)
        with pytest.raises(StoreError, match=r"train-00001-of-00003\.tar.*bird-0008"):
            view[8]
        assert view[7]["__key__"] == "bird-0007"


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / "data" / "test-00000-of-00001.tar").unlink()
    with pytest.raises(StoreError, match=r"test-00000-of-00001\.tar is missing"):
        open_store(copy)["test"][0]
    (copy / "metadata" / "near_ood-00000-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"near_ood-00000-of-00002\.parquet is not the one written"):
        open_store(copy)["near_ood"].keys  # noqa: B018


def test_metadata_that_changed_places_are_not_read_as_a_table(copy: Path) -> None:
    one, other = (copy / "metadata" / f"train-0000{number}-of-00003.parquet" for number in (0, 1))
    ours, theirs = one.read_bytes(), other.read_bytes()
    one.write_bytes(theirs)
    other.write_bytes(ours)
    with pytest.raises(StoreError, match="is not the one written: its sha256 differs"):
        open_store(copy)["train"].table(["label"])


def test_any_change_of_the_manifest_is_refused(copy: Path) -> None:
    path = copy / "manifest.json"
    data = path.read_bytes()
    step = max(1, len(data) // 97)
    for at in range(0, len(data), step):
        changed = bytearray(data)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(StoreError, match=r"manifest\.json|version"):
            open_store(copy)
    path.write_bytes(data[:-1])
    with pytest.raises(StoreError, match="damaged"):
        open_store(copy)


def test_a_store_has_one_digest_for_all_its_bytes(store_root: Path, copy: Path) -> None:
    assert open_store(store_root).digest == open_store(copy).digest
    assert len(open_store(copy).digest) == 64
