"""A loader stopped at every batch and resumed twice, with other numbers of ranks and workers each time."""

from __future__ import annotations

import io
import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from datakit.store.reader import open_store
from datakit.store.tree import Layout, Licence, ShardPlan, StoreInfo, finish_tree, write_shard
from fault_cases import Outcome, Tell

TITLE = "loader stopped at every batch of 2,000 samples, resumed twice, world 1 → 2 → 4, workers 0 and 2"
WANTED = "every sample once, in the order of an epoch left in peace"
SAMPLES, BATCH, SHARD = 2000, 8, 125
CASES = 3 * SAMPLES // BATCH  # each batch of each way to shuffle
SUITE = 9
PROCESSES = 10  # every so many cases workers are processes too, which take a second to start


def make_store(root: Path, samples: int = SAMPLES) -> None:
    """A store of small JPEGs in shards of SHARD."""
    shards = -(-samples // SHARD)
    layout = Layout(label="label", arrow=False)
    words: dict[str, Any] = dict.fromkeys(("name", "title", "description", "homepage", "creator"), "faults")
    info = StoreInfo(**words, licences=(Licence(name="none"),), date_published="2026-01-01")
    entries = []
    for index in range(shards):
        numbers = range(index * SHARD, min(samples, (index + 1) * SHARD))
        rows = pa.table({"key": [f"{number:06d}" for number in numbers], "label": list(numbers)})
        images = [_jpeg(number) for number in numbers]
        plan = ShardPlan(split="train", index=index, of=shards)
        entries.append(write_shard(root, plan, rows, images, layout=layout))
    finish_tree(root, entries=entries, layout=layout, info=info)


def _jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG")
    return target.getvalue()


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    """Each case: one rank to a batch, two ranks to another, four to the end."""
    make_store(work / "store")
    store, draw = open_store(work / "store"), random.Random(seed)
    chosen = draw.sample([(s, b) for s in ("none", "window", "full") for b in range(SAMPLES // BATCH)], cases)
    whole = {s: labels(store.torch(BATCH, **words(s, seed))) for s in ("none", "window", "full")}
    failures, processes = [], 0
    for number, (shuffle, first) in enumerate(chosen):
        # Through to the end where it can be: 4 ranks take 32 samples a turn.
        second = draw.randint(0, (SAMPLES // BATCH - first) // 2)
        workers = [2 if number % PROCESSES == turn else 0 for turn in range(3)]
        processes += any(workers)
        found = resumed(store, words(shuffle, seed), (first, second), workers)
        if found != whole[shuffle]:
            at = next(
                (i for i, (a, b) in enumerate(zip(found, whole[shuffle], strict=False)) if a != b), "the end"
            )
            failures.append(
                f"{shuffle}, batches {first} and {second}, workers {workers}: other samples from {at} on"
            )
        if number % 100 == 99:
            tell(f"{number + 1} of {cases}")
    return Outcome(cases=cases, failures=failures, figures={"with worker processes": str(processes)})


def words(shuffle: str, seed: int) -> dict[str, Any]:
    return {"shuffle": shuffle, "window": 3, "seed": seed, "fields": ["label"], "uneven": "keep"}


def labels(loader: Any, batches: int | None = None) -> list[int]:
    return [label for batch in islice(loader, batches) for label in batch["label"].tolist()]


def resumed(store: Any, how: dict[str, Any], stops: tuple[int, int], workers: list[int]) -> list[int]:
    """The labels of one epoch in three parts: 1 rank, 2 ranks, 4 ranks, in the order of the global positions."""
    state, found = None, []
    for world, batches, processes in zip((1, 2, 4), (*stops, None), workers, strict=True):
        parts, states = [], []
        for rank in range(world):
            loader = store.torch(BATCH, rank=rank, world=world, workers=processes, threads=0, **how)
            if state:
                loader.load_state_dict(state)
            parts.append(labels(loader, batches))
            states.append(loader.state_dict())
        if any(one != states[0] for one in states):
            return []
        state = states[0]
        longest = max(map(len, parts))
        found += [part[turn] for turn in range(longest) for part in parts if turn < len(part)]
    return found
