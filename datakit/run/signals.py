"""Signals that wait: while a process is being started, nobody could end what has started of it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """For the start of a process. SIGINT and SIGTERM wait until it is done: a child that is left half started says so
    at length. It is deaf to Ctrl-C until it has said that this is the parent's affair.

    The mask is what a child inherits. It does not hold the parent's own Ctrl-C back, which another thread may take.
    """
    came: list[int] = []
    left = {}
    if threading.current_thread() is threading.main_thread():  # only there do handlers run, and can be set
        left = {name: handler for name in STOPS if (handler := signal.getsignal(name)) is not None}

    def put_back() -> None:
        while left:
            name = next(iter(left))
            signal.signal(name, left[name])
            del left[name]

    try:
        for name in left:
            signal.signal(name, lambda number, frame: came.append(number))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        try:
            put_back()
        finally:
            put_back()  # of the other, where a signal came as the first was put back
        for number in came:
            signal.raise_signal(number)
