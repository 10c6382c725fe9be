"""A catalog's content as one Arrow table: what a plan stands on, and what its first step reads.

The checksum is over names, fields, the xxh3 of every image's bytes and its place below the images' common folder:
the same data elsewhere has the same checksum, and no step outlives a change of what it points at. Digests are kept
by (path, size, mtime), so that a second look costs a stat.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from datakit import catalog as catalogs
from datakit.blob import Blob
from datakit.catalog import Catalog
from datakit.errors import CatalogError, did_you_mean
from datakit.manifest import write_bytes, write_json
from datakit.recipe import CatalogUse
from datakit.sources.entry import FIRST, Entry, Problem
from datakit.store.columns import columns_of
from datakit.store.listing import PROBLEMS, Listing
from datakit.store.rows import LISTINGS, Roots, write_table
from datakit.store.source_copy import local_copy
from datakit.store.urls import is_url

KEY = re.compile(r"[a-z0-9_-]{1,64}")
# No names of files on Windows, whatever their ending; and what a shell's `*` makes an option.
_UNFIT = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]|-.*")
_MEMORY = ".digests.json"
BLOCK = 64  # images that a thread digests at a time: one costs less than to hand it over
SLUG = 47  # characters of a key that are for people; 16 hex digits of a hash make it unique


def key_of(name: str) -> str:
    """A key by the grammar `[a-z0-9_-]{1,64}`: the name itself where it obeys, else a slug of it and a hash of it.

    The hash is over the name as found, so two names that differ only in case, dots or script stay two keys.
    """
    if KEY.fullmatch(name) and not _UNFIT.fullmatch(name):
        return name
    stem = name.rpartition(".")[0] or name
    slug = re.sub(r"[^a-z0-9_]+", "-", stem.lower()).strip("-")[-SLUG:].strip("-") or "x"
    return f"{slug}-{xxhash.xxh3_64_hexdigest(name.encode('utf-8', 'surrogateescape'))}"


def scan(use: CatalogUse, folder: Path) -> Listing:
    """Read the catalog through its reader and write its listing to `folder`. Raises CatalogError, ConfigError."""
    catalog = catalogs.load(use.name)
    root = local_copy(use.source) if is_url(use.source) else catalogs.root_of(use, catalog)
    reader = _reader(catalog)
    _check_options(catalog, reader)
    entries, problems = _collect(reader.scan(root, **catalogs.options(use, catalog)), catalog, use)
    entries, small = _without_small_classes(entries, catalog)
    problems += small
    if not entries:
        raise CatalogError(_nothing(catalog, use, problems))
    base = _common_folder(entries)
    blobs = _at_rest([entry.data for _, _, entry in entries], folder / f"{_use_digest(use)}.bytes")
    stamps = {path: _stamp(path) for path in {blob.path for blob in blobs}}
    rows = _rows(entries, catalog, blobs, _digests(blobs, stamps, folder / f"{_use_digest(use)}{_MEMORY}"))
    ours = {LISTINGS: str(folder)}
    checksum = _checksum(rows, problems, catalog.per_shard, Roots(ours | {"@": base}))
    listing = Listing(
        use=use,
        catalog=catalog,
        checksum=checksum,
        root=base,
        folder=folder,
        samples=len(rows),
        stamps=stamps,
    )
    if not listing.path.exists():
        roots = Roots(ours | {listing.token: base})
        problem_rows = [
            {"name": p.name, "reason": p.reason, "detail": p.detail, "dropped": p.dropped} for p in problems
        ]
        write_table(listing.problems, pa.Table.from_pylist(problem_rows, schema=PROBLEMS))
        write_table(listing.path, columns_of(rows, roots))
    return listing


def _reader(catalog: Catalog) -> Any:
    if not catalog.reader.isidentifier():
        raise CatalogError(f"catalog {catalog.name}: reader {catalog.reader!r} is no name of a reader")
    try:
        reader = importlib.import_module(f"datakit.sources.{catalog.reader}")
        if not hasattr(reader, "scan"):
            raise CatalogError(f"catalog {catalog.name}: {catalog.reader} is no reader")
        return reader
    except ModuleNotFoundError as problem:
        if problem.name != f"datakit.sources.{catalog.reader}":
            raise
        raise CatalogError(f"catalog {catalog.name}: there is no reader {catalog.reader}") from problem


def _check_options(catalog: Catalog, reader: Any) -> None:
    """Raise CatalogError where an option of the TOML is none of the reader's keywords, or of another type."""
    known = {
        name: keyword.default
        for name, keyword in inspect.signature(reader.scan).parameters.items()
        if keyword.kind is keyword.KEYWORD_ONLY
    }
    for name, value in catalog.options.items():
        where = f"catalog {catalog.name}: options.{name}"
        if name not in known:
            hint = did_you_mean(name, known) or f"; it has {', '.join(known) or 'none'}"
            raise CatalogError(f"{where} is no option of the reader {catalog.reader}{hint}")
        wanted = list if isinstance(known[name], tuple) else type(known[name])
        if type(value) is not wanted:
            raise CatalogError(f"{where} is {value!r}: must be of type {wanted.__name__}")


def _collect(
    found: Iterator[Entry | Problem], catalog: Catalog, use: CatalogUse
) -> tuple[list[tuple[str, str, Entry]], list[Problem]]:
    """(key, pool, entry) of every usable entry, sorted by name, and what was not usable, with reasons."""
    entries: dict[str, tuple[str, str, Entry]] = {}
    problems: list[Problem] = []
    for item in found:
        if isinstance(item, Problem):
            problems.append(item)
            continue
        # A further catalog may hold names that the main one holds too; its keys are told apart by its pool.
        key = key_of(f"{use.pool}:{item.name}" if use.pool else item.name)
        pool = use.pool or catalog.pool_of(item.fields)
        if key in entries:
            detail = f"the name {item.name!r} comes twice; the first is kept"
            problems.append(Problem(name=item.name, reason="duplicate_key", detail=detail))
        elif pool is None:
            detail = f"in none of the pools {', '.join(catalog.pools)}"
            problems.append(Problem(name=item.name, reason="no_pool", detail=detail, dropped=True))
        else:
            entries[key] = (key, pool, item)
    return sorted(entries.values(), key=lambda entry: entry[2].name), problems


def _without_small_classes(
    entries: list[tuple[str, str, Entry]], catalog: Catalog
) -> tuple[list[tuple[str, str, Entry]], list[Problem]]:
    """Entries whose class has the `min_images` of its pool; the others as problems of policy."""
    counts = Counter((pool, entry.fields.get("class_name")) for _, pool, entry in entries)
    kept: list[tuple[str, str, Entry]] = []
    small: list[Problem] = []
    for key, pool, entry in entries:
        least = catalog.pools[pool].min_images if pool in catalog.pools else 1
        have = counts[pool, entry.fields.get("class_name")]
        if have >= least:
            kept.append((key, pool, entry))
            continue
        detail = f"class {entry.fields.get('class_name')} has {have} images, the pool {pool} asks for {least}"
        small.append(Problem(name=entry.name, reason="small_class", detail=detail, dropped=True))
    return kept, small


def _nothing(catalog: Catalog, use: CatalogUse, problems: Sequence[Problem]) -> str:
    seen = (
        f"; {len(problems)} problems, the first: {problems[0].name}: {problems[0].reason}" if problems else ""
    )
    return f"catalog {catalog.name} found no image at {use.source or 'its place'}{seen}"


def _common_folder(entries: Sequence[tuple[str, str, Entry]]) -> str:
    paths = {entry.data.path for _, _, entry in entries if isinstance(entry.data, Blob)}
    return os.path.commonpath({os.path.dirname(path) for path in paths}) if paths else ""  # noqa: PTH120


def _rows(
    entries: Sequence[tuple[str, str, Entry]],
    catalog: Catalog,
    blobs: Sequence[Blob],
    contents: Sequence[str],
) -> list[dict[str, Any]]:
    return [
        {
            "__key__": key,
            "name": entry.name,
            "image": blob,
            "catalog": catalog.name,
            "pool": pool,
            "content": content,
        }
        | {name: value for name, value in entry.fields.items() if name not in FIRST}
        for (key, pool, entry), blob, content in zip(entries, blobs, contents, strict=True)
    ]


def _at_rest(data: Sequence[Blob | bytes], path: Path) -> list[Blob]:
    """Blobs as they are; bytes that have no file of their own are laid into one."""
    inline = b"".join(item for item in data if isinstance(item, bytes))
    if inline:
        # Named by content: an older listing's places stay valid.
        path = path.with_name(f"{xxhash.xxh3_64_hexdigest(inline)}.bytes")
        write_bytes(path, inline)
    blobs, offset = [], 0
    for item in data:
        blobs.append(Blob(str(path), offset, len(item)) if isinstance(item, bytes) else item)
        offset += len(item) if isinstance(item, bytes) else 0
    return blobs


def changed_since(listing: Listing) -> str:
    """A file of images that is no longer the one that was scanned; empty if there is none."""
    return next((path for path in sorted(listing.stamps) if _stamp(path) != listing.stamps[path]), "")


def forget(folder: Path) -> None:
    """Digest everything anew at the next scan: a file changed and kept its size and its time."""
    for memory in folder.glob(f"*{_MEMORY}"):
        memory.unlink(missing_ok=True)


def _digests(blobs: Sequence[Blob], stamps: Mapping[str, str], memory: Path) -> list[str]:
    """xxh3-128 of each blob's bytes, "" where they cannot be read (the intake says why)."""
    known = _remembered(memory)
    names = [f"{blob.path}:{blob.offset}:{blob.size}:{stamps[blob.path]}" for blob in blobs]
    missing = [(name, blob) for name, blob in zip(names, blobs, strict=True) if name not in known]
    with ThreadPoolExecutor() as pool:
        blocks = [missing[first : first + BLOCK] for first in range(0, len(missing), BLOCK)]
        for fresh in pool.map(_digests_of, blocks):
            known.update(fresh)
    if missing:
        # What could not be read is tried again: leave to read it changes neither its size nor its time.
        write_json(memory, {name: known[name] for name in sorted(set(names)) if known[name]})
    return [known[name] for name in names]


def _remembered(memory: Path) -> dict[str, str]:
    try:
        return dict(json.loads(memory.read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}


def _stamp(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116 (pathlib: 3x the time)
    except OSError:
        return "gone"
    return f"{found.st_size}:{found.st_mtime_ns}"


def _digests_of(block: Sequence[tuple[str, Blob]]) -> dict[str, str]:
    return {name: _digest(blob) for name, blob in block}


def _digest(blob: Blob) -> str:
    try:
        return xxhash.xxh3_128_hexdigest(blob.read())
    except (OSError, EOFError):
        return ""


def _use_digest(use: CatalogUse) -> str:
    return hashlib.blake2b(use.id.encode(), digest_size=8).hexdigest()


def _checksum(
    rows: Sequence[Mapping[str, Any]], problems: Sequence[Problem], per_shard: int, roots: Roots
) -> str:
    """32 hex digits over everything but where the roots are; how rows are cut into shards is part of it."""
    digest = hashlib.blake2b(str(per_shard).encode(), digest_size=16)
    for row in rows:
        plain = {**row, "image": roots.place(row["image"])}
        digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
    for problem in problems:
        digest.update(f"{problem.name}\x1f{problem.reason}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
