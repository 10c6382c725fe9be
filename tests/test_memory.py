"""Memory that is used again is nobody else's, whoever keeps what lay there, and there is no more of it than said."""

from __future__ import annotations

import gc
import mmap
import pickle
import threading
from collections import deque

import numpy as np
import pytest

from datakit.memory import MOST, SCRATCH, SLAB, SPARE, Room, Scratch, Slabs


def address(part: memoryview) -> int:
    return int(np.frombuffer(part, np.uint8).ctypes.data)


def is_all(part: memoryview, mark: int) -> bool:
    return bytes(part) == bytes([mark]) * len(part)


@pytest.fixture(params=["huge pages", "none"], autouse=True)
def pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a system has that knows of huge pages, and what another has."""
    if request.param == "none":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)


def test_a_part_is_its_holders_alone_until_it_is_dropped() -> None:
    slabs, rng = Slabs(), np.random.default_rng(0)
    held: deque[tuple[memoryview, int]] = deque()
    places: set[int] = set()
    taken = 0
    for number in range(4000):
        size = int(rng.integers(1, SLAB // 3))
        part = slabs.take(size)
        assert part is not None and len(part) == size and not part.readonly
        part[:] = bytes([number % 256]) * size
        # Parts of parts, as arrays and images hold them.
        places.add(address(part) // SLAB)
        held.append((part[size // 2 :].toreadonly(), number % 256))
        taken += size
        del part
        if len(held) > 20:
            kept, mark = held.popleft() if rng.random() < 0.5 else held.pop()
            assert is_all(kept, mark)
            del kept
    assert all(is_all(kept, mark) for kept, mark in held)
    assert taken > 20 * len(places) * SLAB  # it was used again, and again


def test_whoever_keeps_everything_gets_bytes_in_the_end() -> None:
    slabs = Slabs()
    held = [slabs.take(SLAB // 2) for _ in range(3 * MOST)]
    assert [part is not None for part in held] == [True] * 2 * MOST + [False] * MOST
    held.clear()
    assert slabs.take(SLAB) is not None
    assert slabs.take(SLAB + 1) is None and slabs.take(0) is None


def test_threads_and_processes_share_none() -> None:
    slabs = Slabs()
    places: dict[int, list[int]] = {}
    held: list[memoryview] = []

    def take(which: int) -> None:
        parts = [slabs.take(1000) for _ in range(50)]
        held.extend(part for part in parts if part is not None)
        places[which] = [address(part) // 1000 for part in parts if part is not None]

    threads = [threading.Thread(target=take, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({place for found in places.values() for place in found}) == 150
    other = pickle.loads(pickle.dumps(slabs)).take(1000)
    assert other is not None and address(other) not in {address(part) for part in held}


def test_scratch_is_one_piece_a_thread() -> None:
    scratch = Scratch()
    first = scratch.take(1000)
    assert first is not None and scratch.take(10) is first
    larger = scratch.take(5000)
    assert larger is not None and len(larger) >= 5000 and scratch.take(1000) is larger
    assert scratch.take(SCRATCH + 1) is None
    seen: list[bytearray | None] = []
    thread = threading.Thread(target=lambda: seen.append(scratch.take(1000)))
    thread.start()
    thread.join()
    assert seen[0] is not larger


def test_a_batch_that_is_kept_stays_and_one_that_is_dropped_makes_room() -> None:
    room, kind = Room(), np.dtype(np.float32)
    shape = (3, SLAB // 4)
    kept = []
    for number in range(3 * SPARE):
        batch = room.array(shape, kind)
        batch[...] = number
        kept.append(batch[1:])
    assert all((batch == number).all() for number, batch in enumerate(kept))
    place = kept[-1].ctypes.data
    kept.clear()
    del batch
    gc.collect()
    again = [room.array(shape, kind) for _ in range(SPARE)]
    assert place in {batch[1:].ctypes.data for batch in again}
    assert room.array((2, 2), kind).shape == (2, 2)
