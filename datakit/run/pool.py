"""Where jobs run: spawned processes with one thread of linear algebra each, or this process for debugging.

Results depend neither on how many workers there are nor on what the caller's process has loaded. Workers end with
their parent; one that dies, hangs or grows too large is replaced and its job tried again. In this process nobody
watches: a stage that hangs there hangs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import types
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from datakit.config import RunOptions
from datakit.errors import need
from datakit.manifest import Manifest, remove_orphans
from datakit.run.birth import work
from datakit.run.child import NOTHING
from datakit.run.job import Job
from datakit.run.place import ROOM, Slot
from datakit.run.progress import Sink
from datakit.run.signals import undisturbed
from datakit.run.watch import TICK, Cause, Clock, Judge, Limits, Watch
from datakit.run.worker import run_job

TRIES = 3  # of a start that a dying worker spoils
LEAVE = 3.0  # seconds that workers have to leave when asked, all together: a signal ends a build within ten
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Pool(Protocol):
    """Where jobs run."""

    @property
    def running(self) -> Collection[Any]: ...

    @property
    def free(self) -> bool: ...

    def submit(self, job: Job) -> None: ...

    def wait(self) -> list[tuple[Job, Manifest]]: ...


def drain(pool: Pool, jobs: Iterable[Job], done: Callable[[Job, Manifest], Iterable[Job]]) -> None:
    """Run jobs, and those that `done` gives for each that ends, until there are none."""
    waiting = deque(jobs)
    while waiting or pool.running:
        while waiting and pool.free:
            pool.submit(waiting.popleft())
        for job, manifest in pool.wait():
            waiting += done(job, manifest)


class InlinePool:
    """Jobs one after the other in this process: for debugging."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.jobs: list[Job] = []

    @property
    def running(self) -> Collection[Job]:
        return self.jobs

    @property
    def free(self) -> bool:
        return not self.jobs

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def wait(self) -> list[tuple[Job, Manifest]]:
        job = self.jobs.pop()
        tell = _advance(self.sink, job.step)
        with contextlib.redirect_stdout(sys.stderr):  # what a stage prints is no answer of the build's
            return [(job, run_job(job, tell))]


def _advance(sink: Sink, step: str) -> Any:
    def tell(kept: int, dropped: int, failed: int) -> None:
        sink.event("advance", step=step, kept=kept, dropped=dropped, failed=failed)

    return tell


@dataclass
class _Worker:
    """A process, our end of its pipe, what it works on, and our watch over it."""

    process: SpawnProcess
    pipe: Any
    job: Job
    watch: Watch
    told: Counter[str] = field(
        default_factory=lambda: Counter(NOTHING)
    )  # of its job's samples: taken back if it dies


class ProcessPool:
    """Spawned workers. One that dies, hangs or grows beyond `limits` is replaced and its job tried again, without the
    sample that cost it too many workers (see `watch`).

    Each worker has a pipe and a slot of its own. Nothing is shared between workers: a lock that a killed process
    holds stays held, which is how `concurrent.futures` can wait for ever after a kill.
    """

    def __init__(self, workers: int, sink: Sink, limits: Limits | None = None) -> None:
        self.workers, self.sink, self.limits = workers, sink, limits or Limits()
        self.judge, self.clock = Judge(self.limits), Clock()
        self.context: SpawnContext = get_context("spawn")
        resource_tracker.ensure_running()  # a first spawn would start it, which unblocks Ctrl-C (see undisturbed)
        self.idle: list[_Worker] = []
        self.busy: list[_Worker] = []

    @property
    def running(self) -> Collection[_Worker]:
        return self.busy

    @property
    def free(self) -> bool:
        return len(self.busy) < self.workers

    def submit(self, job: Job) -> None:
        while self.idle and not self.idle[-1].process.is_alive():
            _end([self.idle.pop()])
        if self.idle:
            # In `busy` before it leaves `idle`: a signal between the two loses no worker.
            worker = self.idle[-1]
            worker.job, worker.told = job, Counter(NOTHING)
            worker.watch.start()
            self.busy.append(worker)
            self.idle.pop()
        else:
            worker = self._start(job)
        # A worker that died this moment: `wait` finds its pipe closed and gives the job to another.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send(job)

    def _start(self, job: Job) -> _Worker:
        ours, theirs = self.context.Pipe()
        slot = self.context.RawArray("B", ROOM)  # an unlinked file: nothing of it outlives its processes
        process = self.context.Process(target=work, args=(theirs, slot))
        worker = _Worker(process, ours, job, Watch(Slot(memoryview(slot).cast("B")), self.limits))
        self.busy.append(worker)
        with _no_main(), undisturbed():
            worker.process.start()
        theirs.close()  # the worker's end alone stays open: its death closes the pipe
        return worker

    def wait(self) -> list[tuple[Job, Manifest]]:
        """The jobs that ended, at least one; that of a lost worker is submitted again. Raises what a job raised."""
        results: list[tuple[Job, Manifest]] = []
        while not results:
            ready = wait([worker.pipe for worker in self.busy], timeout=TICK)
            for worker in [worker for worker in self.busy if worker.pipe in ready]:
                results += self._hear(worker)
            if elapsed := self.clock.elapsed():
                for worker in list(self.busy):
                    self._look(worker, elapsed)
        return results

    def _look(self, worker: _Worker, elapsed: float) -> None:
        """Replace the worker if it hangs, has grown too large or is dead; a process that a stage forked holds the pipe
        of a dead one open.
        """
        pid = worker.process.pid
        cause = worker.watch.lost(pid, elapsed) if pid is not None else None
        if pid is not None and worker.process.exitcode is not None:
            cause = "crashed"
        # What it has just said is heard first: its job may be done.
        if cause is not None and not worker.pipe.poll():
            worker.process.kill()  # not asked: a stopped process does not listen
            self._replace(worker, cause)

    def _hear(self, worker: _Worker) -> list[tuple[Job, Manifest]]:
        try:
            said = worker.pipe.recv()
        except (EOFError, OSError):
            self._replace(worker, "crashed")
            return []
        if isinstance(said, BaseException):
            raise said
        if isinstance(said, Manifest):
            self.idle.append(worker)
            self.busy.remove(worker)
            return [(worker.job, said)]
        worker.told.update(said)
        self.sink.event("advance", step=worker.job.step, **said)
        return []

    def _replace(self, lost: _Worker, cause: Cause) -> None:
        self.busy.remove(lost)
        _end([lost])
        job, place = lost.job, lost.watch.slot.read()
        self.sink.event("advance", step=job.step, **{name: -count for name, count in lost.told.items()})
        remove_orphans(
            Path(job.root) / "steps" / job.step, ours=False
        )  # of the publication: swept at its end
        where = f" at {place.key} in {place.stage}" if place.key else f" in {place.stage}" * bool(place.stage)
        self.sink.event("note", text=f"a worker was lost ({cause}) on shard {job.shard} of {job.step}{where}")
        self.submit(self.judge.next(job, cause, place, _exit(lost.process.exitcode)))

    def close(self) -> None:
        for worker in self.idle:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead already
                worker.pipe.send(None)
        deadline = time.monotonic() + LEAVE
        for worker in self.idle:
            worker.process.join(timeout=max(0.0, deadline - time.monotonic()))
        _end(self.idle)

    def kill(self) -> None:
        """End the workers now: what they were writing stays a `.part`, removed by the next build."""
        _end(self.idle + self.busy)


def _end(workers: list[_Worker]) -> None:
    """SIGTERM, then SIGKILL to those that did not listen; none is left when this returns."""
    started = [worker for worker in workers if worker.process.pid is not None]
    for worker in started:
        worker.process.terminate()
    deadline = time.monotonic() + LEAVE
    for worker in started:
        worker.process.join(timeout=max(0.0, deadline - time.monotonic()))
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()
    for worker in workers:
        worker.pipe.close()  # one whose start was interrupted ends when it finds this


def _exit(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "SIGKILL: out of memory?"
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


@contextlib.contextmanager
def open_pool(options: RunOptions, sink: Sink) -> Iterator[Pool]:
    """The pool that `options` ask for; on an error its workers are ended."""
    if options.inline:
        yield InlinePool(sink)
        return
    if options.on_dask:
        need("running on Dask", "dask", ["dask", "distributed"])
        from datakit.run.dask import open_dask  # costs half a second to import

        with _one_thread(), open_dask(options, sink) as cluster:
            yield cluster
        return
    with _one_thread():
        pool = ProcessPool(options.workers or os.cpu_count() or 1, sink, Limits.of(options))
        try:
            yield pool
        except BaseException:
            pool.kill()
            raise
        pool.close()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Children inherit one thread of linear algebra: more of them change the order of sums, so the bytes."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Hide the caller's `__main__`: spawn would run it again, and jobs, being words, have no need of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
