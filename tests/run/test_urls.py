"""Builds whose source or whose output is a URL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import datakit
from datakit.errors import ConfigError
from datakit.run.request import request
from datakit.store.client import Client
from datakit.store.reader import open_store
from datakit.store.urls import parse_url

RECIPE = '''
"""A folder, published as it is."""

from dataclasses import dataclass

from datakit.recipe import CatalogUse, Recipe, Store, catalogs
from datakit.stage import Sample, stage
from datakit.stages.image import common_format, intake


@dataclass(frozen=True, kw_only=True)
class Config:
    source: str = ""


@stage(version=1)
def all_train(sample: Sample) -> Sample:
    return sample | {"split_name": "train", "reason": None}


def recipe(config: Config) -> Recipe:
    found = catalogs(CatalogUse(name="imagefolder", source=config.source))
    format = found.reduce(common_format())
    placed = found.map(intake(format=format)).annotate(all_train()).repartition(by="split_name", per_shard=10, seed=0)
    store = Store(step=placed, image_format=format, label=None, title="One", description="A folder.")
    return Recipe(store=store)
'''


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "one.py").write_text(RECIPE)
    return str(tmp_path / "one.py")


def test_a_build_from_s3_to_s3_is_the_build_from_folder_to_folder(
    bucket: str, toy_folder: Callable[..., Path], tmp_path: Path, recipe: str
) -> None:
    folder = toy_folder(images=3)
    client = Client(parse_url(f"{bucket}/toy"))
    client.now("put", f"{folder}/", client.url.at("") + "/", recursive=True)
    run = {"inline": True}
    here = datakit.build(recipe, out=tmp_path / "out", source=str(folder), progress="quiet", run=run)
    there = datakit.build(recipe, out=f"{bucket}/out", source=f"{bucket}/toy", progress="quiet", run=run)
    published = open_store(f"{bucket}/out")
    local = open_store(here.out)
    assert there.out.is_relative_to(tmp_path / "cache") and published.splits == local.splits
    for split in local.splits:
        tars = [entry.tar.sha256 for entry in local[split].shards]
        assert [entry.tar.sha256 for entry in published[split].shards] == tars
    told = published.files.read("recipe.yaml").decode() + published.files.read("provenance.json").decode()
    assert f"{bucket}/toy" in told and str(tmp_path / "cache") not in told


def test_words_with_secrets_or_places_that_take_nothing_stop_before_the_build(
    bucket: str, tmp_path: Path, recipe: str
) -> None:
    for out in ("http://host/x", "https://a:b@host/x", "s3://b/x?sig=1", "ftp://host/x"):
        with pytest.raises(ConfigError):
            request([f"recipe={recipe}", f"out={out}"])
    asked = request([f"recipe={recipe}", f"out={bucket}/x", f"run.cache={tmp_path / 'steps'}"])
    assert asked.out.parent == tmp_path / "steps" / "builds" and asked.url == f"{bucket}/x"
