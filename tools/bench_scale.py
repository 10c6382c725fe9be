"""What a build costs a sample and a task, measured over many small samples, and what it will cost at 10⁶, 10⁸, 10¹⁰.

    python tools/bench_scale.py [--samples 1000000] [--per-shard 1000] [--work DIR]

This file is the recipe as well: tiny PNGs out of a `@source`, a map that drops one in a hundred, an annotation, a
reduce as a tree, a repartition into three splits, a published tree. One worker, so that the CPU between two of its
jobs is that of the second; the driver is a process of its own beside it. Three builds: the one asked for, a tenth of
its samples in as many shards, and a tenth in a tenth of the shards: what the driver's memory grows by comes from
their differences. Prints Markdown: the table of the first build, and the model. docs/scale.md says what to make of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.image import Image
from datakit.recipe import Recipe, Store, source
from datakit.run import repartition
from datakit.run.build import run_build
from datakit.run.phases import ARITY, BLOCK_ROWS
from datakit.run.request import request
from datakit.stage import Drop, Ref, Rows, Sample, reduce, stage
from datakit.stage import source as source_stage
from datakit.store.rows import write_table

TICK = os.sysconf("SC_CLK_TCK")  # of CPU times in /proc
PICTURES = 64
SIZES = ((10**6, 1000), (10**8, 10_000), (10**10, 100_000))  # samples, a shard


@dataclass(frozen=True, kw_only=True)
class Config:
    samples: int = field(default=1000, metadata={"help": "in all"})
    per_shard: int = field(default=1000, metadata={"help": "in a shard"})


@cache
def pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [
        Image.from_array(rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)).encoded for _ in range(PICTURES)
    ]


@source_stage(version=1)
def tiny(shard: int, *, samples: int, per_shard: int) -> Iterator[Sample]:
    for number in range(shard * per_shard, min(samples, (shard + 1) * per_shard)):
        picture = Image(pictures()[number % PICTURES])
        yield {"__key__": f"t{number:011d}", "name": f"tiny/{number}", "image": picture, "number": number}


@stage(version=1)
def sort_out(sample: Sample) -> Sample | Drop:
    number = sample["number"]
    if number % 100 == 7:
        return Drop("unlucky")
    split = "test" if number % 10 == 0 else "val" if number % 10 == 1 else "train"
    return sample | {"publish": split, "label": number % 10}


@stage(version=1)
def caption(sample: Sample) -> Sample:
    return sample | {"caption": f"the picture of number {sample['number']}"}


def _labels(rows: Rows) -> dict[str, int]:
    return {
        str(row["values"]): row["counts"] for row in rows.table(["label"])["label"].value_counts().to_pylist()
    }


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    return dict(sum(map(Counter, counts), Counter[str]()))


@reduce(version=1, partial=_labels, merge=_sum)
def histogram(counts: dict[str, int]) -> dict[str, int]:
    return counts


def recipe(config: Config) -> Recipe:
    shards = -(-config.samples // config.per_shard)
    made = source(tiny(samples=config.samples, per_shard=config.per_shard), shards=shards)
    kept = made.map(sort_out())
    store = Store(
        step=kept.annotate(caption()).repartition(by="publish", per_shard=config.per_shard),
        image_format=Ref.of("PNG"),
        caption="caption",
        metadata=("number",),
        title="Tiny",
        description="Small samples, to see what many cost.",
    )
    return Recipe(store=store, files={"histogram.json": kept.reduce(histogram())})


class Meter:
    """A sink that puts the CPU and the time since the last job down to the job that just ended."""

    def __init__(self) -> None:
        self.cost: dict[str, Counter[str]] = {}
        self.publishing = ""
        self.last = self.now()

    def now(self) -> Counter[str]:
        pids = [child.pid for child in multiprocessing.active_children()]
        own = resource.getrusage(resource.RUSAGE_SELF)
        worker = sum(cpu_of(pid) for pid in pids if pid)
        return Counter(seconds=time.monotonic(), worker=worker, driver=own.ru_utime + own.ru_stime)

    def event(self, kind: str, **data: Any) -> None:
        if kind == "committed":
            verb = data["name"].partition(":")[0]
            self.charge(f"{verb} {data['phase']}".strip(), 1)
        elif kind == "advance" and data["kept"] and data["step"] == self.publishing:
            self.charge("publish", 1)
        elif kind == "start" and data["name"] == "publish":
            self.publishing = data["step"]

    def charge(self, name: str, tasks: int) -> None:
        now = self.now()
        row = self.cost.setdefault(name, Counter())
        # The worker's CPU is known while it lives: when the tree is finished it is gone.
        row.update({what: max(0, now[what] - self.last[what]) for what in ("seconds", "worker", "driver")})
        row["tasks"] += tasks
        self.last = now

    def close(self) -> None:
        pass


def cpu_of(pid: int) -> float:
    """Seconds of CPU of a process; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def measure(samples: int, per_shard: int, work: Path) -> dict[str, Any]:
    """One build in this process, with one worker."""
    words = [f"recipe={Path(__file__).resolve()}", f"out={work / 'out'}", f"samples={samples}"]
    words += [f"per_shard={per_shard}", "run.workers=1", f"run.cache={work / 'cache'}"]
    meter = Meter()
    before = peak()
    made = run_build(request(words), meter)
    meter.charge("finish", 0)
    return {
        "samples": samples,
        "shards": -(-samples // per_shard),
        "cost": meter.cost,
        "bytes": written(work),
        "memory": [before, peak()],
        "published": sum(made.splits.values()),
    }


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def written(work: Path) -> dict[str, int]:
    """Bytes that each phase of each verb left."""
    found: Counter[str] = Counter()
    for step in (work / "cache" / "steps").iterdir():
        first = json.loads((step / "00000.json").read_bytes())
        for path in step.rglob("*"):
            if path.is_file():
                phase = path.parent.name if path.parent != step else ""
                found[f"{first['step'].partition(':')[0]} {phase}".strip()] += path.stat().st_size
    for name, folders in (("publish", ("data", "metadata")), ("finish", ("",))):
        for folder in folders:
            files = [path for path in (work / "out" / folder).glob("*") if path.is_file()]
            found[name] += sum(path.stat().st_size for path in files)
    return dict(found)


def in_child(samples: int, per_shard: int, work: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=work, prefix="bench-scale-") as scratch:
        line = [sys.executable, __file__, "--child", scratch]
        line += [f"--samples={samples}", f"--per-shard={per_shard}"]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def seconds_per_block(work: Path) -> float:
    """What a merge pays for each block, whatever it takes of it: two files opened."""
    groups = pa.array(["train"])
    index = pa.table({"group": groups, "bucket": [0], "rows": [9], "weight": [0]})
    folder, rounds = Path(tempfile.mkdtemp(dir=work)), 300
    write_table(folder / "00000.index.arrow", index)
    write_table(folder / "00000.arrow", pa.table({name: list(range(9)) for name in "abcdefgh"}))
    plan, started = {"low": 5, "high": 6}, time.process_time()
    for _ in range(rounds):
        repartition._run(folder, 0, plan, groups, 4)
    return (time.process_time() - started) / rounds


def table(found: Mapping[str, Any]) -> list[str]:
    """The build, a row a verb and phase."""
    lines = [
        "| verb, phase | tasks | worker CPU, µs/sample | driver CPU, µs/sample | wall, µs/sample | bytes/sample |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    count = found["samples"]
    for name, row in found["cost"].items():
        worker, driver, wall = (row[what] / count * 1e6 for what in ("worker", "driver", "seconds"))
        size = found["bytes"].get(name, 0) / count
        lines.append(f"| {name} | {row['tasks']} | {worker:.1f} | {driver:.1f} | {wall:.1f} | {size:.0f} |")
    return lines


@dataclass(frozen=True)
class Constants:
    """Of the model: µs of a sample, bytes of a sample, driver's µs of a task, MiB of it, µs of a block in a merge."""

    worker: float
    size: float
    task: float
    base: float
    shard: float
    sample: float
    block: float


def constants(runs: list[Mapping[str, Any]], block: float) -> Constants:
    whole, thin, small = runs
    tasks = sum(row["tasks"] for row in whole["cost"].values())
    per_sample = (whole["memory"][1] - thin["memory"][1]) / (whole["samples"] - thin["samples"])
    per_shard = (thin["memory"][1] - small["memory"][1]) / max(1, thin["shards"] - small["shards"])
    return Constants(
        worker=sum(row["worker"] for row in whole["cost"].values()) / whole["samples"] * 1e6,
        size=sum(whole["bytes"].values()) / whole["samples"],
        task=sum(row["driver"] for row in whole["cost"].values()) / tasks * 1e6,
        base=small["memory"][1] - per_shard * small["shards"] - per_sample * small["samples"],
        shard=per_shard,
        sample=per_sample,
        block=block * 1e6,
    )


def tree(width: int) -> list[int]:
    """Jobs of each level of a reduce over so many shards: types, partials, merges, the result."""
    levels = [1, width]
    while levels[-1] > 1:
        levels.append(-(-levels[-1] // ARITY))
    return [*levels, 1]


def model(found: Constants) -> list[str]:
    lines = [
        "| samples | a shard | tasks | worker CPU, h | of it merges' opening, h | written, TB "
        "| driver CPU, h | driver memory, GB | reduce depth |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for samples, per_shard in SIZES:
        shards, blocks = -(-samples // per_shard), -(-samples // max(BLOCK_ROWS, per_shard))
        tasks = 4 * shards + sum(tree(shards)) + 3 + 2 * blocks
        opening = found.block * blocks**2
        cpu = (found.worker * samples + opening) / 3.6e9
        memory = (found.base + found.shard * shards + found.sample * samples) / 1024
        lines.append(
            f"| 10^{len(str(samples)) - 1} | {per_shard} | {tasks} | {cpu:.2g} | {opening / 3.6e9:.2g} "
            f"| {found.size * samples / 1e12:.2g} | {found.task * tasks / 3.6e9:.2g} | {memory:.2g} "
            f"| {len(tree(shards))} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.samples, given.per_shard, given.child)))
        return
    few, thin = max(1, given.samples // 10), max(1, given.per_shard // 10)
    runs = [
        in_child(samples, per_shard, given.work)
        for samples, per_shard in ((given.samples, given.per_shard), (few, thin), (few, given.per_shard))
    ]
    with tempfile.TemporaryDirectory(dir=given.work) as scratch:
        found = constants(runs, seconds_per_block(Path(scratch)))
    whole = runs[0]
    wall = sum(row["seconds"] for row in whole["cost"].values())
    print(f"{whole['samples']} samples in {whole['shards']} shards, one worker: {wall:.0f} s\n")
    print("\n".join(table(whole)))
    for run in runs:
        before, after = run["memory"]
        print(f"\ndriver, {run['samples']} samples, {run['shards']} shards: {before:.0f} → {after:.0f} MiB")
    print(
        f"\nworker {found.worker:.0f} µs and {found.size:.0f} bytes a sample; driver {found.task:.0f} µs a task, "
        f"{found.base:.0f} MiB + {found.shard * 1024:.1f} KiB a shard + {found.sample * 2**20:.0f} bytes a sample; "
        f"a merge {found.block:.0f} µs a block\n"
    )
    print("\n".join(model(found)))


if __name__ == "__main__":
    main()
