"""Rows grouped, shuffled as a whole and cut into balanced shards. Only tables move: images stay where they lie.

The place of a row comes from a hash of (seed, key), so it depends neither on the order nor on the number of the
shards that came in. All rows have one order: by group, hash, key. An external sort in jobs, none of which holds more
than a block of rows (run/phases.py), or one shard if that is larger:

split   a block of the input's rows, sorted, with a count of its rows in every bucket (a group and a range of hashes);
cut     the counts of all blocks: where in the order the shards end, and which buckets a part must read for them;
merge   those buckets of all blocks, sorted again, cut at the exact rows: some neighbouring shards;
and last what left with a reason, and the manifest that names the shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from datakit.errors import StoreError
from datakit.manifest import Manifest, atomic, total
from datakit.recipe import Step
from datakit.run import phases
from datakit.store.columns import one_table
from datakit.store.rows import read_table, write_table
from datakit.store.steps import OUTCOMES, Steps

BUCKET_ROWS = 1 << 10  # of a bucket, about: a merge reads up to two of them in vain
MOST_BITS = 13  # of a hash that tell buckets apart: the cut holds a count for each, for every group

Ints = npt.NDArray[np.int64]


def run_repartition(steps: Steps, step: Step, part: phases.Part, named: dict[str, Any]) -> Manifest:
    """One part of one phase after `types`; its manifest, not yet written. named: what all manifests of a job say."""
    return {"split": split, "cut": cut, "merge": merge, "": seal}[part.phase](steps, step, part, named)


def split(steps: Steps, step: Step, part: phases.Part, named: dict[str, Any]) -> Manifest:
    """A block of the input, sorted; what has no group beside it."""
    assert step.input is not None
    by, folder = str(step.options["by"]), steps.folder(step) / "split"
    rows = steps.shard_rows(step.input)
    table = one_table([rows.shard(shard) for shard in range(*part.span)], phases.types_of(steps, step))
    kept, left = table.filter(pc.is_valid(table[by])), table.filter(pc.is_null(table[by]))
    groups = _sorted_groups(kept[by])
    order = in_order(kept, by, groups, int(step.options["seed"]))
    index = _index(order, kept, groups, _bits(steps, step))
    name = f"{part.number:05d}"
    files = {
        f"{name}.arrow": write_table(folder / f"{name}.arrow", kept.take(pa.array(order.rows))),
        f"{name}.index.arrow": write_table(folder / f"{name}.index.arrow", index),
    }
    if left.num_rows:
        files[f"{name}.outcomes.arrow"] = write_table(
            folder / f"{name}.outcomes.arrow", _outcomes(left, step.name)
        )
    reasons = {str(row["values"]): row["counts"] for row in pc.value_counts(_reasons(left)).to_pylist()}
    return Manifest(**named, inputs=table.num_rows, samples=kept.num_rows, dropped=reasons, files=files)


@dataclass(frozen=True)
class Order:
    """Rows in the order of (group, hash, key): their numbers in the table, of their groups, and their hashes."""

    rows: npt.NDArray[np.intp]
    groups: Ints
    hashes: npt.NDArray[np.uint64]


def in_order(table: pa.Table, by: str, groups: pa.Array, seed: int) -> Order:
    """Where the rows belong: by the number of their group, xxh3-64 of their keys, seeded; equal hashes by key."""
    keys = table["__key__"].to_pylist()
    digest = xxhash.xxh3_64_intdigest
    hashes = np.fromiter((digest(key.encode(), seed=seed) for key in keys), np.uint64, len(keys))
    number = pc.index_in(table[by], value_set=groups).to_numpy().astype(np.int64)
    rows = np.lexsort((hashes, number))
    same = (np.diff(hashes[rows]) == 0) & (np.diff(number[rows]) == 0)
    if same.any():  # keys are long and their order is rarely asked for
        rows = np.lexsort((np.array(keys, dtype=str), hashes, number))
    return Order(rows, number[rows], hashes[rows])


def _bits(steps: Steps, step: Step) -> int:
    """How many of a hash's first bits name its bucket: by the rows there are in all."""
    (types,) = steps.phase_manifests(step, "types", [0])
    return min(MOST_BITS, (types.inputs // BUCKET_ROWS).bit_length())


def _bucket(hashes: npt.NDArray[np.uint64], bits: int) -> Ints:
    if not bits:  # a shift by all 64 bits is not defined
        return np.zeros(len(hashes), np.int64)
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def _index(order: Order, table: pa.Table, groups: pa.Array, bits: int) -> pa.Table:
    """Rows and bytes of images of every bucket that has rows: group, bucket, rows, weight; in order."""
    code = (order.groups << bits) | _bucket(order.hashes, bits)
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    weights = _image_sizes(table)[order.rows]
    return pa.table(
        {
            "group": pc.take(groups, pa.array(order.groups[starts])),
            "bucket": pa.array(code[starts] & ((1 << bits) - 1)),
            "rows": pa.array(np.diff(np.append(starts, len(code)))),
            "weight": pa.array(np.add.reduceat(weights, starts) if len(starts) else starts),
        }
    )


def _image_sizes(table: pa.Table) -> Ints:
    if "image" not in table.column_names:
        return np.zeros(table.num_rows, np.int64)
    sizes = pc.fill_null(pc.struct_field(table["image"], "size"), 0)
    return np.asarray(sizes.to_numpy(), np.int64)


@dataclass
class Counts:
    """Rows of every bucket of every group over all blocks, and the bytes of every group's images."""

    bits: int
    groups: pa.Array  # as they were found; their numbers are the first axis of `rows`
    rows: Ints
    weight: Ints

    def add(self, index: pa.Table) -> None:
        found = index["group"].combine_chunks()
        new = pc.unique(found.filter(pc.invert(pc.is_in(found, value_set=self.groups))))
        if len(new):
            self.groups = pa.concat_arrays([self.groups, new])
        if len(self.groups) > len(self.rows):  # twice as many: else every new group would copy all
            more = 2 * len(self.groups) - len(self.rows)
            self.rows = np.concatenate([self.rows, np.zeros((more, 1 << self.bits), np.int64)])
            self.weight = np.concatenate([self.weight, np.zeros(more, np.int64)])
        number = pc.index_in(found, value_set=self.groups).to_numpy()
        np.add.at(self.rows, (number, index["bucket"].to_numpy()), index["rows"].to_numpy())
        np.add.at(self.weight, number, index["weight"].to_numpy())

    def in_order(self) -> Counts:
        order = pa.array(np.array(_rank(self.groups), np.int64))
        at = order.to_numpy()
        return Counts(self.bits, self.groups.take(order), self.rows[at], self.weight[at])


def cut(steps: Steps, step: Step, part: phases.Part, named: dict[str, Any]) -> Manifest:
    """Where the shards end: `groups.arrow`, `shards.arrow` and, for each part of the merge, `parts.arrow`; and all that
    left, in one file.
    """
    folder = steps.folder(step)
    kind, bits = phases.types_of(steps, step).field(str(step.options["by"])).type, _bits(steps, step)
    counts = Counts(bits, pa.array([], kind), np.zeros((0, 1 << bits), np.int64), np.zeros(0, np.int64))
    made = steps.phase_manifests(step, "split", range(*part.span))
    for block in range(*part.span):
        counts.add(read_table(folder / "split" / f"{block:05d}.index.arrow"))
    counts = counts.in_order()
    size = sum(one.files[f"{one.shard:05d}.arrow"] for one in made)
    kept = int(counts.rows.sum())
    shards = list(_shards(counts, int(step.options["per_shard"]), int(step.options["shard_bytes"])))
    sizes = ((rows, rows * size // max(1, kept)) for *_, rows in shards)
    tables = {
        "groups.arrow": pa.table({"group": counts.groups}),
        "shards.arrow": pa.table(
            {
                name: pa.array([shard[at] for shard in shards], pa.int64())
                for at, name in enumerate(("group", "index", "of", "rows"))
            }
        ),
        "parts.arrow": _parts(counts, shards, list(phases.blocks(sizes)), len(made)),
    }
    files = {name: write_table(folder / "cut" / name, table) for name, table in tables.items()}
    left = [name for one in made for name in one.files if name.endswith(".outcomes.arrow")]
    if left:
        path = folder / "00000.outcomes.arrow"
        files[f"../{path.name}"] = _join(path, [folder / "split" / name for name in left])
    inputs, (dropped, _) = sum(one.inputs for one in made), total(made)
    return Manifest(**named, inputs=inputs, samples=kept, dropped=dict(dropped), files=files)


def _shards(counts: Counts, per_shard: int, shard_bytes: int) -> Iterator[tuple[int, int, int, int]]:
    """(number of the group, index, of, rows) of every shard, those of a group equal to within one row."""
    for group, (rows, weight) in enumerate(zip(counts.rows.sum(axis=1), counts.weight, strict=True)):
        of = int(max(1, -(-rows // per_shard), -(-weight // shard_bytes)))
        for index in range(of):
            yield group, index, of, int(rows // of + (1 if index < rows % of else 0))


def _parts(
    counts: Counts, shards: list[tuple[int, int, int, int]], spans: list[phases.Span], blocks: int
) -> pa.Table:
    """For each part: the shards it writes, the buckets it reads (both ends in), rows of them before its own, its rows,
    and how many blocks there are. A bucket's number goes over all groups: group · 2^bits + bucket.
    """
    ends = np.cumsum(counts.rows.ravel())
    row_ends = np.cumsum([0, *(rows for *_, rows in shards)])
    found = []
    for first, last in spans:
        start, stop = int(row_ends[first]), int(row_ends[last])
        low = int(np.searchsorted(ends, start, side="right"))
        high = int(np.searchsorted(ends, max(start, stop - 1), side="right"))
        skip = start - (int(ends[low - 1]) if low else 0)
        found.append((first, last, low, high, skip, stop - start, blocks))
    names = ("first", "last", "low", "high", "skip", "rows", "blocks")
    return pa.table({name: pa.array([row[at] for row in found], pa.int64()) for at, name in enumerate(names)})


def merge(steps: Steps, step: Step, part: phases.Part, named: dict[str, Any]) -> Manifest:
    """Write some neighbouring shards out of their buckets in all blocks."""
    folder, by, seed = steps.folder(step), str(step.options["by"]), int(step.options["seed"])
    (plan,) = read_table(folder / "cut" / "parts.arrow").slice(part.number, 1).to_pylist()
    groups, bits = read_table(folder / "cut" / "groups.arrow")["group"].combine_chunks(), _bits(steps, step)
    found = [_run(folder / "split", block, plan, groups, bits) for block in range(plan["blocks"])]
    table = pa.concat_tables(found).combine_chunks()
    order = in_order(table, by, groups, seed).rows[plan["skip"] : plan["skip"] + plan["rows"]]
    if len(order) != plan["rows"]:
        raise StoreError(f"{folder}: blocks and their counts differ; delete the folder and run again")
    sizes = read_table(folder / "cut" / "shards.arrow")["rows"].slice(
        part.span[0], part.span[1] - part.span[0]
    )
    files, start = {}, 0
    for shard, size in enumerate(sizes.to_pylist(), part.span[0]):
        name = f"{shard:05d}.arrow"
        # Taken and not sliced: the writer would put bytes of a slice's neighbours into the padding of its own.
        files[f"../{name}"] = write_table(folder / name, table.take(pa.array(order[start : start + size])))
        start += size
    return Manifest(**named, inputs=start, samples=start, files=files)


def _run(folder: Path, block: int, plan: dict[str, int], groups: pa.Array, bits: int) -> pa.Table:
    """The rows of a block that lie in the buckets of a part."""
    index = read_table(folder / f"{block:05d}.index.arrow")
    number = pc.index_in(index["group"], value_set=groups).to_numpy().astype(np.int64)
    code, rows = (number << bits) | index["bucket"].to_numpy(), index["rows"].to_numpy()
    low, high = np.searchsorted(code, plan["low"], "left"), np.searchsorted(code, plan["high"], "right")
    start, count = int(rows[:low].sum()), int(rows[low:high].sum())
    # A copy, and the file let go: mapped, the pages about the slices of all blocks would be held at once.
    return read_table(folder / f"{block:05d}.arrow").take(pa.array(np.arange(start, start + count)))


def seal(steps: Steps, step: Step, part: phases.Part, named: dict[str, Any]) -> Manifest:
    """The manifest of the whole: all that merges, and the cut, put into the step's own folder."""
    folder, (made,) = steps.folder(step), steps.phase_manifests(step, "cut", [0])
    merged = steps.phase_manifests(step, "merge", range(*part.span))
    every = {name: size for one in (made, *merged) for name, size in one.files.items()}
    files = {name.removeprefix("../"): size for name, size in every.items() if name.startswith("../")}
    names = read_table(folder / "cut" / "groups.arrow")["group"].to_pylist()
    shards = read_table(folder / "cut" / "shards.arrow").to_pylist()
    groups = [[names[row["group"]], row["index"], row["of"], row["rows"]] for row in shards]
    return Manifest(
        **named,
        inputs=made.inputs,
        samples=made.samples,
        dropped=made.dropped,
        files=files,
        groups=groups,
    )


def _join(path: Path, found: list[Path]) -> int:
    """Tables of outcomes as one file, a block of rows at a time."""
    with atomic(path) as part:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, OUTCOMES) as writer:
            waiting: list[pa.Table] = []
            for one in found:
                waiting.append(read_table(one))
                if one == found[-1] or sum(table.num_rows for table in waiting) >= phases.BLOCK_ROWS:
                    writer.write_table(pa.concat_tables(waiting).combine_chunks())
                    waiting = []
        return part.stat().st_size


def _sorted_groups(column: pa.ChunkedArray) -> pa.Array:
    found = pc.unique(column)
    return found.take(pa.array(np.array(_rank(found), np.int64)))


def _rank(groups: pa.Array) -> list[int]:
    """Where each group, sorted as Python sorts, was."""
    values = groups.to_pylist()
    return sorted(range(len(values)), key=values.__getitem__)


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
