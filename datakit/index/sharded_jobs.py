"""The jobs of a sharded build: each makes the files of one part, or of one range of lists, if they are not there yet.

A job is a few words, and does the same whoever runs it, and however often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.index.arrays import Longs, in_blocks, one_thread
from datakit.index.base import stores_half
from datakit.index.basis import in_space
from datakit.index.build import encode
from datakit.index.coarse import list_of
from datakit.index.lloyd import Sums, largest_of, summed
from datakit.index.sharded_parts import Part, read_vectors, refuse_zeros
from datakit.index.sharded_work import Work, digest_of_vectors

CHUNK = 1 << 14  # rows gathered at once


def do(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run it. {"made": whether there was anything to do}, and what else the job has to say."""
    if job["job"] == "look":
        return look(Part(**job["part"]), job["column"], job["metric"])
    work = Work.opened(job["work"], job["plan"])
    if found := work.whole(job["name"]):
        return {"made": False, **found["said"]}
    with one_thread():
        return {"made": True, **JOBS[job["job"]](work, job)}


def look(part: Part, column: str, metric: str) -> dict[str, Any]:
    """Every vector of a part looked at, so that a broken one is named before any work: their digest and length."""
    vectors = read_vectors(part, column)
    if metric == "cosine":
        refuse_zeros(part, vectors)
    return {"xxh3": digest_of_vectors(vectors), "dim": vectors.shape[1]}


def sample(work: Work, job: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a part's vectors that are learned from."""
    part, wanted = work.parts[job["number"]], work.array("wanted", "rows")
    here = wanted[np.searchsorted(wanted, part.first) : np.searchsorted(wanted, part.first + len(part))]
    found = work.vectors(job["number"])[here - part.first]
    with work.making(job["name"]) as making:
        making.array("vectors", found)
    return {}


def narrow(work: Work, job: Mapping[str, Any]) -> dict[str, Any]:
    """A part's rows as `Axes.for_lists` gives them: what passes go over, and the largest number in its vectors."""
    axes, part = work.axes(), work.parts[job["number"]]
    points = in_space(work.vectors(job["number"]), axes, part.first)
    found, said = in_blocks(axes.for_lists, points, part.first), {"largest": largest_of(points)}
    with work.making(job["name"], **said) as making:
        making.array("rows", found)
    return said


def sums(work: Work, job: Mapping[str, Any]) -> dict[str, Any]:
    """A pass over a few parts; see `lloyd`."""
    centroids, held, axes = work.array(job["centroids"], "rows"), work.array("held", "rows"), work.axes()
    wide = work.spec.codes.dims if job["coded"] else centroids.shape[1]
    total = Sums(np.zeros((len(centroids), wide), np.int64), np.zeros(len(centroids), np.int64))
    for number in range(*job["parts"]):
        part, rows = work.parts[number], work.array(f"narrow-{number:05d}", "rows")
        kept = ~np.isin(np.arange(part.first, part.first + len(part)), held)
        lists = list_of(
            np.ascontiguousarray(rows), np.ascontiguousarray(centroids), work.spec.space.metric, part.first
        )
        if job["coded"]:
            rows = in_blocks(axes.for_codes, in_space(work.vectors(number), axes, part.first), part.first)
        total += summed(rows[kept], lists[kept], len(centroids), job["step"])
    with work.making(job["name"]) as making:
        making.array("total", total.total)
        making.array("counts", total.counts)
    return {}


def encode_part(work: Work, job: Mapping[str, Any]) -> dict[str, Any]:
    """A part's points, lists and codes, sorted by list."""
    first = work.parts[job["number"]].first
    found = encode(work.trained, work.vectors(job["number"]), first)
    order = np.argsort(found.assigned, kind="stable")
    with work.making(job["name"]) as making:
        blocks = _chunks(len(order), lambda at: found.points[order[at]])
        making.blocks("points", found.points.shape, np.float32, blocks)
        making.array("codes", found.codes[order])
        making.array("rows", order + first)
        making.array("lists", found.assigned[order].astype(np.int32))
    return {}


def merge_range(work: Work, job: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of some lists out of every part: the shuffle. Sorted by list and number, as one part would have them."""
    low, high = job["lists"]
    lists = [work.array(f"part-{number:05d}", "lists") for number in range(len(work.parts))]
    slices = [slice(*np.searchsorted(one, [low, high])) for one in lists]
    assigned = np.concatenate([one[here] for one, here in zip(lists, slices, strict=True)])
    order = np.argsort(assigned, kind="stable")
    spec, (rows, dim) = work.spec, (len(order), work.plan["dim"])

    def gathered(what: str) -> Callable[[slice], NDArray[Any]]:
        parts = [work.array(f"part-{number:05d}", what)[here] for number, here in enumerate(slices)]
        return lambda at: _gather(parts, order[at])

    with work.making(job["name"]) as making:
        points = gathered("points")
        kind = np.float16 if stores_half(spec) else np.float32
        making.blocks("points", (rows, dim), kind, _chunks(rows, points))
        making.blocks("rows", (rows,), np.int64, _chunks(rows, gathered("rows")))
        making.array("lists", assigned[order])
        if spec.codes.kind == "nested":

            def turned(at: slice) -> NDArray[Any]:
                return in_blocks(work.trained.axes.for_codes, points(at), job["first"] + at.start)

            making.blocks("nested", (rows, spec.codes.dims), np.float32, _chunks(rows, turned))
        else:
            width = work.trained.lists().code_size
            making.blocks("codes", (rows, width), np.uint8, _chunks(rows, gathered("codes")))
    return {}


def _chunks(rows: int, make: Callable[[slice], NDArray[Any]]) -> Iterator[NDArray[Any]]:
    return (make(slice(at, min(at + CHUNK, rows))) for at in range(0, rows, CHUNK))


def _gather(parts: Sequence[NDArray[Any]], wanted: Longs) -> NDArray[Any]:
    """Rows out of arrays as if they lay one behind the other."""
    starts = np.cumsum([0, *(len(part) for part in parts)])
    of = np.searchsorted(starts, wanted, side="right") - 1
    by_part = np.argsort(of, kind="stable")
    numbers, cuts = np.unique(of[by_part], return_index=True)
    found = np.empty((len(wanted), *parts[0].shape[1:]), parts[0].dtype)
    for number, here in zip(numbers, np.split(by_part, cuts[1:]), strict=True):
        found[here] = parts[number][wanted[here] - starts[number]]
    return found


JOBS: dict[str, Callable[[Work, Mapping[str, Any]], dict[str, Any]]] = {
    "sample": sample,
    "narrow": narrow,
    "sums": sums,
    "encode": encode_part,
    "merge": merge_range,
}
