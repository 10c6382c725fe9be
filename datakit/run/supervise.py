"""A Dask worker as a supervisor: it does each job in one child process, watched as the local pool watches its own.

So a sample that hangs, crashes or grows costs that child and not the Dask worker, and is put down with the reason that
a local build gives. The child ends with its Dask worker, however that ends.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import current_process, util
from queue import Empty, SimpleQueue
from typing import Any

from datakit.errors import EnvironmentProblem
from datakit.manifest import Manifest
from datakit.run.code import CODE, digest
from datakit.run.job import Job
from datakit.run.pool import ProcessPool, _one_thread, _Worker
from datakit.run.progress import Sink
from datakit.run.watch import Limits

IDLE = 60.0  # seconds without a job, after which the child leaves: workers of a scheduler outlive builds


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job of a build, the limits that it runs under, and who is told of its progress."""

    build: str
    job: Job
    limits: Limits
    sink: Sink
    answer: SimpleQueue[Manifest | BaseException] = field(default_factory=SimpleQueue)


def supervised(task: Task) -> Manifest:
    """Do a job in this process's child; jobs of many threads one after the other. Raises what the job raised."""
    _supervisor().tasks.put(task)
    said = task.answer.get()
    if isinstance(said, BaseException):
        raise said
    return said


@cache
def _supervisor() -> _Supervisor:
    return _Supervisor()


class _Supervisor:
    """The one thread that starts children: the kernel ends a child with the thread that started it, and Dask's own
    threads come and go.
    """

    def __init__(self) -> None:
        self.tasks: SimpleQueue[Task] = SimpleQueue()
        self.pool: _OneChild | None = None
        self.build = ""
        threading.Thread(target=self._serve, name="datakit-supervisor", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                task = self.tasks.get(timeout=IDLE if self.pool else None)
            except Empty:
                self._part()
                continue
            try:
                task.answer.put(self._do(task))
            except BaseException as problem:  # whatever it is, who asked hears it, and this thread lives on
                if self.pool is not None:
                    self.pool.kill()
                self.pool = None
                task.answer.put(problem)

    def _do(self, task: Task) -> Manifest:
        if self.build != task.build:
            self._part()  # what an earlier build left in the child is forgotten with it: a recipe may have changed
        if self.pool is None:
            self.pool, self.build = _OneChild(task.sink, task.limits), task.build
        self.pool.sink = task.sink
        self.pool.submit(task.job)
        [(_, manifest)] = self.pool.wait()
        return manifest

    def _part(self) -> None:
        if self.pool is not None:
            self.pool.close()
        self.pool = None


class _OneChild(ProcessPool):
    """A local pool of one worker, in a process that may be daemonic and may end while a job runs."""

    def __init__(self, sink: Sink, limits: Limits) -> None:
        super().__init__(1, sink, limits)
        self.starting, self.over = threading.Lock(), False
        # Before a process waits for its children at its end, which would be for ever.
        util.Finalize(self, _OneChild.leave, args=(self.__dict__,), exitpriority=1)

    def _start(self, job: Job) -> _Worker:
        if digest() != CODE:
            raise EnvironmentProblem(
                "the files of datakit have changed since this worker started; start the workers anew"
            )
        with self.starting, _one_thread(), _no_daemon():
            if self.over:
                raise EnvironmentProblem("this worker is leaving")
            return super()._start(job)

    @staticmethod
    def leave(pool: dict[str, Any]) -> None:
        """End the child, and start no other."""
        with pool["starting"]:
            pool["over"] = True
            for worker in pool["idle"] + pool["busy"]:
                if worker.process.pid is not None:
                    worker.process.kill()


@contextlib.contextmanager
def _no_daemon() -> Iterator[None]:
    """Nannies start their workers as daemons, to which Python denies children lest they be left behind: ours are not,
    and what a stage may do in them is what it may do in a local build's.
    """
    config: dict[str, Any] = vars(current_process())["_config"]
    before = config.pop("daemon", None)
    try:
        yield
    finally:
        if before is not None:
            config["daemon"] = before
