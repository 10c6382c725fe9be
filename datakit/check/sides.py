"""A split and its rows side by side, read by the checks without the code that made the split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from datakit.errors import StageError
from datakit.stage import Rows
from datakit.stages.columns import read_columns

OOD_LISTS = ("near_ood", "mid_ood", "far_ood", "coarse_ood")
# published list → the role, the part and the tiers that its images may have
LISTS: dict[str, tuple[str, str | None, tuple[str | None, ...]]] = {
    "train": ("id", "train", (None,)),
    "val": ("id", "val", (None,)),
    "test": ("id", "test", (None,)),
    "val_ood": ("val_ood", "val", ("near", "mid", "far")),
    **{name: ("ood", "test", (name.removesuffix("_ood"),)) for name in OOD_LISTS},
    "outliers": ("outlier", "train", (None,)),
    "reserve": ("unused", None, (None,)),
}
Columns = dict[str, list[Any]]


def read_split(rows: Rows, split: pa.Table, *fields: str) -> Columns:
    """The split's columns and `fields` of the rows, as lists; a field that the rows lack is all None.

    Raises StageError unless the split has one row a sample, in the order of the rows.
    """
    table = read_columns(rows, "__key__", *fields)
    if split["key"].to_pylist() != table["__key__"].to_pylist():
        raise StageError("the split is not of these rows: its keys are others, or in another order")
    return {name: split[name].to_pylist() for name in split.column_names} | {
        name: table[name].to_pylist() for name in fields
    }


def only(columns: Columns, **wanted: str | Sequence[str]) -> Columns:
    """The rows where each named column has the wanted value, or one of them."""
    allowed = {name: {value} if isinstance(value, str) else set(value) for name, value in wanted.items()}
    size = len(columns["key"])
    keep = [i for i in range(size) if all(columns[name][i] in v for name, v in allowed.items())]
    return {name: [values[i] for i in keep] for name, values in columns.items()}


def used(columns: Columns) -> Columns:
    """The rows that are in a published list."""
    return only(columns, role=("id", "ood", "val_ood", "outlier"))


def astride(values: Iterable[Any], sides: Iterable[str | None]) -> dict[Any, list[str]]:
    """Value → its sides, sorted; only values on two sides or more. None is no value and no side."""
    found = defaultdict[Any, set[str]](set)
    for value, side in zip(values, sides, strict=True):
        if value is not None and side is not None:
            found[value].add(side)
    return {value: sorted(found[value]) for value in sorted(found) if len(found[value]) > 1}


def keys_of(columns: Columns, name: str, values: Iterable[Any]) -> list[str]:
    """Keys of the rows whose column `name` has one of `values`."""
    wanted = set(values)
    return [key for key, value in zip(columns["key"], columns[name], strict=True) if value in wanted]


def count_of(number: int, singular: str, plural: str = "") -> str:
    """`1 class`, `2 classes`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
