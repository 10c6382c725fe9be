"""Steps of several phases: trees of a fixed shape, and what a kill between any two jobs leaves."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

import datakit
from datakit.errors import ConfigError, EnvironmentProblem, StageError
from datakit.manifest import Manifest
from datakit.run import phases, pool, repartition
from datakit.run.job import Job
from datakit.run.worker import run_job
from datakit.store import steps as steps_module

RECIPE = '''
"""Numbers in shards, some of which lose all of theirs."""
from dataclasses import dataclass

import numpy as np

from datakit.image import Image
from datakit.recipe import Recipe, Store, source
from datakit.stage import Drop, Ref, reduce, stage
from datakit.stage import source as source_stage

PICTURE = Image.from_array(np.zeros((2, 2, 3), np.uint8)).encoded


@dataclass(frozen=True, kw_only=True)
class Config:
    shards: int = 20
    broken: bool = False


@source_stage(version=1)
def numbers(shard, *, shards):
    for n in range(4):
        yield {"__key__": f"{shard:03d}-{n}", "image": Image(PICTURE), "n": 4 * shard + n}


@stage(version=1)
def keep(sample):
    if sample["n"] // 4 == 2:
        return Drop("two")
    split = None if sample["n"] % 5 == 0 else "even" if sample["n"] % 2 == 0 else "odd"
    return sample | {"split_name": split}


def shape_of(rows, broken):
    if broken:
        raise ZeroDivisionError("a defect")
    return str(len(rows.table(["n", "split_name"])))


def joined(values):
    return "(" + " ".join(values) + ")"


@reduce(version=1, partial=shape_of, merge=joined)
def shape(value, *, broken):
    return value + "!"


def recipe(config):
    kept = source(numbers(shards=config.shards), shards=config.shards).map(keep())
    step = kept.repartition(by="split_name", per_shard=5)
    store = Store(step=step, image_format=Ref.of("PNG"), label=None, title="N", description="Numbers.")
    return Recipe(store=store, files={"shape.txt": kept.reduce(shape(broken=config.broken))})
'''


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "numbers_recipe.py").write_text(RECIPE)
    return tmp_path / "numbers_recipe.py"


def build(recipe: Path, out: Path, **words: Any) -> Path:
    run = {"inline": True} | words.pop("run", {})
    return datakit.build(str(recipe), out=out, progress="quiet", run=run, **words).out


def bytes_of(out: Path) -> dict[str, str]:
    """path → sha256 of every published file, and of every table of steps."""
    files = [*out.rglob("*.arrow"), *(path for path in out.rglob("*") if ".datakit" not in path.parts)]
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def test_a_tree_has_the_same_shape_whoever_runs_it(recipe: Path, tmp_path: Path) -> None:
    first, second = "4 4 0 " + " ".join("4" * 13), "4 4 4 4"
    for name, run in (("inline", {}), ("two", {"inline": False, "workers": 2})):
        out = build(recipe, tmp_path / name, run=run)
        assert (out / "shape.txt").read_text() == f"(({first}) ({second}))!"
    assert bytes_of(tmp_path / "inline") == bytes_of(tmp_path / "two")


@pytest.mark.parametrize(("shards", "wanted"), [(1, "4!"), (2, "(4 4)!")])
def test_a_small_tree_has_no_more_levels_than_it_needs(
    recipe: Path, tmp_path: Path, shards: int, wanted: str
) -> None:
    assert (build(recipe, tmp_path / "out", shards=shards) / "shape.txt").read_text() == wanted


class Stops:
    """Runs jobs, and stops the build after some."""

    def __init__(self) -> None:
        self.ran: list[Job] = []
        self.left = 0

    def __call__(self, job: Job, *progress: Any) -> Manifest:
        if not self.left:
            raise EnvironmentProblem("stopped")
        self.left -= 1
        self.ran.append(job)
        return run_job(job, *progress)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Stops:
    """Blocks of a few rows, so that a shuffle has many jobs, counted."""
    stops = Stops()
    monkeypatch.setattr(pool, "run_job", stops)
    monkeypatch.setattr(phases, "BLOCK_ROWS", 12)
    monkeypatch.setattr(repartition, "BUCKET_ROWS", 4)
    return stops


def test_a_build_that_is_stopped_after_every_job_goes_on_with_the_next(
    recipe: Path, tmp_path: Path, jobs: Stops
) -> None:
    jobs.left = 10_000
    wanted = bytes_of(build(recipe, tmp_path / "clean"))
    asked = [(job.step, job.phase, job.shard) for job in jobs.ran if job.kind == "step"]
    assert {phase for _, phase, _ in asked} == {
        *("", "types", "split", "cut", "merge", "partial", "merge1", "merge2"),
    }
    jobs.ran.clear()
    for attempt in range(1000):
        jobs.left = 1 if attempt else 40  # the flows, and then every moment
        try:
            build(recipe, tmp_path / "out")
            break
        except EnvironmentProblem:
            continue
    assert bytes_of(tmp_path / "out") == wanted
    again = [(job.step, job.phase, job.shard) for job in jobs.ran if job.kind == "step"]
    assert sorted(again) == sorted(asked)


def test_parts_go_when_the_step_is_there_unless_others_may_read_them(
    recipe: Path, tmp_path: Path, jobs: Stops
) -> None:
    jobs.left = 10_000
    build(recipe, tmp_path / "out")
    build(recipe, tmp_path / "other", run={"cache": str(tmp_path / "cache")})
    assert not list((tmp_path / "out" / ".datakit" / "steps").glob("*/*/"))
    assert list((tmp_path / "cache" / "steps").glob("*/split/00000.arrow"))


@pytest.mark.parametrize(
    ("now", "then"), [("str(len(", "str(2 * len("), ('"(" +', '"[" +'), ('value + "!"', 'value + "?"')]
)
def test_parts_of_changed_code_are_refused_though_no_step_is_whole(
    recipe: Path, tmp_path: Path, jobs: Stops, now: str, then: str
) -> None:
    jobs.left = 60  # the flows, the types, and some of the blocks and partials
    with pytest.raises(EnvironmentProblem):
        build(recipe, tmp_path / "out")
    assert RECIPE.count(now) == 1
    assert list((tmp_path / "out" / ".datakit" / "steps").glob("*/partial/*.json"))
    recipe.write_text(RECIPE.replace(now, then))
    with pytest.raises(ConfigError, match="raise the version"):
        build(recipe, tmp_path / "out")


def test_a_defect_of_a_part_names_it(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"shape raised ZeroDivisionError: a defect .*partial 0"):
        build(recipe, tmp_path / "out", broken=True)


def test_the_driver_reads_manifests_in_proportion_to_the_shards(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read = steps_module.read_manifest
    monkeypatch.setattr(
        steps_module, "read_manifest", lambda folder, shard: reads.append(shard) or read(folder, shard)
    )
    counts = []
    for shards in (15, 30):
        reads.clear()
        build(recipe, tmp_path / str(shards), shards=shards)
        counts.append(len(reads))
    assert counts[1] < 2.2 * counts[0], counts
