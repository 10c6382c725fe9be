"""Files that appear whole or not at all: `x.part-…` → fsync → close → read again → rename → fsync of the folder.

What is read again comes from the file system, mostly from its cache: a short write, a lost one or one that another
process wrote over is found before the rename. From the device itself it would cost as much as the writing (measured:
a third to one and a half of it, against 3 % of the CPU time); what a disk forgets later is found by digests.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from datakit.errors import EnvironmentProblem

CHUNK = 1 << 20  # bytes
HOST = f"{xxhash.xxh32_intdigest(platform.node().encode()):08x}"  # pids of two machines say nothing to each other
_PART = re.compile(r"\.part-(\d{1,7})(?:-(\w+))?$")  # the kernel's largest pid has seven digits
AGAIN = "and give the same command again: it goes on where it was"
ADVICE = {
    errno.ENOSPC: f"free some space there {AGAIN}",
    errno.EDQUOT: f"your quota there is used up: free some of it {AGAIN}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f) {AGAIN}",
    errno.EIO: f"the disk, or the server that it is on, has trouble (see dmesg): mend it {AGAIN}",
    errno.EROFS: "it is mounted read-only: choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EMFILE: f"raise the limit on open files (ulimit -n) {AGAIN}",
}


def disk_problem(path: Path | str, problem: OSError, what: str = "write") -> EnvironmentProblem:
    """What the machine refused, and what to do about it."""
    advice = ADVICE.get(problem.errno or 0)
    said = f"cannot {what} {path}: {problem.strerror or problem}"
    return EnvironmentProblem(f"{said}; {advice}" if advice else said)


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """An OSError in here is the machine's refusal to write `path`."""
    try:
        yield
    except OSError as problem:
        raise disk_problem(path, problem) from problem


def part_of(path: Path) -> Path:
    """Where `path` is drafted; pid and host tell a later build whether somebody still writes there."""
    return path.with_name(f"{path.name}.part-{os.getpid()}-{HOST}{os.urandom(4).hex()}")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A `.part` path to write; on a clean exit it is synced and renamed onto `path`."""
    with _drafted(path) as part:
        yield part
        sync(part)
        _rename(part, path)


@contextlib.contextmanager
def sealed(path: Path) -> Iterator[HashedFile]:
    """A file to write from start to end; on a clean exit it is synced, compared with what was written, and renamed."""
    with _drafted(path) as part:
        with HashedFile(part) as file:
            yield file
            os.fsync(file.fileno())
        confirm(part, file.digest)
        _rename(part, path)
    remember(path, file.digest)


@contextlib.contextmanager
def _drafted(path: Path) -> Iterator[Path]:
    part = part_of(path)
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)  # renamed by now, unless something failed


def _rename(part: Path, path: Path) -> None:
    part.replace(path)
    sync(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    with sealed(path) as file:
        file.write(data)


class HashedFile(io.RawIOBase):
    """A new file, hashed as it is written. Every write is whole, or raises OSError."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.size = 0
        self._xxh3 = xxhash.xxh3_128()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file

    def write(self, data: Any) -> int:
        waiting = memoryview(data).cast("B")
        self._xxh3.update(waiting)
        size = len(waiting)
        while waiting:
            waiting = waiting[os.write(self._file, waiting) :]
        self.size += size
        return size

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._file)

    @property
    def digest(self) -> str:
        """xxh3_128 of all that was written, in hex."""
        return self._xxh3.hexdigest()


def digest_of(path: Path) -> str:
    """xxh3_128 of a file as the file system gives it, in hex. Raises OSError."""
    xxh3, buffer = xxhash.xxh3_128(), memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            xxh3.update(buffer[:count])
    return str(xxh3.hexdigest())


_written: dict[Path, str] = {}  # what this process compared and renamed, until a manifest asks for it
REMEMBERED = 100_000  # files


def remember(path: Path, digest: str) -> None:
    """A file was written and compared: its manifest need not read it once more."""
    if len(_written) >= REMEMBERED:
        _written.clear()
    _written[path] = digest


def digest_written(path: Path) -> str:
    """xxh3_128 of a file that this process wrote; of another, as it lies there."""
    return _written.pop(path, "") or digest_of(path)


def confirm(path: Path, digest: str) -> None:
    """Raise EnvironmentProblem unless the file holds what was written to it."""
    if digest_of(path) != digest:
        raise EnvironmentProblem(
            f"{path}: the file system gives back other bytes than were written to it, so nothing of it is kept; look "
            f"at that disk {AGAIN}"
        )


def sync(path: Path) -> None:
    """fsync of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_orphans(folder: Path, *, ours: bool) -> int:
    """Delete `.part-<pid>-<host>` files that nobody goes on writing; how many.

    ours: nobody else writes here (the caller holds the lock); else only those of dead writers of this machine.
    """
    removed = 0
    for part in folder.rglob("*.part-*"):
        found = _PART.search(part.name)
        if found and (ours or (_here(found[2]) and not _alive(int(found[1])))):
            part.unlink(missing_ok=True)
            removed += 1
    return removed


def _here(suffix: str | None) -> bool:
    return not suffix or suffix.startswith(HOST)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A killed process that nobody waited for still answers; it writes no more.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
