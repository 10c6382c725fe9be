"""What a build was asked for: its words told apart, and checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from datakit import catalog as catalogs
from datakit.config import RunOptions, expand, keys, parse, resolved_words, split_word
from datakit.errors import ConfigError
from datakit.find import make_recipe, recipe_module
from datakit.layers import layered
from datakit.recipe import CatalogUse, Recipe, Step
from datakit.store.cache import cache_folder
from datakit.store.client import Client
from datakit.store.target import target_of
from datakit.store.urls import is_url, public_url


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked: a recipe, its words, how to run, where to."""

    recipe: str
    words: tuple[str, ...]
    out: Path
    run: RunOptions = field(default_factory=RunOptions)
    url: str = ""  # where to publish what lies in `out` then

    @property
    def root(self) -> Path:
        """Where steps and listings are."""
        return Path(self.run.cache).expanduser().absolute() if self.run.cache else self.out / ".datakit"


def request(words: Iterable[str]) -> Request:
    """Words of a build told apart: `recipe=`, `out=`, `run.*`, and the recipe's own. Raises ConfigError."""
    recipe, out, run, own = "", "", [], []
    for word in expand(words):
        name, _, text = split_word(word)
        if name == "recipe":
            recipe = text
        elif name == "out":
            out = text
        elif name.startswith("run."):
            run.append(word)
        else:
            own.append(word)
    if not recipe:
        raise ConfigError("which recipe? give recipe=NAME (`datakit recipes` lists them)")
    schema = recipe_module(recipe, anew=True).Config
    others = ["recipe", "out", *(key.name for key in keys(RunOptions, "run."))]
    config = parse(schema, layered(schema, Path(recipe).stem, own), others=others)
    options = parse(RunOptions, layered(RunOptions, "run", run, "run."), "run.")
    if is_url(out):
        folder, url = _local_out(out, options), out
    else:
        folder, url = Path(out or f"builds/{Path(recipe).stem}").expanduser().absolute(), ""
    return Request(recipe=recipe, words=tuple(resolved_words(config)), out=folder, run=options, url=url)


def _local_out(url: str, run: RunOptions) -> Path:
    """Where a build for a URL is made first: below run.cache, else below the cache of this machine."""
    client = Client(public_url(url, "out"))  # what it needs is missed now, not hours later
    target_of(client)
    name = (
        f"{PurePosixPath(client.url.base).name}-{hashlib.sha256(client.url.base.encode()).hexdigest()[:16]}"
    )
    base = Path(run.cache).expanduser().absolute() if run.cache else cache_folder()
    return base / "builds" / name


def catalogs_of(asked: Request) -> list[CatalogUse]:
    """The catalogs that the recipe uses, each with its options and source looked up. Raises DatakitError.

    The whole recipe is made for it: what is wrong with the words is said before a build writes anything.
    """
    uses = _uses(make_recipe(asked.recipe, asked.words))
    cache = asked.root.resolve()
    if asked.run.cache and cache.is_relative_to(asked.out.resolve()):
        raise ConfigError(
            f"run.cache={asked.run.cache} lies in out={asked.out}, whose files are the store's; without run.cache "
            "the steps are kept there, in .datakit"
        )
    for use in uses:
        catalog = catalogs.load(use.name)
        catalogs.options(use, catalog)
        if is_url(use.source):
            public_url(use.source, "source")
        for place in str(catalogs.root_of(use, catalog) or "").split(
            "::"
        ):  # as webdataset joins lists of tars
            if place:
                _check_places(asked, Path(place))
    return uses


def _check_places(asked: Request, source: Path) -> None:
    """Raise ConfigError where the build would write into its source: it would read what it wrote."""
    here, out = source.resolve(), asked.out.resolve()
    if here.is_relative_to(out):
        what = "is the source itself" if here == out else f"holds the source {source}"
        raise ConfigError(f"out={asked.out} {what}; a build never writes into its source")
    if asked.run.cache:
        cache = asked.root.resolve()
        if cache.is_relative_to(here) or here.is_relative_to(cache):
            what = "is" if here == cache else "lies in" if cache.is_relative_to(here) else "holds"
            raise ConfigError(
                f"run.cache={asked.run.cache} {what} the source {source}; a build never writes into its source"
            )


def _uses(recipe: Recipe) -> list[CatalogUse]:
    """The catalogs of a recipe, each once."""
    seen: dict[str, CatalogUse] = {}
    waiting: list[Step] = recipe.targets()
    visited: set[int] = set()
    while waiting:
        step = waiting.pop(0)
        if id(step) in visited:
            continue
        visited.add(id(step))
        seen.update({use.id: use for use in step.uses})
        waiting += step.needs()
    return list(seen.values())
