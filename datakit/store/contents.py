"""manifest.json of a store: all files with bytes and sha256, all shards with counts, a digest over itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datakit.errors import StoreError
from datakit.store.layout import FORMAT, MANIFEST, VERSION, File, Layout, ShardEntry, StoreInfo
from datakit.store.owned import inside


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


def read_contents(root: Path) -> Contents:
    """The manifest of the store at `root`. Raises StoreError if there is none or any bit of it changed."""
    path = root / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{root} is no store: it has no {MANIFEST}, which a build writes last") from None
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise StoreError(f"{path} is not the manifest of a datakit store")
        if value["version"] != VERSION:
            raise StoreError(f"{path} has version {value['version']}; this datakit reads version {VERSION}")
        body = {name: item for name, item in value.items() if name != "digest"}
        if canonical(value) != data or hashlib.sha256(canonical(body)).hexdigest() != value["digest"]:
            raise StoreError(f"{path} is damaged: its content does not match its own digest")
        return _contents(value)
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
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
        files={str(inside(path)): File(path=path, **file) for path, file in value["files"].items()},
    )
