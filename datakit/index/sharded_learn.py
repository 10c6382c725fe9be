"""What a sharded build learns: of a sample that jobs gather, or by passes of jobs over all parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from datakit.index.arrays import Floats
from datakit.index.basis import Axes
from datakit.index.build import held_rows, sample_rows, train
from datakit.index.lloyd import Sums
from datakit.index.sharded_work import Work

GROUPS = 64  # files of sums that a pass leaves for the asker to add up, at most

Phase = Callable[[Work, str, Sequence[Mapping[str, Any]]], list[dict[str, Any]]]  # runs the jobs of one kind


def numbered(kind: str, count: int) -> list[dict[str, Any]]:
    """A job for each part."""
    return [{"number": number, "name": f"{kind}-{number:05d}"} for number in range(count)]


def learn(work: Work, phase: Phase) -> None:
    """Make `trained`, if it is not there yet."""
    if work.whole("trained"):
        return
    rows, spec = work.plan["rows"], work.spec
    for name, drawn in (("wanted", sample_rows(rows, spec)), ("held", held_rows(rows, spec))):
        with work.making(name) as making:
            making.array("rows", drawn)
    phase(work, "sample", numbered("sample", len(work.parts)))
    gathered = [work.array(f"sample-{number:05d}", "vectors") for number in range(len(work.parts))]
    trained = train(np.concatenate(gathered), spec, rows=rows, everything=Everywhere(work, phase))
    arrays = {"centroids": trained.centroids, "means": trained.means}
    arrays |= {**trained.axes.arrays(), "empty": np.frombuffer(trained.empty, np.uint8)}
    work.put_learned("trained", arrays, trained.axes.nested)
    work.remove("sample", "wanted", "held", "axes", "narrow", "centroids", "sums")


class Everywhere:
    """The rows of all parts, as `lloyd` passes over them."""

    def __init__(self, work: Work, phase: Phase) -> None:
        self._work, self._phase, self._pass = work, phase, 0

    def begin(self, axes: Axes) -> float:
        self._work.put_learned("axes", axes.arrays(), axes.nested)
        said = self._phase(self._work, "narrow", numbered("narrow", len(self._work.parts)))
        return float(max(one["largest"] for one in said))

    def sums(self, centroids: Floats, step: float, *, coded: bool) -> Sums:
        """Two floors of a tree: jobs add up parts, and the asker adds up jobs."""
        work, name = self._work, f"sums-{self._pass:03d}"
        self._pass += 1
        if not work.whole(name):
            with work.making(f"centroids-{name[5:]}") as making:
                making.array("rows", centroids)
            words: dict[str, Any] = {"centroids": f"centroids-{name[5:]}", "step": step, "coded": coded}
            many = -(-len(work.parts) // GROUPS)
            starts = range(0, len(work.parts), many)
            jobs = [
                {**words, "name": f"{name}-{at:05d}", "parts": [at, min(at + many, len(work.parts))]}
                for at in starts
            ]
            self._phase(work, "sums", jobs)
            total = _read(work, jobs[0]["name"])
            for job in jobs[1:]:
                total += _read(work, job["name"])
            with work.making(name) as making:
                making.array("total", total.total)
                making.array("counts", total.counts)
        return _read(work, name)


def _read(work: Work, name: str) -> Sums:
    return Sums(np.array(work.array(name, "total")), np.array(work.array(name, "counts")))
