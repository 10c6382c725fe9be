"""Signals that wait: while a process is being started, nobody could end what has started of it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def deferred(*names: signal.Signals) -> Iterator[None]:
    """What these do, they do at the end. Nothing happens outside of the main thread: only there do handlers run."""
    handlers = {name: signal.getsignal(name) for name in names}
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    came: list[int] = []
    try:
        for name, handler in handlers.items():
            if handler is not None:  # else it is not Python's
                signal.signal(name, lambda number, frame: came.append(number))
        yield
    finally:
        for name, handler in handlers.items():
            if handler is not None:
                signal.signal(name, handler)
        for number in came[:1]:  # a second one is for the handler that the first leaves
            signal.raise_signal(number)
