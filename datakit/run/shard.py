"""What a shard of a step comes to: samples that stayed, images that were changed, and what became of the others."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from datakit.blob import Blob
from datakit.errors import StageError
from datakit.image import EXTENSIONS, Image
from datakit.recipe import Step
from datakit.run.job import Job
from datakit.stage import Sample
from datakit.store.steps import OUTCOMES, Steps
from datakit.store.tar import TarWriter


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

    def table(self) -> pa.Table:
        return pa.Table.from_pylist(self.rows, schema=OUTCOMES)


def _text(value: object) -> str:
    """As a file can hold it: half of a surrogate pair is no character."""
    return str(value).encode("utf-8", "backslashreplace").decode()


class ChangedImages:
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


def added_columns(table: pa.Table, steps: Steps, step: Step, job: Job, outcome: Outcome) -> pa.Table:
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
