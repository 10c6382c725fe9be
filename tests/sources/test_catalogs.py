"""Every catalog that ships: its words fit its reader, and it says what people must know."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from datakit import catalog
from datakit.errors import CatalogError
from datakit.recipe import CatalogUse

SHIPPED = sorted(path.stem for path in catalog.find("emoji").parent.glob("*.toml"))
EXPECTED = {
    *("aircraft", "butterfly", "cars", "csv", "cub", "emoji", "emoji_names", "grocery", "hf"),
    *("imagefolder", "imagenet", "jsonl", "nabirds", "parquet", "webdataset"),
}


def test_all_catalogs_are_there() -> None:
    assert set(SHIPPED) >= EXPECTED


@pytest.mark.parametrize("name", SHIPPED)
def test_options_are_the_readers_keywords(name: str) -> None:
    found = catalog.load(name)
    parameters = inspect.signature(import_module(f"datakit.sources.{found.reader}").scan).parameters
    defaults = {key: value.default for key, value in parameters.items() if key != "root"}
    unread = {"delimiter", "encoding"} if name in ("jsonl", "parquet") else set()
    assert set(found.options) == set(defaults) - unread
    for key, value in found.options.items():
        assert type(value) is (list if isinstance(defaults[key], tuple) else type(defaults[key]))
        # `suffix` tells csv, jsonl and parquet apart, `tones` the catalog emoji_names from emoji.
        if key != "suffix" and (name, key) != ("emoji_names", "tones"):
            assert value == (list(defaults[key]) if isinstance(value, list) else defaults[key])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_catalog_says_what_people_must_know(name: str) -> None:
    found = catalog.load(name)
    assert found.title and found.description.strip() and found.get.strip()
    assert found.licence.get("spdx") or found.licence.get("name")
    assert found.classes["how"]
    assert "label_base" in found.classes
    if "images" in found.classes:
        assert found.homepage.startswith("https://")
        assert found.citation.strip()


@pytest.mark.parametrize("name", [name for name in SHIPPED if not name.startswith("emoji")])
def test_a_catalog_without_its_source_says_where_to_get_it(name: str) -> None:
    found = catalog.load(name)
    if found.needs_source:
        with pytest.raises(CatalogError, match="source=PATH") as caught:
            catalog.root_of(CatalogUse(name=name), found)
        assert found.get.strip() in str(caught.value)
    else:
        assert name == "hf"


def test_options_come_typed_from_words() -> None:
    use = CatalogUse(name="csv", options=(("taxonomy", "kind,sort"), ("fold_case", "true"), ("label", "id")))
    options = catalog.options(use, catalog.load("csv"))
    assert (options["taxonomy"], options["fold_case"], options["label"]) == (["kind", "sort"], True, "id")
