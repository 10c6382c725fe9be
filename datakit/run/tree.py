"""A reduce as a tree: a value of each shard, joined ARITY at a time, and the result of the last one."""

from __future__ import annotations

from typing import Any

from datakit.errors import StageError
from datakit.recipe import Step
from datakit.run.phases import Part, phases, rows_of_shard
from datakit.stage import Stage
from datakit.store.steps import Steps, read_value


def tree_value(steps: Steps, step: Step, stage: Stage[Any], part: Part) -> tuple[Any, int]:
    """What a part of a phase comes to, and how many rows stand behind it. `stage`: with its Refs loaded."""
    if part.phase == "partial":
        rows = rows_of_shard(steps, step, part.number)
        return stage.of_shard(rows), len(rows)
    names = phases(steps, step)
    before = names[names.index(part.phase) - 1]
    made = steps.phase_manifests(step, before, range(*part.span))
    values = [read_value(steps.folder(step) / before, value_name(child)) for child in range(*part.span)]
    counted = sum(manifest.samples for manifest in made)
    if part.phase and stage.merge is not None:
        return stage.merge(values), counted
    if not values:
        raise StageError(f"{step.name}: no shard came in, and a tree needs one to begin with")
    return stage.finished(values[0]), counted


def value_name(number: int) -> str:
    """Of the value of a part, but for the last phase's, which is the step's own."""
    return f"{number:05d}.value"
