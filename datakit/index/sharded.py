"""An index over vectors in many files: learned of a sample, encoded file by file anywhere, merged list by list.

    build_sharded(["part-0.parquet", …], "index", column="features", spec=spec, workers=8)      # processes here
    build_sharded(parts, "index", column="features", spec=spec, client=distributed.Client(…))   # a Dask cluster

Equal, byte for byte, to `make_index` over all rows in the order of the files: the sample is drawn by row number, a
row's code depends on nothing beside it (build.py), and rows are merged by list and number. A job is two words, a folder
and a number; it writes its part and, last, a record of it, so a build killed at any moment goes on from what is whole,
and a worker may die. Parts are mapped and merged on disk; whoever asks for the build holds all codes, and its points
once while they are written. Not run on a second machine.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.disk import digest_of
from datakit.errors import ConfigError, EnvironmentProblem, StoreError
from datakit.index import folder
from datakit.index.arrays import Floats, Longs, one_thread
from datakit.index.base import base_of
from datakit.index.basis import Axes
from datakit.index.build import Merged, Trained, encode, held_rows, sample_rows, structured, train
from datakit.index.files_in import rows_of, table_in, vectors_of
from datakit.index.pack import index_files
from datakit.index.spec import Spec, settled
from datakit.index.spec_json import from_json
from datakit.index.tune import tune
from datakit.manifest import read_record, write_bytes, write_record

PLAN, TRAINED = "plan.json", "trained.npz"
LEARNED = ("center", "coarse", "codes", "centroids", "means", "empty", "nested")  # arrays of the latter
TRIES = 5  # times that a pool whose workers died is begun anew
ROWS = "row"


def build_sharded(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    column: str,
    spec: Spec,
    name: str = "index",
    work: str | Path = "",
    workers: int = 1,
    client: Any = None,
    encoders: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """The index in the folder `out`, over `column` (lists of floats) of Parquet or Arrow files with a column `key`.

    work: where parts lie until the index is whole; `<out>.parts` if empty, shared with the workers of a cluster. It is
    left there: the same call again makes nothing that is whole. Raises ConfigError (a column missing, a file and row
    whose vector is broken), EnvironmentProblem where workers keep dying.
    """
    place, base = Path(out), Path(work) if work else Path(f"{out}.parts")
    base.mkdir(parents=True, exist_ok=True)
    plan = _plan([Path(one).absolute() for one in sources], column, spec)
    if read_record(base / PLAN) is None or read_record(base / PLAN) != plan:
        for path in base.glob("part-*"):
            path.unlink()
        (base / TRAINED).unlink(missing_ok=True)
        write_record(base / PLAN, plan)
    if not (base / TRAINED).exists():
        _learn(base, plan)
    missing = [number for number in range(len(sources)) if not is_whole(base, number)]
    _run(base, missing, workers, client)
    _assemble(base, place, plan, name, encoders)
    return place


def _plan(sources: Sequence[Path], column: str, spec: Spec) -> dict[str, Any]:
    """What is built, in words: the files with the digest of each, so that a changed one is made again."""
    rows = [rows_of(path) for path in sources]
    known = [
        {"path": str(path), "rows": count, "xxh3": digest_of(path)}
        for path, count in zip(sources, rows, strict=True)
    ]
    first = next((path for path, count in zip(sources, rows, strict=True) if count), None)
    if first is None:
        raise ConfigError("there is no row to index")
    dim = vectors_of(table_in(first), column, first).shape[1]
    whole = settled(spec, rows=sum(rows), dim=dim)
    plan = {"sources": known, "column": column, "spec": whole.to_json(), "rows": sum(rows), "dim": dim}
    found: dict[str, Any] = json.loads(json.dumps(plan))  # as it is read back: without tuples
    return found


def _firsts(plan: Mapping[str, Any]) -> list[int]:
    """The number of the first row of each source."""
    counts = [source["rows"] for source in plan["sources"]]
    return [sum(counts[:at]) for at in range(len(counts))]


def _learn(base: Path, plan: Mapping[str, Any]) -> None:
    spec = from_json(plan["spec"])
    wanted, parts = sample_rows(plan["rows"], spec), []
    for source, first in zip(plan["sources"], _firsts(plan), strict=True):
        here = wanted[(wanted >= first) & (wanted < first + source["rows"])] - first
        if len(here):
            path = Path(source["path"])
            parts.append(vectors_of(table_in(path), plan["column"], path)[here])
    trained = train(np.concatenate(parts), spec, rows=plan["rows"])
    learned: dict[str, Any] = {
        **trained.axes.arrays(),
        "centroids": trained.centroids,
        "means": trained.means,
    }
    learned["empty"] = np.frombuffer(trained.empty, np.uint8)
    learned["nested"] = np.array([trained.axes.nested])
    write_bytes(base / TRAINED, folder.arrays_bytes(learned))


def read_trained(base: Path, plan: Mapping[str, Any]) -> Trained:
    """What was learned, as any job finds it."""
    spec, arrays = from_json(plan["spec"]), folder.read_arrays(base / TRAINED, LEARNED)
    d_c, d_s = (spec.coarse.dims, spec.codes.dims) if spec.structure != "flat" else (plan["dim"], plan["dim"])
    axes = Axes(
        metric=spec.space.metric,
        d_c=d_c,
        d_s=d_s,
        nested=bool(arrays["nested"][0]),
        **{part: arrays[part] for part in ("center", "coarse", "codes")},
    )
    return Trained(
        spec=spec,
        dim=plan["dim"],
        axes=axes,
        centroids=arrays["centroids"],
        means=arrays["means"],
        empty=arrays["empty"].tobytes(),
    )


def encode_part(base: str, number: int) -> int:
    """The job: one source encoded, its rows sorted by list, its record last. Gives how many rows."""
    work = Path(base)
    plan = read_record(work / PLAN)
    if plan is None:
        raise StoreError(f"{work / PLAN} is missing or damaged; begin the build again")
    source, first = plan["sources"][number], _firsts(plan)[number]
    path = Path(source["path"])
    if digest_of(path) != source["xxh3"]:
        raise StoreError(f"{path} changed since the build began; begin it again")
    table = table_in(path)
    vectors = (
        vectors_of(table, plan["column"], path) if len(table) else np.empty((0, plan["dim"]), np.float32)
    )
    part = encode(read_trained(work, plan), vectors, first)
    order = np.argsort(part.assigned, kind="stable")
    columns = {
        "list": pa.array(part.assigned[order], pa.int32()),
        ROWS: pa.array(order + first),
        "code": folder.vector_column(part.codes[order])
        if part.codes.shape[1]
        else pa.nulls(len(order), pa.int8()),
        folder.VECTOR: folder.vector_column(part.points[order]),
    }
    name = f"part-{number:05d}"
    write_bytes(work / f"{name}.arrow", folder.table_bytes(pa.table(columns)))
    write_bytes(work / f"{name}.meta.arrow", folder.table_bytes(table.drop_columns([plan["column"]])))
    files = {file: digest_of(work / file) for file in (f"{name}.arrow", f"{name}.meta.arrow")}
    write_record(work / f"{name}.json", {"rows": len(order), "files": files})
    return len(order)


def is_whole(base: Path, number: int) -> bool:
    """Whether a part is there as it was written: every byte is read."""
    record = read_record(base / f"part-{number:05d}.json")
    try:
        return record is not None and all(
            digest_of(base / file) == digest for file, digest in record["files"].items()
        )
    except OSError:
        return False


def _run(base: Path, missing: Sequence[int], workers: int, client: Any) -> None:
    if client is not None:
        client.gather(client.map(encode_part, [str(base)] * len(missing), missing, pure=False))
        return
    if workers <= 1:
        for number in missing:
            encode_part(str(base), number)
        return
    for _ in range(TRIES):
        missing = [number for number in missing if not is_whole(base, number)]
        if not missing:
            return
        try:
            with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
                list(pool.map(encode_part, [str(base)] * len(missing), missing))
        except BrokenProcessPool:
            continue  # a worker died: what it had not written is made by the next ones
    if left := [number for number in missing if not is_whole(base, number)]:
        raise EnvironmentProblem(
            f"workers died {TRIES} times over; {len(left)} parts are missing: is memory short?"
        )


def _assemble(
    base: Path,
    place: Path,
    plan: Mapping[str, Any],
    name: str,
    encoders: Mapping[str, Mapping[str, str]] | None,
) -> None:
    """Parts to one index: codes in memory, points mapped and written list by list."""
    trained, parts = read_trained(base, plan), [_part(base, at) for at in range(len(plan["sources"]))]
    assigned = np.concatenate([part["list"].to_numpy() for part in parts]).astype(np.int64)
    numbers = np.concatenate([part[ROWS].to_numpy() for part in parts])
    order = np.lexsort((numbers, assigned))
    nlist = max(1, len(trained.centroids))
    ends = np.searchsorted(assigned[order], np.arange(nlist), side="right")
    points = np.lib.format.open_memmap(
        base / "points.npy", mode="w+", dtype=np.float32, shape=(len(order), plan["dim"])
    )
    _shuffle(points, [_matrix(part[folder.VECTOR], plan["dim"]) for part in parts], order)
    merged = Merged(order=numbers[order], points=points, ends=ends)
    with one_thread():
        merged = _filled(trained, merged, parts, assigned, order)
    meta = pa.concat_tables(_metas(base, len(parts)))
    held = np.flatnonzero(np.isin(merged.order, held_rows(plan["rows"], trained.spec)))
    found = tune(base_of(trained, merged), rows=held)
    folder.write_files(
        place, index_files(trained, merged, meta, name=name, encoders=encoders, tuned=found, held=held)
    )
    del points, merged
    (base / "points.npy").unlink()


def _filled(
    trained: Trained, merged: Merged, parts: Sequence[pa.Table], assigned: Longs, order: Longs
) -> Merged:
    width = trained.lists().code_size if trained.empty else 0
    codes = np.concatenate([_codes(part, width) for part in parts])
    return structured(trained, merged, assigned[order], codes[order])


def _codes(part: pa.Table, width: int) -> Any:
    return _matrix(part["code"], width) if width else np.empty((part.num_rows, 0), np.uint8)


def _matrix(column: pa.ChunkedArray, width: int) -> Any:
    """(N, width) over the memory of a part's column of fixed-size lists, not copied: its digest was compared."""
    if not len(column):
        return np.empty((0, width), column.type.value_type.to_pandas_dtype())
    return column.chunk(0).flatten().to_numpy(zero_copy_only=True).reshape(-1, width)


def _shuffle(points: Floats, parts: Sequence[Any], order: Longs, block: int = 65_536) -> None:
    """Rows of all parts to their places, some at a time."""
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    for start in range(0, len(order), block):
        wanted = order[start : start + block]
        part_of = np.searchsorted(starts, wanted, side="right") - 1
        for number in np.unique(part_of):
            here = np.flatnonzero(part_of == number)
            points[start + here] = parts[number][wanted[here] - starts[number]]


def _part(base: Path, number: int) -> pa.Table:
    if not is_whole(base, number):
        raise StoreError(
            f"{base / f'part-{number:05d}.arrow'} vanished or is damaged; run the same build again"
        )
    return folder.read_mapped(base / f"part-{number:05d}.arrow")


def _metas(base: Path, count: int) -> Iterable[pa.Table]:
    return [folder.read_mapped(base / f"part-{number:05d}.meta.arrow") for number in range(count)]
