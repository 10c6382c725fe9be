"""A split in the making: the set that each image is in so far, and why an image is in none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.stage import Rows
from datakit.stages.classes import number_classes
from datakit.stages.columns import Bools, Ints, Words, codes, read_columns, words
from datakit.stages.groups import components, same_value
from datakit.stages.leaks import drop_leaks
from datakit.stages.taxonomy import Place

# Of two alike images the one in the lower set goes: outliers and train first, OOD next, ID test never.
SETS = (
    *("reserve", "outliers", "train", "val", "val_ood"),
    *("coarse_ood", "far_ood", "mid_ood", "near_ood", "test"),
)
RANK = {name: rank for rank, name in enumerate(SETS)}
ROLES = ("unused", "outlier", "id", "id", "val_ood", "ood", "ood", "ood", "ood", "id")  # as SETS
PARTS = (None, "train", "train", "val", "val", "test", "test", "test", "test", "test")  # as SETS

TEXT = ("key", "class_name", "role", "tier", "split", "publish", "nearest_id_class", "reason")
INT = ("label", "orig_label", "tax_distance", "dup_group")
SCHEMA = (
    dict.fromkeys(TEXT, pa.string())
    | dict.fromkeys(INT, pa.int64())
    | dict.fromkeys(("tax_ratio", "attr_distance"), pa.float64())
)


@dataclass(kw_only=True)
class Draft:
    """Columns over all rows, changed in place by the steps of `split`.

    classes: the table of `hold_out`. class_of: row number in it, -1 for an image without a class.
    pool, role: of the class. set_of: index into SETS. reason: why an image is in the reserve.
    """

    table: pa.Table
    classes: pa.Table
    class_of: Ints
    pool: Words
    role: Words
    set_of: Ints
    reason: Words

    @classmethod
    def start(cls, rows: Rows, classes: pa.Table) -> Draft:
        """All images in the reserve, with the reason their class has, if it has one."""
        fields = ("__key__", "pool", "catalog", "class_name", "official_split", "capture_group")
        table = read_columns(rows, *fields, "orig_label")
        number, pools, names = number_classes(table)
        row_of = {pair: row for row, pair in enumerate(_pairs(classes))}
        at = np.array([row_of.get(pair, -1) for pair in zip(pools, names, strict=True)] + [-1])
        class_of = at[number]
        pool = words(pc.fill_null(table["pool"], "main"))
        role = np.append(words(classes["role"]), "unused")[class_of]
        reason = np.append(words(classes["reason"]), "unlabelled")[class_of]
        role[pool == "outliers"], reason[pool == "outliers"] = "outlier", None
        return cls(
            table=table,
            classes=classes,
            class_of=class_of,
            pool=pool,
            role=role,
            set_of=np.zeros(len(rows), dtype=np.int64),
            reason=reason,
        )

    def is_in(self, *names: str) -> Bools:
        return np.isin(self.set_of, [RANK[name] for name in names])

    def put(self, images: Bools, name: str) -> None:
        self.set_of[images], self.reason[images] = RANK[name], None

    def leave(self, images: Bools, reason: str) -> None:
        """Those of `images` that are in a set go to the reserve."""
        images = images & (self.set_of > 0)
        self.set_of[images], self.reason[images] = 0, reason

    def drop_leaks(self, a: Ints, b: Ints) -> None:
        self.leave(drop_leaks(self.set_of, a, b), "duplicate")

    def atoms(self, a: Ints, b: Ints) -> Ints:
        """Of each image the group that goes whole to one side: capture groups, and alike images of a class."""
        capture, _ = codes(self.table["capture_group"])
        shot, first = same_value(capture)
        alike = self.class_of[a] == self.class_of[b]
        ends = np.concatenate([shot, a[alike]]), np.concatenate([first, b[alike]])
        return components(len(capture), *ends)

    def classes_in(self, *names: str) -> Ints:
        """Row numbers of the classes that have an image in one of the sets."""
        found = np.unique(self.class_of[self.is_in(*names)])
        return found[found >= 0]

    def class_names(self, numbers: Ints) -> list[str]:
        return list(self.classes["class_name"].take(pa.array(numbers, pa.int64())).to_pylist())

    def to_table(self, places: Mapping[str, Place], a: Ints, b: Ints) -> pa.Table:
        """The split table: one row an image, in the order of the rows; a–b are the pairs of alike images."""
        names = words(self.table["class_name"])
        role = np.array(ROLES, dtype=object)[self.set_of]
        out = np.isin(role, ["ood", "val_ood"])
        place = [places[name] if held else None for name, held in zip(names, out, strict=True)]
        known = sorted(set(names[role == "id"]))
        label_of = {name: label for label, name in enumerate(known)}
        labels = [label_of[name] if r == "id" else -1 for name, r in zip(names, role, strict=True)]
        columns = {
            "key": self.table["__key__"],
            "class_name": self.table["class_name"],
            "role": role,
            "tier": [at.tier if at else None for at in place],
            "split": np.array(PARTS, dtype=object)[self.set_of],
            "publish": np.array(SETS, dtype=object)[self.set_of],
            "label": labels,
            "orig_label": self.table["orig_label"],
            "nearest_id_class": [at.nearest if at else None for at in place],
            "tax_distance": [at.distance if at else None for at in place],
            "tax_ratio": [at.ratio if at else None for at in place],
            "attr_distance": [at.attr_distance if at else None for at in place],
            "dup_group": _groups(len(names), a, b),
            "reason": self.reason,
        }
        return pa.table(
            {
                name: pa.chunked_array(values.chunks, SCHEMA[name])
                if isinstance(values, pa.ChunkedArray)
                else pa.array(values, SCHEMA[name])
                for name, values in columns.items()
            }
        )


def _pairs(classes: pa.Table) -> list[tuple[str, str]]:
    return list(zip(classes["pool"].to_pylist(), classes["class_name"].to_pylist(), strict=True))


def _groups(size: int, a: Ints, b: Ints) -> list[int | None]:
    """Numbers from 0, by first row, of the components of two images or more."""
    root = components(size, a, b)
    number = {int(first): index for index, first in enumerate(np.unique(root[np.union1d(a, b)]))}
    return [number.get(int(first)) for first in root]
