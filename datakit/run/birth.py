"""A worker's first steps: it is tied to its parent before it loads anything, so that none outlives a killed build."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from multiprocessing import parent_process
from typing import Any

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def work(pipe: Any, slot: Any) -> None:
    """What a spawned process runs: jobs from the pipe until None. slot: shared memory, where it says what it is at."""
    # Ctrl-C is the parent's affair, and a worker ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.stdout and sys.stderr:  # else these numbers are of other files
        os.dup2(2, 1)  # what a stage prints is no answer of the build's
    _die_with_parent()
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from datakit.run.child import serve  # loads numpy and more: a second in which a parent can die

    serve(pipe, slot)
    _leave()


def _die_with_parent() -> None:
    """On Linux the kernel ends us with the thread that started us, even where a codec holds the interpreter and no
    thread of ours can run; elsewhere that thread of ours must do.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _leave() -> None:
    """End without taking the interpreter apart: where torch is loaded that takes a second, in which a build waits."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
