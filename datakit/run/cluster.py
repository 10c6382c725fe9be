"""A Dask cluster: one of our own on this machine, or a client of somebody's scheduler."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing import active_children, resource_tracker
from queue import SimpleQueue
from typing import Any

import dask
from distributed import Client, LocalCluster, Nanny

from datakit.errors import EnvironmentProblem
from datakit.run.pool import LEAVE, TRIES
from datakit.run.progress import Sink
from datakit.run.signals import undisturbed
from datakit.run.watch import stopped

CONNECT = 8.0  # seconds to reach a scheduler, or to hear of its workers
LOOK = 1.0  # seconds between looks at the cluster
HELD = 4  # looks in which a worker is stopped before it is ended
NO_WORKERS = 60.0  # seconds without one worker before a build gives up
LOGGERS = ("distributed", "tornado", "asyncio", "bokeh")


@contextlib.contextmanager
def own(workers: int) -> Iterator[Client]:
    """Processes of this machine, each with a nanny that replaces it; none is left afterwards."""
    resource_tracker.ensure_running()  # a first spawn would start it, which unblocks Ctrl-C (see undisturbed)
    before, cluster, nannies = set(active_children()), None, list[Nanny]()
    with (
        tempfile.TemporaryDirectory(prefix="datakit-dask-", ignore_cleanup_errors=True) as scratch,
        _guarded(nannies),
    ):
        try:
            # The cluster's thread is born deaf to Ctrl-C, and so are the workers that it starts, now and later.
            with undisturbed():
                cluster = _start(workers, scratch, nannies)
            with Client(cluster, set_as_default=False) as client:
                yield client
        except BaseException:
            _kill(cluster, before)
            raise
        finally:
            if cluster is not None:
                with contextlib.suppress(TimeoutError):
                    cluster.close(timeout=2 * LEAVE)
            _kill(cluster, before)


@contextlib.contextmanager
def _guarded(nannies: list[Nanny]) -> Iterator[None]:
    """Meanwhile a worker that somebody stopped, its start included, is ended, so that its nanny starts another: Dask
    itself waits for ever for one that starts, and five minutes for another.
    """
    over = threading.Event()
    guard = threading.Thread(target=_guard, args=(nannies, over), name="datakit-guard", daemon=True)
    guard.start()
    try:
        yield
    finally:
        over.set()
        guard.join()


def _guard(nannies: list[Nanny], over: threading.Event) -> None:
    looks: Counter[int] = Counter()  # at each that is stopped; in a Ctrl-Z, of all of us, there are none
    while not over.wait(LOOK):
        held = [pid for nanny in list(nannies) if (pid := _pid(nanny)) and stopped(pid)]
        looks = Counter({pid: looks[pid] + 1 for pid in held})
        for pid in held:
            if looks[pid] >= HELD:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _pid(nanny: Nanny) -> int | None:
    with contextlib.suppress(AttributeError, ValueError):  # its worker went while it was asked
        return nanny.pid  # type: ignore[no-any-return,unused-ignore]
    return None


def _start(workers: int, scratch: str, nannies: list[Nanny]) -> LocalCluster:
    """nannies: those that it starts are added, before they start anything."""

    def nanny(*arguments: Any, **options: Any) -> Nanny:
        nannies.append(Nanny(*arguments, **options))
        return nannies[-1]

    loopback = "127.0.0.1:0"
    settings = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.worker.use-file-locking": False,
        "temporary-directory": scratch,
    }
    for attempt in range(TRIES):  # a worker that dies while it starts takes the whole start with it
        try:
            with dask.config.set(settings):
                return LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    worker_class=nanny,
                    host="127.0.0.1",
                    memory_limit=None,  # as the local pool: the machine's own
                    dashboard_address=loopback if has_dashboard() else None,
                    scheduler_kwargs={"allowed_failures": TRIES - 1, "dashboard_address": loopback},
                    silence_logs=logging.CRITICAL,
                )
        except (OSError, RuntimeError) as problem:
            if attempt == TRIES - 1:
                raise EnvironmentProblem(f"cannot start {workers} Dask workers here: {problem}") from problem
    raise AssertionError("a last try returns or raises")


def has_dashboard() -> bool:
    return importlib.util.find_spec("bokeh") is not None


def _kill(cluster: LocalCluster | None, before: set[Any]) -> None:
    """End at once the processes that came since, without waiting for what they do."""
    for nanny in cluster.workers.values() if cluster is not None else ():
        nanny.auto_restart = False
    for process in set(active_children()) - before:
        process.kill()


@contextlib.contextmanager
def connected(address: str, sink: Sink) -> Iterator[Client]:
    """A client of somebody's scheduler. Raises EnvironmentProblem where none answers or it has no workers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _greeted(address)
            client = Client(address, timeout=CONNECT, set_as_default=False)
        except (OSError, OverflowError, ValueError) as problem:
            raise EnvironmentProblem(
                f"no Dask scheduler answers at {address} ({problem}); is it running, and is that its address?"
            ) from problem
    with client:
        for warning in caught:
            sink.event("note", text=str(warning.message).strip())
        try:
            client.wait_for_workers(1, timeout=NO_WORKERS)
        except TimeoutError:
            raise EnvironmentProblem(
                f"{address} has had no worker for {NO_WORKERS:.0f} s; start some"
            ) from None
        yield client


def _greeted(address: str) -> None:
    """A scheduler speaks first. Dask's own client waits for ever for one that takes the connection and is silent."""
    host, port = address.partition("://")[2].rsplit(":", 1)
    with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT) as talk:
        if address.startswith("tcp:") and not talk.recv(1):
            raise OSError("it ends the connection")


@contextlib.contextmanager
def logged(said: SimpleQueue[Any]) -> Iterator[None]:
    """What Dask's loggers say goes to the build's log, and not to the terminal."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in LOGGERS]
    loggers = [logging.getLogger(name) for name in {*LOGGERS, *names}]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        top = logger.name in LOGGERS
        logger.handlers, logger.propagate = [_ToQueue(said)] if top else [], not top
    try:
        yield
    finally:
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate


class _ToQueue(logging.Handler):
    """Dask's threads log; the build's own thread writes it down."""

    def __init__(self, said: SimpleQueue[Any]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.put(("log", f"{record.name}: {record.getMessage()}"))
