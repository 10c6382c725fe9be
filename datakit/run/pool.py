"""Where jobs run: spawned processes with one thread of linear algebra each, or this process for debugging.

Results depend neither on how many workers there are nor on what the caller's process has loaded. Workers end with
their parent; one that dies is replaced and its job tried again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import types
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.context import SpawnContext
from typing import Any, Protocol

from datakit.config import RunOptions
from datakit.errors import EnvironmentProblem
from datakit.manifest import Manifest
from datakit.run.progress import Sink
from datakit.run.worker import Job, run_job

TRIES = 3  # of a job whose worker died
FLUSH = 0.2  # seconds between a worker's words on its progress
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
        return [(job, run_job(job, tell))]


def _advance(sink: Sink, step: str) -> Any:
    def tell(kept: int, dropped: int, failed: int) -> None:
        sink.event("advance", step=step, kept=kept, dropped=dropped, failed=failed)

    return tell


class ProcessPool:
    """Spawned workers. One that dies is replaced and its job tried again, TRIES times."""

    def __init__(self, workers: int, sink: Sink) -> None:
        self.workers, self.sink = workers, sink
        self.context: SpawnContext = get_context("spawn")
        self.words: Any = self.context.Queue()
        self.futures: dict[Future[Manifest], Job] = {}
        self.tries: dict[Job, int] = defaultdict(int)
        self.executor = self._executor()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _executor(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self.workers, mp_context=self.context, initializer=_begin, initargs=(self.words,)
        )

    @property
    def running(self) -> Collection[Job]:
        return self.futures.values()

    @property
    def free(self) -> bool:
        return len(self.futures) < self.workers

    def submit(self, job: Job) -> None:
        self.tries[job] += 1
        if self.tries[job] > TRIES:
            raise EnvironmentProblem(
                f"a worker died {TRIES} times on shard {job.shard} of step {job.step}; out of memory?"
            )
        with _no_main():
            self.futures[self.executor.submit(_work, job)] = job

    def wait(self) -> list[tuple[Job, Manifest]]:
        """The jobs that ended; those of a dead worker are submitted again."""
        ended, _ = wait(self.futures, return_when=FIRST_COMPLETED)
        results, lost = [], []
        for future in ended:
            job = self.futures.pop(future)
            try:
                results.append((job, future.result()))
            except BrokenProcessPool:
                lost.append(job)
        if lost:
            self._restart(lost)
        return results

    def _restart(self, lost: list[Job]) -> None:
        lost += self.futures.values()
        self.futures.clear()
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.executor = self._executor()
        for job in lost:
            self.submit(job)

    def _listen(self) -> None:
        while (said := self._next()) is not None:
            step, kept, dropped, failed = said
            self.sink.event("advance", step=step, kept=kept, dropped=dropped, failed=failed)

    def _next(self) -> Any:
        try:
            return self.words.get()
        except (EOFError, OSError):
            return None  # a worker was killed while it spoke: its words are lost, its shard is made again

    def close(self) -> None:
        self.executor.shutdown(wait=True, cancel_futures=True)
        self._hush()

    def kill(self) -> None:
        """End the workers now: what they were writing stays a `.part`, removed by the next build."""
        # No public way before Python 3.14.
        processes = list((self.executor._processes or {}).values())
        for process in processes:
            process.terminate()
        self.executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.join(timeout=5)
        self._hush()

    def _hush(self) -> None:
        self.words.put(None)
        # A worker killed in the middle of a word leaves half of it in the pipe; the listener is a daemon then.
        self.listener.join(timeout=1)


@contextlib.contextmanager
def open_pool(options: RunOptions, sink: Sink) -> Iterator[Pool]:
    """The pool that `options` ask for; on an error its workers are ended."""
    if options.inline:
        yield InlinePool(sink)
        return
    with _one_thread():
        pool = ProcessPool(options.workers or os.cpu_count() or 1, sink)
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


_words: Any = None


def _begin(words: Any) -> None:
    """Once a worker: Ctrl-C is the parent's affair, and a worker ends when its parent does."""
    global _words
    _words = words
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _work(job: Job) -> Manifest:
    counts = [0, 0, 0]
    last = time.monotonic()

    def tell(kept: int, dropped: int, failed: int) -> None:
        nonlocal last
        counts[0], counts[1], counts[2] = counts[0] + kept, counts[1] + dropped, counts[2] + failed
        if time.monotonic() - last >= FLUSH:
            _words.put((job.step, *counts))
            counts[:] = [0, 0, 0]
            last = time.monotonic()

    manifest = run_job(job, tell)
    with contextlib.suppress(queue.Full):
        _words.put((job.step, *counts))
    return manifest
