"""A toy recipe for the engine's tests: noise in, a train and a test split out. One broken image in `bad`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datakit.errors import SampleError
from datakit.image import Image
from datakit.recipe import Recipe, Store, source
from datakit.rng import rng_for
from datakit.stage import Drop, Ref, Rows, Sample, batch_stage, reduce, stage
from datakit.stage import source as source_stage
from datakit.stages.image import intake


@dataclass(frozen=True, kw_only=True)
class Config:
    samples: int = field(default=20, metadata={"help": "a shard"})
    shards: int = 3
    bad: tuple[int, ...] = ()
    darkest: float = 0.0
    margin: float = 0.0
    crash: bool = False
    least: int = 1
    lose: str = ""


@source_stage(version=1)
def noise(shard: int, *, samples: int, bad: tuple[int, ...]) -> Iterator[Sample]:
    """32 px noise around a random grey; the samples numbered in `bad` are HTML pages."""
    for index in range(samples):
        rng = rng_for(0, "noise", shard, index)
        grey = rng.integers(40, 200)
        pixels = rng.integers(grey - 30, grey + 30, (32, 32, 3)).astype(np.uint8)
        image = Image(b"<!doctype html>") if index in bad else Image.from_array(pixels)
        yield {
            "__key__": f"s{shard}-{index:03d}",
            "name": f"{shard}/{index}",
            "image": image,
            "label": index % 3,
        }


@stage(version=1)
def not_dark(sample: Sample, *, darkest: float) -> Sample | Drop:
    mean = sample["mean_rgb"][0]
    return sample if mean >= darkest else Drop("dark", mean, darkest)


@reduce(version=1)
def mean_grey(rows: Rows) -> dict[str, float]:
    return {"mean": float(np.mean([rgb[0] for rgb in rows.table(["mean_rgb"])["mean_rgb"].to_pylist()]))}


@batch_stage(version=1, size=4)
def embed(samples: list[Sample], *, crash: bool) -> list[Sample]:
    """The mean colour as a vector; a crash is a defect of the stage, not of a sample."""
    if crash:
        raise ZeroDivisionError("a defect")
    if len(samples) > 1 and any(sample["label"] == 2 for sample in samples):
        raise SampleError("odd_batch")
    return [sample | {"vector": np.asarray(sample["mean_rgb"], np.float32)} for sample in samples]


@stage(version=1)
def divide(sample: Sample, *, mean: Ref[dict[str, float]], margin: float, lose: str) -> Sample:
    if sample["__key__"] == lose:
        raise SampleError("odd")
    grey = sample["mean_rgb"][0] - mean.value["mean"]
    between = abs(grey) < margin
    split = None if between else "train" if grey < 0 else "test"
    return sample | {"split_name": split, "reason": "between" if between else None}


@reduce(version=1)
def png(rows: Rows) -> str:
    return "PNG"


@reduce(version=1)
def enough(rows: Rows, *, least: int) -> list[dict[str, Any]]:
    summary = f"{len(rows)} rows, at least {least} wanted"
    return [
        {"id": "enough", "severity": "fail", "passed": len(rows) >= least, "count": len(rows)}
        | {"keys": ["s0-000"], "summary": summary}
    ]


@reduce(version=1)
def page(rows: Rows) -> str:
    return f"<html>{len(rows)} rows</html>"


def recipe(config: Config) -> Recipe:
    raw = source(noise(samples=config.samples, bad=config.bad), shards=config.shards)
    format = raw.reduce(png())
    images = raw.map(intake(format=format), not_dark(darkest=config.darkest))
    mean = images.reduce(mean_grey())
    embedded = images.annotate(embed(crash=config.crash))
    divided = embedded.annotate(divide(mean=mean, margin=config.margin, lose=config.lose))
    store = Store(
        step=divided.repartition(by="split_name", per_shard=10, seed=0),
        image_format=format,
        metadata=("name", "width", "height", "phash", "vector"),
        split_notes={"train": "the darker half", "test": "the lighter half"},
        title="Toy",
        description="Noise.",
    )
    return Recipe(
        store=store,
        checks=[images.reduce(enough(least=config.least))],
        files={"report/index.html": divided.reduce(page())},
    )
