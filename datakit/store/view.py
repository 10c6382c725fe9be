"""One split of a store, read: its samples by number, as a table, and as what trains: samples, batches, tensors.

What trains (`loader.py`, `batches.py`, `torch.py`) begins here and is written there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datakit.blob import Blob
from datakit.errors import ConfigError, StoreError, did_you_mean, need
from datakit.image import Image
from datakit.stage import Sample
from datakit.store.files import Handle
from datakit.store.layout import ShardEntry
from datakit.store.metadata import KEY
from datakit.store.order import WINDOW, Shuffle
from datakit.store.reading import Reading, reading_of
from datakit.store.sidecar import Sidecar, open_sidecar

if TYPE_CHECKING:
    import datasets

    from datakit.codec import Codec
    from datakit.store.batches import Batches, Crop
    from datakit.store.loader import OnError, Samples, Uneven
    from datakit.store.reader import Store
    from datakit.store.torch import TorchBatches, TorchDataset, TorchSamples


class SplitView:
    """The samples of one split, in order: `view[i]`, iteration, `keys`; and as Rows: `table`, `images`.

    For training: `samples`, `batches`, `torch`, and what `store/adapters.py` has for other loaders.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        shards: Sequence[ShardEntry],
        chosen: pa.Table | None = None,
        sidecars: Sequence[Sidecar] = (),
    ) -> None:
        self.store = store
        self.split = split
        self.shards = shards
        self._chosen = chosen  # rows of a selection's list
        self._sidecars = tuple(sidecars)

    def __len__(self) -> int:
        return self.store.splits[self.split]

    @cached_property
    def keys(self) -> list[str]:
        found: list[str] = self._rows([KEY])[KEY].to_pylist()
        return found

    @property
    def columns(self) -> list[str]:
        """Of `table`."""
        own = self.store.schema(self.shards[0].metadata.path).names
        return list(dict.fromkeys([*own, *self.columns_beside]))

    @cached_property
    def columns_beside(self) -> dict[str, pa.ChunkedArray]:
        """Columns that no shard holds, a value a sample: those of a selection's list, and of sidecars."""
        chosen = self._chosen
        found = {} if chosen is None else {name: chosen[name] for name in chosen.column_names if name != KEY}
        for sidecar in self._sidecars:
            found |= {name: sidecar.column(name) for name in sidecar.table.column_names}
        return found

    @property
    def fields(self) -> list[str]:
        """Of a sample, but for `__key__`."""
        layout = self.store.layout
        kept = [*layout.json_fields, layout.label, layout.caption]
        return list(dict.fromkeys(["image", *(name for name in kept if name), *self.columns_beside]))

    def zip(
        self, place: str | os.PathLike[str], *, columns: Sequence[str] | None = None, partial: bool = False
    ) -> SplitView:
        """This view with the columns of a sidecar, by key; see `open_sidecar`. They stand before its own.

        A folder of packed tokens is a sidecar too: the column `tokens`, uint16 (h, w) of each image's first view.
        """
        keys = self._rows([KEY])[KEY].cast(pa.string())
        sidecar = open_sidecar(place, keys, self.store, columns=columns, partial=partial)
        return SplitView(self.store, self.split, self.shards, self._chosen, [*self._sidecars, sidecar])

    def samples(
        self,
        *,
        rank: int | None = None,
        world: int | None = None,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool | Shuffle = False,
        window: int = WINDOW,
        fields: Sequence[str] | None = None,
        uneven: Uneven = "repeat",
        on_error: OnError = "raise",
    ) -> Samples:
        """The samples of one rank, epoch after epoch, resumable anywhere; see `store/loader.py`.

        rank, world: without them, RANK and WORLD_SIZE of the environment, or all of it. shuffle: True mixes all
        samples on a local disk, else the samples of `window` shards; "window", "full", "none" say it outright.
        fields: those to read (None: all of a sample); without "image", no tar is opened. uneven: where samples do
        not go round all ranks, `repeat` some, `drop` the rest, or `keep` it. on_error: `skip` counts what is damaged;
        one of several ranks gives a sound sample of its own instead, so that it gives as many as the others.
        """
        from datakit.store.loader import Samples, part_of

        part = part_of(self, rank=rank, world=world, seed=seed, shuffle=shuffle, window=window, uneven=uneven)
        return Samples(self, part, epoch=epoch, fields=fields, on_error=on_error)

    def batches(
        self,
        batch_size: int,
        *,
        threads: int | None = None,
        target_size: int | None = None,
        crop: Crop = "centre",
        codec: Codec = "auto",
        transform: Callable[[Sample], Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        drop_last: bool = False,
        **which: Any,
    ) -> Batches:
        """Batches of numpy arrays, read and decoded by `threads` (None: one a core; 0: none of their own).

        target_size: `image` becomes uint8 (N, side, side, 3), decoded at the scale that this needs; without it,
        images stay encoded. crop: `centre`, or `random` for a part of the image, perhaps mirrored. codec: `auto`, the
        fastest installed; `pillow` gives the same pixels everywhere. transform: sample → anything, called in the
        threads. drop_last: no batch shorter than the others. which: as for `samples`.
        """
        from datakit.store.batches import Batches

        return Batches(
            self.samples(**which),
            batch_size,
            threads=threads,
            target_size=target_size,
            crop=crop,
            codec=codec,
            transform=transform,
            collate=collate,
            drop_last=drop_last,
        )

    def torch(
        self,
        batch_size: int,
        *,
        workers: int = 0,
        pin_memory: bool = False,
        context: str | None = None,
        **how: Any,
    ) -> TorchBatches:
        """`batches` as tensors, images (N, 3, side, side); see `store/torch.py`.

        workers: 0, threads of this process; else processes, started as `context` says (None: torch's default).
        how: as for `batches` and `samples`.
        """
        need("batches of tensors", "torch", ["torch"])
        from datakit.store.torch import TorchBatches

        batches = self.batches(batch_size, **how)
        return TorchBatches(batches, workers=workers, pin_memory=pin_memory, context=context)

    def torch_dataset(
        self, *, stream: bool = False, transform: Callable[[Sample], Any] | None = None, **which: Any
    ) -> TorchDataset | TorchSamples:
        """For a DataLoader of your own: a Dataset by number, or with `stream` an IterableDataset of one rank's
        samples, as `which` says (see `samples`); by number, only `fields` can be said: the sampler does the rest.
        """
        if not stream and (others := sorted(set(which) - {"fields"})):
            raise ConfigError(f"a data set by number takes no {', '.join(others)}; with stream=True it does")
        need("a torch data set", "torch", ["torch"])
        from datakit.store.torch import TorchDataset, TorchSamples

        samples = self.samples(**which)
        return TorchSamples(samples, transform) if stream else TorchDataset(samples, transform)

    def webdataset(self, **which: Any) -> Callable[[], Iterator[dict[str, Any]]]:
        """The first stage of a `webdataset.DataPipeline`, in place of its shard list and tar reader; which: as for
        `samples`.
        """
        from datakit.store.adapters import webdataset_source

        return webdataset_source(self.samples(**which))

    def hugging_face(self, **which: Any) -> datasets.IterableDataset:
        """A Hugging Face IterableDataset of these samples; which: as for `samples`."""
        from datakit.store.adapters import hugging_face

        return hugging_face(self.samples(**which))

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The named columns (all, if None) of every row, in order; of a selection's list where it has them."""
        names = self.columns if columns is None else list(columns)
        if unknown := next((name for name in names if name not in self.columns), None):
            raise ConfigError(f"{self.split} has no column {unknown}{did_you_mean(unknown, self.columns)}")
        beside = self.columns_beside
        own = self._rows([name for name in names if name not in beside])
        return pa.table({name: beside[name] if name in beside else own[name] for name in names})

    def __getitem__(self, index: int) -> Sample:
        """`__key__`, `image`, and the columns kept in the tar (label, caption, JSON fields).

        Raises StoreError naming shard and key if the bytes are not those written.
        """
        number = range(len(self))[index]
        return self._reading.read(self._reading.samples(np.array([number]))[0])

    def __iter__(self) -> Iterator[Sample]:
        """Every sample. Raises StoreError, before the first, for a shard that is not as long as it was written."""
        for entry in self.shards:
            self._check_size(entry)
        yield from (self[index] for index in range(len(self)))

    @cached_property
    def _reading(self) -> Reading:
        return reading_of(self)

    def images(self, indices: Sequence[int] | None = None) -> Iterator[Image]:
        """The images of these samples (all, if None), lazily and without the rest; their digests go unchecked."""
        table = self.table(["shard", "image_offset", "image_size"])
        chosen = table if indices is None else table.take(pa.array(np.asarray(indices, np.int64)))
        for row in chosen.to_pylist():
            path, place = f"data/{row['shard']}.tar", (row["image_offset"], row["image_size"])
            local = self.store.files.local
            yield Image(Blob(str(local / path), *place) if local else self._open(path).read(*place))

    def _check_size(self, entry: ShardEntry) -> None:
        if (size := self._open(entry.tar.path).size) != entry.tar.bytes:
            raise StoreError(f"{entry.tar.path} has {size} bytes and was written with {entry.tar.bytes}")

    def _open(self, path: str) -> Handle:
        try:
            return self.store.files.open(self.store.contents.files[path])
        except FileNotFoundError:
            raise StoreError(f"{path} is missing from {self.store.files.name}") from None

    def _rows(self, columns: Sequence[str]) -> pa.Table:
        """Columns of the shards' metadata, for the rows of this view."""
        tables = []
        for entry in self.shards:
            table = self.store.metadata(entry.metadata.path, list(columns) or [KEY])
            if table.num_rows != entry.samples:
                raise StoreError(f"{entry.metadata.path} has {table.num_rows} rows, not {entry.samples}")
            tables.append(table)
        rows = pa.concat_tables(tables)
        return rows if self.rows is None else rows.take(pa.array(self.rows))

    @cached_property
    def rows(self) -> NDArray[np.int64] | None:
        """Row, over all shards, of each sample of a selection's list; None where they are one after the other."""
        if self._chosen is None:
            return None
        tables = [self.store.metadata(entry.metadata.path, [KEY]) for entry in self.shards]
        found = pc.index_in(self._chosen[KEY], value_set=pa.concat_tables(tables)[KEY])
        if found.null_count:
            missing = self._chosen[KEY].filter(pc.is_null(found))[0]
            raise StoreError(f"lists/{self.store.selection}.parquet names {missing}, which no shard holds")
        return np.asarray(found, np.int64)
