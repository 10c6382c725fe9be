"""The Arrow form of a split, as `datasets.load_from_disk` and `Dataset.from_file` map it.

IPC *streams*: Hugging Face cannot map the IPC file format. Image bytes pass through a batch at a time.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from datakit.errors import StoreError
from datakit.manifest import atomic
from datakit.store.features import IMAGE_FEATURE, IMAGE_TYPE, feature, label_feature
from datakit.store.layout import File, Layout, ShardEntry, StoreInfo

BATCH_ROWS = 100
BATCH_BYTES = 32 << 20  # of images; one batch is all that is held


class ArrowShard:
    """The open Arrow file of a shard: `add` an image for each row, in order."""

    def __init__(self, sink: _Hashed, rows: pa.Table, features: Mapping[str, Any]) -> None:
        info = json.dumps({"info": {"features": features}}, sort_keys=True)
        fields = [pa.field("image", IMAGE_TYPE), *rows.schema]
        self._schema = pa.schema(fields, metadata={"huggingface": info})
        self._rows = rows
        self._writer = pa.ipc.new_stream(sink, self._schema)
        self._waiting: list[dict[str, Any]] = []
        self._held = 0  # bytes of the images waiting
        self._written = 0  # rows
        self.sink = sink

    def add(self, name: str, image: bytes) -> None:
        self._waiting.append({"bytes": image, "path": name})
        self._held += len(image)
        if len(self._waiting) == BATCH_ROWS or self._held >= BATCH_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        if self._written != self._rows.num_rows:
            raise StoreError(f"{self._written} images came for {self._rows.num_rows} rows")

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = self._rows.slice(self._written, len(self._waiting)).combine_chunks()
        images = pa.array(self._waiting, IMAGE_TYPE)
        columns = [images, *(column.chunk(0) for column in rows.columns)]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._written += len(self._waiting)
        self._waiting, self._held = [], 0


@contextmanager
def arrow_shard(path: Path, rows: pa.Table, layout: Layout) -> Iterator[ArrowShard]:
    """A shard that appears under `path` complete or not at all; `.sink.file` describes it afterwards."""
    with atomic(path) as part, part.open("wb") as file:
        shard = ArrowShard(_Hashed(file), rows, features_of(rows.schema, layout))
        yield shard
        shard.close()


def features_of(schema: pa.Schema, layout: Layout) -> dict[str, Any]:
    """Features of the Arrow form: `image`, `key` and the published columns."""
    named = {field.name: feature(field.type) for field in schema}
    if layout.label:
        named[layout.label] = label_feature(layout.class_names)
    return {"image": IMAGE_FEATURE, **named}


def state_files(
    schema: pa.Schema, layout: Layout, info: StoreInfo, splits: Mapping[str, Sequence[ShardEntry]]
) -> dict[str, bytes]:
    """`arrow/dataset_dict.json` and, for each split, what `load_from_disk` wants beside its files."""
    described = {
        "citation": info.citation,
        "description": info.description,
        "features": features_of(schema, layout),
        "homepage": info.homepage,
        "license": " AND ".join(licence.title for licence in info.licences),
    }
    files = {"arrow/dataset_dict.json": _json({"splits": list(splits)})}
    for split, entries in splits.items():
        shards = [entry.arrow for entry in entries if entry.arrow]
        files[f"arrow/{split}/dataset_info.json"] = _json(described)
        files[f"arrow/{split}/state.json"] = _json(_state(split, shards))
    return files


def _state(split: str, shards: Sequence[File]) -> dict[str, Any]:
    digests = "".join(shard.sha256 for shard in shards)
    return {
        "_data_files": [{"filename": shard.path.rpartition("/")[2]} for shard in shards],
        # Hugging Face names its caches by this: from content, so that only equal data share them.
        "_fingerprint": hashlib.sha256(digests.encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"


class _Hashed(io.RawIOBase):
    """A file that is hashed as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._sha256.update(data)
        self._file.write(data)
        count = memoryview(data).nbytes
        self.size += count
        return count

    def file(self, path: str) -> File:
        return File(path=path, bytes=self.size, sha256=self._sha256.hexdigest())
