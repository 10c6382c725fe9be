"""Workers that die, at any moment: replaced while that can help, named when it cannot. Errors come back whole."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from datakit.errors import EnvironmentProblem, SampleError, StageError
from datakit.manifest import Manifest
from datakit.run.child import portable
from datakit.run.job import Job, open_steps
from datakit.run.pool import ProcessPool, drain
from datakit.run.progress import QuietSink

TOY = str(Path(__file__).parent.parent / "toy_recipe.py")


@pytest.fixture
def pool() -> Iterator[ProcessPool]:
    made = ProcessPool(2, QuietSink())
    yield made
    made.kill()
    assert not active_children()


def first_jobs(root: Path, *words: str, recipe: str = TOY) -> list[Job]:
    """The jobs of a recipe's source, which need no other."""
    steps = open_steps(recipe, words, (), str(root))
    fingerprint, step = next(iter(steps.plan.steps.items()))
    job = Job(recipe=recipe, words=words, listings=(), root=str(root), step=fingerprint, shard=0)
    lineage = steps.plan.lineage(step)
    return [replace(job, lineage=lineage, shard=shard) for shard in range(steps.shards(step))]


def run(pool: ProcessPool, jobs: list[Job]) -> dict[int, Manifest]:
    made: dict[int, Manifest] = {}

    def done(job: Job, manifest: Manifest) -> list[Job]:
        assert job.shard not in made
        made[job.shard] = manifest
        return []

    drain(pool, jobs, done)
    return made


@pytest.mark.parametrize("after", [0.0, 0.01, 0.1, 0.3, 0.6, 0.9])  # seconds of a worker's life
def test_workers_killed_at_any_moment_of_their_lives_are_replaced(
    tmp_path: Path, pool: ProcessPool, after: float
) -> None:
    killed: list[int] = []

    def kill_the_first_two() -> None:
        while len(killed) < 2:
            for process in active_children():
                if process.pid is not None and process.pid not in killed and len(killed) < 2:
                    time.sleep(after)
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)

    killer = threading.Thread(target=kill_the_first_two)
    killer.start()
    made = run(pool, first_jobs(tmp_path, "samples=300", "shards=4"))
    killer.join()
    assert len(killed) == 2
    assert {shard: manifest.samples for shard, manifest in made.items()} == dict.fromkeys(range(4), 300)


def test_an_idle_worker_that_died_is_replaced(tmp_path: Path, pool: ProcessPool) -> None:
    first, second = first_jobs(tmp_path, "samples=2", "shards=2")
    run(pool, [first])
    (idle,) = active_children()
    idle.kill()
    idle.join()
    assert set(run(pool, [second])) == {1}


def test_a_job_that_kills_every_worker_is_named_with_the_signal(tmp_path: Path, pool: ProcessPool) -> None:
    recipe = tmp_path / "deadly.py"
    text = Path(TOY).read_text()
    loop = "    for index in range(samples):\n"
    assert loop in text
    recipe.write_text(
        text.replace(loop, loop + "        __import__('os').kill(__import__('os').getpid(), 9)\n")
    )
    jobs = first_jobs(tmp_path / "root", "shards=1", recipe=str(recipe))
    with pytest.raises(EnvironmentProblem, match=r"died 3 times on shard 0 .* SIGKILL: out of memory"):
        run(pool, jobs)


def test_a_stopped_worker_is_ended(tmp_path: Path) -> None:
    """SIGTERM waits for a stopped process to go on; SIGKILL does not."""
    pool = ProcessPool(1, QuietSink())
    (job,) = first_jobs(tmp_path, "samples=2", "shards=1")
    run(pool, [job])
    (worker,) = active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    pool.close()
    assert not active_children()


class TwoWords(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def test_errors_come_through_a_pipe(tmp_path: Path) -> None:
    sample = portable(SampleError("odd", "very"))
    assert isinstance(sample, SampleError) and str(sample) == "odd: very"
    assert str(portable(StageError("it broke"))) == "it broke"
    foreign = portable(_raised(KeyError("lost")))
    assert isinstance(foreign, KeyError) and "_raised" in foreign.__notes__[0]
    assert "TwoWords: onetwo" in str(portable(_raised(TwoWords("one", "two"))))
    assert "RuntimeError" in str(portable(_raised(RuntimeError(lambda: None))))


def _raised(problem: Exception) -> Any:
    try:
        raise problem
    except Exception as caught:
        return caught
