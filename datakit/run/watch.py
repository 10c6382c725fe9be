"""What a lost worker means: who watches for one that hangs or grows, and what becomes of the sample that it was on.

A worker is lost when it dies, takes too long over one sample or holds too much memory. Once may be chance (a process
that somebody stopped, a disk that was away), so the job is tried again; a sample on which workers are lost again and
again is broken, like one that does not decode: put down as failed, with the reason `crashed`, `timeout` or `memory`,
and the others of its shard are made. So a build of the same input ends with the same bytes, whatever was killed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from datakit.config import RunOptions
from datakit.errors import EnvironmentProblem
from datakit.run.job import Job
from datakit.run.place import Place, Slot

Cause = Literal["crashed", "timeout", "memory", "stopped"]

TRIES: dict[Cause, int] = {"crashed": 3, "timeout": 2, "memory": 2}  # of one sample, before it is broken
MOST = 20  # workers lost on one job, wherever in it, with no sample found to blame
REFUSED = 100  # samples of one job that cost their workers; more are no accident of a few files
TICK = 0.2  # seconds between two looks at the workers
MB = 1_000_000  # bytes


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds a sample or a batch, and a reduce, may take; megabytes a worker may hold; 0: no limit."""

    timeout: float = 300.0
    reduce_timeout: float = 0.0
    memory: int = 0

    def __post_init__(self) -> None:
        if self.memory and not Path("/proc/self/statm").exists():
            raise EnvironmentProblem("run.memory needs /proc to see what a worker holds; leave it out here")

    @classmethod
    def of(cls, options: RunOptions) -> Limits:
        return cls(timeout=options.timeout, reduce_timeout=options.reduce_timeout, memory=options.memory)

    def seconds(self, place: Place) -> float:
        """How long this may take. Reading and writing whole shards has no limit: disks may be slow."""
        if place.kind == "reduce":
            return self.reduce_timeout
        return 0.0 if place.kind == "between" else self.timeout


@dataclass
class Watch:
    """One worker under watch. Only time in which we ourselves ran counts: a Ctrl-Z stops all of us."""

    slot: Slot
    limits: Limits
    count: int = -1
    waited: float = 0.0  # seconds without a new entry

    def start(self) -> None:
        """A new job: what is in the slot is of the one before. The worker waits for words and writes none."""
        self.slot.clear()
        self.count, self.waited = -1, 0.0

    def lost(self, pid: int, elapsed: float) -> Cause | None:
        """Why this worker must be ended now, if it must."""
        if self.limits.memory and resident(pid) > self.limits.memory * MB:
            return "memory"
        count = self.slot.count
        if count != self.count:
            self.count, self.waited = count, 0.0
            return None
        self.waited += elapsed
        seconds = self.limits.seconds(self.slot.read())
        if seconds and self.waited > seconds:
            return "timeout"
        held_up = self.limits.timeout and self.waited > self.limits.timeout
        return "stopped" if held_up and stopped(pid) else None


class Clock:
    """Seconds since the last look, at most two ticks: more, and we were stopped ourselves."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def elapsed(self) -> float | None:
        """None while the next look is not due."""
        gone = time.monotonic() - self.last
        if gone < TICK / 2:
            return None
        self.last += gone
        return min(gone, 2 * TICK)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def stopped(pid: int) -> bool:
    """Whether a signal (SIGSTOP, Ctrl-Z) or a debugger holds the process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "tT"
    return False


@dataclass
class Judge:
    """Counts the workers lost on each job and each place in it, and says what is tried next."""

    limits: Limits
    lost: Counter[Any] = field(default_factory=Counter)

    def next(self, job: Job, cause: Cause, place: Place, ended: str) -> Job:
        """The job as it is to be tried again. Raises EnvironmentProblem where that cannot help.

        ended: how the worker ended, for people, as `SIGSEGV`.
        """
        which = (job.kind, job.step, job.phase, job.shard)
        self.lost[which] += 1
        self.lost[which, cause, place] += 1
        times = self.lost[which, cause, place]
        named = place.kind in ("sample", "batch")
        # One of a batch that was broken up has had its second try as a part of it.
        again = place.kind == "sample" and place.stage in dict(job.alone)
        # One that died before it began its job says nothing of the job.
        enough = 1 if again else TRIES.get(cause, MOST) if place.stage else MOST
        if named and times >= enough:
            self.lost[which] = 0
            if place.kind == "batch":
                return replace(job, alone=(*job.alone, (place.stage, place.key)))
            return self._refuse(job, cause, place, ended)
        hopeless = not named and (
            times >= enough or (place.kind == "reduce" and cause in ("timeout", "memory"))
        )
        if hopeless or self.lost[which] >= MOST:
            raise EnvironmentProblem(self._hopeless(job, cause, place, ended, self.lost[which]))
        return job

    def _refuse(self, job: Job, cause: Cause, place: Place, ended: str) -> Job:
        if len(job.refused) >= REFUSED:
            raise EnvironmentProblem(
                f"{REFUSED} samples of shard {job.shard} of step {job.step} cost their workers, the last one "
                f"{place.key} in {place.stage} ({cause}): look at that stage, or at run.timeout and run.memory"
            )
        detail = f"in {place.stage.rpartition('.')[2]}: {self._why(cause, place, ended)}"
        return replace(job, refused=(*job.refused, (place.stage, place.key, cause, detail)))

    def _why(self, cause: Cause, place: Place, ended: str) -> str:
        if cause == "timeout":
            return f"more than {self.limits.seconds(place):g} s"
        if cause == "memory":
            return f"its worker held more than {self.limits.memory} MB"
        return f"its worker died with {ended}"

    def _hopeless(self, job: Job, cause: Cause, place: Place, ended: str, times: int) -> str:
        where = f"shard {job.shard} of step {job.step}" + (f", in {place.stage}" if place.stage else "")
        after = f" after the sample {place.key}" if place.kind == "source" and place.key else ""
        if cause == "timeout":
            key = "run.reduce_timeout" if place.kind == "reduce" else "run.timeout"
            why = f"more than {self.limits.seconds(place):g} s: raise {key} if that is what it takes"
            return f"a worker made no step on {where}{after} for {why}"
        if cause == "memory":
            return f"a worker held more than run.memory={self.limits.memory} MB on {where}{after}"
        return f"a worker died {times} times on {where}{after}, the last time with {ended}"
