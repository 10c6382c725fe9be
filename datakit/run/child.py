"""A worker's side of its pipe: jobs in; words on their progress, manifests and errors out."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from multiprocessing import parent_process
from typing import Any

from datakit.errors import DatakitError
from datakit.manifest import Manifest
from datakit.run import place
from datakit.run.worker import Job, run_job

NOTHING = {"kept": 0, "dropped": 0, "failed": 0}
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
FLUSH = 0.2  # seconds between a worker's words on its progress


def work(pipe: Any, slot: Any) -> None:
    """A worker's life: a job from the pipe, words on its progress and its manifest or its error back, until None.

    slot: shared memory, where it says what it is at.
    """
    # Ctrl-C is the parent's affair, and a worker ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    place.attach(place.Slot(memoryview(slot).cast("B")))
    _die_with_parent()
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has closed its end: it wants no more
        while (job := pipe.recv()) is not None:
            pipe.send(_answer(job, _Words(pipe)))


def _answer(job: Job, words: _Words) -> Manifest | Exception:
    try:
        manifest = run_job(job, words.tell)
    except Exception as problem:
        return portable(problem)
    words.flush()
    return manifest


def _die_with_parent() -> None:
    """On Linux the kernel ends us with our parent, even where a codec holds the interpreter and no thread of ours
    can run; elsewhere that thread must do.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def portable(problem: Exception) -> Exception:
    """The error as it can go through a pipe. A pipe drops causes and tracebacks, so where it arose goes along as a
    note, unless it is one of ours that says all in its text.
    """
    if problem.__cause__ is not None or not isinstance(problem, DatakitError):
        problem.add_note("".join(traceback.format_exception(problem)))
    try:
        pickle.loads(pickle.dumps(problem))
    except Exception:  # a constructor of another shape, or something in it that no pipe takes
        return RuntimeError("".join(traceback.format_exception(problem)))
    return problem


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
