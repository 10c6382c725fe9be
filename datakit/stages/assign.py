"""From split tables to what is published: a column for every sample, the class names, a list for every other seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import StageError
from datakit.stage import Ref, Rows, Sample, batch_stage, reduce

COLUMNS = (
    "role",
    "tier",
    "publish",
    "label",
    "nearest_id_class",
    "tax_distance",
    "tax_ratio",
    "dup_group",
    "reason",
)
RESERVE = "reserve"


@batch_stage(version=1, size=10_000)
def assign(samples: list[Sample], *, splits: Sequence[Ref[pa.Table]]) -> list[Sample]:
    """The columns of the first seed's split on every sample: role, tier, publish, label, reason and distances.

    publish: the split it is published in; `reserve` where only another seed uses it; null, with the reason,
    where none does.
    """
    keys = pa.array([sample["__key__"] for sample in samples])
    tables = [_rows_of(split.value, keys) for split in splits]
    chosen = tables[0].select(COLUMNS).set_column(COLUMNS.index("publish"), "publish", published(tables))
    rows = [row | {"reason": None} if row["publish"] else row for row in chosen.to_pylist()]
    return [sample | row for sample, row in zip(samples, rows, strict=True)]


def published(splits: Sequence[pa.Table]) -> pa.Array:
    """Of each row the list it is published in: the first split's; `reserve` if only a later one uses it; or null."""
    wanted = np.logical_or.reduce([_used(split) for split in splits])
    return pc.if_else(pa.array(wanted), splits[0]["publish"].combine_chunks(), pa.scalar(None, pa.string()))


def _rows_of(split: pa.Table, keys: pa.Array) -> pa.Table:
    at = pc.index_in(keys, value_set=split["key"].combine_chunks())
    if at.null_count:
        raise StageError("the split is of other rows than these: make both from the same step")
    return split.take(at)


def _used(split: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    used: np.ndarray[tuple[int], np.dtype[np.bool_]] = pc.not_equal(split["publish"], RESERVE).to_numpy()
    return used


@reduce(version=1)
def class_names(rows: Rows, *, split: Ref[pa.Table]) -> list[str]:
    """The names of the ID classes: `names[label]`."""
    table = split.value.filter(pc.greater_equal(split.value["label"], 0))
    pairs = table.group_by(["label", "class_name"]).aggregate([]).sort_by("label")
    if pairs["label"].to_pylist() != list(range(pairs.num_rows)):
        raise StageError(
            "the labels of the split are not 0 … K-1 with one class each; see the check label_table"
        )
    return list(pairs["class_name"].to_pylist())


@reduce(version=1)
def selection(rows: Rows, *, split: Ref[pa.Table]) -> pa.Table:
    """Another seed's split over the same shards: key, split, label, class_name, role, tier, nearest_id_class."""
    table = split.value.filter(pa.array(_used(split.value)))
    columns = ["key", "publish", "label", "class_name", "role", "tier", "nearest_id_class", "tax_distance"]
    renamed = ["split" if name == "publish" else name for name in columns]
    return table.select(columns).rename_columns(renamed)
