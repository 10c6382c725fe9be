"""Questions about what is there: show a recipe, a catalog or a tree; why a sample stayed or left; clean up."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from datakit import catalog as catalogs
from datakit.errors import ConfigError, EnvironmentProblem, StoreError, did_you_mean
from datakit.find import recipe_help, recipe_module
from datakit.store.layout import MANIFEST


def show(word: str) -> tuple[dict[str, Any], str]:
    """recipe=NAME, catalog=NAME, or the folder of a built tree."""
    key, equals, name = word.partition("=")
    if not equals or Path(word).exists():
        return _show_tree(Path(word))
    if key == "recipe":
        where = inspect.getsourcefile(recipe_module(name))
        return {"recipe": name, "file": where}, "\n".join([*recipe_help(name), f"\nwritten in {where}"])
    if key == "catalog":
        found = catalogs.load(name)
        return dataclasses.asdict(found), catalogs.find(found.name).read_text(encoding="utf-8").rstrip()
    hint = did_you_mean(key, ("recipe", "catalog"))
    raise ConfigError(f"unknown key {key}{hint or '; show takes recipe=NAME, catalog=NAME or a folder'}")


def _show_tree(root: Path) -> tuple[dict[str, Any], str]:
    manifest, provenance = read_json(root / MANIFEST), read_json(root / "provenance.json")
    lines = [f"{root}: built by datakit build recipe={provenance['recipe']}"]
    for name in manifest["split_order"]:
        split = manifest["splits"][name]
        lines.append(f"  {name}: {split['samples']} samples, {len(split['shards'])} shards")
    lines += [f"  {word}" for word in provenance["words"]]
    return {"manifest": manifest, "provenance": provenance}, "\n".join(lines)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a tree. Raises StoreError naming it."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{path.parent} is no finished build: it has no {path.name}") from None
    except OSError as problem:
        raise EnvironmentProblem(f"cannot read {path}: {problem.strerror}") from problem
    except (TypeError, ValueError) as problem:
        raise StoreError(f"{path} is damaged: {problem}; run datakit verify") from problem


def why(key: str, root: Path) -> tuple[dict[str, Any], str]:
    """What became of the samples with this key, or this name at the source. Raises StoreError: none such."""
    read_json(root / MANIFEST)
    found = [*_kept(key, root), *_left(key, root)]
    if not found:
        raise StoreError(f"{root} knows no sample with the key or name {key}")
    return {"key": key, "found": found}, "\n".join(_line(row) for row in found)


def _kept(key: str, root: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((root / "metadata").glob("*-of-*.parquet")):
        names = pq.read_schema(path).names
        columns = [
            name for name in ("key", "name", "split", "shard", "index_in_shard", "tier") if name in names
        ]
        table = pq.read_table(path, columns=columns)
        for row in table.filter(_is(table, key, "key")).to_pylist():
            yield {"outcome": "kept", **row}


def _left(key: str, root: Path) -> Iterator[dict[str, Any]]:
    table = pq.read_table(root / "metadata" / "outcomes.parquet")
    yield from table.filter(_is(table, key, "__key__")).to_pylist()


def _is(table: Any, key: str, column: str) -> Any:
    same = pc.equal(table[column], key)
    return pc.or_(same, pc.equal(table["name"], key)) if "name" in table.column_names else same


def _line(row: Mapping[str, Any]) -> str:
    if row["outcome"] == "kept":
        return (
            f"kept: {row['key']} in {row['split']}, data/{row['shard']}.tar, sample {row['index_in_shard']}"
        )
    measured = f" ({row['value']:g}, threshold {row['threshold']:g})" if row["value"] is not None else ""
    detail = f": {row['detail']}" if row["detail"] else ""
    return f"{row['outcome']}: {row['name']} by {row['step']}: {row['reason']}{measured}{detail}"


def clean(root: Path, yes: bool) -> tuple[dict[str, Any], str]:
    """Delete `<root>/.datakit`'s steps and listings, if `yes`; only ever inside a folder that a build marked."""
    ours = root / ".datakit"
    if not ours.is_dir():
        raise ConfigError(f"{root} is no folder of a build: it has no .datakit")
    doomed = [path for name in ("steps", "listings", "failed") if (path := ours / name).is_dir()]
    size = sum(file.stat().st_size for path in doomed for file in path.rglob("*") if file.is_file())
    if yes:
        for path in doomed:
            shutil.rmtree(path)
    verb = "deleted" if yes else "would delete (give --yes)"
    names = ", ".join(str(path) for path in doomed) or "nothing"
    return {"deleted": yes, "paths": [str(path) for path in doomed], "bytes": size}, (
        f"{verb}: {names}, {size / 1e6:.1f} MB"
    )
