"""Rows of a step: annotations beside their rows, also where a shard has none left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import datakit
from datakit.errors import StoreError
from datakit.store.rows import Roots, StepRows, write_table, zip_schemas, zip_tables

TOY = str(Path(__file__).parent.parent / "toy_recipe.py")


def keyed(*keys: str, **columns: list[int]) -> pa.Table:
    return pa.table({"__key__": pa.array(keys, pa.string()), **columns})


def test_an_annotation_stands_beside_its_rows_and_replaces_their_columns() -> None:
    table = zip_tables([keyed("a", "b", x=[1, 2]), keyed("a", "b", y=[3, 4]), keyed("a", "b", x=[5, 6])])
    assert table.to_pydict() == {"__key__": ["a", "b"], "x": [5, 6], "y": [3, 4]}
    assert zip_tables([keyed(), keyed()]).num_rows == 0


@pytest.mark.parametrize("other", [keyed("a", "c"), keyed("b", "a"), keyed("a"), keyed()])
def test_an_annotation_of_other_rows_is_refused(other: pa.Table) -> None:
    with pytest.raises(StoreError, match="an annotation"):
        zip_tables([keyed("a", "b"), other])


def test_a_shard_that_drops_everything_does_not_stop_a_build(tmp_path: Path) -> None:
    words = {"samples": 1, "shards": 8, "darkest": 120.0, "run": {"inline": True}, "progress": "quiet"}
    made = datakit.build(TOY, out=tmp_path / "out", **words)
    outcomes = json.loads((made.out / "provenance.json").read_bytes())["outcomes"]
    dark = outcomes["dropped"]["dark"]  # a shard each
    assert 0 < dark < 8
    assert sum(made.splits.values()) == 8 - dark


def test_columns_that_nobody_asks_for_stay_on_disk(tmp_path: Path) -> None:
    """Features are a hundred times the rest, and a reduce that asks for labels must not pay for them."""
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(20_000 * 250, np.float32)), 250)
    for shard in range(2):
        keys = pa.array([f"{shard}-{n}" for n in range(20_000)])
        extra = {"late": pa.array(np.arange(20_000))} if shard else {}
        write_table(tmp_path / f"{shard}.arrow", pa.table({"__key__": keys, "features": wide, **extra}))
    del wide
    paths = [[tmp_path / f"{shard}.arrow"] for shard in range(2)]
    rows = StepRows(paths=paths, roots=Roots({}), left=lambda: pa.table({}))
    before = pa.total_allocated_bytes()
    assert len(rows) == 40_000 and rows.columns == ["__key__", "features", "late"]
    late = rows.table(["late", "__key__"])
    assert late.column_names == ["late", "__key__"] and late["late"].null_count == 20_000
    assert late["__key__"][20_000].as_py() == "1-0"
    assert pa.total_allocated_bytes() - before < 8 << 20
    assert rows.table().num_rows == 40_000
    assert pa.total_allocated_bytes() - before > 30 << 20
    one = rows.only(0, rows.schema)
    assert len(one) == 20_000 and one.columns == rows.columns
    assert one.table(["late"])["late"].type == pa.int64() and one.table(["late"])["late"].null_count == 20_000


def test_the_schema_of_an_annotation_beside_its_rows_needs_no_rows() -> None:
    tables = [keyed("a", x=[1], y=[2]), keyed("a", z=[3]), pa.table({"__key__": ["a"], "x": ["t"]})]
    assert zip_schemas([table.schema for table in tables]) == zip_tables(tables).schema
