"""What tools/bench_build.py times: the JPEGs of a folder, their shorter side at 256 px, published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from datakit.blob import Blob
from datakit.image import Image
from datakit.recipe import Recipe, Store, source
from datakit.stage import Rows, Sample, reduce
from datakit.stage import source as source_stage
from datakit.stages.resize import resize


@dataclass(frozen=True, kw_only=True)
class Config:
    folder: str = ""
    files: int = 1000
    per_shard: int = 250
    short_side: int = 256
    codec: str = "auto"


@cache
def listing(folder: str) -> list[Path]:
    """Once a worker."""
    return sorted(Path(folder).rglob("*.jpg"))


@source_stage(version=1)
def folder_files(shard: int, *, folder: str, files: int, per_shard: int) -> Iterator[Sample]:
    """`per_shard` of the folder's first `files` JPEGs by path."""
    paths = listing(folder)[:files]
    for number in range(shard * per_shard, min((shard + 1) * per_shard, len(paths))):
        path = paths[number]
        image = Image(Blob(str(path), 0, path.stat().st_size))
        yield {
            "__key__": f"{number:08d}",
            "name": path.name,
            "image": image,
            "label": 0,
            "split_name": "train",
        }


@reduce(version=1)
def jpeg(rows: Rows) -> str:
    return "JPEG"


def recipe(config: Config) -> Recipe:
    shards = -(-config.files // config.per_shard)
    found = source(
        folder_files(folder=config.folder, files=config.files, per_shard=config.per_shard), shards=shards
    )
    small = found.map(resize(short_side=config.short_side, codec=config.codec))  # type: ignore[arg-type]
    return Recipe(
        store=Store(
            step=small.repartition(by="split_name", per_shard=1000, seed=0),
            image_format=small.reduce(jpeg()),
            metadata=("name", "width", "height"),
            split_notes={"train": "all"},
            title="Bench",
            description="Small images.",
        )
    )
