"""Put first on PYTHONPATH, this makes the calls of a Python process fail as `FAULT` says, without a word of its own.

`shuffle:SEED`            folders are listed in another order
`CALL:N:ERRNO:MARK`       the N-th CALL on a file being written raises this error, and MARK is made
`CALL:N:short:MARK`       it writes some of the bytes and says so; `lie`: says that it wrote all
`count:::MARK`            every such call is counted: MARK holds a line a call
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator
from typing import Any

CALLS = ("open", "write", "pwrite", "ftruncate", "fsync", "replace", "rename", "mkdir")


class Listing:
    """`os.scandir` in another order."""

    def __init__(self, entries: Any, order: random.Random) -> None:
        with entries:
            self.entries = sorted(entries, key=lambda entry: str(entry.name))
        order.shuffle(self.entries)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.entries)

    def __next__(self) -> Any:
        if not self.entries:
            raise StopIteration
        return self.entries.pop(0)

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.entries = []


def shuffle(seed: int) -> None:
    order = random.Random(seed)
    scandir, listdir = os.scandir, os.listdir

    def listed(path: Any = ".") -> list[Any]:
        names = sorted(listdir(path))
        order.shuffle(names)
        return names

    os.scandir = lambda path=".": Listing(scandir(path), order)  # type: ignore[assignment]
    os.listdir = listed  # type: ignore[assignment]


def counts(call: str, given: tuple[Any, ...]) -> bool:
    """Whether this call is one on a file being written: not on a pipe, nor one that only reads."""
    if call == "open":
        return bool(given[1] & os.O_CREAT) and ".datakit/lock" not in str(given[0])
    if call in ("write", "pwrite", "ftruncate", "fsync"):
        mode = os.fstat(given[0]).st_mode
        return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return True


def inject(call: str, at: int, what: str, mark: str) -> None:
    real: Callable[..., Any] = getattr(os, call)
    met = 0

    def faulty(*given: Any, **named: Any) -> Any:
        nonlocal met
        if not counts(call, given):
            return real(*given, **named)
        met += 1
        if at and met != at:
            return real(*given, **named)
        note(mark, call)
        if what == "":
            return real(*given, **named)
        if what == "short":
            return real(given[0], memoryview(given[1])[: max(1, len(given[1]) // 2)], *given[2:])
        if what == "lie":
            real(given[0], memoryview(given[1])[: len(given[1]) // 2], *given[2:])
            return len(given[1])
        raise OSError(int(what), os.strerror(int(what)), str(given[0]))

    setattr(os, call, faulty)


def note(mark: str, call: str, write: Callable[[int, bytes], int] = os.write, open: Any = os.open) -> None:
    file = open(mark, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write(file, f"{call}\n".encode())
    os.close(file)


def main() -> None:
    fault = os.environ.get("FAULT", "")
    kind, _, rest = fault.partition(":")
    if kind == "shuffle":
        shuffle(int(rest))
    elif kind == "count":
        for call in CALLS:
            inject(call, 0, "", rest.rpartition(":")[2])
    elif kind:
        at, what, mark = rest.split(":", 2)
        inject(kind, int(at), what, mark)


main()
