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
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType

from datakit.codehash import remember
from datakit.config import RunOptions, key_lines, parse
from datakit.errors import ConfigError, DatakitError, Stopped, did_you_mean
from datakit.recipe import Recipe

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


def recipe_module(name: str, *, anew: bool = False) -> ModuleType:
    """The module of a recipe: it has `Config` and `recipe(config)`. Raises ConfigError.

    anew: load a file that was edited since again, where a build begins; all of a build runs what it began with.
    """
    known = _modules.get(name)
    if known is None or (anew and name.endswith(".py") and _read(Path(name)) != known[1]):
        known = _modules[name] = _from_file(Path(name)) if name.endswith(".py") else (_from_name(name), b"")
        for part in ("Config", "recipe"):
            if not hasattr(known[0], part):
                del _modules[name]
                raise ConfigError(f"{name} is no recipe: it has no {part}")
    return known[0]


def make_recipe(name: str, words: Sequence[str]) -> Recipe:
    """The recipe of these words. Raises ConfigError, and what the recipe raises."""
    module = recipe_module(name)
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no answer of ours
            made: Recipe = module.recipe(parse(module.Config, words))
    except Stopped:
        raise
    except SystemExit as problem:
        raise ConfigError(f"{name}: its recipe() ended with SystemExit({problem.code!r})") from problem
    return made


_modules: dict[str, tuple[ModuleType, bytes]] = {}  # and the bytes of its file


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ConfigError(f"no recipe file {path}") from None
    except OSError as problem:
        raise ConfigError(f"cannot read the recipe {path}: {problem.strerror}") from problem


def _from_file(path: Path) -> tuple[ModuleType, bytes]:
    data = _read(path)
    # One name a path, so that stages keep their qualified name in every process.
    spec = importlib.util.spec_from_file_location(f"datakit_recipe_{path.stem}", path)
    if spec is None:
        raise ConfigError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        # The bytes read, not the file once more, which may be edited this moment.
        code = compile(data, str(path), "exec", dont_inherit=True)
        remember(spec.name, importlib.util.decode_source(data))
        with redirect_stdout(sys.stderr):  # what it prints is no answer of ours
            exec(code, vars(module))
    except (DatakitError, Stopped):
        raise
    except (Exception, SystemExit) as problem:
        raise ConfigError(_where(path, module.__file__, problem)) from problem
    return module, data


def _where(path: Path, file: str | None, problem: BaseException) -> str:
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
