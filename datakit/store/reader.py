"""A published store, read: rows as a table, samples by number or in order, every one checked against its digest.

store = open_store("out/birds")
len(store["train"]), store["train"][0]["image"].array
store.select("seed1")["near_ood"].table(["key", "class_name"])

store.torch(256, target_size=224, shuffle=True)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import ConfigError, StoreError, did_you_mean
from datakit.store.contents import Contents, contents_of
from datakit.store.files import Files, open_files
from datakit.store.layout import Layout
from datakit.store.metadata import read_metadata, read_metadata_schema
from datakit.store.view import SplitView

if TYPE_CHECKING:
    from datakit.store.loader import Samples
    from datakit.store.torch import TorchBatches

__all__ = ["SplitView", "Store", "open_store"]


def open_store(place: str | os.PathLike[str], *, cache: bool | str | os.PathLike[str] = True) -> Store:
    """The store in this folder or at this URL. Raises StoreError if there is none, or its manifest is damaged.

    cache: of a URL, whether shards are fetched whole and kept on this machine, or in which folder; see `open_files`.
    """
    files = open_files(place, cache=cache)
    contents = contents_of(files)
    files.expect(contents.files)
    return Store(files, contents)


class Store:
    """Splits by name. `selection`: the name of the list that makes them; None, as they lie in the shards."""

    def __init__(self, files: Files, contents: Contents, selection: str | None = None) -> None:
        self.files = files
        self.contents = contents
        self.selection = selection
        self._checked: set[str] = set()  # files whose sha256 was compared

    @property
    def root(self) -> Path:
        """Its folder. Raises ConfigError where it is on no disk of this machine."""
        if self.files.local is None:
            raise ConfigError(
                f"{self.files.name} is not on this machine, which this needs; copy it here first"
            )
        return self.files.local

    @property
    def name(self) -> str:
        return self.contents.name

    @property
    def digest(self) -> str:
        """Stands for every byte of the store; what is built over a store keeps it, and asks for it again."""
        return self.contents.digest

    @property
    def layout(self) -> Layout:
        return self.contents.layout

    @property
    def selections(self) -> tuple[str, ...]:
        return self.contents.selections

    @cached_property
    def splits(self) -> dict[str, int]:
        """Samples of each split."""
        if self._list is None:
            return dict(self.contents.counts)
        counts = self._list.column("split").value_counts().to_pylist()
        named = {count["values"]: count["counts"] for count in counts if count["values"] is not None}
        order = [*self.contents.splits, *sorted(set(named) - set(self.contents.splits))]
        return {split: named[split] for split in order if split in named}

    @cached_property
    def class_names(self) -> list[str]:
        """Name of each label from 0 on, under this selection; empty where the store has no names."""
        if self._list is None or not {"label", "class_name"} <= set(self._list.column_names):
            return list(self.layout.class_names)
        pairs = self._list.group_by(["label", "class_name"]).aggregate([]).to_pylist()
        named = sorted((row["label"], row["class_name"]) for row in pairs if row["label"] not in (None, -1))
        if [label for label, _ in named] != list(range(len(named))):
            raise StoreError(
                f"lists/{self.selection}.parquet: its labels do not name one class each from 0 on"
            )
        return [name for _, name in named]

    def select(self, selection: str) -> Store:
        """The same images under another selection; its columns (label, tier …) stand before the shards' own."""
        if selection not in self.selections:
            hint = did_you_mean(selection, self.selections)
            raise ConfigError(
                f"{self.files.name} has no selection {selection}{hint}; it has {_named(self.selections)}"
            )
        return Store(self.files, self.contents, selection)

    def __getitem__(self, split: str) -> SplitView:
        if split not in self.splits:
            hint = did_you_mean(split, self.splits)
            raise ConfigError(f"{self.files.name} has no split {split}{hint}; it has {_named(self.splits)}")
        if self._list is None:
            return SplitView(self, split, self.contents.splits[split])
        chosen = self._list.filter(pc.equal(self._list["split"], split))
        every = [entry for shards in self.contents.splits.values() for entry in shards]
        return SplitView(self, split, every, chosen)

    def samples(self, split: str = "train", **which: Any) -> Samples:
        """The samples of one rank of a split, resumable; see `SplitView.samples`."""
        return self[split].samples(**which)

    def torch(self, batch_size: int, split: str = "train", **how: Any) -> TorchBatches:
        """Batches of tensors of a split; see `SplitView.torch`."""
        return self[split].torch(batch_size, **how)

    def __repr__(self) -> str:
        return f"Store({self.files.name!r}, {self.splits})"

    @cached_property
    def _list(self) -> pa.Table | None:
        if self.selection is None:
            return None
        path = f"lists/{self.selection}.parquet"
        return self.metadata(path)

    def metadata(self, path: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A table of the tree. Raises StoreError naming the file if it is missing or not the one written."""
        place, data = self._place(path)
        return read_metadata(place, columns, data=data)

    def schema(self, path: str) -> pa.Schema:
        """Of a table of the tree."""
        place, data = self._place(path)
        return read_metadata_schema(place, data=data)

    def _place(self, path: str) -> tuple[str, bytes | None]:
        """The file's name, with its bytes unless it is on this machine and was compared with its sha256 before."""
        place = f"{self.files.name}/{path}"
        if path in self._checked and self.files.local is not None:
            return place, None  # only the columns asked for leave the disk
        data = self._bytes(path)
        # Of another build it would fit as well, and give other values to the same keys.
        if hashlib.sha256(data).hexdigest() != self.contents.files[path].sha256:
            raise StoreError(f"{place} is not the one written: its sha256 differs; run datakit verify")
        self._checked.add(path)
        return place, data

    def _bytes(self, path: str) -> bytes:
        try:
            return self.files.read(path)
        except FileNotFoundError:
            raise StoreError(f"{path} is missing from {self.files.name}") from None


def _named(names: Sequence[str] | dict[str, int] | tuple[str, ...]) -> str:
    return ", ".join(names) or "none"
