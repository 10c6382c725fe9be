"""A merged index as the files of its folder, with what is known of it in `index.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from datakit.errors import ConfigError
from datakit.index import folder
from datakit.index.arrays import Longs, longs
from datakit.index.base import stores_half
from datakit.index.build import Merged, Trained
from datakit.index.stream import matrix_bytes

KEY = "key"
LINES = 1 << 16  # keys hashed at once


def keys_digest(keys: pa.Array | pa.ChunkedArray) -> str:
    """xxh3_128 of the sorted keys, a line each: the same whatever the order of rows."""
    # Sorted by Arrow, by bytes, which of UTF-8 is the order of letters: as Python's they would need ten times the room.
    order, found = pc.sort_indices(keys), xxhash.xxh3_128()
    for start in range(0, len(order), LINES):
        lines = keys.take(order.slice(start, LINES)).to_pylist()
        found.update(("\n" * (start > 0) + "\n".join(lines)).encode())
    return found.hexdigest()


def checked_meta(meta: pa.Table, rows: int) -> pa.Table:
    """Metadata with a unique `key` for each row. Raises ConfigError naming a key that is missing or there twice."""
    if KEY not in meta.column_names:
        raise ConfigError(f"metadata needs the column {KEY}; it has {', '.join(meta.column_names)}")
    if meta.num_rows != rows:
        raise ConfigError(f"{meta.num_rows} rows of metadata came with {rows} vectors")
    keys = meta[KEY].cast(pa.string())
    if keys.null_count:
        raise ConfigError(f"{keys.null_count} rows have no {KEY}")
    counts = pc.value_counts(keys)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise ConfigError(f"key {twice[0].as_py()['values']} is there twice; keys are unique in an index")
    if folder.VECTOR in meta.column_names:
        raise ConfigError(f"metadata may have no column {folder.VECTOR}: the index keeps its vectors so")
    others = [name for name in meta.column_names if name != KEY]
    if len(set(others)) < len(others):
        raise ConfigError(f"metadata has a column twice, out of {', '.join(others)}")
    return pa.table({KEY: keys, **{name: meta[name] for name in others}})


def learned_bytes(trained: Trained, ends: Longs, held: Longs | None) -> bytes:
    """What `base.learned` reads; held: see `index_files`."""
    arrays: dict[str, Any] = {
        **trained.axes.arrays(),
        "centroids": trained.centroids,
        "means": trained.means,
        "ends": ends,
        "empty": np.frombuffer(trained.empty, np.uint8),
        "held": np.empty(0, np.int64) if held is None else longs(held),
    }
    return folder.arrays_bytes(arrays)


def base_files(
    trained: Trained, merged: Merged, meta: pa.Table, *, generation: int = 0, held: Longs | None = None
) -> tuple[dict[str, bytes], dict[str, str]]:
    """(file → bytes, part → file) of a base segment; `meta` in the order of the data. held: see `index_files`."""
    points = merged.points.astype(np.float16) if stores_half(trained.spec) else merged.points
    parts: dict[str, tuple[str, bytes]] = {
        "axes": ("npz", learned_bytes(trained, merged.ends, held)),
        "vectors": ("arrow", matrix_bytes(points)),
        "meta": ("arrow", folder.table_bytes(meta.take(pa.array(merged.order)))),
    }
    if merged.lists:
        parts["lists"] = ("faiss", merged.lists)
    if merged.graph:
        parts["graph"] = ("faiss", merged.graph)
    if merged.nested is not None:
        parts["nested"] = ("arrow", matrix_bytes(merged.nested))
    named = {part: f"{part}-{generation}.{ending}" for part, (ending, _) in parts.items()}
    return {named[part]: data for part, (_, data) in parts.items()}, named


def index_files(
    trained: Trained,
    merged: Merged,
    meta: pa.Table,
    *,
    name: str,
    encoders: Mapping[str, Mapping[str, str]] | None = None,
    pairing: Mapping[str, str] | None = None,
    tuned: Mapping[str, Any] | None = None,
    held: Longs | None = None,
    learned: int = 0,
    generation: int = 0,
) -> dict[str, bytes]:
    """All files of a new index, `index.json` among them. Raises ConfigError for metadata that do not fit.

    meta: a row for each vector, in the order of the data: `key` and what filters may ask. encoders: `image` and
    `text`, each with name and weights, as far as queries can be made so. pairing: digests of the store it stands over.
    held: rows of the merged index that nothing was learned from, for tuning it anew. learned: how many rows its lists
    were chosen for, where it is not as many as there are.
    """
    meta = checked_meta(meta, len(merged.order))
    files, named = base_files(trained, merged, meta, generation=generation, held=held)
    about = about_new(
        trained,
        meta[KEY],
        named,
        folder.described(files),
        name=name,
        encoders=encoders,
        pairing=pairing,
        tuned=tuned,
        learned=learned,
        generation=generation,
    )
    return {**files, folder.ABOUT: folder.about_bytes(about)}


def about_new(
    trained: Trained,
    keys: pa.ChunkedArray,
    base: Mapping[str, str],
    files: Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    encoders: Mapping[str, Mapping[str, str]] | None,
    pairing: Mapping[str, str] | None,
    tuned: Mapping[str, Any] | None,
    learned: int = 0,
    generation: int = 0,
) -> dict[str, Any]:
    """What `index.json` says of a new index. base: part → file; files: each, described. Others: see `index_files`."""
    return {
        "format": folder.FORMAT,
        "name": name,
        "rows": len(keys),
        "dim": trained.dim,
        "nested": trained.axes.nested,
        "spec": trained.spec.to_json(),
        "encoders": {kind: dict(one) for kind, one in (encoders or {}).items()},
        "pairing": {"keys": keys_digest(keys), **(pairing or {})},
        "base": base,
        "generation": generation,
        "learned": learned or len(keys),
        "deltas": [],
        "deleted": None,
        "search": {},
        "curve": [],
        **(tuned or {}),
        "libraries": libraries(),
        "files": files,
    }


def libraries() -> dict[str, str]:
    """The versions that can change an index's bytes."""
    from datakit.manifest import versions

    wanted = ("datakit", "faiss-cpu", "numpy", "pyarrow")
    return {name: version for name, version in versions().items() if name in wanted}
