"""Who may write where: one build at a time in `out`, any number on a shared cache, and nobody while steps are deleted.

The locks are the kernel's (flock): they end with their process, however that ends, so none is ever stale. Builders
that share a cache write the same bytes under the same names, each in a `.part` of its own; only a deletion of what
others may be reading must be alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from datakit.disk import disk_problem
from datakit.errors import EnvironmentProblem

LOCK = "lock"
CACHE_LOCK = ".datakit-lock"  # a cache may hold other things
PATIENCE = 60.0  # seconds to wait for another's deletion, which takes no longer than the disk does
NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """One build at a time in `out`. Raises EnvironmentProblem where another is running."""
    with _opened(out / ".datakit" / LOCK) as file:
        if not _try(file, fcntl.LOCK_EX):
            raise EnvironmentProblem(f"another build is running in {out}; wait for it or give another out=")
        yield


@contextlib.contextmanager
def sharing(cache: Path) -> Iterator[Sharing]:
    """Among the builders of a cache. Waits while one of them deletes steps."""
    with _opened(cache / CACHE_LOCK) as file:
        held = Sharing(cache, file)
        held.share()
        yield held


class Sharing:
    """Our share of a cache."""

    def __init__(self, cache: Path, file: IO[str]) -> None:
        self.cache, self.file = cache, file

    def share(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not _try(self.file, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise EnvironmentProblem(
                    f"another build has been deleting steps in {self.cache} for {PATIENCE:g} s"
                )
            time.sleep(0.05)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other builder here. Raises EnvironmentProblem where there is one."""
        if not _try(self.file, fcntl.LOCK_EX):
            raise EnvironmentProblem(
                f"another build uses the cache {self.cache}, and this one has steps to delete there; wait for it, or "
                "give another run.cache="
            )
        yield
        self.share()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as problem:
        raise disk_problem(path.parent, problem, "write into") from problem
    with file:
        yield file


def _try(file: IO[str], how: int) -> bool:
    """Whether the lock is ours now. Raises EnvironmentProblem on a file system that has none."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as problem:
        if problem.errno not in NO_LOCKS:
            raise disk_problem(file.name, problem, "lock") from problem
        raise EnvironmentProblem(
            f"the file system of {file.name} has no locks (flock: {problem.strerror}), so nothing keeps two builds "
            "apart there; build on a local disk, or mount it with locks, and copy the tree afterwards"
        ) from problem
    return True
