"""Rows of a step: annotations beside their rows, also where a shard has none left."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

import datakit
from datakit.errors import StoreError
from datakit.store.rows import zip_tables

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
