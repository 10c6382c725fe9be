"""A store with its indices: what can be asked of which, and the samples behind the answers.

catalogue = open_catalogue("builds/search")              # or one index folder, also by itself
index = catalogue.index_for("text")
catalogue.image(key), catalogue.sample(key)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datakit.errors import ConfigError, did_you_mean
from datakit.index.folder import ABOUT, read_about
from datakit.index.opened import INDICES, Index, find_indices, open_index
from datakit.index.pairing import check_pairing, check_tree
from datakit.store.layout import MANIFEST
from datakit.store.lines import jsonable
from datakit.store.metadata import KEY
from datakit.store.reader import Store, open_store

ALWAYS = ("key", "vector")  # kinds of queries that every index answers
BY_ENCODER = ("image", "text")  # and those that need an encoder
HINTED = 10_000  # keys among which a near one is looked for


def open_catalogue(place: str | os.PathLike[str], name: str = "", *, trusted: bool = False) -> Catalogue:
    """The built tree, or the index folder, at `place`, with its indices; each is opened when it is first asked.

    name: the index that answers where a query names none. trusted: encoders that are programs (torchscript:<path>),
    as an index may name them, are run. Raises ConfigError where there is no index, StoreError for a damaged store.
    """
    root = Path(place)
    if (root / ABOUT).is_file():
        folders, name = {root.name: root}, root.name
        # Of a tree's own index: its store is two floors up.
        root = root.absolute().parents[1] if root.absolute().parent.name == INDICES else root
    else:
        folders = find_indices(root)
    if not folders:
        what = (
            f"holds no index: neither {ABOUT} nor {INDICES}/NAME/{ABOUT}" if root.is_dir() else "is no folder"
        )
        raise ConfigError(f"{place} {what}; datakit build recipe=search store=DIR makes one")
    if name and name not in folders:
        raise _no_index(root, name, folders)
    store = open_store(root) if (root / MANIFEST).is_file() else None
    return Catalogue(root=root, folders=folders, default=name, store=store, trusted=trusted)


class Indices(Mapping[str, Index]):
    """Indices by name, each opened and held against the store when it is first asked for; any thread may ask."""

    def __init__(self, folders: Mapping[str, Path], store: Store | None) -> None:
        self._folders, self._store = folders, store
        self._open: dict[str, Index] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Index:
        folder = self._folders[name]
        with self._lock:
            if name not in self._open:
                if self._store is not None:
                    check_tree(folder, self._store)
                index = open_index(folder)
                if self._store is not None:
                    check_pairing(index, self._store)
                self._open[name] = index
            return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)


class Catalogue:
    """See `open_catalogue`. `indices`: by name. trusted: whether encoders that are programs may run."""

    def __init__(
        self, *, root: Path, folders: Mapping[str, Path], default: str, store: Store | None, trusted: bool
    ) -> None:
        self.root, self.folders, self.default, self.trusted = root, folders, default, trusted
        self.indices: Mapping[str, Index] = Indices(folders, store)
        self._store = store

    @property
    def has_store(self) -> bool:
        return self._store is not None

    @property
    def store(self) -> Store:
        """Raises ConfigError where the index stands alone."""
        if self._store is None:
            raise ConfigError(
                f"{self.root} is an index without a store, and its images are not here; give the tree"
            )
        return self._store

    @cached_property
    def kinds(self) -> dict[str, tuple[str, ...]]:
        """Kinds of queries that each index answers, out of text, image, key, vector."""
        abouts = {name: read_about(folder) for name, folder in self.folders.items()}
        return {
            name: (*(kind for kind in BY_ENCODER if kind in about["encoders"]), *ALWAYS)
            for name, about in abouts.items()
        }

    def index_for(self, kinds: str | Collection[str], name: str = "") -> Index:
        """The index for queries of this kind, or of all these at once: text, image, key, vector.

        Without a name, the catalogue's own, else the first that answers them. Raises ConfigError that says who does.
        """
        wanted = {kinds} if isinstance(kinds, str) else set(kinds)
        named = name or self.default
        if named and named not in self.indices:
            raise _no_index(self.root, named, self.folders)
        able = [one for one, answers in self.kinds.items() if wanted <= set(answers)]
        if named in able or (able and not named):
            return self.indices[named or able[0]]
        there = "; ".join(f"{one} answers {', '.join(answers)}" for one, answers in self.kinds.items())
        who = f"the index {named}" if named else "no index here"
        missing = " and ".join(sorted(wanted - set(self.kinds[named]) if named else wanted))
        raise ConfigError(f"{who} {'does not answer' if named else 'answers'} {missing}; {there}")

    def image(self, key: str) -> bytes:
        """The encoded image of a sample, whose digest was compared. Raises ConfigError for a key that is not there."""
        split, row = self._place(key)
        encoded: bytes = self._views[split][row]["image"].encoded
        return encoded

    def sample(self, key: str) -> dict[str, Any]:
        """Every column of a sample's metadata as JSON has it, with `split`, `shard` and its place there.

        Without a store, what the index knows. Raises ConfigError for a key that is not there.
        """
        if self._store is None:
            index = self.indices[self.default or next(iter(self.indices))]
            row = index.meta.slice(int(index.rows([key])[0]), 1).to_pylist()[0]
        else:
            split, at = self._place(key)
            for entry in self._store.contents.splits[split]:
                if at < entry.samples:
                    row = self._store.metadata(entry.metadata.path).slice(at, 1).to_pylist()[0]
                    break
                at -= entry.samples
        return {name: jsonable(value) for name, value in row.items()}

    def _place(self, key: str) -> tuple[str, int]:
        """Split and row in it."""
        splits = list(self.store.splits)
        number = self._numbers.get(key, -1)
        if number < 0:
            near = did_you_mean(key, list(self._numbers)[:HINTED])
            raise ConfigError(f"{self.store.files.name} holds no sample {key}{near}")
        at = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return splits[at], number - int(self._firsts[at])

    @cached_property
    def _views(self) -> dict[str, Any]:
        return {split: self.store[split] for split in self.store.splits}

    @cached_property
    def _firsts(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Number, over all splits, of the first sample of each."""
        return np.concatenate([[0], np.cumsum(list(self.store.splits.values()))[:-1]]).astype(np.int64)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        keys = (key for view in self._views.values() for key in view.table([KEY])[KEY].to_pylist())
        return {key: number for number, key in enumerate(keys)}


def _no_index(root: Path, name: str, folders: Collection[str]) -> ConfigError:
    return ConfigError(
        f"{root} has no index {name}{did_you_mean(name, folders) or '; there are ' + ', '.join(folders)}"
    )
