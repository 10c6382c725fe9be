"""Builds over catalogs: what changes in one reaches the tree, and two that hold the same names stay two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

import datakit
from datakit.errors import CatalogError
from datakit.run.build import Build

RECIPE = '''
"""Two folders, published as they are."""

from dataclasses import dataclass

from datakit.recipe import CatalogUse, Recipe, Store, catalogs
from datakit.stage import Sample, stage
from datakit.stages.image import common_format, intake


@dataclass(frozen=True, kw_only=True)
class Config:
    catalog: str
    source: str
    further: str = ""
    pool: str = "outliers"


@stage(version=1)
def by_pool(sample: Sample) -> Sample:
    return sample | {"split_name": "train" if sample["pool"] == "main" else "test", "reason": None}


def recipe(config: Config) -> Recipe:
    uses = [CatalogUse(name=config.catalog, source=config.source)]
    if config.further:
        uses.append(CatalogUse(name=config.catalog, source=config.further, pool=config.pool))
    found = catalogs(*uses)
    format = found.reduce(common_format())
    images = found.map(intake(format=format))
    placed = images.annotate(by_pool()).repartition(by="split_name", per_shard=10, seed=0)
    store = Store(step=placed, image_format=format, label=None, title="Two", description="Folders.")
    return Recipe(store=store)
'''
TOML = """
title = "Mine"
description = ""
reader = "imagefolder"
per_shard = {per_shard}
[licence]
name = "{licence}"
"""


def folder(path: Path, seed: int, count: int = 12) -> Path:
    draw = np.random.default_rng(seed)
    for index in range(count):
        target = path / f"kind{index % 3}" / f"{index:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        pil.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(target)
    return path


@pytest.fixture
def build(tmp_path: Path) -> Any:
    recipe, catalog = tmp_path / "plain.py", tmp_path / "mine.toml"
    recipe.write_text(RECIPE)

    def run(*, per_shard: int = 5, licence: str = "MIT", **words: Any) -> Build:
        catalog.write_text(TOML.format(per_shard=per_shard, licence=licence))
        words = {"catalog": str(catalog), "source": str(folder(tmp_path / "photos", 0))} | words
        return datakit.build(
            str(recipe), out=tmp_path / "out", progress="quiet", run={"inline": True}, **words
        )

    return run


def test_two_catalogs_may_hold_the_same_names(build: Any, tmp_path: Path) -> None:
    made = build(further=str(folder(tmp_path / "others", 1)))
    store = datakit.open_store(made.out)
    assert made.splits == {"train": 12, "test": 12}
    assert set(store["train"].keys) & set(store["test"].keys) == set()
    names = [store[split].table(["name"])["name"].to_pylist() for split in ("train", "test")]
    assert sorted(names[0]) == sorted(names[1])


def test_a_key_that_two_catalogs_share_is_refused_before_any_work(build: Any, tmp_path: Path) -> None:
    with pytest.raises(
        CatalogError, match=r"kind0-000-\w+ is in the catalogs \S+ \(.*photos\) and \S+ \(.*others\)"
    ):
        build(further=str(folder(tmp_path / "others", 1)), pool="")
    assert not (tmp_path / "out" / ".datakit" / "steps").exists()


def test_other_shards_of_a_catalog_lose_and_double_nothing(build: Any) -> None:
    for per_shard in (5, 4, 12, 5):
        made = build(per_shard=per_shard)
        store = datakit.open_store(made.out)
        assert len(store["train"]) == 12 == len(set(store["train"].keys))


def test_a_changed_licence_is_published(build: Any) -> None:
    build(licence="First Licence")
    card = build(licence="Second Licence").out / "README.md"
    assert "Second Licence" in card.read_text() and "First Licence" not in card.read_text()
