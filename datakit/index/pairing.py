"""Whether an index and a store are of one make: row by row they must speak of the same samples.

An index keeps, as its `pairing`, digests of what it was built over. Any of these that it has is held against the store:

    keys      of the sorted keys, a line each
    samples   of the sorted keys, each with the xxh3 of its sample: the same keys over other images or labels differ
    store     the store's own digest, which stands for every byte of it; where it is kept, it alone decides
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from datakit.errors import StoreError
from datakit.index.folder import ABOUT
from datakit.index.opened import INDICES, Index
from datakit.index.pack import keys_digest
from datakit.store.metadata import KEY
from datakit.store.reader import Store

PAIRING = "pairing"  # in index.json


def store_pairing(store: Store, *, whole: bool = False) -> dict[str, str]:
    """What an index over all samples of this store keeps of it; whole: also the store's own digest."""
    rows = _rows(store)
    found = {"keys": keys_digest(rows[KEY]), "samples": samples_digest(rows)}
    return {**found, "store": store.digest} if whole else found


def samples_digest(rows: pa.Table) -> str:
    """xxh3_128 of the sorted lines `key xxh3`, of the columns `key` and `xxh3`."""
    lines = sorted(map(" ".join, zip(rows[KEY].to_pylist(), rows["xxh3"].to_pylist(), strict=True)))
    return xxhash.xxh3_128_hexdigest("\n".join(lines).encode())


def check_tree(folder: Path, store: Store) -> None:
    """Raises StoreError where an index in the tree of a store is not the one that the tree's manifest lists: of another
    build it would name the same keys over other vectors. `index.json` holds the digests of the index's other files.
    """
    noted = store.contents.files.get(f"{INDICES}/{folder.name}/{ABOUT}")
    if noted is None:
        return  # put there since; its pairing decides
    path = folder / ABOUT
    if hashlib.sha256(path.read_bytes()).hexdigest() != noted.sha256:
        raise StoreError(
            f"{path} is not the one that {store.files.name} was published with: its sha256 differs; build it again"
        )


def check_pairing(index: Index, store: Store) -> None:
    """Raises StoreError naming both, and what differs, where `index` was not built over this store."""
    kept: Mapping[str, str] = index.about.get(PAIRING) or {}
    if not {"keys", "store"} & kept.keys():
        raise _differs(index, store, "it does not say what it was built over")
    if "store" in kept:
        if kept["store"] != store.digest:
            raise _differs(
                index, store, f"it is of the store {kept['store'][:12]}…, not {store.digest[:12]}…"
            )
        return
    rows = _rows(store)
    if kept["keys"] != (here := keys_digest(rows[KEY])):
        raise _differs(index, store, f"{_missing(index, rows)} (keys {kept['keys'][:12]}…, not {here[:12]}…)")
    if "samples" in kept and kept["samples"] != samples_digest(rows):
        raise _differs(index, store, "of the same keys, other images or labels")
    if _strangers(index, rows).any():
        raise _differs(index, store, _missing(index, rows))


def _rows(store: Store) -> pa.Table:
    tables = [store.metadata(entry.metadata.path, [KEY, "xxh3"]) for entry in store.contents.entries]
    none = pa.table({KEY: pa.array([], pa.string()), "xxh3": pa.array([], pa.string())})
    return pa.concat_tables(tables) if tables else none


def _strangers(index: Index, rows: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Live rows of the index whose key the store does not hold."""
    known = np.asarray(pc.is_in(index.keys.cast(pa.string()), value_set=rows[KEY].cast(pa.string())))
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = index.live & ~known
    return found


def _missing(index: Index, rows: pa.Table) -> str:
    strange = np.flatnonzero(_strangers(index, rows))
    if len(strange):
        first = index.keys[int(strange[0])].as_py()
        return f"{len(strange)} of its {len(index)} keys are not in the store, the first {first}"
    return f"the store holds {rows.num_rows} keys and it has {len(index)} of them"


def _differs(index: Index, store: Store, how: str) -> StoreError:
    return StoreError(
        f"the index {index.path} does not belong to the store {store.files.name}: {how}; build it again over this one"
    )
