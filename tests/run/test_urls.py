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

RECIPE = str(Path(__file__).parents[1] / "toy_recipe.py")


def test_a_build_from_s3_to_s3_is_the_build_from_folder_to_folder(
    bucket: str, toy_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = toy_folder(images=3)
    client = Client(parse_url(f"{bucket}/toy"))
    client.now("put", f"{folder}/", client.url.at("") + "/", recursive=True)
    here = datakit.build(
        RECIPE, out=tmp_path / "out", catalog="imagefolder", source=str(folder), progress="quiet"
    )
    there = datakit.build(
        RECIPE, out=f"{bucket}/out", catalog="imagefolder", source=f"{bucket}/toy", progress="quiet"
    )
    published = open_store(f"{bucket}/out")
    local = open_store(here.out)
    assert there.out.is_relative_to(tmp_path / "cache") and published.splits == local.splits
    for split in local.splits:
        tars = [entry.tar.sha256 for entry in local[split].shards]
        assert [entry.tar.sha256 for entry in published[split].shards] == tars
    told = published.files.read("recipe.yaml").decode() + published.files.read("provenance.json").decode()
    assert f"{bucket}/toy" in told and str(tmp_path) not in told


def test_words_with_secrets_or_places_that_take_nothing_stop_before_the_build(
    bucket: str, tmp_path: Path
) -> None:
    for out in ("http://host/x", "https://a:b@host/x", "s3://b/x?sig=1", "ftp://host/x"):
        with pytest.raises(ConfigError):
            request([f"recipe={RECIPE}", f"out={out}"])
    asked = request([f"recipe={RECIPE}", f"out={bucket}/x", f"run.cache={tmp_path / 'steps'}"])
    assert asked.out.parent == tmp_path / "steps" / "builds" and asked.url == f"{bucket}/x"
