"""What a split makes of each class: the table that a paper's appendix prints."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from datakit.stage import Ref, Rows, reduce
from datakit.stages.classes import number_classes
from datakit.stages.columns import Bools, Ints, read_columns, words
from datakit.stages.draft import SETS

KEPT = ("pool", "class_name", "taxonomy", "orig_label", "identity_group")
PLACE = ("role", "tier", "label", "nearest_id_class", "tax_distance", "tax_ratio", "attr_distance", "reason")


@reduce(version=1)
def class_summary(rows: Rows, *, split: Ref[pa.Table], classes: Ref[pa.Table]) -> pa.Table:
    """One row a class of a pool: pool, class_name, taxonomy, orig_label, identity_group, role, tier, label,
    nearest_id_class and its distances, reason (of a class of which nothing is used), and images by list.

    split: of one seed. classes: of `class_table`.
    """
    number, pools, names = number_classes(read_columns(rows, "pool", "class_name"))
    table = classes.value
    row_of = {pair: row for row, pair in enumerate(zip(pools, names, strict=True))}
    pairs = zip(table["pool"].to_pylist(), table["class_name"].to_pylist(), strict=True)
    order = [row_of[pair] for pair in pairs]
    publish = words(split.value["publish"])
    every = _first(number, np.ones(len(number), dtype=bool), len(names))
    used = _first(number, publish != "reserve", len(names))
    # A class with no image in use is told by its first one, which has the reason.
    chosen = split.value.take(pa.array(np.where(used >= 0, used, every)[order]))
    columns = {name: table[name] for name in KEPT} | {name: chosen[name] for name in PLACE}
    for name in SETS:
        counts = np.bincount(number[(publish == name) & (number >= 0)], minlength=len(names))
        columns[name] = pa.array(counts[order], pa.int64())
    return pa.table(columns)


def _first(number: Ints, images: Bools, size: int) -> Ints:
    """For each class the first of `images` that shows it, or -1."""
    found = np.full(size, -1, dtype=np.int64)
    rows = np.flatnonzero(images & (number >= 0))[::-1]
    found[number[rows]] = rows
    return found
