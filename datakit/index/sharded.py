"""An index over vectors in many files: learned of a sample, encoded part by part anywhere, merged list by list.

    build_sharded(["part-0.parquet", …], "index", column="features", spec=spec, workers=8)      # processes here
    build_sharded(parts, "index", column="features", spec=spec, client=distributed.Client(…))   # a Dask cluster

Equal, byte for byte, to `make_index` over all rows in the order of the files: the sample is drawn by row number, a
row's code depends on nothing beside it (build.py), sums over parts are of whole numbers (lloyd.py), and rows are merged
by list and number. A job is a few words; it writes its files and, last, a record of them, so that a build killed at
any moment goes on from what is whole, and a worker may die.

Why not steps of the engine (`annotate`, `repartition`, `reduce`): these carry rows with all their columns from disk to
disk and give back a result that fits into memory, while vectors of an index lie in files already and the index does
not fit; and files of vectors are indexed without any recipe. What such a build shares with the engine is the way of
writing (disk.py, manifest.py). All workers must be of one kind of processor: others round products otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from datakit.disk import digest_of
from datakit.errors import ConfigError, StoreError
from datakit.index import folder, stream
from datakit.index.pack import checked_meta
from datakit.index.sharded_crew import Run, crew
from datakit.index.sharded_files import write_index
from datakit.index.sharded_learn import Phase, learn, numbered
from datakit.index.sharded_parts import Part, cut, grouped, read_meta
from datakit.index.sharded_work import Work, plan_of
from datakit.index.spec import Spec, settled
from datakit.manifest import read_record, write_record

Tell = Callable[
    [str, int, int], Any
]  # what jobs do, how many there are, how many of them had something to do
DONE = "done.json"


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
    pairing: Mapping[str, str] | None = None,
    part_rows: int = 0,
    tell: Tell = lambda kind, jobs, made: None,
) -> Path:
    """The index in the folder `out`, over `column` (lists of numbers) of Parquet or Arrow files with a column `key`.

    work: where parts lie until the index is whole; `<out>.parts` if empty, on a disk shared with the workers of a
    cluster. It needs some twice the room of the vectors, and is emptied in the end. The same call again goes on from
    what is whole, and does nothing where the index is. part_rows: that a job takes at once, about; 0: by their bytes.
    tell: hears of each kind of job when all of them are done.

    Raises ConfigError (a column missing, a file and row whose vector is broken), EnvironmentProblem where workers keep
    dying or the disk refuses, StoreError for sources that change meanwhile.
    """
    place, base = Path(out), Path(work) if work else Path(f"{out}.parts")
    files = [Path(one).absolute() for one in sources]
    parts = cut(files, column, part_rows)
    if not parts:
        raise ConfigError("there is no row to index")
    meta = checked_meta(read_meta(files, column), sum(map(len, parts)))
    with crew(workers, client) as run:
        begun = Work.begun(base.absolute(), _look(parts, column, spec, run))
        asked = {"name": name, "encoders": encoders or {}, "pairing": pairing or {}, "meta": _digest(meta)}
        if _is_done(begun, place, asked):
            begun.remove()  # as a kill after the last record left it
            return place
        phase = _phases(run, tell)
        learn(begun, phase)
        phase(begun, "encode", numbered("part", len(parts)))
        pieces = _merged(begun, phase)
    write_index(begun, place, pieces, meta, name=name, encoders=encoders, pairing=pairing)
    write_record(begun.base / DONE, {"plan": begun.print, **asked, "index": digest_of(place / folder.ABOUT)})
    begun.remove()
    return place


def _look(parts: Sequence[Part], column: str, spec: Spec, run: Run) -> dict[str, Any]:
    """The plan, of vectors that have all been looked at."""
    words = {"job": "look", "column": column, "metric": spec.space.metric}
    jobs = [{**words, "part": vars(part)} for part in parts]
    first = run(jobs[:1])
    dim = first[0]["dim"]
    whole = settled(
        spec, rows=sum(map(len, parts)), dim=dim
    )  # what is wrong with the spec is said before the rest
    found = first + run(jobs[1:])
    for part, one in zip(parts, found, strict=True):
        if one["dim"] != dim:
            here, there = f"{part.path}, row {part.start}", parts[0].path
            raise ConfigError(f"{here}: {one['dim']} numbers in a vector, and {dim} in those of {there}")
    return plan_of(parts, [one["xxh3"] for one in found], column, whole, dim)


def _phases(run: Run, tell: Tell) -> Phase:
    def phase(work: Work, kind: str, jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        said = run([{**job, "job": kind, "work": str(work.base), "plan": work.print} for job in jobs])
        tell(kind, len(said), sum(one["made"] for one in said))
        return said

    return phase


def _merged(work: Work, phase: Phase) -> list[str]:
    """The names of pieces in the order of the index. Where there are no lists, parts are in it already."""
    parts = [job["name"] for job in numbered("part", len(work.parts))]
    if work.spec.structure != "ivf":
        return parts
    sizes = np.zeros(work.spec.coarse.nlist, np.int64)
    for part in parts:
        sizes += np.bincount(work.array(part, "lists"), minlength=len(sizes))
    most, firsts = max(len(part) for part in work.parts), np.cumsum([0, *sizes])
    jobs: list[dict[str, Any]] = [
        {"name": f"range-{number:05d}", "lists": [low, high], "first": int(firsts[low])}
        for number, (low, high) in enumerate(grouped(sizes.tolist(), most))
    ]
    phase(work, "merge", jobs)
    return [job["name"] for job in jobs]


def _is_done(work: Work, place: Path, asked: Mapping[str, Any]) -> bool:
    """Whether the same was asked for before, and lies there as it was written."""
    record = read_record(work.base / DONE)
    if record is None or not (place / folder.ABOUT).exists():
        return False
    if record != {"plan": work.print, **asked, "index": digest_of(place / folder.ABOUT)}:
        return False
    about = folder.read_about(place)
    try:
        return all(folder.checked(place, file, about) for file in about["files"])
    except StoreError:
        return False


def _digest(table: pa.Table) -> str:
    """xxh3_128 of a table as Arrow streams it."""
    found = xxhash.xxh3_128()
    with pa.ipc.new_stream(pa.PythonFile(stream.Sink(found.update), mode="w"), table.schema) as writer:
        writer.write_table(table)
    return found.hexdigest()
