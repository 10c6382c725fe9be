"""One job, done: a shard of a step by the runner of its verb; the manifest is written last."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

from datakit.errors import SampleError
from datakit.manifest import Manifest, versions, write_manifest
from datakit.recipe import Step
from datakit.run import place
from datakit.run.calls import bound, call, defect, where_of
from datakit.run.flow import Progress, run_flow
from datakit.run.job import Job, open_steps, other_code
from datakit.run.phases import Part, run_types
from datakit.run.repartition import run_repartition
from datakit.run.tree import tree_value, value_name
from datakit.store.steps import Steps, write_value


def run_job(job: Job, progress: Progress = lambda kept, dropped, failed: None) -> Manifest:
    """Make one shard; its manifest is written last and returned. Raises DatakitError."""
    if job.kind == "publish":
        # Its driver's half stands on the pool, and the pool on this module.
        from datakit.run.publish import run_publish

        return run_publish(job)
    steps = open_steps(job.recipe, job.words, job.listings, job.root)
    step = steps.plan.steps.get(job.step)
    if step is None:
        raise other_code(f"plans no step {job.step}")
    if steps.plan.lineage(step) != job.lineage:
        raise other_code(f"of step {step.name} is not the driver's")
    folder = steps.folder(step) / job.phase
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    place.enter(place.REDUCE if step.verb in ("reduce", "repartition") else place.BETWEEN, step.name)
    run = _run_types if job.phase == "types" else _RUNNERS[step.verb]
    manifest = run(steps, step, job, progress)
    manifest = replace(
        manifest,
        stages=[[stage.name, stage.version, stage.code] for stage in step.stages],
        code=steps.plan.code_of(step, partial(_made_by, steps)),
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
    )
    write_manifest(folder, manifest)
    return manifest


@cache
def _made_by(steps: Steps, step: Step) -> str:
    """Asked only of steps that are complete."""
    return steps.made_by(step)


def _named(step: Step, job: Job) -> dict[str, Any]:
    return {"fingerprint": job.step, "step": step.name, "shard": job.shard}


def _part(job: Job) -> Part:
    return Part(job.phase, job.shard, job.span)


def _run_types(steps: Steps, step: Step, job: Job, progress: Progress) -> Manifest:
    return run_types(steps, step, _named(step, job))


def _run_reduce(steps: Steps, step: Step, job: Job, progress: Progress) -> Manifest:
    stage = bound(step.stages[0], steps)
    try:
        if stage.partial is not None:
            reduced = partial(tree_value, steps, step, stage)
            value, count = call(stage, _part(job), job=job, step=step, key="", run=reduced)
        else:
            assert step.input is not None
            rows = steps.rows(step.input)
            value = call(stage, rows, job=job, step=step, key="")
            count = len(rows)
    except SampleError as problem:  # there is no one sample to leave out
        raise defect(stage, problem, where_of(job, step, "")) from problem
    if not job.phase:
        progress(1, 0, 0)
    name = value_name(job.shard) if job.phase else "value"
    files = write_value(steps.folder(step) / job.phase, value, name)
    return Manifest(**_named(step, job), inputs=count, samples=count, files=files)


def _run_repartition(steps: Steps, step: Step, job: Job, progress: Progress) -> Manifest:
    manifest = run_repartition(steps, step, _part(job), _named(step, job))
    if not job.phase:
        progress(1, 0, 0)
    return manifest


_RUNNERS: dict[str, Callable[[Steps, Step, Job, Progress], Manifest]] = {
    "source": run_flow,
    "map": run_flow,
    "annotate": run_flow,
    "reduce": _run_reduce,
    "repartition": _run_repartition,
}
