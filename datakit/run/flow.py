"""A shard through the stages of a step: a source, a map or an annotation. What left is counted, with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from datakit.errors import DatakitError, SampleError, StageError, Stopped
from datakit.manifest import Manifest
from datakit.recipe import Step
from datakit.run import place
from datakit.run.calls import bound, call, defect, where_of
from datakit.run.job import Job
from datakit.run.shard import ChangedImages, Outcome, added_columns
from datakit.stage import Drop, Sample, Stage
from datakit.store.columns import columns_of
from datakit.store.rows import write_table
from datakit.store.steps import Steps

Progress = Callable[[int, int, int], None]  # kept, dropped, failed since the last call


def run_flow(steps: Steps, step: Step, job: Job, progress: Progress) -> Manifest:
    """A map, an annotation or a source: samples through stages, one shard."""
    outcome = Outcome(step.name, [])
    stages = [bound(stage, steps) for stage in step.stages]
    samples, inputs = _input(steps, step, stages, job)
    if step.verb == "source":
        stages = stages[1:]
    flow = samples
    for stage in stages:
        flow = _through(flow, stage, outcome, job, step)
    folder, name = steps.folder(step), f"{job.shard:05d}"
    with ExitStack() as stack:
        changed = ChangedImages(folder / f"{name}.tar", stack)
        kept = []
        for sample in flow:
            try:
                place.admit(job, place.WRITE, sample["__key__"])
                kept.append(changed.store(sample))
            except SampleError as problem:
                outcome.add(sample, "failed", problem.reason, detail=problem.detail)
                continue
            progress(1, 0, 0)
        images = changed.count
        place.enter(place.BETWEEN, step.name)
    progress(0, sum(outcome.counts("dropped").values()), sum(outcome.counts("failed").values()))
    files = {f"{name}.tar": (folder / f"{name}.tar").stat().st_size} if images else {}
    table = columns_of(kept, steps.roots)
    if step.verb == "annotate":
        table = added_columns(table, steps, step, job, outcome)
    files[f"{name}.arrow"] = write_table(folder / f"{name}.arrow", table)
    if outcome.rows:
        files[f"{name}.outcomes.arrow"] = write_table(folder / f"{name}.outcomes.arrow", outcome.table())
    failed = outcome.counts("failed")
    return Manifest(
        fingerprint=job.step,
        step=step.name,
        shard=job.shard,
        inputs=len(kept) + len(outcome.rows) if inputs is None else inputs,
        samples=len(kept),
        dropped=outcome.counts("dropped"),
        failed=failed,
        files=files,
    )


def _input(
    steps: Steps, step: Step, stages: Sequence[Stage[Any]], job: Job
) -> tuple[Iterator[Sample], int | None]:
    """A shard's samples and their number (unknown for a source)."""
    if step.verb == "source":
        return _given(stages[0], job, step), None
    assert step.input is not None
    rows = steps.shard_rows(step.input)
    table = rows.shard(job.shard)
    return rows.samples(table), table.num_rows


def _given(stage: Stage[Any], job: Job, step: Step) -> Iterator[Sample]:
    """What a source gives, one by one. It has no next sample after an error, so any error stops the build."""
    samples = iter(call(stage, job.shard, job=job, step=step, key=""))
    last = ""
    while True:
        try:
            place.enter(place.SOURCE, stage.name, last)
            sample = next(samples, None)
        except SampleError as problem:
            raise defect(stage, problem, where_of(job, step, "")) from problem
        except (DatakitError, Stopped):
            raise
        except (Exception, SystemExit) as problem:
            raise defect(stage, problem, where_of(job, step, "")) from problem
        if sample is None:
            return
        if not isinstance(sample, dict) or not isinstance(sample.get("__key__"), str):
            raise StageError(f"{stage.name} gave a sample without a __key__ ({where_of(job, step, last)})")
        last = sample["__key__"]
        yield sample


def _through(
    samples: Iterator[Sample], stage: Stage[Any], outcome: Outcome, job: Job, step: Step
) -> Iterator[Sample]:
    """Samples that a stage let through; the others are put down in `outcome`."""
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) >= stage.size:
            yield from _batch(batch, stage, outcome, job, step)
            batch = []
    if batch:
        yield from _batch(batch, stage, outcome, job, step)


def _batch(
    batch: list[Sample], stage: Stage[Any], outcome: Outcome, job: Job, step: Step
) -> Iterator[Sample]:
    for sample, result in zip(batch, _results(batch, stage, job, step), strict=True):
        if isinstance(result, SampleError):
            outcome.add(sample, "failed", result.reason, detail=result.detail)
        elif isinstance(result, Drop):
            outcome.add(sample, "dropped", result.reason, value=result.value, threshold=result.threshold)
        elif isinstance(result, dict) and isinstance(result.get("__key__"), str):
            yield result
        elif isinstance(result, dict):
            raise StageError(
                f"{stage.name} took the __key__ away ({where_of(job, step, sample.get('__key__', ''))})"
            )
        else:
            what = f"{stage.name} gave a {type(result).__name__}, where a sample or a Drop must come back"
            raise StageError(f"{what} ({where_of(job, step, sample['__key__'])})")


def _results(
    batch: list[Sample], stage: Stage[Any], job: Job, step: Step
) -> Sequence[Sample | Drop | SampleError]:
    """A result for each sample. A failing batch is run again one by one: one bad image costs one image."""
    if stage.shape == "batch":
        try:
            place.admit_batch(job, stage.name, [sample["__key__"] for sample in batch])
            results = list(call(stage, batch, job=job, step=step, key=batch[0]["__key__"]))
            if len(results) != len(batch):
                where = where_of(job, step, batch[0]["__key__"])
                raise StageError(
                    f"{stage.name} gave {len(results)} results for {len(batch)} samples ({where})"
                )
            return results
        except SampleError as problem:
            if len(batch) == 1:
                return [problem]
            return [result for one in batch for result in _results([one], stage, job, step)]
    try:
        place.admit(job, stage.name, batch[0]["__key__"])
        return [call(stage, batch[0], job=job, step=step, key=batch[0]["__key__"])]
    except SampleError as problem:
        return [problem]
