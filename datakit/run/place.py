"""Where a worker is: the stage and the sample that it entered last, in memory that its parent can read.

A worker that hangs says nothing more, so where it hangs must have been said before: each call of a stage is put
down first, in under a microsecond, in memory shared by these two processes alone. No lock is in it: one that a killed
process holds stays held.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from datakit.errors import SampleError

Kind = Literal["between", "sample", "batch", "source", "reduce"]
KINDS: tuple[Kind, ...] = ("between", "sample", "batch", "source", "reduce")
BETWEEN, SAMPLE, BATCH, SOURCE, REDUCE = range(5)

ROOM = 512  # bytes of a slot
WRITE = (
    "write"  # the name under which storing a sample, the last thing done to it, goes beside those of stages
)
_COUNT = struct.Struct("=Q")
_HEAD = struct.Struct("=QBH")  # count, kind, bytes of the words that follow


@dataclass(frozen=True)
class Place:
    """A stage and the sample in it. `key`: of a batch, its first; of a source, the last that it gave."""

    kind: Kind = "between"
    stage: str = ""
    key: str = ""


class Slot:
    """ROOM bytes, written by a worker and read by its parent.

    The count grows by two with every entry and is odd while one is written: a process killed amid that leaves no
    half name behind.
    """

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self._count = 0

    def enter(self, kind: int, stage: str, key: str) -> None:
        words = f"{stage}\n{key}".encode()
        if len(words) > ROOM - _HEAD.size:
            kind, words = BETWEEN, b"\n"  # no key of ours is so long
        self._count += 2
        _HEAD.pack_into(self.memory, 0, self._count - 1, kind, len(words))
        self.memory[_HEAD.size : _HEAD.size + len(words)] = words
        _COUNT.pack_into(self.memory, 0, self._count)

    def clear(self) -> None:
        """Nowhere yet."""
        _COUNT.pack_into(self.memory, 0, 0)

    @property
    def count(self) -> int:
        """Changes with every entry."""
        return int(_COUNT.unpack_from(self.memory)[0])

    def read(self) -> Place:
        count, kind, size = _HEAD.unpack_from(self.memory)
        if count % 2 or not count:
            return Place()
        stage, _, key = bytes(self.memory[_HEAD.size : _HEAD.size + size]).decode().partition("\n")
        return Place(KINDS[kind], stage, key)


_slot: Slot | None = None  # a process works on one job at a time, so its place is the process's


def attach(slot: Slot | None) -> None:
    """From now on this process says where it is; None: no longer."""
    global _slot
    _slot = slot


def enter(kind: int, stage: str = "", key: str = "") -> None:
    """This process now does this."""
    if _slot is not None:
        _slot.enter(kind, stage, key)


class Judged(Protocol):
    """What a job knows of its earlier attempts.

    `refused`: (stage, key, reason, detail) of samples that workers were lost on; `alone`: (stage, first key) of
    batches to be run one by one, because a worker was lost on them as a whole.
    """

    @property
    def refused(self) -> tuple[tuple[str, str, str, str], ...]: ...

    @property
    def alone(self) -> tuple[tuple[str, str], ...]: ...


def admit(job: Judged, stage: str, key: str) -> None:
    """Say that `stage` starts on the sample `key`. Raises SampleError for one that is refused there."""
    for at, refused, reason, detail in job.refused:
        if refused == key and at == stage:
            raise SampleError(reason, detail)
    enter(SAMPLE, stage, key)


def admit_batch(job: Judged, stage: str, keys: Sequence[str]) -> None:
    """Say that `stage` starts on these samples; raises SampleError for a batch that must be run one by one.

    The batches of a stage stay as they were: a sample refused is refused within its batch, not left out before it,
    for which samples share a batch can show in their last bits.
    """
    if len(keys) == 1:
        admit(job, stage, keys[0])
        return
    if (stage, keys[0]) in job.alone:
        raise SampleError("alone", "a worker was lost on this batch")
    if job.refused:
        refused = {key: reason for at, key, reason, _ in job.refused if at == stage}
        if found := [refused[key] for key in keys if key in refused]:
            raise SampleError(found[0], "a worker was lost on a sample of this batch")
    enter(BATCH, stage, keys[0])
