"""One shard looked at whole: its metadata against its tar, sample by sample, and against its Arrow file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from datakit.errors import ConfigError, SampleError, StoreError
from datakit.image import Image
from datakit.store.arrow import features_of
from datakit.store.features import IMAGE_TYPE
from datakit.store.layout import Layout, ShardEntry, ShardPlan
from datakit.store.metadata import KEY, LOCATION, is_marked, location, read_metadata
from datakit.store.shard import check_type, members
from datakit.store.tar import SampleRecord
from datakit.store.tar_reader import iter_samples

# What pyarrow raises on files that no writer of ours made, and conversions to Python on values out of range.
_UNFIT = (
    OSError,
    pa.ArrowException,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    ConfigError,
    RecursionError,
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One difference.

    `reason`: manifest, missing, size, digest, unlisted, unfinished, count, order, sample, image, or pairing: a file
    that is of another store.
    """

    file: str
    reason: str
    detail: str
    key: str = ""


def compare_shard(root: Path, entry: ShardEntry, layout: Layout, bad: Container[str]) -> Iterator[Problem]:
    """Tar and Arrow file of one shard against its metadata.

    bad: files that are not as written. pyarrow parses none of them; our own reader of tars does, and names the
    samples that are damaged.
    """
    path = entry.metadata.path
    if path in bad:
        return
    in_tar = [name for name in (layout.label, layout.caption, *layout.json_fields) if name]
    try:
        rows = read_metadata(root / path)
        plain = rows.select(dict.fromkeys([KEY, *LOCATION.names, *in_tar])).to_pylist()
    except (StoreError, *_UNFIT) as problem:
        yield Problem(file=path, reason="sample", detail=str(problem))
        return
    if not is_marked(rows.schema, layout):
        detail = "written with another layout than the manifest's"
        yield Problem(file=path, reason="manifest", detail=detail)
    images: list[str] = []
    yield from _tar(root, entry, plain, layout, images)
    if entry.arrow and entry.arrow.path not in bad:
        yield from _arrow(root, entry.arrow.path, rows, layout, images)


def _tar(
    root: Path, entry: ShardEntry, rows: Sequence[dict[str, Any]], layout: Layout, images: list[str]
) -> Iterator[Problem]:
    """images: takes the digest of each image, in order."""
    path, skipped = entry.tar.path, Counter[str]()
    try:
        for index, sample in enumerate(iter_samples(root / path, skipped=skipped)):
            images.append(_digest(sample[1].get(layout.image_extension)))
            if index < len(rows):
                yield from _sample(entry, index, sample, rows[index], layout)
    except (StoreError, OSError) as problem:
        yield Problem(file=path, reason="sample", detail=str(problem))
        return
    if len(images) != entry.samples:
        detail = f"{len(images)} samples, {entry.samples} were written"
        yield Problem(file=path, reason="count", detail=detail)
    if skipped:
        yield Problem(
            file=path, reason="sample", detail=f"members of no sample: {', '.join(sorted(skipped))}"
        )


def _sample(
    entry: ShardEntry,
    index: int,
    sample: tuple[SampleRecord, dict[str, bytes]],
    row: dict[str, Any],
    layout: Layout,
) -> Iterator[Problem]:
    record, fields = sample
    path, key, extension = entry.tar.path, record.key, layout.image_extension
    if key != row[KEY]:
        yield Problem(file=path, reason="order", detail=f"{row[KEY]} in the metadata", key=key)
        return
    if tuple(fields) != layout.extensions:
        detail = f"members {', '.join(fields)}, not {', '.join(layout.extensions)}"
        yield Problem(file=path, reason="sample", detail=detail, key=key)
        return
    plan = ShardPlan(split=entry.split, index=entry.index, of=entry.of)
    place = location(record, len(fields[extension]), index, plan=plan, extension=extension)
    if wrong := [name for name, value in place.items() if row[name] != value]:
        detail = f"{', '.join(wrong)} not as in the metadata"
        yield Problem(file=path, reason="sample", detail=detail, key=key)
    if detail := _disagreement(fields, row, layout):
        yield Problem(file=path, reason="sample", detail=detail, key=key)
    try:
        check_type(fields[extension], extension)
        _ = Image(fields[extension]).array
    except (SampleError, ValueError) as problem:
        yield Problem(file=path, reason="image", detail=str(problem), key=key)


def _disagreement(fields: dict[str, bytes], row: dict[str, Any], layout: Layout) -> str:
    """Which members are not, byte for byte, those that the metadata make; empty if none."""
    try:
        wanted = members(row, layout)
    except (ValueError, TypeError, AttributeError, RecursionError) as problem:
        return f"the metadata make no members: {problem}"
    wrong = [name for name, data in wanted.items() if fields[name] != data]
    return f"{', '.join(wrong)} not as the metadata make it" if wrong else ""


def _arrow(root: Path, path: str, rows: pa.Table, layout: Layout, images: Sequence[str]) -> Iterator[Problem]:
    """images: digests of those in the tar, as far as it could be read."""
    at = 0
    try:
        with pa.memory_map(str(root / path)) as source, pa.ipc.open_stream(source) as stream:
            if not _is_described(stream.schema, rows.schema, layout):
                detail = "its columns and features are not those of the metadata and the layout"
                yield Problem(file=path, reason="sample", detail=detail)
                return
            for batch in stream:
                batch.validate(full=True)
                end = at + batch.num_rows
                yield from _batch(path, batch, rows.slice(at, batch.num_rows), images[at:end])
                at = end
    except _UNFIT as problem:
        yield Problem(file=path, reason="sample", detail=str(problem))
        return
    if at != rows.num_rows:
        yield Problem(file=path, reason="count", detail=f"{at} rows, {rows.num_rows} in the metadata")


def _is_described(found: pa.Schema, metadata: pa.Schema, layout: Layout) -> bool:
    columns = pa.schema([field for field in metadata if field.name not in LOCATION.names])
    features = json.loads((found.metadata or {})[b"huggingface"])["info"]["features"]
    same = found.equals(pa.schema([pa.field("image", IMAGE_TYPE), *columns]))
    return same and bool(features == features_of(columns, layout))


def _batch(path: str, batch: pa.RecordBatch, rows: pa.Table, images: Sequence[str]) -> Iterator[Problem]:
    """One problem for each row that differs in any column."""
    found = pa.Table.from_batches([batch.slice(0, rows.num_rows)])
    wrong: dict[int, list[str]] = {}
    for name in found.column_names[1:]:
        if not found[name].equals(rows[name]):
            # As text, where a NaN is like another.
            for index in _differing(map(repr, found[name].to_pylist()), map(repr, rows[name].to_pylist())):
                wrong.setdefault(index, []).append(name)
    named = [image and image["path"] for image in found["image"].to_pylist()]
    given = [_digest(image and image["bytes"]) for image in found["image"].to_pylist()]
    different = {*_differing(named, rows["file_name"].to_pylist()), *_differing(given, images)}
    for index in different:
        wrong.setdefault(index, []).append("image")
    keys = rows[KEY].to_pylist()
    for index, columns in sorted(wrong.items()):
        reason = "order" if KEY in columns else "sample"
        detail = f"{', '.join(columns)} not as in metadata and tar"
        yield Problem(file=path, reason=reason, detail=detail, key=keys[index])


def _differing(some: Iterable[Any], others: Iterable[Any]) -> list[int]:
    """Where they differ, as far as both go."""
    return [index for index, (one, other) in enumerate(zip(some, others, strict=False)) if one != other]


def _digest(image: bytes | None) -> str:
    return str(xxhash.xxh3_128_hexdigest(image or b""))
