"""Tables of images: CSV, JSON lines and Parquet say the same thing the same way."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.errors import CatalogError
from datakit.sources.table import scan

Put, Read = Callable[..., Path], Callable[..., Any]
KINDS = ["csv", "jsonl", "parquet"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the kind that the suffix names."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_three_kinds_of_table_say_the_same(put: Put, read: Read, bytes_of: Any, kind: str) -> None:
    root = put(["i/1.jpg", "i/2.jpg"])
    rows = [
        {
            "path": "i/1.jpg",
            "kind": "Fruit",
            "sort": "Apple",
            "variety": "Gala",
            "label": 3,
            "split": "valid",
            "price": "9",
        },
        {
            "path": "./i//2.jpg",
            "kind": "Fruit",
            "sort": "Pear",
            "variety": "Conf",
            "label": 4,
            "split": "test",
            "price": "8",
        },
    ]
    table = write(root / f"t.{kind}", rows)
    entries, problems = read(scan(table, class_name="variety", taxonomy=["kind", "sort"]))
    assert not problems
    assert {name: dict(entry.fields) for name, entry in entries.items()} == {
        "i/1.jpg": {
            "class_name": "Gala",
            "orig_label": 3,
            "official_split": "val",
            "taxonomy": ["Fruit", "Apple"],
            "price": "9",
        },
        "i/2.jpg": {
            "class_name": "Conf",
            "orig_label": 4,
            "official_split": "test",
            "taxonomy": ["Fruit", "Pear"],
            "price": "8",
        },
    }
    order = ["class_name", "orig_label", "official_split", "taxonomy", "price"]
    assert [list(entry.fields) for entry in entries.values()] == [order, order]  # of columns, in any process
    assert bytes_of(entries["i/2.jpg"]) == b"i/2.jpg"
    assert {*read(scan(root, suffix=kind, class_name="variety"))[0]} == set(entries)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_an_entry_or_a_problem_with_its_number(
    put: Put, read: Read, tmp_path: Path, kind: str
) -> None:
    root = put(["1.jpg", "2.jpg", "3.jpg"])
    (tmp_path / "out.jpg").write_text("out")
    rows = [
        {"file_name": name, "split": split}
        for name, split in [
            ("1.jpg", "train"),
            ("gone.jpg", "train"),
            ("../out.jpg", "train"),
            ("./1.jpg", "test"),
            ("2.jpg", "nowhere"),
            ("3.jpg", "test"),
        ]
    ]
    entries, problems = read(scan(write(root / f"t.{kind}", rows)))
    assert set(entries) == {"1.jpg", "3.jpg"}
    assert entries["1.jpg"].fields["official_split"] == "train"
    assert [(p.name, p.reason) for p in problems] == [
        ("gone.jpg", "missing_file"),
        ("../out.jpg", "path_outside"),
        ("1.jpg", "duplicate_key"),
        ("2.jpg", "bad_split"),
    ]
    assert [p.detail.split(" of ")[0] for p in problems] == [
        f"row {number + (kind == 'csv')}" for number in (2, 3, 4, 5)
    ]


def test_labels_that_are_words_name_the_class_where_nothing_else_does(put: Put, read: Read) -> None:
    root = put(["1.jpg", "2.jpg"])
    words = write(root / "w.csv", [{"image": "1.jpg", "label": "rose"}, {"image": "2.jpg", "label": "tulip"}])
    entries, _ = read(scan(words))
    assert [entry.fields["class_name"] for entry in entries.values()] == ["rose", "tulip"]
    both = write(root / "b.csv", [{"image": "1.jpg", "label": "rose", "class_name": "Rosa"}])
    entries, problems = read(scan(both))
    assert not entries
    assert problems[0].reason == "bad_label"
    assert "options.class_name" in problems[0].detail


def test_a_column_that_is_asked_for_must_be_there(put: Put) -> None:
    table = write(put(["1.jpg"]) / "t.csv", [{"path": "1.jpg", "variety": "x"}])
    with pytest.raises(
        CatalogError, match=r"no column varietty; did you mean variety\?; it has path, variety"
    ):
        list(scan(table, class_name="varietty"))
    with pytest.raises(CatalogError, match="no column kind"):
        list(scan(table, taxonomy=["kind"]))
    with pytest.raises(CatalogError, match="no column picture"):
        list(scan(table, path="picture"))


def test_images_that_lie_in_parquet_need_no_files(tmp_path: Path, read: Read, bytes_of: Any) -> None:
    rows = [
        {"image": {"bytes": b"first", "path": None}, "class_name": "a"},
        {"image": {"bytes": b"second", "path": "x/2.jpg"}, "class_name": "b"},
        {"image": {"bytes": None, "path": None}, "class_name": "b"},
    ]
    write(tmp_path / "part-1.parquet", rows)
    write(tmp_path / "part-0.parquet", [{"image": {"bytes": b"zero", "path": None}, "class_name": "a"}])
    entries, problems = read(scan(tmp_path, suffix="parquet"))
    assert {name: bytes_of(entry) for name, entry in entries.items()} == {
        "part-0.parquet:1": b"zero",
        "part-1.parquet:1": b"first",
        "part-1.parquet:2/x/2.jpg": b"second",
    }
    assert [(p.name, p.reason) for p in problems] == [("part-1.parquet:3", "no_path")]


def test_paths_may_be_relative_to_another_folder(put: Put, read: Read) -> None:
    root = put(["photos/1.jpg"])
    table = write(root / "t.csv", [{"path": "1.jpg"}])
    assert set(read(scan(table, images="photos"))[0]) == {"1.jpg"}
    assert set(read(scan(table, images=str(root / "photos")))[0]) == {"1.jpg"}


def test_a_folder_must_hold_one_table(put: Put) -> None:
    with pytest.raises(CatalogError, match=r"has 0 \.csv files"):
        list(scan(put(["x.txt"]), suffix="csv"))
    with pytest.raises(CatalogError, match=r"has 2 \.csv files: give source=TABLE"):
        list(scan(put(["a.csv", "b.csv"], "two"), suffix="csv"))
    with pytest.raises(CatalogError, match="give source=TABLE"):
        list(scan(None, suffix="csv"))


def test_levels_that_differ_in_case_stop(put: Put) -> None:
    rows = [{"path": "1.jpg", "kind": "Fisch"}, {"path": "2.jpg", "kind": "fisch"}]
    table = write(put(["1.jpg", "2.jpg"]) / "t.csv", rows)
    with pytest.raises(CatalogError, match="in the taxonomy 'Fisch' and 'fisch' differ in case"):
        list(scan(table, taxonomy=["kind"]))
    folded = scan(table, taxonomy=["kind"], fold_case=True)
    assert [entry.fields["taxonomy"] for entry in folded] == [["Fisch"]] * 2  # type: ignore[union-attr]


def test_classes_that_differ_in_case_stop(put: Put) -> None:
    rows = [{"path": "1.jpg", "class_name": "Rose"}, {"path": "2.jpg", "class_name": "rose"}]
    table = write(put(["1.jpg", "2.jpg"]) / "t.csv", rows)
    with pytest.raises(CatalogError, match="differ in case"):
        list(scan(table))
    assert [entry.fields["class_name"] for entry in scan(table, fold_case=True)] == ["Rose", "Rose"]  # type: ignore[union-attr]


def test_images_in_parquet_with_one_path_are_all_kept(tmp_path: Path, read: Read, bytes_of: Any) -> None:
    rows = [{"image": {"bytes": data, "path": "00.jpg"}} for data in (b"arrow", b"bar")]
    entries, problems = read(scan(write(tmp_path / "t.parquet", rows)))
    assert not problems
    assert [bytes_of(entry) for entry in entries.values()] == [b"arrow", b"bar"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", [None, " "])
def test_the_first_label_that_is_there_tells_whether_labels_are_words(
    put: Put, read: Read, kind: str, empty: str | None
) -> None:
    root = put(["1.jpg", "2.jpg"])
    rows = [{"path": "1.jpg", "label": empty}, {"path": "2.jpg", "label": "rose"}]
    entries, problems = read(scan(write(root / f"t.{kind}", rows)))
    assert not problems
    assert [entry.fields.get("class_name") for entry in entries.values()] == [None, "rose"]


def test_labels_of_pandas_are_no_words(put: Put, read: Read) -> None:
    rows = [{"path": "1.jpg", "label": "3.0"}, {"path": "2.jpg", "label": None}]
    entries, problems = read(scan(write(put(["1.jpg", "2.jpg"]) / "t.csv", rows)))
    assert not problems
    assert [dict(entry.fields) for entry in entries.values()] == [{"orig_label": 3}, {}]


def test_a_line_of_json_may_leave_out_a_column(put: Put, read: Read) -> None:
    rows = [{"note": "x"}, {"file_name": "1.jpg"}, {"file_name": "2.jpg", "species": "rose", "label": "a"}]
    table = write(put(["1.jpg", "2.jpg"]) / "t.jsonl", rows)
    entries, problems = read(scan(table, class_name="species", label="label"))
    assert [p.reason for p in problems] == ["no_path", "bad_label"]  # the class has a column: `a` names none
    assert set(entries) == {"1.jpg"}
    rows[2]["label"] = "4"
    entries, _ = read(scan(write(table, rows), class_name="species"))
    assert entries["2.jpg"].fields == {"class_name": "rose", "orig_label": 4}
    with pytest.raises(CatalogError, match="no column kind; it has note, file_name, species, label"):
        list(scan(table, taxonomy=["kind"]))
