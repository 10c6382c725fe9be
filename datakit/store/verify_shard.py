"""One shard looked at whole: its tar, its metadata and its Arrow file side by side, sample by sample."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from datakit.errors import SampleError, StoreError
from datakit.image import Image
from datakit.store.layout import Layout, ShardEntry
from datakit.store.metadata import KEY, read_metadata
from datakit.store.tar import SampleRecord
from datakit.store.tar_reader import iter_samples


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One difference. `reason`: manifest, missing, size, digest, unlisted, unfinished, count, order, sample, image."""

    file: str
    reason: str
    detail: str
    key: str = ""


def compare_shard(root: Path, entry: ShardEntry, layout: Layout) -> Iterator[Problem]:
    """Tar, metadata and Arrow of one shard, side by side."""
    rows, detail = read_rows(root, entry, None)
    if rows is None:
        yield Problem(file=entry.metadata.path, reason="count", detail=detail)
        return
    samples, arrow, count = _samples(root, entry), _arrow(root, entry), 0
    try:
        for sample, row, mapped in itertools.zip_longest(samples, rows.to_pylist(), arrow):
            if sample is None or row is None or (entry.arrow and mapped is None):
                break
            count += 1
            yield from _sample(entry, sample, row, layout)
            if entry.arrow and mapped != (row[KEY], sample[1].get(layout.image_extension)):
                detail = "key or image is not that of the tar"
                yield Problem(file=entry.arrow.path, reason="order", detail=detail, key=row[KEY])
    except _Unreadable as problem:
        yield problem.args[0]
        return
    ended = next(samples, None) is None and next(arrow, None) is None
    if count != entry.samples or rows.num_rows != entry.samples or not ended:
        detail = f"{count} samples in all forms, {entry.samples} were written"
        yield Problem(file=entry.tar.path, reason="count", detail=detail)


def _sample(
    entry: ShardEntry, sample: tuple[SampleRecord, dict[str, bytes]], row: dict[str, Any], layout: Layout
) -> Iterator[Problem]:
    record, fields = sample
    if record.key != row[KEY]:
        yield Problem(
            file=entry.tar.path, reason="order", detail=f"{row[KEY]} in the metadata", key=record.key
        )
        return
    if (record.offset, record.size, record.xxh3) != (row["offset"], row["size"], row["xxh3"]):
        detail = "place or xxh3 is not that of the metadata"
        yield Problem(file=entry.tar.path, reason="sample", detail=detail, key=record.key)
    if tuple(fields) != layout.extensions:
        detail = f"members {', '.join(fields)}, not {', '.join(layout.extensions)}"
        yield Problem(file=entry.tar.path, reason="sample", detail=detail, key=record.key)
        return
    if detail := _disagreement(fields, row, layout):
        yield Problem(file=entry.tar.path, reason="sample", detail=detail, key=record.key)
    try:
        _ = Image(fields[layout.image_extension]).array
    except SampleError as problem:
        yield Problem(file=entry.tar.path, reason="image", detail=str(problem), key=record.key)


def _disagreement(fields: dict[str, bytes], row: dict[str, Any], layout: Layout) -> str:
    """In what the members differ from the metadata; empty if in nothing."""
    try:
        if layout.json_fields and json.loads(fields["json"]) != {
            name: row[name] for name in layout.json_fields
        }:
            return "json is not what the metadata has"
        if layout.label and int(fields["cls"]) != row[layout.label]:
            return f"cls is not the metadata's {row[layout.label]}"
        if layout.caption and fields["txt"].decode() != (row[layout.caption] or ""):
            return "txt is not the metadata's caption"
    except ValueError as problem:
        return f"a member does not parse: {problem}"
    return ""


class _Unreadable(Exception):
    """Carries the Problem that ends the reading of a shard."""


def _samples(root: Path, entry: ShardEntry) -> Iterator[tuple[SampleRecord, dict[str, bytes]]]:
    try:
        yield from iter_samples(root / entry.tar.path)
    except (StoreError, OSError) as problem:
        raise _Unreadable(Problem(file=entry.tar.path, reason="sample", detail=str(problem))) from problem


def _arrow(root: Path, entry: ShardEntry) -> Iterator[tuple[str, bytes]]:
    """(key, image) of each row of the Arrow file."""
    if entry.arrow is None:
        return
    try:
        with pa.memory_map(str(root / entry.arrow.path)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                batch.validate(full=True)
                images = batch.column("image").field("bytes")
                yield from zip(batch.column(KEY).to_pylist(), images.to_pylist(), strict=True)
    except (pa.ArrowException, OSError, KeyError) as problem:
        raise _Unreadable(Problem(file=entry.arrow.path, reason="sample", detail=str(problem))) from problem


def read_rows(root: Path, entry: ShardEntry, columns: list[str] | None) -> tuple[pa.Table | None, str]:
    """The rows, or None and why not."""
    try:
        return read_metadata(root / entry.metadata.path, columns), ""
    except StoreError as problem:
        return None, str(problem)
