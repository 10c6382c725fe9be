"""Where the jobs of a sharded build run: in this process, in processes of this machine, or on a Dask cluster.

A job and its answer are each a line of JSON. Workers share nothing, not even a lock, so a killed one leaves nobody
waiting (`concurrent.futures` may wait for ever); its job goes to another, a few times.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from datakit.errors import ConfigError, DatakitError, EnvironmentProblem, StageError, StoreError

Job: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = dict[str, Any]
Run: TypeAlias = Callable[
    [Sequence[Job]], list[Answer]
]  # answers in the order of the jobs; raises what one raised

TRIES = 3  # workers that one job may cost
WORKER = "from datakit.index.sharded_crew import serve; serve()"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PROBLEMS = (ConfigError, StoreError, EnvironmentProblem)
_ONE = (
    threading.Lock()
)  # how many threads multiply matrices is the process's: two jobs at once would change it


def answer(words: str) -> str:
    """What a worker does with a line."""
    from datakit.index.sharded_jobs import do

    job = json.loads(words)
    try:
        with _ONE:
            return json.dumps({"done": do(job)})
    except DatakitError as problem:
        return json.dumps({"problem": type(problem).__name__, "said": str(problem)})
    except Exception as problem:
        # A fault of ours: where it lies goes to the worker's log, and no other worker is tried.
        traceback.print_exc()
        said = f"the job {_named(job)} failed: {type(problem).__name__}: {problem}"
        return json.dumps({"problem": StageError.__name__, "said": said})


def read_answer(words: str) -> Answer:
    """Raises what the job raised, if it was of ours."""
    found = json.loads(words)
    if "problem" in found:
        kinds = {kind.__name__: kind for kind in PROBLEMS}
        raise kinds.get(found["problem"], StageError)(found["said"])
    done: Answer = found["done"]
    return done


@contextlib.contextmanager
def crew(workers: int = 1, client: Any = None) -> Iterator[Run]:
    """workers: processes here, started at the first job and ended with the block; 1: this process.

    client: a `distributed.Client`; its workers must have this datakit and see the same disk.
    """
    if client is not None:
        yield lambda jobs: _on_dask(client, jobs)
    elif workers <= 1:
        yield _here
    else:
        with _Processes(workers) as processes:
            yield processes.run


def _here(jobs: Sequence[Job]) -> list[Answer]:
    from datakit.index.sharded_jobs import do

    return [do(job) for job in jobs]


def _named(job: Job) -> str:
    return f"{job['job']} {job.get('number', '')}".strip()


def _on_dask(client: Any, jobs: Sequence[Job]) -> list[Answer]:
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    # A key of its own for each: Dask would give the answers of a build before.
    futures = client.map(answer, [json.dumps(job) for job in jobs], pure=False)
    try:
        for future in as_completed(futures):
            read_answer(future.result())  # the first that failed ends it, whatever else runs
        return [read_answer(text) for text in client.gather(futures)]
    except KilledWorker as problem:
        raise EnvironmentProblem(
            f"a worker died {problem.allowed_failures + 1} times on one job: out of memory? Its log says more"
        ) from problem
    except DatakitError:
        raise
    except Exception as problem:
        raise EnvironmentProblem(
            f"Dask could not run a job: {type(problem).__name__}: {problem}"
        ) from problem
    finally:
        client.cancel(futures)


class _Worker:
    """A process, and the number of the job it has."""

    def __init__(self) -> None:
        path = os.pathsep.join(part for part in sys.path if part)
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        )
        self.number: int | None = None

    def give(self, number: int, job: Job) -> None:
        self.number = number
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it died: its other pipe says so
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class _Processes:
    """Workers, each with pipes of its own; one that dies is replaced."""

    def __init__(self, workers: int) -> None:
        self._most, self._workers = workers, list[_Worker]()

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in self._workers:
            worker.end()

    def run(self, jobs: Sequence[Job]) -> list[Answer]:
        waiting, answers, deaths = deque(range(len(jobs))), dict[int, Answer](), Counter[int]()
        while len(answers) < len(jobs):
            self._give(waiting, jobs)
            for worker in self._heard():
                assert worker.process.stdout
                line, number = worker.process.stdout.readline(), worker.number
                worker.number = None
                if line.endswith(b"\n") and number is not None:
                    answers[number] = read_answer(line.decode())
                    continue
                self._workers.remove(worker)
                worker.end()
                if number is not None:
                    deaths[number] += 1
                    waiting.appendleft(number)
                    if deaths[number] == TRIES:
                        raise EnvironmentProblem(
                            f"{TRIES} workers died, one after the other, of the job {_named(jobs[number])}: is memory "
                            "short? Give fewer workers, or smaller parts; the same call goes on from here"
                        )
        return [answers[number] for number in range(len(jobs))]

    def _give(self, waiting: deque[int], jobs: Sequence[Job]) -> None:
        idle = [worker for worker in self._workers if worker.number is None]
        while waiting and (idle or len(self._workers) < self._most):
            if not idle:
                idle.append(_Worker())
                self._workers.append(idle[-1])
            number = waiting.popleft()
            idle.pop().give(number, jobs[number])

    def _heard(self) -> list[_Worker]:
        """Those that say something, or are dead. Waits for one."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                assert worker.process.stdout
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            return [key.data for key, _ in selector.select()]


def serve() -> None:
    """What a process of ours runs: a job a line, an answer a line, until nobody listens any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as said:
        os.dup2(2, 1)  # what a library prints is no answer
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(lines,), daemon=True).start()
        while True:
            said.write(answer(lines.get()) + "\n")
            said.flush()


def _listen(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # the parent is gone, in the middle of a job or not
