"""One machine: jobs of every step whose inputs are complete, until all targets are."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field, replace

from datakit.config import RunOptions
from datakit.errors import FailureLimit
from datakit.manifest import Manifest, total
from datakit.recipe import Step
from datakit.run.job import Job
from datakit.run.phases import phases, spans
from datakit.run.pool import Pool, drain
from datakit.run.progress import Sink
from datakit.store.steps import FILES, Steps, outcome_counts


@dataclass
class Scheduler:
    """The state of one build's steps: what waits, what runs, what each step's samples came to."""

    steps: Steps
    template: Job
    options: RunOptions
    sink: Sink
    waiting: deque[tuple[str, Step]] = field(default_factory=deque)
    ahead: dict[str, list[str]] = field(default_factory=dict)  # phases of each open step still to begin
    complete: set[str] = field(default_factory=set)
    left: dict[str, int] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def ready(self) -> list[Job]:
        """Jobs of every step that has just become possible; steps already on disk become complete."""
        jobs: list[Job] = []
        moved = True
        while moved:
            moved = False
            for fingerprint, step in list(self.waiting):
                needs = {self.steps.plan.fingerprint(need) for need in step.needs()}
                if not needs <= self.complete:
                    continue
                self.waiting.remove((fingerprint, step))
                found = self._open(fingerprint, step)
                jobs += found
                moved = moved or not found
        return jobs

    def _open(self, fingerprint: str, step: Step) -> list[Job]:
        if not self.steps.missing(step):
            self._finish(fingerprint, step, reused=True)
            return []
        self.ahead[fingerprint] = phases(self.steps, step)
        self.expected[fingerprint] = self._expected(step)
        self.failed[fingerprint] = self._failed_before(step)
        self.sink.event("start", step=fingerprint, name=step.name, total=self.expected[fingerprint])
        jobs = self._begin(fingerprint, step)
        if not jobs:  # since we looked, another builder of this cache has made what was missing
            self._finish(fingerprint, step, reused=True)
        return jobs

    def _begin(self, fingerprint: str, step: Step) -> list[Job]:
        """Jobs of the next phase of which something is missing; none where the last one has ended."""
        template = replace(self.template, step=fingerprint, lineage=self.steps.plan.lineage(step))
        while self.ahead[fingerprint]:
            phase = self.ahead[fingerprint].pop(0)
            jobs = [
                replace(template, shard=part, phase=phase, span=span)
                for part, span in enumerate(spans(self.steps, step, phase))
                if self.steps.manifest(step, part, phase) is None
            ]
            if jobs:
                self.left[fingerprint] = len(jobs)
                return jobs
        return []

    def _failed_before(self, step: Step) -> int:
        """Broken samples of the shards that an earlier attempt left: they count as if they were made now."""
        if step.verb not in ("source", "map", "annotate"):
            return 0
        found = (self.steps.manifest(step, shard) for shard in range(self.steps.shards(step)))
        return sum(sum(manifest.failed.values()) for manifest in found if manifest is not None)

    def _expected(self, step: Step) -> int:
        """Samples that come into a step; 1 for a reduce, whose progress is not by samples, 0 if not known."""
        if step.verb in ("reduce", "repartition"):
            return 1
        return self.samples(step.input)

    def samples(self, step: Step | None) -> int:
        """Samples of a complete step."""
        if step is None:
            return 0
        if step.verb == "catalogs":
            return sum(self.steps.listings[use.id].samples for use in step.uses)
        if step.input is not None and step.input.verb == "repartition":
            return self.samples(step.input)
        return sum(manifest.samples for manifest in self.steps.manifests(step))

    def done(self, job: Job, manifest: Manifest) -> list[Job]:
        """A shard, or a part of a phase, is on disk; the jobs that its step now begins.

        Raises FailureLimit when too many samples of its step are broken.
        """
        step = self.steps.plan.steps[job.step]
        self.failed[job.step] += sum(manifest.failed.values())
        told = {"name": step.name, "phase": job.phase, "shard": job.shard, "seconds": manifest.seconds}
        self.sink.event("committed", step=job.step, **told)
        self._check(job.step, step)
        self.left[job.step] -= 1
        if self.left[job.step]:
            return []
        jobs = self._begin(job.step, step)
        if not jobs:
            self._finish(job.step, step, reused=False)
        return jobs

    def _check(self, fingerprint: str, step: Step) -> None:
        if not self.failed[fingerprint]:
            return
        inputs = self.expected.get(fingerprint) or self._expected(step)
        # A source does not know how many it will give: judged when all its shards are there, and asked only then,
        # or a build would read shards² manifests.
        if not inputs and self.left.get(fingerprint, 1) == 1:
            inputs = self._given(step)
        if inputs and self.failed[fingerprint] > self.options.max_failed * inputs:
            raise FailureLimit(_too_many(self.steps, step, self.failed[fingerprint], inputs, self.options))

    def _check_listings(self, fingerprint: str, step: Step) -> None:
        """A missing file or an unreadable row is a broken sample like any other."""
        inputs = sum(self.steps.listings[use.id].inputs() for use in step.uses)
        failed = outcome_counts(self.steps.outcomes(step))["failed"]
        self.failed[fingerprint] = sum(failed.values())
        if self.failed[fingerprint] > self.options.max_failed * inputs:
            raise FailureLimit(_too_many(self.steps, step, self.failed[fingerprint], inputs, self.options))

    def _given(self, step: Step) -> int:
        found = [self.steps.manifest(step, shard) for shard in range(self.steps.shards(step))]
        whole = [manifest.inputs for manifest in found if manifest is not None]
        return sum(whole) if len(whole) == len(found) else 0

    def _finish(self, fingerprint: str, step: Step, *, reused: bool) -> None:
        self.complete.add(fingerprint)
        if step.verb == "catalogs":
            self._check_listings(fingerprint, step)
            return
        self._tidy(step)
        manifests = self.steps.manifests(step)
        dropped, failed = total(manifests)
        if reused:
            self.failed[fingerprint] = sum(failed.values())
            if step.verb in ("source", "map", "annotate"):
                self._check(fingerprint, step)
        self.sink.event(
            "done",
            step=fingerprint,
            name=step.name,
            samples=sum(manifest.samples for manifest in manifests),
            dropped=dict(dropped),
            failed=dict(failed),
            seconds=sum(manifest.seconds for manifest in manifests),
            reused=reused,
        )

    def _tidy(self, step: Step) -> None:
        """Delete what a complete step's phases left, unless another build may be at it: a cache is shared."""
        if step.verb in ("reduce", "repartition") and not self.options.cache:
            phases = [one for one in self.steps.folder(step).glob("*/") if one.name != FILES]
            for folder in phases:
                shutil.rmtree(folder)


def _too_many(steps: Steps, step: Step, failed: int, inputs: int, options: RunOptions) -> str:
    own = [row for row in steps.outcomes(step).to_pylist() if row["outcome"] == "failed"]
    if step.verb != "catalogs":
        own = [row for row in own if row["step"] == step.name]
    counts = ", ".join(
        f"{count} {reason}" for reason, count in Counter(row["reason"] for row in own).most_common()
    )
    examples = "; ".join(f"{row['name']}: {row['reason']}" for row in own[:3])
    return (
        f"{step.name}: {failed} of {inputs} samples are broken ({counts}), more than run.max_failed="
        f"{options.max_failed:g} accepts. First: {examples}. Mend them, or raise run.max_failed"
    )


def run_steps(steps: Steps, template: Job, options: RunOptions, sink: Sink, pool: Pool) -> None:
    """Complete every step of the plan. Raises DatakitError."""
    scheduler = Scheduler(steps, template, options, sink, waiting=deque(steps.plan.steps.items()))

    def done(job: Job, manifest: Manifest) -> list[Job]:
        return [*scheduler.done(job, manifest), *scheduler.ready()]

    drain(pool, scheduler.ready(), done)
