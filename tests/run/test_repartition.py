"""The shuffle in blocks gives what one sort of all rows gives: the same order, shards, groups and bytes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xxhash

from datakit.errors import StageError
from datakit.manifest import Manifest, write_manifest
from datakit.recipe import Plan, Recipe, Step, Store
from datakit.run import phases, repartition
from datakit.run.phases import Part, blocks
from datakit.stage import Ref
from datakit.store.columns import IMAGE, one_table
from datakit.store.rows import write_table
from datakit.store.steps import OUTCOMES, Steps

Shards = list[pa.Table]


def placed(shards: Shards, root: Path, **options: Any) -> tuple[Steps, Step]:
    """The shards as a complete step on disk, and a repartition of it."""
    before = Step(verb="source", options={"shards": len(shards)})
    step = before.repartition(by="split", **options)
    steps = Steps(
        root=root, plan=Plan(Recipe(store=Store(step=step, image_format=Ref.of("PNG"))), {}), listings={}
    )
    for shard, table in enumerate(shards):
        name = f"{shard:05d}.arrow"
        files = {name: write_table(steps.folder(before) / name, table)}
        made = Manifest(
            fingerprint="", step="", shard=shard, inputs=len(table), samples=len(table), files=files
        )
        write_manifest(steps.folder(before), made)
    return steps, step


def run_all(steps: Steps, step: Step, order: random.Random) -> Manifest:
    """Every phase, the jobs of each in any order."""
    for phase in phases.phases(steps, step):
        parts = list(enumerate(phases.spans(steps, step, phase)))
        order.shuffle(parts)
        for number, span in parts:
            named = {"fingerprint": "f", "step": step.name, "shard": number}
            if phase == "types":
                made = phases.run_types(steps, step, named)
            else:
                made = repartition.run_repartition(steps, step, Part(phase, number, span), named)
            write_manifest(steps.folder(step) / phase, made)
    return made


def oracle(shards: Shards, folder: Path, step: Step) -> Manifest:
    """As it was: all rows at once."""
    by, seed = str(step.options["by"]), int(step.options["seed"])
    per_shard, shard_bytes = int(step.options["per_shard"]), int(step.options["shard_bytes"])
    table = one_table(shards).combine_chunks()
    group = table.column(by)
    files: dict[str, int] = {}
    groups: list[list[object]] = []
    for name in sorted(value for value in pc.unique(group).to_pylist() if value is not None):
        members = table.filter(pc.equal(group, name))
        keys = members.column("__key__").to_pylist()
        hashes = np.array(
            [repartition.xxhash.xxh3_64_intdigest(key.encode(), seed=seed) for key in keys], np.uint64
        )
        members = members.take(pa.array(np.lexsort((np.array(keys, dtype=str), hashes))))
        weight = pc.sum(pc.struct_field(members.column("image"), "size")).as_py() or 0
        of = max(1, -(-members.num_rows // per_shard), -(-weight // shard_bytes))
        start = 0
        for index in range(of):
            size = members.num_rows // of + (1 if index < members.num_rows % of else 0)
            path = folder / f"{len(groups):05d}.arrow"
            rows = members.take(pa.array(np.arange(start, start + size)))
            files[path.name] = write_table(path, rows.combine_chunks())
            groups.append([name, index, of, size])
            start += size
    left = table.filter(pc.is_null(group))
    reasons = ["no_group"] * left.num_rows
    if "reason" in left.column_names:
        reasons = [reason or "no_group" for reason in left["reason"].to_pylist()]
    if left.num_rows:
        names = left["name"].to_pylist() if "name" in left.column_names else [""] * left.num_rows
        rows = [
            {"__key__": key, "name": name, "outcome": "dropped", "step": step.name, "reason": reason}
            for key, name, reason in zip(left["__key__"].to_pylist(), names, reasons, strict=True)
        ]
        path = folder / "00000.outcomes.arrow"
        files[path.name] = write_table(path, pa.Table.from_pylist(rows, schema=OUTCOMES))
    dropped = {reason: reasons.count(reason) for reason in set(reasons)}
    counts = {"inputs": table.num_rows, "samples": table.num_rows - left.num_rows}
    return Manifest(
        fingerprint="f", step=step.name, shard=0, dropped=dropped, files=files, groups=groups, **counts
    )


def some(draw: random.Random, rows: int, first: int, odd: bool) -> pa.Table:
    """Rows with a column of most types, nulls in all; `odd`: columns that other shards have in another type."""
    if not rows:
        return pa.table({"__key__": pa.array([], pa.string())})
    maybe: Callable[[Any], Any] = lambda value: value if draw.random() < 0.8 else None  # noqa: E731
    numbers = range(first, first + rows)
    image = [maybe({"path": f"@x/{n}", "offset": n, "size": draw.randrange(2000)}) for n in numbers]
    columns = {
        "__key__": pa.array([f"k{n}{'é' * (n % 3)}" for n in numbers]),
        "image": pa.array(image, IMAGE),
        "split": pa.array(
            [draw.choice(["a", "b", "ü", "rare", None][: 5 - n % 3]) for n in numbers], pa.string()
        ),
        "reason": pa.array([maybe(draw.choice(["x", "y"])) for _ in numbers], pa.string()),
        "flag": pa.array([maybe(draw.random() < 0.5) for _ in numbers], pa.bool_()),
        "names": pa.array([maybe(["n"] * draw.randrange(3)) for _ in numbers], pa.list_(pa.string())),
        "vector": pa.array([maybe([float(n)] * 3) for n in numbers], pa.list_(pa.float32(), 3)),
        "inner": pa.array([maybe({"a": maybe(n), "b": maybe("t")}) for n in numbers]),
        "nothing": pa.nulls(rows),
        "number": pa.array([maybe(n) for n in numbers], pa.float64() if odd else pa.int64()),
        "mixed": pa.array([maybe(str(n)) for n in numbers]) if odd else pa.array([maybe(n) for n in numbers]),
    }
    return pa.table(columns | ({"name": columns["__key__"]} if odd else {}))


def inputs(draw: random.Random) -> Shards:
    sizes = [draw.choice([0, 0, 1, 7, 40]) for _ in range(draw.randrange(1, 7))] + [5]
    draw.shuffle(sizes)
    return [some(draw, size, sum(sizes[:at]), draw.random() < 0.3) for at, size in enumerate(sizes)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and buckets of a few rows, so that there are many."""
    monkeypatch.setattr(phases, "BLOCK_ROWS", 20)
    monkeypatch.setattr(repartition, "BUCKET_ROWS", 3)


@pytest.mark.parametrize("seed", range(24))
def test_blocks_give_what_one_sort_of_all_rows_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None, seed: int
) -> None:
    draw = random.Random(seed)
    if seed % 3 == 1:  # hashes that are often equal

        class Few:
            @staticmethod
            def xxh3_64_intdigest(data: bytes, seed: int) -> int:
                return (xxhash.xxh3_64_intdigest(data, seed=seed) % 5) << 60

        monkeypatch.setattr(repartition, "xxhash", Few)
    options = {
        "per_shard": draw.choice([1, 4, 10, 1000]),
        "shard_bytes": draw.choice([1500, 9000, 1 << 29]),
        "seed": draw.randrange(3),
    }
    shards = inputs(draw)
    steps, step = placed(shards, tmp_path, **options)
    (tmp_path / "oracle").mkdir()
    wanted = oracle(shards, tmp_path / "oracle", step)
    made = run_all(steps, step, draw)
    assert replace(made, groups=[list(group) for group in made.groups]) == wanted
    for name in wanted.files:
        assert (steps.folder(step) / name).read_bytes() == (tmp_path / "oracle" / name).read_bytes(), name
    assert steps.groups(step) == [tuple(group) for group in wanted.groups]
    assert steps.rows(step).schema == one_table(shards).schema or not wanted.groups


def test_a_job_is_given_blocks_and_not_all(tmp_path: Path, small: None) -> None:
    shards = [some(random.Random(n), 15, 15 * n, False) for n in range(12)]
    steps, step = placed(shards, tmp_path, per_shard=5)
    run_all(steps, step, random.Random(0))
    splits, merges = (phases.spans(steps, step, phase) for phase in ("split", "merge"))
    assert len(splits) == 12 and len(merges) >= 6
    assert [first for first, _ in splits] == [0, *(last for _, last in splits[:-1])]
    rows = [made.inputs for made in steps.phase_manifests(step, "merge", range(len(merges)))]
    assert max(rows) <= 20 and sum(rows) == sum(size for *_, size in steps.groups(step))


def test_blocks_cover_everything_and_hold_no_more_than_they_may(small: None) -> None:
    assert list(blocks([])) == []
    assert list(blocks([(0, 0)])) == [(0, 1)]
    assert list(blocks([(15, 1), (5, 1), (1, 1), (50, 1), (0, 1)])) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert list(blocks([(1, 1 << 26), (1, 1), (1, 1)])) == [(0, 1), (1, 3)]


@pytest.mark.parametrize("value", [0.5, float("nan"), b"x", [1], {"a": 1}])
def test_a_column_that_names_no_groups_is_refused(value: object, tmp_path: Path) -> None:
    steps, step = placed([pa.table({"__key__": ["a"], "split": [value]})], tmp_path, per_shard=5)
    with pytest.raises(StageError, match="groups are named by text, whole numbers or truths"):
        run_all(steps, step, random.Random(0))


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    steps, step = placed([pa.table({"__key__": ["a"]})], tmp_path, per_shard=5)
    with pytest.raises(StageError, match="repartition by split: there is no such column"):
        run_all(steps, step, random.Random(0))


MEMORY = """
import resource, sys
from pathlib import Path
from random import Random
import numpy as np, pyarrow as pa
sys.path.insert(0, sys.argv[3])
from test_repartition import placed, run_all
from datakit.store.columns import IMAGE

PER = 50_000

def table(first):
    number = pa.array(np.arange(first, first + PER))
    text = pa.array([f"{n:016x}{n * 7:032x}" for n in range(first, first + PER)])
    image = pa.StructArray.from_arrays([text, number, number], fields=list(IMAGE))
    group = pa.array(np.where(np.arange(PER) % 5, "train", "test"))
    return pa.table({"__key__": text, "image": image, "split": group, "note": text, "more": text})

def shards(rows):
    for first in range(0, rows, PER):
        yield table(first)

class Lazy:  # each table made when it is written, and gone again
    def __init__(self, rows): self.rows = rows
    def __len__(self): return self.rows // PER
    def __iter__(self): return shards(self.rows)

steps, step = placed(Lazy(int(sys.argv[2])), Path(sys.argv[1]), per_shard=20_000)
made = run_all(steps, step, Random(0))
size = sum(path.stat().st_size for path in Path(sys.argv[1]).rglob("*/*.arrow") if path.parent.name != "split")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, size >> 21, made.samples)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Peak memory of a process that does all the jobs, one after the other, over more than three times the rows."""
    peaks, sizes = [], []
    for rows in (300_000, 1_000_000):
        work = tmp_path / str(rows)
        line = [sys.executable, "-c", MEMORY, str(work), str(rows), str(Path(__file__).parent)]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        peak, size, samples = map(int, done.stdout.split())
        assert samples == rows
        peaks.append(peak)
        sizes.append(size)
    assert sizes[1] > 200  # MiB of tables
    assert peaks[1] - peaks[0] < 40, (peaks, sizes)
