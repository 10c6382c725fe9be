"""One shard of a published tree: its tar, its metadata and its Arrow file, in one pass over the images.

The metadata are the shard's commit record. They are removed first and written last, and hold the digest of every
sample and of the layout: where they are as an entry says, so are the other two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from datakit.blob import Blob
from datakit.errors import ConfigError, SampleError, StoreError
from datakit.image import EXTENSIONS, Image, format_of
from datakit.manifest import write_bytes
from datakit.store import owned
from datakit.store.arrow import ArrowShard, arrow_shard
from datakit.store.layout import File, Layout, ShardEntry, ShardPlan
from datakit.store.metadata import KEY, layout_mark, published_rows, to_parquet, with_location
from datakit.store.tar import TarWriter


def write_shard(
    root: Path,
    plan: ShardPlan,
    rows: pa.Table,
    images: Iterable[Image | Blob | bytes],
    *,
    layout: Layout,
    schema: pa.Schema | None = None,
) -> ShardEntry:
    """Write the tar, the metadata and the Arrow file of one shard, all in the order of `rows`.

    `images`: one a row, encoded, of the layout's type. `schema`: the columns' types over all shards; without
    it, those of `rows`. Same rows, same bytes. Raises ConfigError for a column that cannot be published,
    StoreError naming the sample whose image is gone, of another type, or whose value does not fit.
    """
    table = published_rows(rows, layout, schema)
    if not table.num_rows:
        raise ConfigError(f"{plan.name} would hold no sample; leave the shard out")
    owned.claim(root)
    paths = [plan.tar, plan.metadata, *([plan.arrow] if layout.arrow else [])]
    owned.note(root, paths)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / plan.metadata).unlink(missing_ok=True)
    tar, sizes, arrow = _write_samples(root, plan, table, images, layout)
    records = tar.record.records
    located = with_location(table, records, sizes, plan=plan, extension=layout.image_extension)
    metadata = to_parquet(located, layout_mark(layout))
    write_bytes(root / plan.metadata, metadata)
    return ShardEntry(
        split=plan.split,
        index=plan.index,
        of=plan.of,
        samples=tar.record.samples,
        tar=File(path=plan.tar, bytes=tar.record.bytes, sha256=tar.record.sha256 or ""),
        metadata=File(path=plan.metadata, bytes=len(metadata), sha256=_digest(metadata)),
        arrow=arrow.sink.file(plan.arrow) if arrow else None,
    )


def still_there(root: Path, entry: ShardEntry) -> bool:
    """Whether the shard is in the tree as written, not cut, and not written over by another build."""
    try:
        sizes = all((root / file.path).stat().st_size == file.bytes for file in entry.files)
        return sizes and _digest((root / entry.metadata.path).read_bytes()) == entry.metadata.sha256
    except FileNotFoundError:
        return False


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_samples(
    root: Path, plan: ShardPlan, table: pa.Table, images: Iterable[Image | Blob | bytes], layout: Layout
) -> tuple[TarWriter, list[int], ArrowShard | None]:
    """The closed tar, the bytes of each image, and the closed Arrow file if there is one."""
    with ExitStack() as stack:
        tar = stack.enter_context(TarWriter(root / plan.tar))
        arrow = None
        if layout.arrow:
            arrow = stack.enter_context(arrow_shard(root / plan.arrow, table, layout))
        sizes = [_add(tar, arrow, row, image, layout) for row, image in _paired(table, images, plan)]
    return tar, sizes, arrow


def _paired(
    table: pa.Table, images: Iterable[Image | Blob | bytes], plan: ShardPlan
) -> Iterator[tuple[dict[str, Any], Image | Blob | bytes]]:
    given = iter(images)
    for batch in table.to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            image = next(given, None)
            if image is None:
                raise StoreError(f"{plan.name}: no image for {row[KEY]}; there are fewer images than rows")
            yield row, image
    if next(given, None) is not None:
        raise StoreError(f"{plan.name}: more images than the {table.num_rows} rows")


def _add(
    tar: TarWriter,
    arrow: ArrowShard | None,
    row: dict[str, Any],
    image: Image | Blob | bytes,
    layout: Layout,
) -> int:
    """Write one sample; the bytes of its image."""
    key, extension = row[KEY], layout.image_extension
    try:
        if isinstance(image, Image):
            image = image.blob or image.encoded
        if arrow and isinstance(image, Blob):
            image = image.read()
        check_type(image, extension)
        tar.add(key, {extension: image, **members(row, layout)})
    except (SampleError, OSError, EOFError, ValueError) as problem:
        raise StoreError(f"sample {key} cannot be published: {problem}") from problem
    if arrow and isinstance(image, bytes):
        arrow.add(f"{key}.{extension}", image)
    return image.size if isinstance(image, Blob) else len(image)


def check_type(image: Blob | bytes, extension: str) -> None:
    """Raises ValueError for an image that is not of the type that `extension` names."""
    found = format_of(image.head(16) if isinstance(image, Blob) else image[:16])
    if found is None or EXTENSIONS[found] != extension:
        raise ValueError(f"its image is no {extension}; convert it before publishing")


def members(row: dict[str, Any], layout: Layout) -> dict[str, bytes]:
    """The members beside the image; the same ones for every sample, or readers drop columns.

    Raises ValueError for a value that its member cannot hold.
    """
    found = {}
    if layout.json_fields:
        # No NaN: JSON has none, and readers differ in what they make of it.
        fields = {name: row[name] for name in layout.json_fields}
        found["json"] = json.dumps(
            fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        ).encode()
    if layout.label:
        found["cls"] = str(_label(row[layout.label], layout)).encode()
    if layout.caption:
        found["txt"] = (row[layout.caption] or "").encode()
    return found


def _label(value: Any, layout: Layout) -> int:
    classes = len(layout.class_names)
    if value is None or value < -1 or (classes and value >= classes):
        raise ValueError(f"label {value} is none of 0 to {classes - 1}, nor -1 for no class")
    return int(value)
