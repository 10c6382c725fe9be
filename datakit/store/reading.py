"""What a loader reads: samples of a view by number, with the fields that its caller chose and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.errors import ConfigError, did_you_mean
from datakit.image import Image
from datakit.stage import Sample
from datakit.store.metadata import KEY
from datakit.store.order import WINDOW, Shuffle
from datakit.store.shards import Get, Shards, getter

if TYPE_CHECKING:
    from datakit.store.view import SplitView

IMAGE = "image"


@dataclass(kw_only=True)
class Reading:
    """Samples 0 … n-1 of a view. Goes to other processes whole; what it has open stays here.

    sizes: samples of each shard, in the order of their numbers.
    """

    shards: Shards
    sizes: list[int]
    image: bool
    rows: NDArray[np.int64] | None = None  # over all shards, of each number; None: they are the numbers
    listed: NDArray[np.int64] | None = None  # row in the columns below, of each number; None: likewise
    columns: dict[str, pa.ChunkedArray] = field(default_factory=dict)  # of a selection's list, of sidecars

    def __post_init__(self) -> None:
        self._firsts = np.concatenate(
            [[0], np.cumsum([entry.samples for entry in self.shards.entries])]
        ).astype(np.int64)
        self._get: dict[str, Get] = {name: getter(column) for name, column in self.columns.items()}

    def __len__(self) -> int:
        return sum(self.sizes)

    def samples(self, numbers: NDArray[np.int64]) -> list[Place]:
        """Where these samples lie."""
        rows = numbers if self.rows is None else self.rows[numbers]
        listed = numbers if self.listed is None else self.listed[numbers]
        shards = np.searchsorted(self._firsts, rows, side="right") - 1
        return list(
            zip(shards.tolist(), (rows - self._firsts[shards]).tolist(), listed.tolist(), strict=True)
        )

    def read(self, place: Place) -> Sample:
        """A sample. Raises StoreError naming shard and key if a byte of it is not as written."""
        index, row, _ = place
        shard = self.shards.shard(index)
        sample: Sample = {"__key__": shard.key(row)}
        if self.image:
            sample[IMAGE] = Image(self.shards.image(index, row))
        for name, get in shard.columns.items():
            sample[name] = get(row)
        for name, get in self._get.items():
            sample[name] = get(place[2])
        return sample

    def beside(self, place: Place) -> dict[str, Any]:
        """What a selection's list and sidecars say of a sample."""
        return {name: get(place[2]) for name, get in self._get.items()}

    def key(self, place: Place) -> str:
        return self.shards.shard(place[0]).key(place[1])

    def __getstate__(self) -> dict[str, object]:
        names = ("shards", "sizes", "image", "rows", "listed", "columns")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.__post_init__()


Place = tuple[int, int, int]  # shard, row in it, row in the columns that lie beside


def reading_of(
    view: SplitView, fields: Sequence[str] | None = None, *, shuffle: Shuffle = "none", window: int = WINDOW
) -> Reading:
    """The reading of a view for one way of shuffling.

    fields: those wanted (None: the image and what a sample of the view has, with all sidecars).
    A shuffled order numbers samples by shard, whatever the order of a selection's list.
    """
    names = view.fields if fields is None else list(fields)
    known = [IMAGE, *(name for name in view.columns if name != KEY)]
    if unknown := next((name for name in names if name not in known), None):
        raise ConfigError(
            f"{view.split} has no field {unknown}{did_you_mean(unknown, known)}; it has {', '.join(known)}"
        )
    columns = view.columns_beside
    own = [name for name in names if name not in (IMAGE, *columns)]
    rows, listed, sizes = view.rows, None, [entry.samples for entry in view.shards]
    if rows is not None:
        if shuffle != "none":
            listed = np.argsort(rows, kind="stable")
            rows = rows[listed]
        ends = np.cumsum(sizes)
        sizes = np.bincount(np.searchsorted(ends, rows, side="right"), minlength=len(sizes)).tolist()
    # A full shuffle comes back to every shard all the time; the others to those of a window or two.
    keep = len(sizes) if shuffle == "full" else 2 * window + 2
    return Reading(
        shards=Shards(view.store.files, view.shards, view.store.layout, own, keep=keep),
        sizes=sizes,
        image=IMAGE in names,
        rows=rows,
        listed=listed,
        columns={name: columns[name] for name in names if name in columns},
    )
