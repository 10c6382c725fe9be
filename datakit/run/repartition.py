"""Rows grouped, shuffled as a whole and cut into balanced shards. Only tables move: images stay where they lie.

The place of a row comes from a hash of (seed, key), so it depends neither on the order nor on the number of the
shards that came in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from datakit.errors import StageError
from datakit.manifest import Manifest
from datakit.recipe import Step
from datakit.store.rows import StepRows, write_table
from datakit.store.steps import OUTCOMES


def run_repartition(rows: StepRows, folder: Path, step: Step, fingerprint: str) -> Manifest:
    """Write the shards of every group, groups by name; rows of no group are put down as dropped."""
    by, seed = str(step.options["by"]), int(step.options["seed"])
    table = rows.table(rows.columns)
    if by not in table.column_names:
        raise StageError(f"repartition by {by}: there is no such column")
    group = table.column(by)
    files: dict[str, int] = {}
    groups: list[list[object]] = []
    for name in sorted(value for value in pc.unique(group).to_pylist() if value is not None):
        members = shuffled(table.filter(pc.equal(group, name)), seed)
        sizes = _balanced(members, int(step.options["per_shard"]), int(step.options["shard_bytes"]))
        start = 0
        for index, size in enumerate(sizes):
            path = folder / f"{len(groups):05d}.arrow"
            files[path.name] = write_table(path, members.slice(start, size).combine_chunks())
            groups.append([name, index, len(sizes), size])
            start += size
    left = table.filter(pc.is_null(group))
    if left.num_rows:
        path = folder / "00000.outcomes.arrow"
        files[path.name] = write_table(path, _outcomes(left, step.name))
    dropped = pc.value_counts(_reasons(left)).to_pylist()
    return Manifest(
        fingerprint=fingerprint,
        step=step.name,
        shard=0,
        inputs=table.num_rows,
        samples=table.num_rows - left.num_rows,
        dropped={str(row["values"]): row["counts"] for row in dropped},
        files=files,
        groups=groups,
    )


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    """The rows in the order of xxh3-64 of their keys, seeded; equal hashes by key."""
    keys = table.column("__key__").to_pylist()
    hashes = np.array([xxhash.xxh3_64_intdigest(key.encode(), seed=seed) for key in keys], np.uint64)
    order = np.lexsort((np.array(keys, dtype=str), hashes))
    return table.take(pa.array(order))


def _balanced(members: pa.Table, per_shard: int, shard_bytes: int) -> list[int]:
    """Sizes of the shards of a group, equal to within one row."""
    count = members.num_rows
    weight = pc.sum(pc.struct_field(members.column("image"), "size")).as_py() or 0
    shards = max(1, -(-count // per_shard), -(-weight // shard_bytes))
    return [count // shards + (1 if index < count % shards else 0) for index in range(shards)]


def _reasons(left: pa.Table) -> pa.Array:
    if "reason" not in left.column_names:
        return pa.array(["no_group"] * left.num_rows, pa.string())
    return pc.fill_null(left.column("reason").cast(pa.string()), "no_group").combine_chunks()


def _outcomes(left: pa.Table, step: str) -> pa.Table:
    reasons = _reasons(left).to_pylist()
    keys = left.column("__key__").to_pylist()
    names = left.column("name").to_pylist() if "name" in left.column_names else [""] * len(keys)
    return pa.Table.from_pylist(
        [
            {"__key__": key, "name": name, "outcome": "dropped", "step": step, "reason": reason}
            for key, name, reason in zip(keys, names, reasons, strict=True)
        ],
        schema=OUTCOMES,
    )
