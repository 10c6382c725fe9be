"""Rows of tables: a bad row costs itself and is named; types are right or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.errors import CatalogError, SampleError
from datakit.sources.entry import Problem
from datakit.sources.records import MAX_LINE, Record, read, standard

Put = Callable[..., Path]


def test_csv_rows_keep_their_line_numbers_and_bad_ones_cost_themselves(put: Put) -> None:
    text = '\ufeffpath,note\r\na.jpg,"one, two"\r\nb.jpg\r\n\r\n,\r\nc.jpg,"x\ny"\r\nd.jpg,\r\ne.jpg,1,2\r\n'
    found = list(read(put({"t.csv": text}) / "t.csv"))
    assert [(r.number, r.row) for r in found if isinstance(r, Record)] == [
        (2, {"path": "a.jpg", "note": "one, two"}),
        (7, {"path": "c.jpg", "note": "x\ny"}),
        (8, {"path": "d.jpg", "note": None}),
    ]
    assert [(p.name, p.reason, p.dropped) for p in found if isinstance(p, Problem)] == [
        ("t.csv:3", "unreadable_row", False),
        ("t.csv:4", "empty_row", True),
        ("t.csv:5", "empty_row", True),
        ("t.csv:9", "unreadable_row", False),
    ]


def test_a_quote_that_never_ends_stops_and_its_line_is_named(put: Put) -> None:
    text = 'path,note\na.jpg,ok\nb.jpg,"never\n' + "c.jpg,x\n" * 2000
    with pytest.raises(CatalogError, match=r"t\.csv: a quote in line 3 is never closed"):
        list(read(put({"t.csv": text}) / "t.csv"))


@pytest.mark.parametrize("end", ['"d.jpg",x', 'd.jpg,"x"'])
def test_every_line_that_a_quote_swallows_is_a_problem(put: Put, end: str) -> None:
    text = f'path,note\na.jpg,ok\nb.jpg,"never\nc.jpg,x\n{end}\ne.jpg,x\n'
    found = list(read(put({"t.csv": text}) / "t.csv"))
    assert [item.row["path"] for item in found if isinstance(item, Record)] == ["a.jpg", "e.jpg"]
    problems = [item for item in found if isinstance(item, Problem)]
    assert [(p.name, p.reason) for p in problems] == [(f"t.csv:{n}", "unreadable_row") for n in (3, 4, 5)]
    assert all("in the row of lines 3 to 5" in p.detail for p in problems)


def test_cells_may_be_cut_otherwise(put: Put) -> None:
    root = put({"t.tsv": "path\tn\na\t1\n", "t.csv": "path;n\na;1\n"})
    cuts = [("t.tsv", ","), ("t.csv", ";")]
    assert [next(iter(read(root / name, delimiter=cut))).row for name, cut in cuts] == [
        {"path": "a", "n": "1"}
    ] * 2
    with pytest.raises(CatalogError, match="must be one character, or tab"):
        list(read(root / "t.csv", delimiter="::"))


def test_json_lines_that_are_none_cost_themselves(put: Put) -> None:
    deep = "[" * 100_000
    text = f'{{"path": "a", "n": [1, 2]}}\n\n{{"path": \n[1]\n{deep}\n{{"path": "b"}}'
    found = list(read(put({"t.jsonl": text}) / "t.jsonl"))
    assert [(r.number, r.row) for r in found if isinstance(r, Record)] == [
        (1, {"path": "a", "n": [1, 2]}),
        (6, {"path": "b"}),
    ]
    assert [(p.name, p.reason) for p in found if isinstance(p, Problem)] == [
        ("t.jsonl:2", "empty_row"),
        ("t.jsonl:3", "unreadable_row"),
        ("t.jsonl:4", "unreadable_row"),
        ("t.jsonl:5", "unreadable_row"),
    ]


def test_parquet_rows_keep_their_types(tmp_path: Path) -> None:
    rows = [{"path": f"{index}.jpg", "taxonomy": ["a", "b"], "label": index} for index in range(150)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    found = list(read(tmp_path / "t.parquet"))
    assert [item.row for item in found if isinstance(item, Record)] == rows
    assert [item.number for item in found if isinstance(item, Record)] == list(range(1, 151))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.xlsx", b"", "must end in one of .csv"),
        ("t.csv", b"", "no first line"),
        ("t.csv", b"path,,path\n", "the same one: .*path"),
        ("t.csv", b'"path\na.jpg\n', "cannot read the table"),
        ("t.csv", b"path\n\xff\xfe.jpg\n", "not utf-8-sig text.*options.encoding"),
        ("t.parquet", b"PAR1 no", "cannot read the table"),
        ("t.jsonl", b"x" * (MAX_LINE + 1), "line 1 has more than"),
    ],
)
def test_a_table_that_cannot_be_read_stops_and_is_named(
    put: Put, name: str, data: bytes, message: str
) -> None:
    with pytest.raises(CatalogError, match=message) as caught:
        list(read(put({name: data}) / name))
    assert name in str(caught.value)


def test_standard_fields_come_out_in_their_types() -> None:
    row = {
        "class_name": 737,
        "orig_label": "12",
        "official_split": "Validation",
        "taxonomy": ["a", None, "b"],
        "caption": None,
        "price": 3,
    }
    assert standard(row) == {
        "class_name": "737",
        "orig_label": 12,
        "official_split": "val",
        "taxonomy": ["a", "b"],
    }


def test_whole_numbers_may_come_as_pandas_has_them_beside_a_null() -> None:
    row = {"class_name": 737.0, "identity_group": 4.0, "orig_label": 3.0}
    assert standard(row) == {"class_name": "737", "identity_group": "4", "orig_label": 3}
    assert standard({"orig_label": "3.0"}) == {"orig_label": 3}


def test_blank_text_is_as_good_as_null() -> None:
    blank = {"class_name": "", "caption": " ", "orig_label": "", "official_split": "\t"}
    assert standard(blank | {"taxonomy": ["a", " "]}) == {"taxonomy": ["a"]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"orig_label": "rose"}, "bad_label"),
        ({"orig_label": 1.5}, "bad_label"),
        ({"orig_label": "1.5"}, "bad_label"),
        ({"orig_label": float("nan")}, "bad_label"),
        ({"identity_group": 1.5}, "bad_field"),
        ({"orig_label": True}, "bad_label"),
        ({"official_split": "holdout"}, "bad_split"),
        ({"class_name": ["a"]}, "bad_field"),
        ({"taxonomy": "a"}, "bad_field"),
    ],
)
def test_a_standard_field_of_another_type_is_refused(row: dict[str, object], reason: str) -> None:
    with pytest.raises(SampleError) as caught:
        standard(row)
    assert caught.value.reason == reason
