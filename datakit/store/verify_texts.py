"""What a store tells other tools about itself — card, Croissant, Arrow's JSON, offset indices — against what it holds.

Made anew from manifest and metadata by the code that writes it, and compared where the manifest determines it: texts
for people (titles, notes, licences) are nowhere else, so nothing is said of them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from datakit.errors import ConfigError, StoreError
from datakit.store.arrow import state_files
from datakit.store.card import front_matter, yaml_text
from datakit.store.contents import Contents
from datakit.store.croissant import croissant
from datakit.store.layout import Licence, StoreInfo
from datakit.store.metadata import LOCATION, read_metadata, read_metadata_schema
from datakit.store.verify_shard import Problem

_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


def compare_texts(root: Path, contents: Contents, bad: Container[str]) -> Iterator[Problem]:
    """bad: files that are not as written; they and what follows from them are passed over."""
    first = contents.entries[0].metadata.path
    if first in bad:
        return
    try:
        schema = read_metadata_schema(root / first).remove_metadata()
        checks = _checks(contents, schema)
    except (StoreError, ConfigError, pa.ArrowException, *_UNREADABLE):
        return  # named by the comparison of that shard
    for path, differs in checks.items():
        if path in bad or path not in contents.files:
            continue
        try:
            detail = differs((root / path).read_bytes())
        except _UNREADABLE as problem:
            detail = f"it cannot be read: {type(problem).__name__}"
        if detail:
            yield Problem(file=path, reason="pairing", detail=detail)


def _checks(contents: Contents, schema: pa.Schema) -> dict[str, Callable[[bytes], str]]:
    """File → what tells whether its bytes are of another store; empty if they are not."""
    info, layout, splits = _info(contents), contents.layout, contents.splits
    head = front_matter(info, layout, schema, splits)
    told = {name: yaml_text({name: head[name]}) for name in ("configs", "dataset_info")}
    document = json.loads(croissant(info, layout, schema, splits))
    found: dict[str, Callable[[bytes], str]] = {
        "README.md": lambda data: _card(data, told),
        "croissant.json": lambda data: _parts(data, document, ("distribution", "recordSet")),
    }
    if layout.arrow:
        columns = pa.schema([field for field in schema if field.name not in LOCATION.names])
        for path, made in state_files(columns, layout, info, splits).items():
            own = json.loads(made)
            names = ("features",) if path.endswith("dataset_info.json") else tuple(own)
            found[path] = lambda data, own=own, names=names: _parts(data, own, names)  # type: ignore[misc]
    return found


def _info(contents: Contents) -> StoreInfo:
    """What the manifest says, and words that are not compared."""
    return StoreInfo(
        name=contents.name,
        title=contents.title,
        description="-",
        homepage="-",
        creator="-",
        licences=(Licence(name="-"),),
        date_published="2000-01-01",
    )


def _card(data: bytes, told: dict[str, str]) -> str:
    # As text: the YAML of strangers is parsed by nobody here.
    head = data.decode().partition("\n---\n")[0] + "\n"
    wrong = [name for name, text in told.items() if f"\n{text}" not in head]
    return f"its {' and '.join(wrong)} are not this store's" if wrong else ""


def _parts(data: bytes, own: dict[str, Any], names: tuple[str, ...]) -> str:
    value = json.loads(data)
    wrong = [name for name in names if value.get(name) != own[name]]
    return f"its {' and '.join(wrong)} are not this store's" if wrong else ""


def compare_offsets(root: Path, contents: Contents, bad: Container[str]) -> Iterator[Problem]:
    """energon's `<shard>.tar.idx` beside shards: no part of the store, but read in its place, so they may not lie.

    Where the samples begin and the last ends: 64-bit numbers, little-endian.
    """
    for entry in contents.entries:
        path = f"{entry.tar.path}.idx"
        if not (root / path).is_file() or entry.metadata.path in bad or entry.tar.path in bad:
            continue
        try:
            data = (root / path).read_bytes()
            table = read_metadata(root / entry.metadata.path, ["offset", "size"]).to_pydict()
        except (OSError, StoreError):
            continue  # the metadata's own fault is named elsewhere
        ends = [at + size for at, size in zip(table["offset"], table["size"], strict=True)]
        if data != struct.pack(f"<{len(ends) + 1}Q", *table["offset"], *ends[-1:]):
            detail = "not the offsets of this shard; delete it, and let energon prepare the store again"
            yield Problem(file=path, reason="pairing", detail=detail)
