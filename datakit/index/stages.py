"""The index as a step: a reduce whose result is files, over a column of vectors; and the filter that chooses rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.errors import ConfigError, StageError
from datakit.index.files_in import matrix_of
from datakit.index.folder import ABOUT, vector_column
from datakit.index.make import make_index
from datakit.index.opened import Index, open_index
from datakit.index.pack import KEY
from datakit.index.spec import Space, Spec, variant
from datakit.index.where import matches
from datakit.models import encoder as images
from datakit.models import text as texts
from datakit.stage import Drop, Files, Ref, Rows, Sample, batch_stage, reduce

# What a build measures of pixels, and what it keeps for itself: nobody asks for images by these.
UNASKED = frozenset(
    {"content", "phash", "phash_flip", "mean_rgb", "changes", "pixels", "image", "key", KEY, "__key__"}
)


@reduce(version=1)
def rows_where(rows: Rows, *, where: str) -> pa.Table:
    """`__key__` of the rows that a filter over their columns leaves; see `index.where`. Raises ConfigError."""
    table = askable(rows)
    return pa.table({"__key__": table[KEY].filter(pa.array(matches(table, where)))})


@batch_stage(version=1, size=10_000)
def keep_rows(samples: list[Sample], *, keep: Ref[pa.Table]) -> list[Sample | Drop]:
    """Only the samples that `rows_where` named; the others are dropped as `filtered`."""
    wanted = set(keep.value["__key__"].to_pylist())
    return [sample if sample["__key__"] in wanted else Drop("filtered") for sample in samples]


@reduce(version=2)
def search_index(
    rows: Rows,
    *,
    name: str,
    column: str,
    encoders: Mapping[str, str],
    options: Mapping[str, Any],
    seed: int = 0,
) -> Files:
    """The files of an index over `column`, tuned to its recall; filters may ask every column of plain values.

    encoders: `image`, `text` → the name of what queries are made with; their weights are put down with them.
    options: as `spec_of` takes them.
    Raises ConfigError naming a key whose vector is zero, StageError where a row has no vector.
    """
    meta = askable(rows)
    spec = spec_of(options, rows=len(rows), seed=seed)
    return Files(make_index(vectors_of(rows, column), meta, spec, name=name, encoders=_weighed(encoders)))


def _weighed(encoders: Mapping[str, str]) -> dict[str, dict[str, str]]:
    loads: dict[str, Any] = {"image": images.load, "text": texts.load}
    return {kind: {"name": name, "weights": loads[kind](name).weights} for kind, name in encoders.items()}


def spec_of(options: Mapping[str, Any], *, rows: int, seed: int) -> Spec:
    """A spec of plain words: variant, metric, center, recall, k, and where they are not 0: nlist, d_c, d_s, bytes,
    shortlist; basis, codes where they are not empty.
    """
    spec = variant(options.get("variant", "auto"), rows=rows)
    metric, center = options.get("metric", "cosine"), bool(options.get("center", False))
    coarse = replace(spec.coarse, **_given(options, {"nlist": "nlist", "d_c": "dims"}))
    codes = replace(spec.codes, **_given(options, {"codes": "kind", "d_s": "dims", "bytes": "bytes"}))
    return replace(
        spec,
        space=Space(metric=metric, center=center),
        basis=replace(spec.basis, **_given(options, {"basis": "kind"})),
        coarse=coarse,
        codes=codes,
        rerank=replace(spec.rerank, **_given(options, {"shortlist": "shortlist"})),
        target=replace(spec.target, **_given(options, {"recall": "recall", "k": "k"})),
        seed=seed,
    )


def _given(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {theirs: options[ours] for ours, theirs in names.items() if options.get(ours)}


def askable(rows: Rows) -> pa.Table:
    """`key`, and every column of text, numbers, truth values, or lists of text: what a filter may ask."""
    names = [name for name in rows.columns if name not in UNASKED]
    table = rows.table(["__key__", *names])
    chosen = [name for name in names if _is_plain(table.schema.field(name).type)]
    return table.select(["__key__", *chosen]).rename_columns([KEY, *chosen]).combine_chunks()


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return bool(pa.types.is_string(kind.value_type))
    checks = (pa.types.is_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(check(kind) for check in checks)


def vectors_of(rows: Rows, column: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 (N, D) of a column of lists. Raises StageError where a row has none."""
    try:
        return matrix_of(rows.table([column])[column], column)
    except ConfigError as problem:
        raise StageError(f"{problem}; embed all rows first") from problem


@reduce(version=1)
def embedding_sidecar(rows: Rows, *, column: str) -> bytes:
    """`key` and `vector` (fixed-size list of float16 or float32) of every row, as an Arrow IPC file to zip on."""
    table = rows.table(["__key__", column])
    lists = table[column].combine_chunks()
    width = len(lists.flatten()) // max(1, len(lists))
    matrix = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), width)
    sink = pa.BufferOutputStream()
    beside = pa.table({"key": table["__key__"].combine_chunks(), column: vector_column(matrix)})
    with pa.ipc.new_file(sink, beside.schema) as writer:
        writer.write_table(beside)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def opened(files: Files) -> Index:
    """The index that a step made, where it lies among the steps."""
    return open_index(Path(files[ABOUT]).parent)
