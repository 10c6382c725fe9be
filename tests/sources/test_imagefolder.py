"""A folder a class: what the folders say, what a metadata file adds, what is left out and counted."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.errors import CatalogError
from datakit.sources.imagefolder import scan
from datakit.store.owned import claim

Put, Read = Callable[..., Path], Callable[..., Any]


def test_the_folder_is_the_class_and_those_above_its_taxonomy(put: Put, read: Read, bytes_of: Any) -> None:
    root = put(["Bird/Crow s.l./Räbe/1.v2.jpg", "Bird/Gull/2.PNG", "Fish/3.webp", "4.gif", "notes.txt"])
    entries, problems = read(scan(root))
    told = {name: (entry.fields["class_name"], entry.fields["taxonomy"]) for name, entry in entries.items()}
    assert told == {
        "4.gif": (None, []),
        "Bird/Crow s.l./Räbe/1.v2.jpg": ("Räbe", ["Bird", "Crow s.l."]),
        "Bird/Gull/2.PNG": ("Gull", ["Bird"]),
        "Fish/3.webp": ("Fish", []),
    }
    assert list(entries) == [item.name for item in scan(root) if item.name in entries]
    assert {bytes_of(entry).decode() for entry in entries.values()} == set(entries)
    assert [(p.name, p.reason, p.dropped) for p in problems] == [("notes.txt", "not_an_image_file", True)]


def test_levels_count_from_the_top(put: Put, read: Read) -> None:
    root = put(["Bird/Gull/day 1/1.jpg", "Bird/Gull/2.jpg", "Bird/3.jpg"])
    entries, problems = read(scan(root, levels=1))
    assert {entry.fields["class_name"] for entry in entries.values()} == {"Gull"}
    assert {tuple(entry.fields["taxonomy"]) for entry in entries.values()} == {("Bird",)}
    assert [(p.name, p.reason, p.dropped) for p in problems] == [("Bird/3.jpg", "no_class", False)]


def test_top_folders_that_are_all_splits_are_the_official_split(put: Put, read: Read) -> None:
    root = put(["training/a/1.jpg", "Valid/a/2.jpg", "test/b/3.jpg"])
    entries, _ = read(scan(root))
    assert {name: entry.fields["official_split"] for name, entry in entries.items()} == {
        "training/a/1.jpg": "train",
        "Valid/a/2.jpg": "val",
        "test/b/3.jpg": "test",
    }
    assert {entry.fields["class_name"] for entry in entries.values()} == {"a", "b"}


def test_one_split_folder_alone_says_nothing_of_the_split(put: Put, read: Read) -> None:
    entries, _ = read(scan(put(["validation/hat/1.jpg", "validation/shoe/2.jpg"])))
    assert {entry.fields["official_split"] for entry in entries.values()} == {None}
    assert {entry.fields["class_name"] for entry in entries.values()} == {"hat", "shoe"}


def test_splits_beside_classes_must_be_decided_by_the_user(put: Put, read: Read) -> None:
    root = put(["train/a/1.jpg", "test/a/2.jpg", "rose/3.jpg"])
    with pytest.raises(CatalogError, match=r"test, train look like splits and rose .*options\.splits=yes"):
        list(scan(root))
    entries, problems = read(scan(root, splits="yes"))
    assert set(entries) == {"train/a/1.jpg", "test/a/2.jpg"}
    assert [(p.name, p.reason) for p in problems] == [("rose/3.jpg", "no_class")]
    entries, problems = read(scan(root, splits="no"))
    assert entries["train/a/1.jpg"].fields["taxonomy"] == ["train"]
    assert entries["rose/3.jpg"].fields["official_split"] is None


def test_classes_that_differ_in_case_stop_the_scan_or_are_merged(put: Put, read: Read) -> None:
    root = put(["x/Rose/1.jpg", "y/rose/2.jpg"])
    with pytest.raises(CatalogError, match="'Rose' and 'rose'"):
        list(scan(root))
    entries, _ = read(scan(root, fold_case=True))
    assert {entry.fields["class_name"] for entry in entries.values()} == {"Rose"}


def test_folders_of_one_name_in_two_spellings_are_one_family(put: Put, read: Read) -> None:
    forms = [unicodedata.normalize(form, "Räuber") for form in ("NFC", "NFD")]
    entries, _ = read(scan(put([f"{forms[0]}/Gull/1.jpg", f"{forms[1]}/Crow/2.jpg"])))
    assert [entry.fields["taxonomy"] for entry in entries.values()] == [[forms[0]]] * 2


def rows(kind: str, table: list[dict[str, Any]]) -> tuple[str, bytes]:
    """A metadata file of this kind, by name and bytes."""
    if kind == "jsonl":
        return "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in table).encode()
    if kind == "csv":
        lines = [",".join(table[0]), *(",".join(str(cell) for cell in row.values()) for row in table)]
        return "metadata.csv", "\n".join(lines).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(table), sink)
    return "metadata.parquet", sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_adds_columns_and_is_held_to_what_it_lists(put: Put, read: Read, kind: str) -> None:
    name, data = rows(
        kind,
        [
            {"file_name": "a/1.jpg", "caption": "one", "split": "s"},
            {"file_name": "a/gone.jpg", "caption": "two", "split": "s"},
            {"file_name": "a/1.jpg", "caption": "again", "split": "s"},
            {"file_name": "../out.jpg", "caption": "out", "split": "s"},
            {"file_name": "a/notes.txt", "caption": "text", "split": "s"},
        ],
    )
    root = put({"a/1.jpg": "", "a/2.jpg": "", "a/notes.txt": "", name: data})
    entries, problems = read(scan(root))
    assert set(entries) == {"a/1.jpg"}
    fields = entries["a/1.jpg"].fields
    assert (fields["caption"], fields["class_name"], fields["source_split"]) == ("one", "a", "s")
    assert {(p.name, p.reason, p.dropped) for p in problems} == {
        ("a/2.jpg", "unlisted", True),
        ("a/gone.jpg", "missing_file", False),
        ("a/notes.txt", "not_an_image_file", False),
        (f"{name}:{3 if kind != 'csv' else 4}", "duplicate_key", False),
        (f"{name}:{4 if kind != 'csv' else 5}", "path_outside", False),
    }


def test_metadata_of_a_split_folder_names_files_from_there(put: Put, read: Read) -> None:
    root = put(
        {
            "train/a/1.jpg": "",
            "train/metadata.jsonl": '{"file_name": "a/1.jpg", "class_name": "better", "orig_label": "7"}\n',
            "test/a/2.jpg": "",
        }
    )
    entries, problems = read(scan(root))
    assert not problems
    told = {"class_name": "better", "orig_label": 7, "official_split": "train"}
    assert told.items() <= {k: v for k, v in entries["train/a/1.jpg"].fields.items() if k in told}.items()
    assert entries["test/a/2.jpg"].fields["class_name"] == "a"


def test_metadata_of_the_folder_and_of_a_split_add_up(put: Put, read: Read) -> None:
    root = put(
        {
            **dict.fromkeys(["train/a/1.jpg", "train/a/2.jpg", "train/a/3.jpg", "test/a/4.jpg"], ""),
            "metadata.csv": "file_name,x,y\ntrain/a/1.jpg,1,far\ntrain/a/2.jpg,2,far\ntest/a/4.jpg,4,far\n",
            "train/metadata.csv": "file_name,y\na/1.jpg,near\n",
        }
    )
    entries, problems = read(scan(root))
    told = {name: (entry.fields["x"], entry.fields["y"]) for name, entry in entries.items()}
    assert told == {
        "test/a/4.jpg": ("4", "far"),
        "train/a/1.jpg": ("1", "near"),
        "train/a/2.jpg": ("2", "far"),
    }
    assert [(p.name, p.reason, p.dropped) for p in problems] == [("train/a/3.jpg", "unlisted", True)]


def test_a_build_in_its_own_source_is_neither_a_class_nor_a_split(put: Put, read: Read) -> None:
    root = put(["train/a/1.jpg", "test/a/2.jpg"])
    before = read(scan(root))
    claim(root / "builds" / "fg_ood")
    put(["builds/fg_ood/report/a.png", "builds/fg_ood/data/train-00000-of-00001.tar"])
    assert read(scan(root)) == before


def test_a_source_that_cannot_be_read_says_why(put: Put) -> None:
    with pytest.raises(CatalogError, match="source=FOLDER"):
        list(scan(None))
    with pytest.raises(CatalogError, match="is no folder"):
        list(scan(put(["x"]) / "x"))
    with pytest.raises(CatalogError, match="must be auto, yes or no"):
        list(scan(put(["x"]), splits="maybe"))
    with pytest.raises(CatalogError, match=r"metadata\.csv and metadata\.jsonl: keep one"):
        list(scan(put({"metadata.csv": "file_name", "metadata.jsonl": ""}, "two")))
    with pytest.raises(CatalogError, match="has no column file_name; it has name"):
        list(scan(put({"metadata.csv": "name\nx"}, "other")))


@pytest.mark.shared_data
def test_the_shared_clothes_are_read_as_they_lie(shared_data: Path, read: Read) -> None:
    entries, problems = read(scan(shared_data / "clothing_small"))
    assert len(entries) == 341
    assert len({entry.fields["class_name"] for entry in entries.values()}) == 10
    assert {problem.reason for problem in problems} == {"not_an_image_file"}
