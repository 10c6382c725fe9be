"""Exports: other tools load them, labels mean what those tools take them for, and no file of others is touched."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.errors import ConfigError, StoreError
from datakit.store.export import export_imagefolder, export_openood, export_words
from datakit.store.reader import open_store
from datakit.store.tree import Layout, finish_tree, write_shard

Build = Callable[..., dict[str, Any]]
LISTS = "benchmark_imglist/toy-birds"


@pytest.fixture(scope="module")
def exported(store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "openood"
    export_openood(open_store(store_root), out)
    return out


def lines(path: Path) -> list[tuple[str, int]]:
    return [(line.split(" ")[0], int(line.split(" ")[1])) for line in path.read_text().splitlines()]


def sidecar(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / LISTS / "labels.csv").read_text().splitlines()))


def test_lists_have_openoods_names_and_form(exported: Path) -> None:
    names = sorted(path.name for path in (exported / LISTS).iterdir())
    assert names == ["labels.csv", "test_near.txt", "test_toy-birds.txt", "train_toy-birds.txt"]
    for name in names[1:]:
        for line in (exported / LISTS / name).read_text().splitlines():
            path, label = line.split(" ")  # one space: readers split at the first, or at any
            assert not path.startswith("/")
            assert (exported / "images_classic" / path).is_file()
            assert (int(label) == -1) == (name == "test_near.txt")


def test_pytorch_ood_loads_them(exported: Path, store_root: Path) -> None:
    from pytorch_ood.dataset.img import ImageListDataset

    for name, split in (("train_toy-birds", "train"), ("test_toy-birds", "test"), ("test_near", "near_ood")):
        rows = ImageListDataset(str(exported / "images_classic"), str(exported / LISTS / f"{name}.txt"))
        samples = list(open_store(store_root)[split])
        assert len(rows) == len(samples)
        for number, sample in enumerate(samples):
            image, label = rows[number]
            with image:
                assert image.size == (24, 20)
            assert label == sample["label"]
            assert Path(rows.files[number]).read_bytes() == sample["image"].encoded


def test_the_sidecar_keeps_the_class_of_ood_images(exported: Path) -> None:
    rows = sidecar(exported)
    assert len(rows) == 32
    odd = [row for row in rows if row["list"] == "test_near.txt"]
    assert {row["class_name"] for row in odd} == {"odd bird 0", "odd bird 1"}
    assert {row["label"] for row in odd} == {"-1"}
    assert {row["orig_label"] for row in odd} >= {"26", "27"}
    assert all((exported / row["path"]).is_file() for row in rows)


def test_a_selection_makes_its_own_lists(store_root: Path, tmp_path: Path) -> None:
    done = export_openood(open_store(store_root), tmp_path / "out", selection="seed1")
    assert {Path(path).name: count for path, count in done.lists.items()} == {
        "train_toy-birds.txt": 28,
        "test_far.txt": 4,
    }
    assert {label for _, label in lines(tmp_path / "out" / LISTS / "train_toy-birds.txt")} == {0, 1, 2, 3}


def test_names_of_all_splits(tmp_path: Path, toys: list[Any], build_store: Build) -> None:
    keys = [row["__key__"] for toy in toys for row in toy.rows.to_pylist()]
    splits = ["train", "val", "test", "val_ood", "mid_ood", "coarse_ood", "outliers", "reserve"]
    given = [splits[number % len(splits)] for number in range(len(keys))]
    labels = [0 if split in ("train", "val", "test") else -1 for split in given]
    build_store(tmp_path / "s", selections={"all8": pa.table({"key": keys, "split": given, "label": labels})})
    done = export_openood(open_store(tmp_path / "s"), tmp_path / "out", selection="all8")
    assert sorted(Path(path).stem for path in done.lists) == [
        "test_coarse", "test_mid", "test_toy-birds", "train_oe", "train_toy-birds", "val_ood", "val_toy-birds",
    ]  # fmt: skip
    assert done.images == 28  # the reserve stays out


@pytest.mark.parametrize(
    ("split", "label", "said"),
    [("test", -1, "has no class"), ("far_ood", 0, "has the label 0"), ("outliers", 0, "has the label 0")],
)
def test_labels_against_the_meaning_of_their_list(
    tmp_path: Path, build_store: Build, split: str, label: int, said: str
) -> None:
    table = pa.table({"key": ["bird-0000"], "split": [split], "label": [label]})
    build_store(tmp_path / "s", selections={"bad": table})
    with pytest.raises(StoreError, match=f"bird-0000 in {split} {said}"):
        export_openood(open_store(tmp_path / "s"), tmp_path / "out", selection="bad")


def test_labels_are_those_of_the_layout_and_a_selection_may_give_its_own(
    tmp_path: Path, toys: list[Any], toy_layout: Layout, toy_info: Any
) -> None:
    layout = Layout(label="y", class_names=toy_layout.class_names)
    entries = []
    for toy in toys:
        rows = toy.rows.rename_columns({"label": "y"})
        rows = rows.append_column("label", pa.array([5] * rows.num_rows, pa.int64()))
        entries.append(write_shard(tmp_path / "s", toy.plan, rows, toy.images, layout=layout))
    keys = [row["__key__"] for toy in toys for row in toy.rows.to_pylist()]
    plain = pa.table({"key": keys[:20], "split": ["test"] * 20})
    lists = {"anew": plain.append_column("label", pa.array(range(20))), "same": plain}
    finish_tree(tmp_path / "s", entries=entries, layout=layout, info=toy_info, selections=lists)
    own = [number % 3 for number in range(20)]
    for selection, split, wanted in (
        (None, "train", own),
        ("same", "test", own),
        ("anew", "test", [*range(20)]),
    ):
        out = tmp_path / f"out-{selection}"
        export_openood(open_store(tmp_path / "s"), out, selection=selection)
        assert [label for _, label in lines(out / LISTS / f"{split}_toy-birds.txt")] == wanted


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (["near_ood", "test_near"], "near_ood and test_near would share the list test_near.txt"),
        (["outliers", "train_oe"], "outliers and train_oe would share the list train_oe.txt"),
        (["../near_ood", "train"], r"'\.\./near_ood' is no name for a split"),
    ],
)
def test_splits_that_have_no_list_of_their_own_are_refused_before_anything_is_written(
    tmp_path: Path, build_store: Build, splits: list[str], said: str
) -> None:
    table = pa.table({"key": ["bird-0000", "bird-0001"], "split": splits, "label": [-1, -1]})
    build_store(tmp_path / "s", selections={"odd": table})
    with pytest.raises(ConfigError, match=said):
        export_openood(open_store(tmp_path / "s"), tmp_path / "out", selection="odd")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_class_folders_are_safe_and_distinct(tmp_path: Path, build_store: Build, store_root: Path) -> None:
    names = ["Caracal caracal", "caracal/Caracal", "../up", "=cmd()", "日本", None, "none"]
    keys = open_store(store_root)["train"].keys[: len(names)]
    table = pa.table(
        {"key": keys, "split": ["near_ood"] * len(keys), "label": [-1] * len(keys), "class_name": names}
    )
    build_store(tmp_path / "s", selections={"odd": table})
    export_openood(open_store(tmp_path / "s"), tmp_path / "out", selection="odd")
    listed = [path for path, _ in lines(tmp_path / "out" / LISTS / "test_near.txt")]
    folders = [Path(path).parts[2] for path in listed]
    assert len({folder.lower() for folder in folders}) == len(names)
    assert all(folder.replace("-", "").replace("_", "").isalnum() for folder in folders)
    assert {path.name for path in tmp_path.iterdir()} == {"s", "out"}
    rows = sidecar(tmp_path / "out")
    assert rows[3]["class_name"] == "'=cmd()"  # a spreadsheet would run it


def test_exports_are_repeatable_and_go_on_after_a_kill(
    store_root: Path, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    export_openood(open_store(store_root), out)
    images = sorted((out / "images_classic").rglob("*.jpg"))
    images[0].unlink()
    images[1].write_bytes(b"torn")
    images[2].write_bytes(bytes(images[2].stat().st_size))  # as a power cut leaves it
    dead = subprocess.Popen(["true"])
    dead.wait()
    images[3].with_name(f"{images[3].name}.part-{dead.pid}").write_bytes(b"torn")
    (out / LISTS / "labels.csv").unlink()
    export_openood(open_store(store_root), out)
    files = sorted(path.relative_to(exported) for path in exported.rglob("*") if path.is_file())
    assert all((out / path).read_bytes() == (exported / path).read_bytes() for path in files)
    assert len(files) == len([path for path in out.rglob("*") if path.is_file()]) == 32 + 4 + 1


def test_a_folder_with_other_files_is_refused(store_root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not empty"):
        export_openood(open_store(store_root), tmp_path)
    export_openood(open_store(store_root), tmp_path / "out")
    with pytest.raises(ConfigError, match="no export of this store"):
        export_openood(open_store(store_root), tmp_path / "out", selection="seed1")


def test_a_file_where_the_folder_should_be_is_refused(store_root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="file is a file; give a folder as out"):
            export_imagefolder(open_store(store_root), out)
    assert (tmp_path / "file").read_text() == "x"


def test_keys_in_the_sidecar_are_the_stores_own(
    tmp_path: Path, toys: list[Any], toy_layout: Layout, toy_info: Any
) -> None:
    toy = toys[0]
    keys = [f"-a{number}" for number in range(toy.rows.num_rows)]  # a formula, to a spreadsheet
    rows = toy.rows.set_column(0, "__key__", pa.array(keys))
    entry = write_shard(tmp_path / "s", replace(toy.plan, of=1), rows, toy.images, layout=toy_layout)
    finish_tree(tmp_path / "s", entries=[entry], layout=toy_layout, info=toy_info)
    export_openood(open_store(tmp_path / "s"), tmp_path / "out")
    assert [row["key"] for row in sidecar(tmp_path / "out")] == keys


def test_imagefolder_loads_in_torchvision(store_root: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    done = export_imagefolder(open_store(store_root), tmp_path / "out")
    rows = ImageFolder(str(tmp_path / "out" / "train"))
    assert done.images == 32
    assert len(rows) == 20
    assert rows.classes == ["1_0", "a_b_c", "no"]
    assert json.loads((tmp_path / "out" / "datakit-export.json").read_bytes())["complete"] is True


def test_imagefolder_loads_in_datasets_with_all_its_splits(tmp_path: Path, build_store: Build) -> None:
    from datasets import load_dataset

    splits = ["train", "test", "no", "near_ood"]  # `no`: false to a careless YAML writer
    table = pa.table(
        {
            "key": [f"bird-{number:04d}" for number in range(10)],
            "split": [splits[min(number, 3)] for number in range(10)],
            "label": [0, 0, 0, *[-1] * 7],
        }
    )
    build_store(tmp_path / "s", selections={"four": table})
    export_imagefolder(open_store(tmp_path / "s"), tmp_path / "out", selection="four")
    loaded = load_dataset(str(tmp_path / "out"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {
        "train": 1, "test": 1, "no": 1, "near_ood": 7,
    }  # fmt: skip
    assert loaded["near_ood"][0]["image"].size == (24, 20)


def test_the_words_of_the_command(store_root: Path, tmp_path: Path) -> None:
    value, text = export_words([f"store={store_root}", f"out={tmp_path / 'o'}", "selection=seed1"])
    assert value["images"] == 32
    assert json.loads(json.dumps(value))["lists"][f"{LISTS}/test_far.txt"] == 4
    assert "test_far.txt: 4 lines" in text
    with pytest.raises(ConfigError, match="format=openod"):
        export_words([f"store={store_root}", "out=x", "format=openod"])
    with pytest.raises(ConfigError, match="store is required"):
        export_words(["out=x"])
