"""A worker's side of its pipe: jobs in; words on their progress, manifests and errors out."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from multiprocessing import parent_process
from typing import Any

from datakit.errors import DatakitError
from datakit.run.worker import run_job

FLUSH = 0.2  # seconds between a worker's words on its progress


def work(pipe: Any) -> None:
    """A worker's life: a job from the pipe, words on its progress and its manifest or its error back, until None."""
    # Ctrl-C is the parent's affair, and a worker ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while (job := pipe.recv()) is not None:
        words = _Words(pipe, job.step)
        try:
            manifest = run_job(job, words.tell)
        except Exception as problem:
            pipe.send(portable(problem))
        else:
            words.flush()
            pipe.send(manifest)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def portable(problem: Exception) -> Exception:
    """The error as it can go through a pipe; one that is not ours takes the place where it arose along."""
    if not isinstance(problem, DatakitError):
        problem.add_note("".join(traceback.format_exception(problem)))
    try:
        pickle.loads(pickle.dumps(problem))
    except Exception:  # a constructor of another shape, or something in it that no pipe takes
        return RuntimeError("".join(traceback.format_exception(problem)))
    return problem


class _Words:
    """A job's counts, said at most every FLUSH seconds."""

    def __init__(self, pipe: Any, step: str) -> None:
        self.pipe, self.step = pipe, step
        self.counts = [0, 0, 0]
        self.last = time.monotonic()

    def tell(self, kept: int, dropped: int, failed: int) -> None:
        for index, more in enumerate((kept, dropped, failed)):
            self.counts[index] += more
        if time.monotonic() - self.last >= FLUSH:
            self.flush()

    def flush(self) -> None:
        self.pipe.send((self.step, *self.counts))
        self.counts = [0, 0, 0]
        self.last = time.monotonic()
