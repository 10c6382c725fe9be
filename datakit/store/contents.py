"""manifest.json of a store: all files with bytes and sha256, all shards with counts, a digest over itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datakit.errors import ConfigError, StoreError
from datakit.store.files import Files, LocalFiles
from datakit.store.layout import FORMAT, MANIFEST, VERSION, File, Layout, ShardEntry, ShardPlan, StoreInfo
from datakit.store.owned import MAX_MANIFEST, inside

# By name, for readers go by names. No split has a dash, so that metadata/outcomes.parquet is of none.
_DATA = re.compile(r"data/.*\.tar|metadata/.*-.*\.parquet|arrow/.*\.arrow|lists/.*\.parquet")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A manifest as read. `digest` stands for the whole store; `files` are all but the manifest, by path."""

    name: str
    title: str
    digest: str
    layout: Layout
    splits: Mapping[str, Sequence[ShardEntry]]
    selections: tuple[str, ...]
    files: Mapping[str, File]

    @cached_property
    def counts(self) -> dict[str, int]:
        """Samples of each split."""
        return {split: sum(entry.samples for entry in shards) for split, shards in self.splits.items()}

    @cached_property
    def entries(self) -> list[ShardEntry]:
        """Those of all shards, in order."""
        return [entry for shards in self.splits.values() for entry in shards]


def is_data(path: str) -> bool:
    """Whether readers take a file of this name for a shard or a list."""
    return bool(_DATA.fullmatch(path))


def contents_json(
    info: StoreInfo,
    layout: Layout,
    splits: Mapping[str, Sequence[ShardEntry]],
    *,
    files: Mapping[str, File],
    selections: Sequence[str],
) -> dict[str, Any]:
    """The manifest, complete."""
    listed: dict[str, dict[str, Any]] = {
        split: {
            "samples": sum(entry.samples for entry in shards),
            "shards": [entry.to_json() for entry in shards],
        }
        for split, shards in splits.items()
    }
    body = {
        "format": FORMAT,
        "version": VERSION,
        "name": info.name,
        "title": info.title,
        "release": info.version,
        "samples": sum(split["samples"] for split in listed.values()),
        "splits": listed,
        "split_order": list(listed),  # keys are sorted in the file
        "selections": list(selections),
        "layout": layout.to_json(),
        "outcomes": dict(info.outcomes),
        "files": {path: {"bytes": file.bytes, "sha256": file.sha256} for path, file in files.items()},
    }
    complete: dict[str, Any] = json.loads(canonical(body))  # lists for tuples, as it will be read
    return {**complete, "digest": hashlib.sha256(canonical(body)).hexdigest()}


def canonical(value: Mapping[str, Any]) -> bytes:
    """The one way a manifest is written: any other bytes are damage."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def read_contents(root: str | os.PathLike[str]) -> Contents:
    """The manifest of the store in this folder; see `contents_of`."""
    return contents_of(LocalFiles(Path(root)))


def contents_of(files: Files) -> Contents:
    """The manifest of the store that these files are.

    Raises StoreError if there is none, any bit of it changed, or its parts say different things.
    """
    path = f"{files.name}/{MANIFEST}"
    try:
        local = files.local and files.local / MANIFEST
        if local and local.is_file() and (size := local.stat().st_size) > MAX_MANIFEST:
            raise StoreError(f"{path} has {size} bytes, {MAX_MANIFEST} at most: it is no manifest of ours")
        data = files.read(MANIFEST)
    except FileNotFoundError:
        raise StoreError(
            f"{files.name} is no store: it has no {MANIFEST}, which a build writes last"
        ) from None
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise StoreError(f"{path} is not the manifest of a datakit store")
        if value["version"] != VERSION:
            raise StoreError(f"{path} has version {value['version']}; this datakit reads version {VERSION}")
        body = {name: item for name, item in value.items() if name != "digest"}
        if canonical(value) != data or hashlib.sha256(canonical(body)).hexdigest() != value["digest"]:
            raise StoreError(f"{path} is damaged: its content does not match its own digest")
        contents = _contents(value)
        if said := _disagreement(value, contents):
            raise StoreError(f"{path} is damaged: {said}")
        return contents
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ConfigError) as problem:
        raise StoreError(f"{path} is damaged: {type(problem).__name__} {problem}") from problem


def _contents(value: Mapping[str, Any]) -> Contents:
    return Contents(
        name=value["name"],
        title=value["title"],
        digest=value["digest"],
        layout=Layout.from_json(value["layout"]),
        splits={
            split: [ShardEntry.from_json(entry) for entry in value["splits"][split]["shards"]]
            for split in value["split_order"]
        },
        selections=tuple(value["selections"]),
        files={file.path: file for file in (_file(*item) for item in value["files"].items())},
    )


def _file(path: str, value: Mapping[str, Any]) -> File:
    return File(path=str(inside(path)), bytes=int(value["bytes"]), sha256=str(value["sha256"]))


def _disagreement(value: Mapping[str, Any], contents: Contents) -> str:
    """The first thing that a manifest which matches its digest says in two ways; empty if there is none."""
    if sorted(value["splits"]) != sorted(value["split_order"]):
        return "`splits` and `split_order` name different splits"
    stored = {split: value["splits"][split]["samples"] for split in contents.splits}
    if stored != contents.counts or value["samples"] != sum(stored.values()):
        return "its numbers of samples are not the sums of its shards"
    if not contents.splits:
        return "it has no split"
    for split, shards in contents.splits.items():
        if not shards:
            return f"{split} has no shard"
        for index, entry in enumerate(shards):
            plan = ShardPlan(split=split, index=index, of=len(shards))
            paths = (plan.tar, plan.metadata, *([plan.arrow] if contents.layout.arrow else []))
            named = (entry.split, entry.index, entry.of, *(file.path for file in entry.files))
            if named != (plan.split, plan.index, plan.of, *paths):
                return f"shard {index} of {split} is not made of {', '.join(paths)}"
            if other := next((file for file in entry.files if contents.files.get(file.path) != file), None):
                return f"its shard and the list of files say different things of {other.path}"
    known = {file.path for entry in contents.entries for file in entry.files}
    known |= {f"lists/{name}.parquet" for name in contents.selections}
    if odd := sorted(known ^ {path for path in contents.files if is_data(path)}):
        return f"{odd[0]} must be in the list of files and of one shard or selection, and is not"
    return ""
