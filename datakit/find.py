"""Recipes by name. Listing them reads their docstrings and imports none.

`recipe=x` is a path that ends in `.py`, a module of `datakit.recipes`, or an entry point of the group
`datakit.recipes`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType

from datakit.config import RunOptions, key_lines
from datakit.errors import ConfigError, DatakitError, did_you_mean

GROUP = "datakit.recipes"


def recipes() -> dict[str, str]:
    """name → first line of the docstring, of every recipe there is."""
    folder = Path(str(resources.files(GROUP)))
    found = {path.stem: _first_line(path) for path in sorted(folder.glob("*.py")) if path.stem[0] != "_"}
    for entry in metadata.entry_points(group=GROUP):
        found[entry.name] = f"from the package {entry.value.partition('.')[0]}"
    return found


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


@cache
def recipe_module(name: str) -> ModuleType:
    """The module of a recipe: it has `Config` and `recipe(config)`. Raises ConfigError."""
    module = _from_file(Path(name)) if name.endswith(".py") else _from_name(name)
    for part in ("Config", "recipe"):
        if not hasattr(module, part):
            raise ConfigError(f"{name} is no recipe: it has no {part}")
    return module


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"no recipe file {path}")
    # One name a path, so that stages keep their qualified name in every process.
    spec = importlib.util.spec_from_file_location(f"datakit_recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except DatakitError:
        raise
    except Exception as problem:
        raise ConfigError(_where(path, module.__file__, problem)) from problem
    return module


def _where(path: Path, file: str | None, problem: Exception) -> str:
    """File, line and error of a recipe that cannot be imported."""
    if isinstance(problem, SyntaxError):
        return f"{problem.filename or path}, line {problem.lineno}: {problem.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == file]
    line = f", line {lines[-1]}" if lines else ""
    return f"{path}{line}: {type(problem).__name__}: {problem}"


def _from_name(name: str) -> ModuleType:
    for entry in metadata.entry_points(group=GROUP):
        if entry.name == name:
            return importlib.import_module(entry.value)
    known = recipes()
    if name not in known:
        raise ConfigError(f"no recipe {name}{did_you_mean(name, known) or '; `datakit recipes` lists them'}")
    return importlib.import_module(f"{GROUP}.{name}")


def recipe_help(name: str) -> Iterator[str]:
    """A recipe's docstring and keys, with types, defaults and meanings."""
    module = recipe_module(name)
    yield (module.__doc__ or name).strip()
    for title, schema, prefix in (("Keys", module.Config, ""), ("How to run", RunOptions, "run.")):
        yield f"\n{title} (key=default  type  meaning):"
        yield from key_lines(schema, prefix)
    yield "  out=builds/" + Path(name).stem + "  where the tree goes"
