"""A worker's side of its pipe: jobs in; words on their progress, manifests and errors out."""

from __future__ import annotations

import contextlib
import pickle
import time
import traceback
from collections import Counter
from typing import Any

from datakit.errors import DatakitError
from datakit.manifest import Manifest
from datakit.run import place
from datakit.run.job import Job
from datakit.run.worker import run_job

NOTHING = {"kept": 0, "dropped": 0, "failed": 0}
FLUSH = 0.2  # seconds between a worker's words on its progress


def serve(pipe: Any, slot: Any) -> None:
    """A worker's life: a job from the pipe, words on its progress and its manifest or its error back, until None.

    slot: shared memory, where it says what it is at.
    """
    place.attach(place.Slot(memoryview(slot).cast("B")))
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has closed its end: it wants no more
        while (job := pipe.recv()) is not None:
            pipe.send(_answer(job, _Words(pipe)))


def _answer(job: Job, words: _Words) -> Manifest | Exception:
    try:
        manifest = run_job(job, words.tell)
    except BaseException as problem:
        # SystemExit and KeyboardInterrupt too: here they can only be a stage's, and end no worker.
        return portable(problem)
    words.flush()
    return manifest


def portable(problem: BaseException) -> Exception:
    """The error as it can go through a pipe. A pipe drops causes and tracebacks, so where it arose goes along as a
    note, unless it is one of ours that says all in its text.
    """
    if problem.__cause__ is not None or not isinstance(problem, DatakitError):
        problem.add_note("".join(traceback.format_exception(problem)))
    if isinstance(problem, Exception) and _pickles(problem):
        return problem
    return RuntimeError("".join(traceback.format_exception(problem)))


def _pickles(problem: Exception) -> bool:
    """Not with a constructor of another shape, nor with something in it that no pipe takes."""
    try:
        pickle.loads(pickle.dumps(problem))
    except Exception:  # whatever its own code raises
        return False
    return True


class _Words:
    """A job's counts, said at most every FLUSH seconds."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.counts = Counter(NOTHING)
        self.last = time.monotonic()

    def tell(self, kept: int, dropped: int, failed: int) -> None:
        self.counts.update(kept=kept, dropped=dropped, failed=failed)
        if time.monotonic() - self.last >= FLUSH:
            self.flush()

    def flush(self) -> None:
        self.pipe.send(dict(self.counts))
        self.counts = Counter(NOTHING)
        self.last = time.monotonic()
