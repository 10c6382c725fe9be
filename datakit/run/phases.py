"""The phases of a step, one after the other; the jobs of a phase run in any order, and the last writes the step.

A source, a map or an annotation has one phase, a job a shard. A repartition and a reduce with parts have more, so
that no job sees more than a few shards. How rows are dealt out to jobs comes from the data alone: a killed build
finds every part where it was, whatever runs it now. What a phase leaves lies in a folder of its own, its manifests
last; changes to any of it raise PLAN_VERSION.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from datakit.errors import StageError
from datakit.manifest import Manifest
from datakit.recipe import Step
from datakit.store.rows import StepRows, read_schema, read_table, write_table
from datakit.store.steps import Steps

ARITY = 16  # values that one job of a tree joins: never by the workers, or sums of floats would follow them
BLOCK_ROWS = 1 << 16  # rows that a job of a shuffle takes at once, unless one shard has more
BLOCK_BYTES = 1 << 26  # bytes of tables that it takes at once, likewise

Span = tuple[int, int]  # the first, and one past the last, of what a part takes


@dataclass(frozen=True)
class Part:
    """One job's share of a phase."""

    phase: str
    number: int
    span: Span


def phases(steps: Steps, step: Step) -> list[str]:
    """Names of a step's phases; the last is empty. Asked only where its input is complete."""
    if step.verb == "repartition":
        return ["types", "split", "cut", "merge", ""]
    if step.verb != "reduce" or step.stages[0].partial is None:
        return [""]
    assert step.input is not None
    width, names = steps.shards(step.input), ["types", "partial"]
    while width > 1:
        width = -(-width // ARITY)
        names.append(f"merge{len(names) - 1}")
    return [*names, ""]


def spans(steps: Steps, step: Step, phase: str) -> list[Span]:
    """What each part of a phase takes: shards of the input, parts of the phase before, or shards to write.

    Read from what the phases before left: asked once, by who makes the jobs.
    """
    if phases(steps, step) == [""]:
        return [(shard, shard + 1) for shard in range(steps.shards(step))]
    assert step.input is not None
    if phase == "types":
        return [(0, steps.shards(step.input))]
    if step.verb == "repartition":
        return _of_shuffle(steps, step, phase)
    width = steps.shards(step.input)
    if phase == "partial":
        return [(shard, shard + 1) for shard in range(width)]
    if not phase:
        return [(0, 1)]
    for _ in range(int(phase.removeprefix("merge")) - 1):
        width = -(-width // ARITY)
    return [(first, min(first + ARITY, width)) for first in range(0, width, ARITY)]


def _of_shuffle(steps: Steps, step: Step, phase: str) -> list[Span]:
    assert step.input is not None
    if phase == "split":
        return list(blocks(steps.sizes(step.input)))
    if phase == "merge":
        parts = read_table(steps.folder(step) / "cut" / "parts.arrow")
        return list(zip(parts["first"].to_pylist(), parts["last"].to_pylist(), strict=True))
    return [(0, len(spans(steps, step, "split" if phase == "cut" else "merge")))]


def blocks(sizes: Iterable[tuple[int, int]]) -> Iterator[Span]:
    """Neighbours taken together, as many as a block holds and at least one; sizes: (rows, bytes) of each."""
    first, end, rows, weight = 0, 0, 0, 0
    for at, (more, heavier) in enumerate(sizes):
        if at > first and (rows + more > BLOCK_ROWS or weight + heavier > BLOCK_BYTES):
            yield first, at
            first, rows, weight = at, 0, 0
        rows, weight = rows + more, weight + heavier
        end = at + 1
    if end:
        yield first, end


def run_types(steps: Steps, step: Step, named: dict[str, Any]) -> Manifest:
    """Note the types of the input's columns over all its shards, which no single shard knows."""
    assert step.input is not None
    types = steps.rows(step.input).schema
    by = step.options.get("by")
    if step.verb == "repartition" and by not in types.names:
        raise StageError(f"repartition by {by}: there is no such column")
    if step.verb == "repartition" and not _groups(kind := types.field(str(by)).type):
        raise StageError(
            f"repartition by {by}: it is a column of {kind}; groups are named by text, whole numbers or truths"
        )
    rows = sum(rows for rows, _ in steps.sizes(step.input))
    path = steps.folder(step) / "types" / "00000.arrow"
    files = {path.name: write_table(path, types.empty_table())}
    return Manifest(**named, inputs=rows, samples=rows, files=files)


def _groups(kind: pa.DataType) -> bool:
    """Whether values of this type name groups: NaN is not itself, and JSON has no dates."""
    whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    return bool(whole or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def rows_of_shard(steps: Steps, step: Step, shard: int) -> StepRows:
    """The rows of one shard of a step's input, as the whole would show them."""
    assert step.input is not None
    return steps.shard_rows(step.input).only(shard, types_of(steps, step))


def types_of(steps: Steps, step: Step) -> pa.Schema:
    """What `run_types` noted."""
    return read_schema(steps.folder(step) / "types" / "00000.arrow")
