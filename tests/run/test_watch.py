"""Workers that hang, crash or grow: replaced in time, and the sample that they were on is put down, alone."""

from __future__ import annotations

import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import datakit
from datakit.errors import EnvironmentProblem
from datakit.run.build import Build
from datakit.run.job import Job
from datakit.run.place import Place
from datakit.run.watch import MOST, REFUSED, Clock, Judge, Limits

from .trouble import CRASH, GROW, HANG, HANG_IN_C, stop_once, write_recipe

JOB = Job(recipe="r", words=(), listings=(), root="/r", step="f", shard=0)
ON_ONE, ON_MANY = Place("sample", "one", "s0-002"), Place("batch", "many", "s0-000")


def build(recipe: Path, out: Path, **run: Any) -> Build:
    words = {"shards": 2, "samples": 12, "run": {"timeout": 2.0, "workers": 2, "max_failed": 0.5} | run}
    made = datakit.build(str(recipe), out=out, progress="quiet", **words)
    assert not active_children()
    assert not list(out.rglob("*.part-*"))
    return made


def outcomes(made: Build) -> dict[str, tuple[str, str]]:
    """key → (reason, detail) of every sample that failed."""
    rows = pq.read_table(made.out / "metadata" / "outcomes.parquet").to_pylist()
    return {row["__key__"]: (row["reason"], row["detail"]) for row in rows if row["outcome"] == "failed"}


def test_samples_that_cost_their_workers_are_broken_and_the_others_are_made(tmp_path: Path) -> None:
    mark = tmp_path / "stopped"
    trouble = {
        ("one", "s0-002"): HANG_IN_C,
        ("many", "s0-005"): HANG,
        ("one", "s1-001"): CRASH,
        ("one", "s1-006"): stop_once(mark),  # chance: no sample suffers for it
        ("one", "s1-009"): GROW,
    }
    made = build(write_recipe(tmp_path / "trouble.py", trouble), tmp_path / "out", memory=500)
    assert outcomes(made) == {
        "s0-002": ("timeout", "in one: more than 2 s"),
        "s0-005": ("timeout", "in many: more than 2 s"),
        "s1-001": ("crashed", "in one: its worker died with SIGSEGV"),
        "s1-009": ("memory", "in one: its worker held more than 500 MB"),
    }
    assert sum(made.splits.values()) == 20 and mark.exists()


def test_a_reduce_that_somebody_stopped_is_replaced(tmp_path: Path) -> None:
    mark = tmp_path / "stopped"
    made = build(write_recipe(tmp_path / "a.py", {("rest", ""): stop_once(mark)}), tmp_path / "out")
    assert mark.exists() and sum(made.splits.values()) == 24


def test_a_reduce_over_its_own_limit_is_named(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "hangs.py", {("rest", ""): HANG})
    with pytest.raises(
        EnvironmentProblem, match=r"in reduce:rest for more than 1\.5 s: raise run.reduce_timeout"
    ):
        build(recipe, tmp_path / "out", reduce_timeout=1.5)
    assert not active_children()


def test_a_reduce_has_no_limit_but_its_own() -> None:
    reduce = Place("reduce", "reduce:big", "")
    assert Limits().seconds(reduce) == 0 and Limits(reduce_timeout=9).seconds(reduce) == 9
    assert Limits().seconds(ON_ONE) == Limits().seconds(ON_MANY) == 300


def lose(judge: Judge, job: Job, cause: Any, place: Place, times: int) -> list[Job]:
    jobs = [job]
    for _ in range(times):
        jobs.append(judge.next(jobs[-1], cause, place, "SIGSEGV"))
    return jobs[1:]


def test_chance_is_no_proof_against_a_sample() -> None:
    again, refused = lose(Judge(Limits()), JOB, "timeout", ON_ONE, 2)
    assert again == JOB
    assert refused.refused == (("one", "s0-002", "timeout", "in one: more than 300 s"),)
    judge = Judge(Limits())
    for key in map(str, range(MOST - 1)):  # each time elsewhere: whoever kills them, it is not these samples
        assert judge.next(JOB, "crashed", Place("sample", "one", key), "SIGKILL") == JOB
    with pytest.raises(EnvironmentProblem, match=f"a worker died {MOST} times on shard 0"):
        judge.next(JOB, "crashed", Place("sample", "one", "last"), "SIGKILL")


def test_a_batch_is_taken_apart_before_one_of_it_is_blamed() -> None:
    judge = Judge(Limits())
    again, apart = lose(judge, JOB, "timeout", ON_MANY, 2)
    assert again == JOB and apart.alone == (("many", "s0-000"),) and not apart.refused
    (blamed,) = lose(judge, apart, "timeout", Place("sample", "many", "s0-003"), 1)
    assert [row[:3] for row in blamed.refused] == [("many", "s0-003", "timeout")]


def test_where_there_is_no_sample_to_blame_the_build_stops() -> None:
    source = Place("source", "noise", "s0-004")
    with pytest.raises(
        EnvironmentProblem, match=r"in noise after the sample s0-004 for more than 300 s: raise"
    ):
        lose(Judge(Limits()), JOB, "timeout", source, 2)
    with pytest.raises(EnvironmentProblem, match=r"more than run.memory=9 MB on shard 0 of step f, in big"):
        lose(Judge(Limits(memory=9)), JOB, "memory", Place("reduce", "big"), 1)
    with pytest.raises(
        EnvironmentProblem, match=f"{MOST} times"
    ):  # dead before they begin: fewer prove nothing
        lose(Judge(Limits()), JOB, "crashed", Place(), MOST)
    many = Job(
        recipe="r", words=(), listings=(), root="", step="f", shard=0, refused=(("", "", "", ""),) * REFUSED
    )
    with pytest.raises(EnvironmentProblem, match=f"{REFUSED} samples of shard 0"):
        lose(Judge(Limits()), many, "crashed", ON_ONE, 3)


def test_time_in_which_we_were_stopped_ourselves_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock()
    now += 3600
    assert clock.elapsed() == pytest.approx(0.4)
    assert clock.elapsed() is None
    now += 0.3
    assert clock.elapsed() == pytest.approx(0.3)
