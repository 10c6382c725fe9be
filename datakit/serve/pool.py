"""Threads for what would hold up everybody else: so many at once, so many that wait, and so long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
THREADS = 4  # answers made at once
WAITING = 32  # that may wait for a thread
SECONDS = 60.0  # after which nobody waits any longer


class Busy(Exception):
    """More is asked than will be answered soon; the message says which way."""


class Pool:
    """`run` from one event loop."""

    def __init__(self, threads: int = THREADS, waiting: int = WAITING, seconds: float = SECONDS) -> None:
        self._most, self._seconds = threads + waiting, seconds
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="datakit-serve")
        self._lock = threading.Lock()
        self._jobs = 0

    @property
    def jobs(self) -> int:
        """Under way or waiting. What took too long counts until it ends: its thread is not free before."""
        return self._jobs

    async def run(self, work: Callable[[], T], *, refused: bool = True) -> T:
        """What `work` returns, in a thread. Raises Busy. refused: whether it may be, as what has begun may not."""
        with self._lock:
            if refused and self._jobs >= self._most:
                raise Busy("too many requests wait; ask again in a moment")
            self._jobs += 1
        future = self._threads.submit(work)
        future.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._seconds)
        except TimeoutError:
            raise Busy(f"this takes longer than {self._seconds:g} s; ask for less") from None

    def _ended(self, future: Future[Any]) -> None:
        with self._lock:
            self._jobs -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
