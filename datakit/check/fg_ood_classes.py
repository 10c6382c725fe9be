"""The tiers and classes of an `fg_ood` split as the report shows them, with the pictures chosen for each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datakit.check.report_data import ClassRow, Picture, TierRow
from datakit.stage import Rows
from datakit.stages.assign import RESERVE
from datakit.stages.classes import number_classes
from datakit.stages.columns import read_columns

PICTURES_A_CLASS = 6
PICTURES_A_TIER = 24
TIERS = {
    "near_ood": "near",
    "mid_ood": "mid",
    "far_ood": "far",
    "coarse_ood": "coarse",
    "outliers": "outlier",
}
SPLITS = {
    "train": "ID classes, for training",
    "val": "ID classes, for choosing epochs and settings",
    "test": "images of the ID classes that nothing was trained or chosen on",
    "val_ood": "held-out classes for choosing thresholds; never tested",
    "near_ood": "held-out classes that share their parent with an ID class",
    "mid_ood": "held-out classes whose grandparent holds an ID class",
    "far_ood": "classes three levels or more from any ID class",
    "coarse_ood": "classes of quite other things",
    "outliers": "for training with outliers; no concept of the test is among them",
    "reserve": "in no role under the first seed; the lists of other seeds use them",
}
BY_ATTRIBUTES = {
    "near_ood": "the third of the held-out classes whose attributes are nearest to those of an ID class",
    "mid_ood": "the middle third of the held-out classes, by the distance of their attributes to an ID class",
    "far_ood": "the third of the held-out classes whose attributes are furthest from any ID class, and all "
    "classes of the pool far",
}


def split_notes(tiers: str) -> dict[str, str]:
    """A line for each published split, in their order; near, mid and far are what `tiers` made them."""
    return SPLITS | (BY_ATTRIBUTES if tiers == "attributes" else {})


class Album:
    """Pictures used on the page, each once, by row."""

    def __init__(self, rows: Rows, split: pa.Table) -> None:
        self.rows = rows
        self.keys = split["key"].to_pylist()
        self.names = split["class_name"].to_pylist()
        self.row_of = {key: row for row, key in enumerate(self.keys)}
        self.places: dict[int, int] = {}

    @property
    def pictures(self) -> Iterable[Picture]:
        """In the order they were added."""
        for row, image in zip(self.places, self.rows.images(list(self.places)), strict=True):
            yield Picture(image=image, key=self.keys[row], caption=str(self.names[row] or ""))

    def add(self, row: int) -> int:
        """The picture's index on the page."""
        return self.places.setdefault(row, len(self.places))

    def spread(self, rows: Sequence[int], most: int) -> tuple[int, ...]:
        """At most `most` of these rows, evenly over them, added."""
        places = np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
        return tuple(self.add(rows[index]) for index in np.unique(places))


def tier_rows(
    split: pa.Table, album: Album, *, notes: Mapping[str, str], measured_on: str
) -> Iterable[TierRow]:
    """ID test and every OOD tier there is. notes: of `split_notes`; measured_on: what attr_distance compares."""
    for publish, tier in {"test": "id", **TIERS}.items():
        rows = np.flatnonzero(is_in(split["publish"], publish))
        if not len(rows):
            continue
        chosen = split.take(pa.array(rows))
        names, distances = chosen["class_name"].to_pylist(), chosen["attr_distance"].to_pylist()
        # Taxonomic levels are equal within a tier that they define, and unknown beyond the tree: no histogram.
        by_class = dict(zip(names, distances, strict=True))
        yield TierRow(
            name=tier,
            definition=notes[publish],
            classes=len(by_class.keys() - {None}),
            images=len(rows),
            distances=[value for value in by_class.values() if value is not None],
            distance=f"cosine distance to the nearest ID class, by {measured_on}",
            pictures=album.spread(_one_a_class(names, rows), PICTURES_A_TIER),
        )


def is_in(column: pa.ChunkedArray, value: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.fill_null(pc.equal(column, value), False).to_numpy()
    return found


def _one_a_class(names: Sequence[Any], rows: NDArray[np.int64]) -> list[int]:
    return list({name: int(row) for name, row in zip(names, rows, strict=True)}.values())


def class_rows(rows: Rows, split: pa.Table, publish: pa.ChunkedArray, album: Album) -> Iterable[ClassRow]:
    """The classes of all pools but the outliers', by name. publish: of each row the list it is published in."""
    table = read_columns(rows, "pool", "class_name", "taxonomy")
    number, pools, names = number_classes(table)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, at in enumerate(number.tolist()):
        if at >= 0 and pools[at] != "outliers":
            groups[names[at], pools[at]].append(row)
    place = ("role", "tier", "nearest_id_class", "tax_distance", "attr_distance")
    columns = {name: split[name].to_pylist() for name in place}
    taxonomy, lists = table["taxonomy"].to_pylist(), publish.to_pylist()
    for (name, _), images in sorted(groups.items()):
        # A class's place is that of its images in use; those of a held-out class left for other seeds have none.
        lead = next((row for row in images if columns["role"][row] != "unused"), images[0])
        yield ClassRow(
            name=name,
            taxonomy=tuple(taxonomy[lead] or ()),
            counts=Counter(lists[row] for row in images if lists[row]),
            pictures=_class_pictures(images, lists, album),
            **{field: values[lead] for field, values in columns.items()},
        )


def _class_pictures(images: Sequence[int], lists: Sequence[str | None], album: Album) -> tuple[int, ...]:
    """Published images: those of test first, which are what a detector is asked about, the reserve's last."""
    published = [row for row in images if lists[row]]
    tested = [row for row in published if lists[row] == "test"]
    spare = [row for row in published if lists[row] == RESERVE]
    others = [row for row in published if lists[row] not in ("test", RESERVE)]
    found: tuple[int, ...] = ()
    for group in (tested, others, spare):
        found += album.spread(group, PICTURES_A_CLASS - len(found))
    return found
