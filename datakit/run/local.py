"""A process pool on one machine: jobs of every step whose inputs are complete, until all targets are.

Workers are fresh processes with one thread of linear algebra each, so that results depend neither on how many
there are nor on what the caller's process has loaded. They end with their parent.
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
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context, parent_process
from multiprocessing.context import SpawnContext
from typing import Any, Protocol

from datakit.config import RunOptions
from datakit.errors import EnvironmentProblem, FailureLimit
from datakit.manifest import Manifest, total
from datakit.recipe import Step
from datakit.run.progress import Sink
from datakit.run.worker import Job, run_job
from datakit.store.steps import Steps, outcome_counts

TRIES = 3  # of a job whose worker died
FLUSH = 0.2  # seconds between a worker's words on its progress
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Scheduler:
    """The state of one build's steps: what waits, what runs, what each step's samples came to."""

    steps: Steps
    template: Job
    options: RunOptions
    sink: Sink
    waiting: deque[tuple[str, Step]] = field(default_factory=deque)
    complete: set[str] = field(default_factory=set)
    left: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def ready(self) -> list[Job]:
        """Jobs of every step that has just become possible; steps already on disk become complete."""
        jobs: list[Job] = []
        moved = True
        while moved:
            moved = False
            for fingerprint, step in list(self.waiting):
                needs = {self.steps.plan.fingerprint(need) for need in step.needs()}
                if not needs <= self.complete:
                    continue
                self.waiting.remove((fingerprint, step))
                found = self._open(fingerprint, step)
                jobs += found
                moved = moved or not found
        return jobs

    def _open(self, fingerprint: str, step: Step) -> list[Job]:
        missing = self.steps.missing(step)
        if not missing:
            self._finish(fingerprint, step, reused=True)
            return []
        self.left[fingerprint] = len(missing)
        self.sink.event("start", step=fingerprint, name=step.name, total=self._expected(step))
        return [replace(self.template, step=fingerprint, shard=shard) for shard in missing]

    def _expected(self, step: Step) -> int:
        """Samples that come into a step; 1 for a reduce, whose progress is not by samples, 0 if not known."""
        if step.verb in ("reduce", "repartition"):
            return 1
        return self.samples(step.input)

    def samples(self, step: Step | None) -> int:
        """Samples of a complete step."""
        if step is None:
            return 0
        if step.verb == "catalogs":
            return sum(self.steps.listings[use.id].samples for use in step.uses)
        if step.input is not None and step.input.verb == "repartition":
            return self.samples(step.input)
        return sum(manifest.samples for manifest in self.steps.manifests(step))

    def done(self, job: Job, manifest: Manifest) -> None:
        """A shard is on disk. Raises FailureLimit when too many samples of its step are broken."""
        step = self.steps.plan.steps[job.step]
        self.failed[job.step] += sum(manifest.failed.values())
        self.sink.event("committed", step=job.step, name=step.name, shard=job.shard, seconds=manifest.seconds)
        self._check(job.step, step)
        self.left[job.step] -= 1
        if not self.left[job.step]:
            self._finish(job.step, step, reused=False)

    def _check(self, fingerprint: str, step: Step) -> None:
        # A source does not know how many it will give: judged when all its shards are there.
        inputs = self._expected(step) or self._given(step)
        if inputs and self.failed[fingerprint] > self.options.max_failed * inputs:
            raise FailureLimit(_too_many(self.steps, step, self.failed[fingerprint], inputs, self.options))

    def _check_listings(self, fingerprint: str, step: Step) -> None:
        """A missing file or an unreadable row is a broken sample like any other."""
        inputs = sum(self.steps.listings[use.id].inputs() for use in step.uses)
        failed = outcome_counts(self.steps.outcomes(step))["failed"]
        self.failed[fingerprint] = sum(failed.values())
        if self.failed[fingerprint] > self.options.max_failed * inputs:
            raise FailureLimit(_too_many(self.steps, step, self.failed[fingerprint], inputs, self.options))

    def _given(self, step: Step) -> int:
        found = [self.steps.manifest(step, shard) for shard in range(self.steps.shards(step))]
        whole = [manifest.inputs for manifest in found if manifest is not None]
        return sum(whole) if len(whole) == len(found) else 0

    def _finish(self, fingerprint: str, step: Step, *, reused: bool) -> None:
        self.complete.add(fingerprint)
        if step.verb == "catalogs":
            self._check_listings(fingerprint, step)
            return
        manifests = self.steps.manifests(step)
        dropped, failed = total(manifests)
        if reused:
            self.failed[fingerprint] = sum(failed.values())
            if step.verb in ("source", "map", "annotate"):
                self._check(fingerprint, step)
        self.sink.event(
            "done",
            step=fingerprint,
            name=step.name,
            samples=sum(manifest.samples for manifest in manifests),
            dropped=dict(dropped),
            failed=dict(failed),
            seconds=sum(manifest.seconds for manifest in manifests),
            reused=reused,
        )


def _too_many(steps: Steps, step: Step, failed: int, inputs: int, options: RunOptions) -> str:
    own = [row for row in steps.outcomes(step).to_pylist() if row["outcome"] == "failed"]
    if step.verb != "catalogs":
        own = [row for row in own if row["step"] == step.name]
    counts = ", ".join(
        f"{count} {reason}" for reason, count in Counter(row["reason"] for row in own).most_common()
    )
    examples = "; ".join(f"{row['name']}: {row['reason']}" for row in own[:3])
    return (
        f"{step.name}: {failed} of {inputs} samples are broken ({counts}), more than run.max_failed="
        f"{options.max_failed:g} accepts. First: {examples}. Mend them, or raise run.max_failed"
    )


def run_steps(steps: Steps, template: Job, options: RunOptions, sink: Sink, pool: Pool) -> None:
    """Complete every step of the plan. Raises DatakitError."""
    scheduler = Scheduler(steps, template, options, sink, waiting=deque(steps.plan.steps.items()))

    def done(job: Job, manifest: Manifest) -> list[Job]:
        scheduler.done(job, manifest)
        return scheduler.ready()

    drain(pool, scheduler.ready(), done)


def drain(pool: Pool, jobs: Iterable[Job], done: Callable[[Job, Manifest], Iterable[Job]]) -> None:
    """Run jobs, and those that `done` gives for each that ends, until there are none."""
    waiting = deque(jobs)
    while waiting or pool.running:
        while waiting and pool.free:
            pool.submit(waiting.popleft())
        for job, manifest in pool.wait():
            waiting += done(job, manifest)


class Pool(Protocol):
    """Where jobs run."""

    @property
    def running(self) -> Collection[Any]: ...

    @property
    def free(self) -> bool: ...

    def submit(self, job: Job) -> None: ...

    def wait(self) -> list[tuple[Job, Manifest]]: ...


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
