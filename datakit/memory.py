"""Memory that is used again once nobody holds what lay there: for samples, for pixels, for batches.

Fresh pages cost more than what is put into them, and whatever has 100 kB is of fresh pages each time: malloc gives
them back to the kernel when a batch goes. Into memory that is at hand a sample of 93 kB is read in 18 µs with its
digest, into new `bytes` in 60.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Memory = bytearray | mmap.mmap

SLAB = 2 << 20  # bytes of one: a huge page; as it stays while any part of it is held, it is not larger
MOST = 32  # slabs a thread has at most; what needs more is read into bytes
LOOKS = 4  # slabs asked whether they are free before another is made
SCRATCH = 16 << 20  # bytes that a thread keeps at hand for what is done with at once
SPARE = 4  # batches whose memory a loader keeps at hand


class Slabs:
    """Parts of slabs, each thread's its own."""

    def __init__(self) -> None:
        self._mine = threading.local()

    def __reduce__(self) -> tuple[type[Slabs], tuple[()]]:
        return Slabs, ()  # another process has memory of its own

    def take(self, size: int) -> memoryview | None:
        """`size` writable bytes that nobody else has until every view of them is gone; None if there are none."""
        if not 0 < size <= SLAB:
            return None
        mine: _Mine | None = getattr(self._mine, "slabs", None)
        if mine is None:
            mine = self._mine.slabs = _Mine()
        return mine.take(size)


class _Mine:
    """The slabs of one thread; the last one is filled from its start to its end."""

    def __init__(self) -> None:
        self._slabs: deque[Memory] = deque()
        self._rest: memoryview | None = None  # of the last slab, while it has room
        self._at = 0

    def take(self, size: int) -> memoryview | None:
        if self._rest is None or self._at + size > SLAB:
            self._rest = None  # lets go of the slab, or it would never be free
            slab = self._next()
            if slab is None:
                return None
            self._slabs.append(slab)
            self._rest, self._at = memoryview(slab), 0
        part = self._rest[self._at : self._at + size]
        self._at += size
        return part

    def _next(self) -> Memory | None:
        """A slab that nobody holds: the one longest in use is most likely to be free."""
        for _ in range(min(LOOKS, len(self._slabs))):
            slab = self._slabs.popleft()
            if _free(slab):
                return slab
            self._slabs.append(slab)
        return _fresh(SLAB) if len(self._slabs) < MOST else None


class Scratch:
    """One piece of memory for each thread, which is free again when that thread asks for the next."""

    def __init__(self) -> None:
        self._mine = threading.local()

    def take(self, size: int) -> bytearray | None:
        """At least `size` bytes; None where that is too much to keep."""
        if size > SCRATCH:
            return None
        held: bytearray = getattr(self._mine, "bytes", None) or bytearray()
        if len(held) < size:
            held = self._mine.bytes = bytearray(size)
        return held


class Room:
    """Whole batches of pixels, for one thread: whoever drops a batch makes room for the next of its size."""

    def __init__(self) -> None:
        self._kept: deque[Memory] = deque(maxlen=SPARE)

    def __reduce__(self) -> tuple[type[Room], tuple[()]]:
        return Room, ()

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array to be filled, of memory that nobody else has until every view of it is gone."""
        import numpy as np

        size = math.prod(shape) * dtype.itemsize
        if size < SLAB:  # so small that malloc has it at hand
            return np.empty(shape, dtype)
        memory = next((one for one in self._kept if len(one) == size and _free(one)), None)
        if memory is None:
            memory = _fresh(size)
            self._kept.append(memory)
        return np.frombuffer(memory, dtype).reshape(shape)


def _fresh(size: int) -> Memory:
    """Memory of `size` bytes. In huge pages where the system has them: to find a page takes the kernel as long as to
    copy 20 kB, and a slab would have 512.
    """
    if size < SLAB or not hasattr(mmap, "MADV_HUGEPAGE"):
        return bytearray(size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _free(memory: Memory) -> bool:
    """Whether no view of it is left: Python lets none resize what others look at, and says so."""
    try:
        if isinstance(memory, mmap.mmap):
            memory.resize(len(memory))
        else:
            memory.append(memory.pop())  # within what it has: nothing moves
    except BufferError:
        return False
    return True
