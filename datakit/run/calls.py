"""A stage, called: whatever it raises that is not a sample's own failure names the stage, the shard and the key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from datakit.errors import DatakitError, StageError, Stopped
from datakit.recipe import Step, bind_refs
from datakit.run.job import Job
from datakit.stage import Stage
from datakit.store.steps import Steps


def bound(stage: Stage[Any], steps: Steps) -> Stage[Any]:
    return replace(stage, keywords=bind_refs(dict(stage.keywords), steps.load))


def call(
    stage: Stage[Any],
    argument: Any,
    *,
    job: Job,
    step: Step,
    key: str,
    run: Callable[[Any], Any] | None = None,
) -> Any:
    """What a stage gives, by `run` if it has several functions; what it raises names it."""
    try:
        return (run or stage)(argument)
    except (DatakitError, Stopped):
        raise
    except (Exception, SystemExit) as problem:
        raise defect(stage, problem, where_of(job, step, key)) from problem


def defect(stage: Stage[Any], problem: BaseException, where: str) -> StageError:
    try:
        said = str(problem)
    except Exception as other:  # a class of the stage's own
        said = f"its text cannot be had: {type(other).__name__}"
    return StageError(f"{stage.name} raised {type(problem).__name__}: {said} ({where})")


def where_of(job: Job, step: Step, key: str) -> str:
    part = f"{job.phase} {job.shard}" if job.phase else f"shard {job.shard}"
    return f"recipe {job.recipe}, step {step.name}, {part}" + (f", key {key}" if key else "")
