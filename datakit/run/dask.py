"""Jobs on Dask: a cluster of our own on this machine, or the workers of a scheduler that somebody runs.

What goes to a worker is text (`remote.py`), so results are those of the local pool, byte for byte. A worker does its
jobs in a child that it watches (`supervise.py`). A job whose Dask worker died is given to another by Dask's scheduler,
as often as the local pool would; on this machine one that somebody stopped is ended for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future, get_worker
from distributed.scheduler import KilledWorker

from datakit.config import RunOptions
from datakit.errors import EnvironmentProblem
from datakit.manifest import Manifest, remove_orphans
from datakit.run import remote
from datakit.run.child import NOTHING
from datakit.run.cluster import CONNECT, LOOK, NO_WORKERS, connected, has_dashboard, logged, own
from datakit.run.job import Job
from datakit.run.pool import _no_main
from datakit.run.progress import Sink
from datakit.run.watch import Limits

TOPIC = "datakit-progress"  # one for all builds: a scheduler keeps what was said under each
CHECK = 30.0  # seconds for every worker to say whether it can take part; one that is busy says it with its first job


def run_words(text: str) -> str:
    """What a Dask worker runs."""
    worker = get_worker()
    return remote.answer(text, lambda said: worker.log_event(TOPIC, said))


@dataclass
class _Running:
    """A job in the cluster, and what was said of its samples by the run of it that spoke last."""

    job: Job
    future: Future[str]
    told: Counter[str] = field(default_factory=lambda: Counter(NOTHING))
    runs: list[str] = field(default_factory=list)


class DaskPool:
    """Jobs in a cluster; everything that its threads have to say comes through `said`, to be told by ours."""

    def __init__(self, client: Client, sink: Sink, said: SimpleQueue[Any], options: RunOptions) -> None:
        self.client, self.sink, self.said = client, sink, said
        self.most, self.where = options.workers, options.scheduler  # 0: as many jobs as there are workers
        self.limits = Limits.of(options)
        self.jobs: dict[str, _Running] = {}
        self.terms = remote.terms_of(uuid.uuid4().hex, ())
        self.probes: list[Path] = []
        self.workers = len(self._found())
        self.looked = self.peopled = time.monotonic()
        client.subscribe_topic(TOPIC, lambda event: said.put(("told", event[1])))

    @property
    def running(self) -> Collection[str]:
        return self.jobs.keys()

    @property
    def free(self) -> bool:
        return len(self.jobs) < max(1, min(self.workers, self.most or self.workers))

    def submit(self, job: Job) -> None:
        if not self.terms.probes:
            self._show(job)
        key = f"{job.kind}-{job.step}-{job.shard}-{uuid.uuid4().hex[:8]}"
        future = self.client.submit(
            run_words, remote.asked(key, self.terms, self._there(job), self.limits), key=key, pure=False
        )
        self.jobs[key] = _Running(job, future)
        future.add_done_callback(lambda future: self.said.put(("done", key)))

    def _there(self, job: Job) -> Job:
        """A recipe's file by its whole path: other workers were not started in this folder."""
        if self.where and job.recipe.endswith(".py"):
            return replace(job, recipe=str(Path(job.recipe).absolute()))
        return job

    def _show(self, job: Job) -> None:
        """Write a file where shards will be, for every worker to read. Raises EnvironmentProblem if one cannot."""
        # Named as what a kill leaves, so that the next build removes it.
        name = f"dask.part-{os.getpid()}-{self.terms.build}"
        folders = [Path(job.root) / "steps", *([Path(job.out) / ".datakit"] if job.out else [])]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            self.probes.append(folder / name)
            self.probes[-1].write_text(self.terms.build)
        self.terms = replace(self.terms, probes=tuple(map(str, self.probes)))
        if self.where:
            self._ask_all(json.dumps(vars(self.terms)))

    def _ask_all(self, text: str) -> None:
        futures = [
            self.client.submit(remote.check, text, workers=[worker], pure=False) for worker in self._found()
        ]
        until = time.monotonic() + CHECK
        for future in futures:
            with contextlib.suppress(TimeoutError):
                if problem := future.exception(timeout=max(0.01, until - time.monotonic())):
                    raise EnvironmentProblem(
                        f"the workers of {self.where} cannot run datakit ({problem}); install it there, with the "
                        "extras that the recipe needs"
                    )
                if why := future.result():
                    raise EnvironmentProblem(why)

    def wait(self) -> list[tuple[Job, Manifest]]:
        """The jobs that ended, at least one. Raises what a job raised."""
        results: list[tuple[Job, Manifest]] = []
        while not results:
            try:
                kind, said = self.said.get(timeout=LOOK)
            except Empty:
                kind, said = "", None
            if kind == "done" and said in self.jobs:
                results.append(self._end(said))
            elif kind == "told" and said["key"] in self.jobs:
                self._told(self.jobs[said["key"]], said)
            elif kind == "log":
                self.sink.event("log", text=said)
            if time.monotonic() - self.looked >= LOOK:
                self._look()
        return results

    def _told(self, running: _Running, said: dict[str, Any]) -> None:
        if "note" in said:
            self.sink.event("note", text=said["note"])
        else:
            self._tell(running, said["run"], said["counts"])

    def _tell(self, running: _Running, run: str, counts: dict[str, int]) -> None:
        """Counts of a job's samples; those of a run whose worker is no more are taken back first."""
        if run not in running.runs:
            running.runs.append(run)
            self._advance(running, {name: -count for name, count in running.told.items()})
        if run == running.runs[-1]:
            self._advance(running, counts)

    def _advance(self, running: _Running, counts: dict[str, int]) -> None:
        if any(counts.values()):
            running.told.update(counts)
            self.sink.event("advance", step=running.job.step, **counts)

    def _end(self, key: str) -> tuple[Job, Manifest]:
        running = self.jobs[key]
        future, job = running.future, running.job
        if future.status == "finished":
            manifest, total = remote.read_answer(future.result())
            # Words on progress can be lost, or be of a run that was cut off: now the whole is known.
            self._advance(running, {name: total[name] - running.told[name] for name in NOTHING})
            del self.jobs[key]
            return job, manifest
        problem = future.exception() if future.status == "error" else None
        what = f"shard {job.shard} of step {job.step}"
        if isinstance(problem, KilledWorker):
            raise EnvironmentProblem(
                f"a worker died {problem.allowed_failures + 1} times on {what}: out of memory? Its log says more"
            )
        if problem is None:
            raise EnvironmentProblem(f"{self._gone()} before {what} was done")
        raise EnvironmentProblem(f"Dask could not run {what}: {type(problem).__name__}: {problem}")

    def _gone(self) -> str:
        return f"the Dask scheduler {self.where or 'of this build'} is gone"

    def _look(self) -> None:
        """Count the workers. Raises EnvironmentProblem where there is nothing left to wait for."""
        self.looked = time.monotonic()
        if self.client.status not in ("running", "connecting"):
            raise EnvironmentProblem(self._gone())
        self.workers = len(self._found())
        if self.workers:
            self.peopled = self.looked
        elif self.looked - self.peopled > NO_WORKERS:
            raise EnvironmentProblem(
                f"{self.where or 'the cluster of this build'} has had no worker for {NO_WORKERS:.0f} s"
            )

    def _found(self) -> Collection[str]:
        """Addresses of the workers; none while the scheduler does not answer."""
        scheduler: Any = self.client.scheduler
        try:
            found: dict[str, int] = self.client.sync(scheduler.ncores, callback_timeout=CONNECT)
        except (OSError, ValueError):  # between connections
            return ()
        return found.keys()

    def close(self) -> None:
        for probe in self.probes:
            probe.unlink(missing_ok=True)
            if not self.where:  # what a killed worker was writing; a stranger's pid says nothing here
                remove_orphans(probe.parent, ours=False)
        self.client.cancel([running.future for running in self.jobs.values()], force=True)


@contextlib.contextmanager
def open_dask(options: RunOptions, sink: Sink) -> Iterator[DaskPool]:
    """A pool on the cluster that `options` ask for, which is ended with it if it is our own."""
    said: SimpleQueue[Any] = SimpleQueue()
    # A worker can be replaced at any time, and spawn would run the caller's `__main__` again.
    with logged(said), _no_main(), contextlib.ExitStack() as stack:
        if options.scheduler:
            client = stack.enter_context(connected(options.scheduler, sink))
        else:
            options = replace(options, workers=options.workers or os.cpu_count() or 1)
            client = stack.enter_context(own(options.workers))
        pool = DaskPool(client, sink, said, options)
        stack.callback(pool.close)
        sink.event("note", text=_greeting(client, pool))
        yield pool


def _greeting(client: Client, pool: DaskPool) -> str:
    found = f"Dask: {pool.workers} workers{' of ' + pool.where if pool.where else ''}"
    if pool.where or has_dashboard():
        return f"{found}, dashboard {client.dashboard_link}"
    return f"{found}, no dashboard (bokeh is not installed)"
