"""What a worker says of where it is: whole or not at all, and cheap."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from datakit.errors import SampleError
from datakit.run import place
from datakit.run.job import Job
from datakit.run.place import BATCH, ROOM, SAMPLE, Place, Slot, admit, admit_batch

JOB = Job(recipe="r", words=(), listings=(), root="/r", step="f", shard=0)
STALLED = ("look", "b", "timeout", "in look: more than 1 s")


@pytest.fixture
def slot() -> Iterator[Slot]:
    made = Slot(memoryview(bytearray(ROOM)))
    place.attach(made)
    yield Slot(made.memory)  # the parent's view of the same memory
    place.attach(None)


def test_the_parent_reads_what_the_worker_entered_last(slot: Slot) -> None:
    assert slot.read() == Place()
    place.enter(BATCH, "embed", "flower/0001")
    before = slot.count
    place.enter(SAMPLE, "größe", "a")
    assert slot.read() == Place("sample", "größe", "a") and slot.count != before
    place.enter(SAMPLE, "x", "k" * ROOM)
    assert slot.read() == Place("between", "", "")
    slot.clear()
    assert slot.read() == Place()


def test_a_half_written_entry_is_no_place(slot: Slot) -> None:
    place.enter(SAMPLE, "one", "a")
    slot.memory[0] |= 1  # as it is until the words are there
    assert slot.read() == Place()


def test_a_refused_sample_fails_in_its_stage_alone(slot: Slot) -> None:
    job = Job(recipe="r", words=(), listings=(), root="/r", step="f", shard=0, refused=(STALLED,))
    admit(job, "look", "a")
    assert slot.read().key == "a"
    admit(job, "other", "b")
    with pytest.raises(SampleError) as raised:
        admit(job, "look", "b")
    assert (raised.value.reason, raised.value.detail) == ("timeout", STALLED[3])
    admit_batch(job, "look", ["c", "d"])
    with pytest.raises(SampleError):
        admit_batch(job, "look", ["a", "b"])
    with pytest.raises(SampleError):
        admit_batch(job, "look", ["b"])
    admit_batch(job, "other", ["a", "b"])


def test_a_batch_that_cost_a_worker_is_not_entered_as_one(slot: Slot) -> None:
    job = Job(recipe="r", words=(), listings=(), root="/r", step="f", shard=0, alone=(("look", "a"),))
    with pytest.raises(SampleError):
        admit_batch(job, "look", ["a", "b"])
    admit_batch(job, "look", ["a"])
    admit_batch(job, "look", ["c", "d"])
    assert slot.read() == Place("batch", "look", "c")
