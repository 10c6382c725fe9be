"""One job: one shard of one step. A job is words; the worker makes the plan itself.

If the plan made here has no step of the asked fingerprint, this worker's code is not the driver's, and it refuses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from datakit import catalog as catalogs
from datakit.blob import Blob
from datakit.errors import DatakitError, SampleError, StageError, Stopped
from datakit.find import make_recipe
from datakit.image import EXTENSIONS, Image
from datakit.manifest import Manifest, versions, write_manifest
from datakit.recipe import CatalogUse, Plan, Step, bind_refs
from datakit.run import place
from datakit.run.phases import Part, run_types
from datakit.run.repartition import run_repartition
from datakit.run.tree import tree_value, value_name
from datakit.stage import Drop, Sample, Stage
from datakit.store.columns import columns_of
from datakit.store.listing import Listing
from datakit.store.rows import write_table
from datakit.store.steps import OUTCOMES, Steps, write_value
from datakit.store.tar import TarWriter

Progress = Callable[[int, int, int], None]  # kept, dropped, failed since the last call


@dataclass(frozen=True, kw_only=True)
class Job:
    """Words and numbers only, so that a job can go anywhere. `listings`: (use id, checksum, root, samples)."""

    recipe: str
    words: tuple[str, ...]
    listings: tuple[tuple[str, str, str, int], ...]
    root: str
    step: str
    shard: int
    lineage: str = ""  # of the step, as the driver's code has it
    out: str = ""
    kind: Literal["step", "publish"] = "step"
    phase: str = ""  # of the step, if it has several (run/phases.py); `shard` is then the number of a part
    span: tuple[int, int] = (0, 0)  # what the part takes
    # What earlier attempts came to, as `place.Judged` has it.
    refused: tuple[tuple[str, str, str, str], ...] = ()
    alone: tuple[tuple[str, str], ...] = ()


@dataclass
class Outcome:
    """What became of the samples of one shard that did not stay."""

    step: str
    rows: list[dict[str, Any]]

    def add(self, sample: Sample, outcome: str, reason: str, **more: Any) -> None:
        """Raises StageError for a reason that is no text, or numbers that are none: a stage gave them."""
        key = sample["__key__"]
        if not isinstance(reason, str):
            raise StageError(f"{self.step}: {key} was {outcome} for {reason!r}, and a reason is a short text")
        for name in ("value", "threshold"):
            if not isinstance(more.get(name), float | int | None):
                raise StageError(
                    f"{self.step}: {key} was {outcome} with {name} {more[name]!r}, which is no number"
                )
        if "detail" in more:
            more["detail"] = _text(more["detail"])
        self.rows.append(
            {"__key__": key, "name": _text(sample.get("name", "")), "outcome": outcome}
            | {"step": self.step, "reason": _text(reason), **more}
        )

    def counts(self, outcome: str) -> dict[str, int]:
        reasons = [row["reason"] for row in self.rows if row["outcome"] == outcome]
        return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def _text(value: object) -> str:
    """As a file can hold it: half of a surrogate pair is no character."""
    return str(value).encode("utf-8", "backslashreplace").decode()


@cache
def open_steps(
    recipe: str, words: tuple[str, ...], listings: tuple[tuple[str, str, str, int], ...], root: str
) -> Steps:
    """The plan of these words, made once a process."""
    plan = Plan(make_recipe(recipe, words), {use: checksum for use, checksum, _, _ in listings})
    uses = {use.id: use for step in plan.steps.values() for use in step.uses}
    return Steps(
        root=Path(root),
        plan=plan,
        listings={row[0]: _listing(uses[row[0]], row, Path(root)) for row in listings if row[0] in uses},
    )


def _listing(use: CatalogUse, row: tuple[str, str, str, int], root: Path) -> Listing:
    return Listing(
        use=use,
        catalog=catalogs.load(use.name),
        checksum=row[1],
        root=row[2],
        folder=root / "listings",
        samples=row[3],
    )


def run_job(job: Job, progress: Progress = lambda kept, dropped, failed: None) -> Manifest:
    """Make one shard; its manifest is written last and returned. Raises DatakitError."""
    if job.kind == "publish":
        from datakit.run.publish import run_publish  # it stands on this module

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


def other_code(what: str) -> StageError:
    return StageError(
        f"a worker's code {what}: the recipe changed while this build ran, or the worker has another one. Run the "
        "same command again (workers of your own scheduler: start them anew, with the same files)"
    )


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
    stage = _bound(step.stages[0], steps)
    try:
        if stage.partial is not None:
            reduced = partial(tree_value, steps, step, stage)
            value, count = _call(stage, _part(job), job=job, step=step, key="", run=reduced)
        else:
            assert step.input is not None
            rows = steps.rows(step.input)
            value = _call(stage, rows, job=job, step=step, key="")
            count = len(rows)
    except SampleError as problem:  # there is no one sample to leave out
        raise _defect(stage, problem, _where(job, step, "")) from problem
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


def _run_flow(steps: Steps, step: Step, job: Job, progress: Progress) -> Manifest:
    """A map, an annotation or a source: samples through stages, one shard."""
    outcome = Outcome(step.name, [])
    stages = [_bound(stage, steps) for stage in step.stages]
    samples, inputs = _input(steps, step, stages, job)
    if step.verb == "source":
        stages = stages[1:]
    flow = samples
    for stage in stages:
        flow = _through(flow, stage, outcome, job, step)
    folder, name = steps.folder(step), f"{job.shard:05d}"
    with ExitStack() as stack:
        sink = _Sink(folder / f"{name}.tar", stack)
        kept = []
        for sample in flow:
            try:
                place.admit(job, place.WRITE, sample["__key__"])
                kept.append(sink.store(sample))
            except SampleError as problem:
                outcome.add(sample, "failed", problem.reason, detail=problem.detail)
                continue
            progress(1, 0, 0)
        images = sink.count
        place.enter(place.BETWEEN, step.name)
    progress(0, sum(outcome.counts("dropped").values()), sum(outcome.counts("failed").values()))
    files = {f"{name}.tar": (folder / f"{name}.tar").stat().st_size} if images else {}
    table = columns_of(kept, steps.roots)
    if step.verb == "annotate":
        table = _annotation(table, steps, step, job, outcome)
    files[f"{name}.arrow"] = write_table(folder / f"{name}.arrow", table)
    if outcome.rows:
        gone = pa.Table.from_pylist(outcome.rows, schema=OUTCOMES)
        files[f"{name}.outcomes.arrow"] = write_table(folder / f"{name}.outcomes.arrow", gone)
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
    samples = iter(_call(stage, job.shard, job=job, step=step, key=""))
    last = ""
    while True:
        try:
            place.enter(place.SOURCE, stage.name, last)
            sample = next(samples, None)
        except SampleError as problem:
            raise _defect(stage, problem, _where(job, step, "")) from problem
        except (DatakitError, Stopped):
            raise
        except (Exception, SystemExit) as problem:
            raise _defect(stage, problem, _where(job, step, "")) from problem
        if sample is None:
            return
        if not isinstance(sample, dict) or not isinstance(sample.get("__key__"), str):
            raise StageError(f"{stage.name} gave a sample without a __key__ ({_where(job, step, last)})")
        last = sample["__key__"]
        yield sample


def _annotation(table: pa.Table, steps: Steps, step: Step, job: Job, outcome: Outcome) -> pa.Table:
    """Only the new columns, and the keys, which must be those of the input in its order."""
    assert step.input is not None
    before = steps.shard_rows(step.input).shard(job.shard)
    if outcome.rows:
        first = outcome.rows[0]
        raise StageError(
            f"{step.name}: an annotation keeps every row, and {len(outcome.rows)} left shard {job.shard}, the first "
            f"{first['__key__']} ({first['reason']}); let them leave in a map before it"
        )
    for name in before.column_names:
        if name in table.column_names and not _same(table[name], before[name]):
            raise StageError(
                f"{step.name}: an annotation adds columns, and this one changed {name}, in shard {job.shard}: give "
                "what is new a name of its own, or make the step a map"
            )
    new = [name for name in table.column_names if name not in before.column_names]
    return table.select(["__key__", *new])


def _same(now: pa.ChunkedArray, before: pa.ChunkedArray) -> bool:
    """Whether two columns hold the same values; of other types where a shard shows less of them."""
    try:
        cast = now.cast(before.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return bool(now.to_pylist() == before.to_pylist())
    return bool(cast.equals(before)) or repr(cast.to_pylist()) == repr(before.to_pylist())  # NaN is not NaN


class _Sink:
    """Where the images of a shard go that a stage changed; the others stay where they lie."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path, self.stack, self.count = path, stack, 0
        self.writer: TarWriter | None = None

    def store(self, sample: Sample) -> Sample:
        """The sample with its image as a place on disk."""
        image = sample.get("image")
        if not isinstance(image, Image):
            return sample
        return sample | {"image": image.blob or self._write(sample["__key__"], image)}

    def _write(self, key: str, image: Image) -> Blob:
        if self.writer is None:
            self.writer = self.stack.enter_context(TarWriter(self.path, digest="none"))
        record = self.writer.add(key, {EXTENSIONS[image.header.format]: image.encoded})
        self.count += 1
        return Blob(str(self.path), record.offset + 512, len(image.encoded))


def _bound(stage: Stage[Any], steps: Steps) -> Stage[Any]:
    return replace(stage, keywords=bind_refs(dict(stage.keywords), steps.load))


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
                f"{stage.name} took the __key__ away ({_where(job, step, sample.get('__key__', ''))})"
            )
        else:
            what = f"{stage.name} gave a {type(result).__name__}, where a sample or a Drop must come back"
            raise StageError(f"{what} ({_where(job, step, sample['__key__'])})")


def _results(
    batch: list[Sample], stage: Stage[Any], job: Job, step: Step
) -> Sequence[Sample | Drop | SampleError]:
    """A result for each sample. A failing batch is run again one by one: one bad image costs one image."""
    if stage.shape == "batch":
        try:
            place.admit_batch(job, stage.name, [sample["__key__"] for sample in batch])
            results = list(_call(stage, batch, job=job, step=step, key=batch[0]["__key__"]))
            if len(results) != len(batch):
                where = _where(job, step, batch[0]["__key__"])
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
        return [_call(stage, batch[0], job=job, step=step, key=batch[0]["__key__"])]
    except SampleError as problem:
        return [problem]


def _call(
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
        raise _defect(stage, problem, _where(job, step, key)) from problem


def _defect(stage: Stage[Any], problem: BaseException, where: str) -> StageError:
    try:
        said = str(problem)
    except Exception as other:  # a class of the stage's own
        said = f"its text cannot be had: {type(other).__name__}"
    return StageError(f"{stage.name} raised {type(problem).__name__}: {said} ({where})")


def _where(job: Job, step: Step, key: str) -> str:
    part = f"{job.phase} {job.shard}" if job.phase else f"shard {job.shard}"
    return f"recipe {job.recipe}, step {step.name}, {part}" + (f", key {key}" if key else "")


_RUNNERS: dict[str, Callable[[Steps, Step, Job, Progress], Manifest]] = {
    "source": _run_flow,
    "map": _run_flow,
    "annotate": _run_flow,
    "reduce": _run_reduce,
    "repartition": _run_repartition,
}
