"""The published tree: shards by `write_shard`, in any order, on any worker; everything else by `finish_tree`.

The manifest is written last and lists every file: no manifest, no store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import ConfigError, StoreError
from datakit.manifest import atomic, write_bytes
from datakit.store import owned
from datakit.store.arrow import state_files
from datakit.store.card import card
from datakit.store.contents import canonical, contents_json, is_data
from datakit.store.croissant import croissant
from datakit.store.layout import (
    MANIFEST,
    File,
    Layout,
    Licence,
    ShardEntry,
    ShardPlan,
    StoreInfo,
    shard_name,
)
from datakit.store.licences import licence_text
from datakit.store.metadata import (
    KEY,
    LOCATION,
    is_marked,
    published_rows,
    read_metadata,
    read_metadata_schema,
    to_parquet,
)
from datakit.store.owned import claim
from datakit.store.shard import still_there, write_shard
from datakit.store.wids import wids_index

__all__ = [
    "Layout",
    "Licence",
    "ShardEntry",
    "ShardPlan",
    "StoreInfo",
    "claim",
    "finish_tree",
    "shard_name",
    "still_there",
    "write_shard",
]

CHUNK = 1 << 20  # bytes


def finish_tree(
    root: Path,
    *,
    entries: Sequence[ShardEntry],
    layout: Layout,
    info: StoreInfo,
    recipe: str = "",
    provenance: Mapping[str, Any] | None = None,
    selections: Mapping[str, pa.Table] | None = None,
    extra_files: Mapping[str, bytes | Path] | None = None,
) -> dict[str, Any]:
    """Write all that is not a shard, delete what an earlier tree left, write manifest.json, and return it.

    entries: those of all shards; splits appear in the order of their first entry. selections: name → table
    with `key` and `split` among its columns, published as `lists/<name>.parquet`. extra_files: path in the
    tree → bytes, or a file to copy. Raises StoreError where shards are missing, a key comes twice or types
    differ.
    """
    claim(root)
    splits = _splits(entries)
    if lost := next((entry for entry in entries if not still_there(root, entry)), None):
        raise StoreError(
            f"{lost.tar.path} or what belongs to it changed since it was written; write it again"
        )
    schema, keys = _one_schema(root, entries, layout), _unique_keys(root, entries)
    made = _described(info, layout, schema, splits, sorted(selections or {}))
    made |= {"recipe.yaml": recipe.encode()} if recipe else {}
    made |= {"provenance.json": canonical(provenance)} if provenance is not None else {}
    for name, table in (selections or {}).items():
        made[str(owned.inside(f"lists/{name}.parquet"))] = selection_parquet(name, table, keys)
    wanted = {**made, **_extra(extra_files or {}, made)}
    owned.note(root, wanted)
    written = [_write(root, path, content) for path, content in wanted.items()]
    files = {file.path: file for entry in entries for file in entry.files}
    files |= {file.path: file for file in written}
    owned.sweep(root, files)
    manifest = contents_json(info, layout, splits, files=files, selections=sorted(selections or {}))
    write_bytes(root / MANIFEST, canonical(manifest))
    owned.settle(root)
    return manifest


def selection_parquet(name: str, table: pa.Table, keys: pa.ChunkedArray) -> bytes:
    """A list of keys with its own splits and labels. Raises StoreError for a key unknown, or there twice."""
    if missing := next((column for column in (KEY, "split") if column not in table.column_names), None):
        raise ConfigError(f"the selection {name} lacks the column {missing}")
    listed = table[KEY].cast(pa.string())
    unknown = listed.filter(pc.invert(pc.is_in(listed, value_set=keys)))
    if len(unknown):
        raise StoreError(f"the selection {name} names {unknown[0]}, which no shard holds")
    if pc.count_distinct(listed).as_py() != len(listed):
        raise StoreError(f"the selection {name} names a key twice")
    plain = published_rows(table.drop_columns("split"), Layout())
    split = pa.array(table["split"].to_pylist(), pa.string())
    return to_parquet(plain.add_column(1, "split", split))


def _described(
    info: StoreInfo,
    layout: Layout,
    schema: pa.Schema,
    splits: Mapping[str, Sequence[ShardEntry]],
    selections: Sequence[str],
) -> dict[str, bytes | Path]:
    files: dict[str, bytes | Path] = {
        "README.md": card(info, layout, schema, splits, selections).encode(),
        "LICENSE": licence_text(info).encode(),
        "croissant.json": croissant(info, layout, schema, splits),
        **{
            f"data/{split}.index.json": wids_index(info.name, split, shards)
            for split, shards in splits.items()
        },
    }
    if layout.arrow:
        columns = pa.schema([field for field in schema if field.name not in LOCATION.names])
        files |= state_files(columns, layout, info, splits)
    return files


def _splits(entries: Sequence[ShardEntry]) -> dict[str, list[ShardEntry]]:
    """Split → its shards in order, each there once."""
    splits: dict[str, list[ShardEntry]] = {}
    for entry in entries:
        splits.setdefault(entry.split, []).append(entry)
    if not splits:
        raise ConfigError("there is no shard to publish")
    for split, shards in splits.items():
        shards.sort(key=lambda entry: entry.index)
        if [(entry.index, entry.of) for entry in shards] != [
            (index, len(shards)) for index in range(len(shards))
        ]:
            there = ", ".join(str(entry.index) for entry in shards)
            raise StoreError(f"{split}: shards {there} of {shards[0].of} do not make a whole split")
    return splits


def _extra(files: Mapping[str, bytes | Path], made: Container[str]) -> dict[str, bytes | Path]:
    """The files under their plain paths, checked before any is noted: a wrong one would stop every later build."""
    named = {str(owned.inside(path)): content for path, content in files.items()}
    if taken := next((path for path in named if path == MANIFEST or path in made or is_data(path)), None):
        raise ConfigError(f"{taken} is the store's own; give the file another name")
    return named


def _one_schema(root: Path, entries: Sequence[ShardEntry], layout: Layout) -> pa.Schema:
    """The schema of all shards' metadata; readers take that of the first for all."""
    paths = [entry.metadata.path for entry in entries]
    first = read_metadata_schema(root / paths[0])
    for path in paths:
        found = read_metadata_schema(root / path)
        if not is_marked(found, layout):
            raise StoreError(f"{path} was written with another layout; write the shard again with this one")
        if not found.equals(first):
            other = next((field for field in found if field not in list(first)), None)
            what = f"{other.name} is {other.type}" if other else "the order of columns"
            raise StoreError(
                f"{path}: {what}, unlike in {paths[0]}; give write_shard the `schema` of all shards"
            )
    return first.remove_metadata()


def _unique_keys(root: Path, entries: Sequence[ShardEntry]) -> pa.ChunkedArray:
    keys = pa.concat_tables(read_metadata(root / entry.metadata.path, [KEY]) for entry in entries)[KEY]
    counts = pc.value_counts(keys)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        # energon refuses a key that comes back anywhere in a data set, and a join on keys multiplies rows.
        found = twice[0].as_py()
        raise StoreError(
            f"key {found['values']} is there {found['counts']} times; keys are unique in a store"
        )
    return keys


def _write(root: Path, path: str, content: bytes | Path) -> File:
    target = root / path
    if isinstance(content, bytes):
        write_bytes(target, content)
        return File(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    sha256, size = hashlib.sha256(), 0
    with content.open("rb") as source, atomic(target) as part, part.open("wb") as copy:
        while chunk := source.read(CHUNK):
            sha256.update(chunk)
            size += copy.write(chunk)
    return File(path=path, bytes=size, sha256=sha256.hexdigest())
