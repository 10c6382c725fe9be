"""What is published of several seeds' splits."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.errors import StageError
from datakit.stage import Ref
from datakit.stages.assign import assign, class_names, selection
from datakit.stages.columns import TableRows


def table(*publish: str, labels: tuple[int, ...] = (0, 1, -1)) -> pa.Table:
    count = len(publish)
    return pa.table(
        {
            "key": ["a", "b", "c"][:count],
            "class_name": ["ant", "bee", "cat"][:count],
            "role": ["id"] * count,
            "tier": pa.nulls(count, pa.string()),
            "publish": list(publish),
            "label": list(labels[:count]),
            "nearest_id_class": pa.nulls(count, pa.string()),
            "tax_distance": pa.nulls(count, pa.int64()),
            "tax_ratio": pa.nulls(count, pa.float64()),
            "dup_group": pa.nulls(count, pa.int64()),
            "reason": ["duplicate" if name == "reserve" else None for name in publish],
        }
    )


def test_an_image_is_published_once_where_the_first_seed_has_it() -> None:
    splits = [table("train", "reserve", "reserve"), table("test", "near_ood", "reserve")]
    made = assign(splits=[Ref.of(split) for split in splits])([{"__key__": key} for key in "cab"])
    assert [(row["__key__"], row["publish"], row["reason"]) for row in made] == [
        ("c", None, "duplicate"),
        ("a", "train", None),
        ("b", "reserve", None),
    ]


def test_a_sample_that_no_split_knows_stops_the_build() -> None:
    with pytest.raises(StageError, match="of other rows"):
        assign(splits=[Ref.of(table("train"))])([{"__key__": "z"}])


def test_another_seeds_list_has_what_it_uses_and_nothing_else() -> None:
    found = selection(split=Ref.of(table("train", "reserve", "near_ood")))(TableRows(pa.table({})))
    assert found["key"].to_pylist() == ["a", "c"] and found["split"].to_pylist() == ["train", "near_ood"]


def test_class_names_are_by_label_and_a_gap_is_refused() -> None:
    rows = TableRows(pa.table({}))
    assert class_names(split=Ref.of(table("train", "test", "near_ood")))(rows) == ["ant", "bee"]
    with pytest.raises(StageError, match="label_table"):
        class_names(split=Ref.of(table("train", "test", labels=(1, 2))))(rows)
