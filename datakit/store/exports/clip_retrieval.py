"""clip-retrieval's embedding folders: numbered npy and parquet parts, of which its row numbers are made."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datakit.errors import ConfigError, StoreError
from datakit.store.exports.samples import chosen, count_unused, kept, samples, schema, used
from datakit.store.exports.target import Exported, Target, target
from datakit.store.metadata import KEY
from datakit.store.reader import SplitView, Store
from datakit.store.tar import check_key

PER_PART = 1_000_000  # rows
NO_EMBEDDING = "no_embedding"


def export_clip_retrieval(
    store: Store,
    out: Path,
    *,
    embedding: str | None,
    text_embedding: str | None = None,
    sidecar: str | None = None,
    selection: str | None = None,
    per_part: int = PER_PART,
    materialize: bool = False,
) -> Exported:
    """`<split>/img_emb/img_emb_0000.npy`, `text_emb/…`, `metadata/metadata_0000.parquet`, and indices_paths.json.

    embedding, text_embedding: columns of float vectors of one length, of the store, or of `sidecar` (see
    `store/sidecar.py`). Rows are numbered over the parts in the order of their names, hence zeros before the numbers. A
    sample that lacks a vector is left out and counted. Raises ConfigError where a column is none of vectors,
    StoreError where the sidecar is another store's.
    """
    found = chosen(store, selection)
    splits, names = used(found), [name for name in (embedding, text_embedding) if name]
    _check(found, embedding, names, sidecar)
    words = {"embedding": embedding, "text_embedding": text_embedding, "per_part": per_part}
    if sidecar is not None:
        words["sidecar"] = hashlib.sha256(Path(sidecar).read_bytes()).hexdigest()
    with target(found, out, "clip-retrieval", **words, materialize=materialize) as made:
        count_unused(found, made)
        for split in splits:
            rows, vectors = _rows(found[split], names, sidecar, made)
            if materialize:
                for row, image in samples(found[split], []):
                    made.image(_path(split, row[KEY], found), image.encoded)
            for number, start in enumerate(range(0, rows.num_rows, per_part)):
                tail = f"{number:0{_digits(rows.num_rows, per_part)}d}"
                part = slice(start, start + per_part)
                for kind, vector in zip(("img", "text"), vectors, strict=False):
                    made.file(f"{split}/{kind}_emb/{kind}_emb_{tail}.npy", _npy(vector[part]))
                path = f"{split}/metadata/metadata_{tail}.parquet"
                made.file(path, _parquet(rows.slice(start, per_part)), len(vectors[0][part]))
        made.file("indices_paths.json", _json_of(splits))
    return made.done("clip-retrieval", out, selection)


def _check(store: Store, embedding: str | None, names: Sequence[str], sidecar: str | None) -> None:
    place = sidecar or store.files.name
    if embedding is None:
        there = ", ".join(field.name for field in _schema(store, sidecar) if _is_vector(field.type))
        raise ConfigError(
            "clip-retrieval reads embeddings: give embedding=COLUMN of "
            f"{place} (float vectors there: {there or 'none'})"
            ", or sidecar=FILE, with the column `key`, and embedding=COLUMN of it"
        )
    found = _schema(store, sidecar)
    for name in names:
        if name not in found.names:
            raise ConfigError(f"{place} has no column {name}; embed it, or give sidecar=FILE")
        if not _is_vector(found.field(name).type):
            raise ConfigError(f"{name} is {found.field(name).type}, not a vector of floats")


def _schema(store: Store, sidecar: str | None) -> pa.Schema:
    if sidecar is None:
        return schema(store)
    view = store[next(iter(store.splits))].zip(sidecar)
    return pa.schema([(name, column.type) for name, column in view.columns_beside.items()])


def _is_vector(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def _digits(rows: int, per_part: int) -> int:
    """At least four, as clip-retrieval has; as many as the last part needs, so that names sort as numbers."""
    return max(4, len(str((rows - 1) // per_part)))


def _path(split: str, key: str, store: Store) -> str:
    check_key(key)
    return str(PurePosixPath("images", split, f"{key}.{store.layout.image_extension}"))


def _rows(
    view: SplitView, names: Sequence[str], sidecar: str | None, made: Target
) -> tuple[pa.Table, list[NDArray[Any]]]:
    """What is known of the samples that have all vectors, and these, float32 or float16 (rows, dim)."""
    store = view.store
    view = view.zip(sidecar, columns=names) if sidecar else view
    wanted = [KEY, *dict.fromkeys([*([store.layout.caption] if store.layout.caption else []), *kept(view)])]
    table = view.table(wanted)
    columns = [view.table([name])[name] for name in names]
    there = pc.and_kleene(pc.is_valid(columns[0]), pc.is_valid(columns[-1]))
    if lacking := len(table) - int(pc.sum(there).as_py() or 0):
        made.skipped[NO_EMBEDDING] += lacking
    table = table.filter(there)
    paths = pa.array([_path(view.split, key, store) for key in table[KEY].to_pylist()], pa.string())
    table = table.add_column(0, "image_path", paths)
    renames = {store.layout.caption or "": "caption", "source_url": "url"}
    table = table.rename_columns([renames.get(name, name) for name in table.column_names])
    return table, [_matrix(name, column.filter(there)) for name, column in zip(names, columns, strict=True)]


def _matrix(name: str, column: pa.ChunkedArray) -> NDArray[Any]:
    array = column.combine_chunks()
    lengths = pc.unique(pc.list_value_length(array)).to_pylist()
    values = array.flatten()
    if len(lengths) > 1 or values.null_count:
        raise StoreError(
            f"{name}: vectors of {sorted(lengths)} numbers, or with nulls; an index needs one length"
        )
    return np.asarray(values).reshape(len(array), lengths[0] if lengths else 0)


def _npy(vectors: NDArray[Any]) -> bytes:
    sink = io.BytesIO()
    # float64 helps no index, and its readers want 32 or 16 bits.
    small = vectors.astype(np.float32) if vectors.dtype == np.float64 else vectors
    np.save(sink, np.ascontiguousarray(small), allow_pickle=False)
    return sink.getvalue()


def _parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(None).combine_chunks(), sink, compression="zstd")
    return sink.getvalue()


def _json_of(splits: Sequence[str]) -> bytes:
    return json.dumps({split: split for split in splits}, indent=1).encode() + b"\n"
