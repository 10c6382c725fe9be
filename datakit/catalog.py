"""A catalog: an upstream data set, described and not copied. TOML → Catalog; found by name.

`catalog=emoji` is `datakit.catalogs/emoji.toml`, an entry point of the group `datakit.catalogs`, or a path that
ends in `.toml`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from datakit.config import to_words
from datakit.errors import CatalogError, ConfigError, did_you_mean
from datakit.recipe import CatalogUse
from datakit.texts import load_toml

GROUP = "datakit.catalogs"
POOLS = ("main", "far", "coarse", "outliers")
KINDS = {
    str: "a text",
    int: "a whole number from 1 on",
    bool: "true or false",
    dict: "a table",
    list: "a list of values",
}


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A named part of a catalog: rows whose fields hold one of the allowed values."""

    where: Mapping[str, list[Any]] = field(default_factory=dict)
    min_images: int = 1  # of a class, for the class to be in the pool

    def holds(self, fields: Mapping[str, Any]) -> bool:
        return all(fields.get(name) in allowed for name, allowed in self.where.items())


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """What a catalog's TOML says; `licence`, `taxonomy`, `classes`, `test`, `duplicates`, `retrieval` are for
    recipes, cards.

    retrieval: columns that say what should find what: `thing` (equal: the same thing), `view` (a query searches the
    other views), `group` (the class to be found), `query` (the view that asks).
    """

    name: str
    title: str
    description: str
    reader: str
    homepage: str = ""
    citation: str = ""
    get: str = ""
    per_shard: int = 500
    needs_source: bool = False
    licence: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    taxonomy: Mapping[str, Any] = field(default_factory=dict)
    classes: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, list[Any]] = field(default_factory=dict)
    duplicates: Mapping[str, float] = field(default_factory=dict)
    retrieval: Mapping[str, str] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)

    def pool_of(self, fields: Mapping[str, Any]) -> str | None:
        """The first pool that holds a row with these fields; `main` where no pools are declared."""
        if not self.pools:
            return "main"
        return next((name for name, pool in self.pools.items() if pool.holds(fields)), None)


def load(name: str) -> Catalog:
    """The catalog called `name`. Raises CatalogError (unknown, or a TOML that is none)."""
    path = find(name)
    try:
        table = load_toml(path)
    except (OSError, ValueError) as problem:
        raise CatalogError(f"cannot read the catalog {path}: {problem}") from problem
    return _from_toml(path, table)


def _from_toml(path: Path, table: dict[str, Any]) -> Catalog:
    pools = table.pop("pools", {})
    _expect(path, "pools", pools, dict)
    made = {name: _pool(path, name, settings) for name, settings in pools.items()}
    catalog: Catalog = _filled(Catalog, path, "", table, name=path.stem, pools=made)
    return catalog


def _pool(path: Path, name: str, settings: Any) -> Pool:
    if name not in POOLS:
        raise CatalogError(f"{path}: pool {name} is none of {', '.join(POOLS)}")
    _expect(path, f"pools.{name}", settings, dict)
    pool: Pool = _filled(Pool, path, f"pools.{name}.", settings)
    for column, allowed in pool.where.items():
        _expect(path, f"pools.{name}.where.{column}", allowed, list)
    return pool


def _filled(kind: type[Any], path: Path, prefix: str, table: Mapping[str, Any], **given: Any) -> Any:
    """A `kind` of what the TOML and we say. Raises CatalogError: a key unknown or missing, a value of another type."""
    known = {item.name: item for item in fields(kind) if item.name not in given}
    for name, value in table.items():
        if name not in known:
            raise CatalogError(f"{path}: unknown key {prefix}{name}{did_you_mean(name, known)}")
        _expect(path, prefix + name, value, _kind(known[name]))
    missing = [name for name, item in known.items() if name not in table and _is_required(item)]
    if missing:
        raise CatalogError(f"{path}: {prefix}{missing[0]} is missing")
    return kind(**table, **given)


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _kind(item: Field[Any]) -> type[Any]:
    if _is_required(item):
        return str
    return dict if item.default is MISSING else type(item.default)


def _expect(path: Path, key: str, value: Any, kind: type[Any]) -> None:
    if type(value) is not kind or (kind is int and value < 1):
        raise CatalogError(f"{path}: {key} is {value!r}: must be {KINDS[kind]}")


def find(name: str) -> Path:
    """Where the TOML of `name` lies."""
    if name.endswith(".toml"):
        return Path(name)
    known = names()
    if name not in known:
        hint = did_you_mean(name, known)
        raise ConfigError(f"no catalog {name}{hint or '; `datakit catalogs` lists them'}")
    return known[name]


def names() -> dict[str, Path]:
    """Every catalog there is: those shipped, and those of installed packages (one folder an entry point)."""
    folders = [Path(str(resources.files(GROUP)))]
    for entry in metadata.entry_points(group=GROUP):
        folders.append(Path(str(resources.files(entry.value))))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def options(use: CatalogUse, catalog: Catalog) -> dict[str, Any]:
    """The reader's keywords: those of the TOML, then those of the use's words, typed as the TOML's are."""
    merged = dict(catalog.options)
    for key, text in use.options:
        if key not in merged:
            hint = did_you_mean(key, merged)
            known = ", ".join(to_words(merged)) or "none"
            raise ConfigError(f"catalog {catalog.name} has no option {key}{hint}; its options: {known}")
        merged[key] = _typed(text, merged[key], f"options.{key}")
    return merged


def _typed(text: str, like: Any, name: str) -> Any:
    from datakit.values import convert

    if isinstance(like, list):
        return list(convert(text, tuple[str, ...], name))
    return convert(text, type(like), name)


def root_of(use: CatalogUse, catalog: Catalog) -> Path | None:
    """The folder or file that `source=` names; None for a URL, which is copied first (`store/source_copy.py`).

    Raises CatalogError where it is needed and not there.
    """
    if "://" in use.source:
        return None
    if not use.source:
        if catalog.needs_source:
            how = f"\n{catalog.get.strip()}" if catalog.get else ""
            raise CatalogError(f"catalog {catalog.name} reads a local copy: give source=PATH{how}")
        return None
    root = Path(use.source).expanduser().absolute()
    is_pattern = any(sign in use.source for sign in ("*", "{", "::"))
    # pathlib would raise on a name too long for the disk.
    if not is_pattern and not os.path.exists(root):  # noqa: PTH110
        raise CatalogError(f"source={use.source}: no such file or folder (catalog {catalog.name})")
    return root
