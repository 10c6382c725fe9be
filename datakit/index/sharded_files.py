"""Parts of a sharded build as the files of one index, each written from start to end, none of them in memory.

In memory are faiss's lists, as whoever opens the index holds them (twice over, while FastScan packs them), a row's
number and its metadata. A graph is made in one piece: it holds its dims of every row as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.index import codes as lists_of_codes
from datakit.index import folder, stream
from datakit.index.arrays import Longs, in_blocks, one_thread
from datakit.index.base import Base, stores_half
from datakit.index.build import held_rows
from datakit.index.graph import build_graph
from datakit.index.pack import KEY, about_new, learned_bytes
from datakit.index.sharded_work import Work
from datakit.index.tune import tune
from datakit.index.writing import commit

CHUNK = 1 << 16  # rows read at once
Noted = dict[str, dict[str, Any]]


def write_index(
    work: Work,
    out: Path,
    pieces: Sequence[str],
    meta: pa.Table,
    *,
    name: str,
    encoders: Mapping[str, Mapping[str, str]] | None,
    pairing: Mapping[str, str] | None,
) -> None:
    """The index in `out`, over pieces of the work folder, in the order of their rows in it. meta: in that of the data.

    `index.json` goes first and comes last: whoever looks meanwhile finds no index, and not half of one.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / folder.ABOUT).unlink(missing_ok=True)
    trained, noted = work.trained, Noted()
    order = np.concatenate([work.array(piece, "rows") for piece in pieces])
    lists = np.concatenate([work.array(piece, "lists") for piece in pieces])
    ends = np.cumsum(np.bincount(lists, minlength=max(1, len(trained.centroids))))
    held = np.flatnonzero(np.isin(order, held_rows(len(order), work.spec)))
    tuned = tune(_written_base(work, out, pieces, ends, noted), rows=held)
    with stream.written(out / "axes-0.npz", noted) as write:
        write(learned_bytes(trained, ends, held))
    with stream.written(out / "meta-0.arrow", noted) as write:
        write(folder.table_bytes(meta.take(pa.array(order))))
    named = {file.partition("-")[0]: file for file in noted}
    about = about_new(
        trained, meta[KEY], named, noted, name=name, encoders=encoders, pairing=pairing, tuned=tuned
    )
    commit(out, {folder.ABOUT: folder.about_bytes(about)})


def _written_base(work: Work, out: Path, pieces: Sequence[str], ends: Longs, noted: Noted) -> Base:
    """Vectors and what searches them, written and read back: tuned as it will be opened."""
    spec, dim, found = work.spec, work.plan["dim"], dict[str, Any]()
    kind = np.float16 if stores_half(spec) else np.float32
    _write_matrix(work, out / "vectors-0.arrow", pieces, "points", dim, kind, noted)
    if spec.structure == "ivf" and spec.codes.kind == "nested":
        _write_matrix(work, out / "nested-0.arrow", pieces, "nested", spec.codes.dims, np.float32, noted)
        found["nested"] = folder.read_matrix(out / "nested-0.arrow", spec.codes.dims)
    elif spec.structure == "ivf":
        _write_lists(work, out / "lists-0.faiss", pieces, noted)
        found["lists"] = folder.read_lists(out / "lists-0.faiss")
    elif spec.structure == "hnsw":
        _write_graph(work, out / "graph-0.faiss", pieces, noted)
        found["graph"] = folder.read_lists(out / "graph-0.faiss")
    return Base(
        spec=spec,
        axes=work.trained.axes,
        points=folder.read_matrix(out / "vectors-0.arrow", dim),
        centroids=work.trained.centroids,
        means=work.trained.means,
        ends=ends,
        **found,
    )


def _write_matrix(
    work: Work, path: Path, pieces: Sequence[str], what: str, dim: int, kind: Any, noted: Noted
) -> None:
    arrays = [work.array(piece, what) for piece in pieces]
    with stream.written(path, noted) as write:
        stream.matrix_to(write, sum(map(len, arrays)), dim, kind, _chunks(arrays))


def _chunks(arrays: Sequence[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    for array in arrays:
        for at in range(0, len(array), CHUNK):
            yield array[at : at + CHUNK]


def _write_lists(work: Work, path: Path, pieces: Sequence[str], noted: Noted) -> None:
    """One IVF, filled piece after piece."""
    lists, first = work.trained.lists(), 0
    for piece in pieces:
        assigned, codes = work.array(piece, "lists"), work.array(piece, "codes")
        lists_of_codes.fill(lists, assigned.astype(np.int64), codes, first)
        first += len(codes)
    with stream.written(path, noted) as write:
        stream.lists_to(write, lists_of_codes.packed(lists, work.spec.codes.kind))


def _write_graph(work: Work, path: Path, pieces: Sequence[str], noted: Noted) -> None:
    arrays = [work.array(piece, "points") for piece in pieces]
    firsts: Longs = np.cumsum([0, *map(len, arrays)])
    with one_thread():
        coded = [
            in_blocks(work.trained.axes.for_codes, array, int(first))
            for array, first in zip(arrays, firsts, strict=False)
        ]
        graph = build_graph(np.concatenate(coded), work.spec)
    with stream.written(path, noted) as write:
        write(graph)
