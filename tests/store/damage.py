"""What a store becomes that somebody changed: one file rewritten, its digests made right again, what `verify` says."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datakit.image import Image
from datakit.store.contents import canonical
from datakit.store.layout import ShardPlan
from datakit.store.metadata import LOCATION, to_parquet, with_location
from datakit.store.reader import open_store
from datakit.store.sidecar import write_sidecar
from datakit.store.tar import TarWriter
from datakit.store.tar_reader import iter_samples
from datakit.store.verify import verify
from datakit.store.verify_shard import Problem

TAR = "data/train-00001-of-00003.tar"
ROWS = "metadata/train-00001-of-00003.parquet"
ARROW = "arrow/train/data-00001-of-00003.arrow"
PNG = Image.from_array(np.zeros((2, 2, 3), np.uint8)).encoded  # whole, and no jpg


def reseal(root: Path, change: Callable[[dict[str, Any]], Any] = lambda manifest: None) -> None:
    """Make the manifest vouch for the files as they are now: only a comparison of contents can tell."""
    manifest = json.loads((root / "manifest.json").read_bytes())

    def now(path: str) -> dict[str, Any]:
        data = (root / path).read_bytes()
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    manifest["files"] = {path: now(path) for path in manifest["files"]}
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            for form in ("tar", "metadata", "arrow"):
                shard[form] |= now(shard[form]["path"])
    change(manifest)
    body = {name: value for name, value in manifest.items() if name != "digest"}
    sealed = {**body, "digest": hashlib.sha256(canonical(body)).hexdigest()}
    (root / "manifest.json").write_bytes(canonical(sealed))


def problems(root: Path, deep: bool = True) -> list[Problem]:
    """But for what other tools are told of a shard, its digest for one, which no longer fits once it changed."""
    return [problem for problem in verify(root, deep=deep).problems if problem.reason != "pairing"]


def found(root: Path, deep: bool = False) -> set[tuple[str, str]]:
    return {(problem.file, problem.reason) for problem in problems(root, deep)}


def rewrite_rows(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    rows = pq.read_table(root / ROWS)
    marks = {name.decode(): value.decode() for name, value in rows.schema.metadata.items()}
    (root / ROWS).write_bytes(to_parquet(change(rows), marks))


def rewrite_arrow(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    with pa.ipc.open_stream((root / ARROW).read_bytes()) as stream:
        table = change(stream.read_all())
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (root / ARROW).write_bytes(sink.getvalue())


def with_values(table: pa.Table, name: str, change: Callable[[list[Any]], list[Any]]) -> pa.Table:
    at, field = table.column_names.index(name), table.schema.field(name)
    return table.set_column(at, field, pa.array(change(table[name].to_pylist()), field.type))


def reindex(root: Path) -> None:
    """The size of the tar in the wids index, as it is now."""
    path = root / "data" / "train.index.json"
    index = json.loads(path.read_bytes())
    index["shardlist"][1]["filesize"] = (root / TAR).stat().st_size
    path.write_text(json.dumps(index, indent=1) + "\n")


def rewrite_tar(root: Path, change: Callable[[int, dict[str, bytes]], dict[str, bytes] | None]) -> None:
    """The shard anew, and its rows' places with it, so that only what `change` did is wrong."""
    samples, sizes = list(iter_samples(root / TAR)), []
    with TarWriter(root / TAR) as tar:
        for number, (record, fields) in enumerate(samples):
            if (changed := change(number, fields)) is not None:
                tar.add(record.key, changed)
                sizes.append(len(changed["jpg"]))
    reindex(root)
    records, plan = tar.record.records, ShardPlan(split="train", index=1, of=3)
    if len(records) == len(samples):
        rewrite_rows(
            root,
            lambda rows: with_location(
                rows.drop_columns(LOCATION.names), records, sizes, plan=plan, extension="jpg"
            ),
        )


def forge(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for name in parents:
            manifest = manifest[int(name) if isinstance(manifest, list) else name]
        manifest[last] = value

    return change


def with_sidecar(root: Path, path: Path, keys: list[str] | None = None) -> None:
    """A sidecar that names the store at `root`."""
    store = open_store(root)
    keys = [key for split in store.splits for key in store[split].keys] if keys is None else keys
    write_sidecar(path, pa.table({"key": keys, "vector": list(range(len(keys)))}), store)
