"""Which code a function is: a hash that changes when what the function does may have changed, and no version says so.

Followed are the statements of its module that it reaches by name, and whole files of the user's own that it imports.
Of installed packages, datakit's among them, only what is imported counts: those have versions.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_EVERY = "*"  # the name of what `from … import *` binds, which may be anything
_TYPES = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
_NOT_RUN = (*_TYPES, "__name__ == '__main__'")  # where the module is imported
_texts: dict[str, str] = {}  # by module, as it was loaded: its file may be edited while it is in use


def code_hash(function: Callable[..., Any]) -> str:
    """16 hex digits over the trees of `function` and of all that it reaches; comments and docstrings do not count."""
    text = _text(function.__module__)
    if text is None:
        return "no-source"
    units = _reached(function.__module__, function.__name__)
    # Where in the file a definition stands is nothing; other statements change what those before them made.
    parts = sorted(unit.text for unit in units if unit.is_definition)
    parts += [unit.text for unit in units if not unit.is_definition]
    parts += _files(function.__module__, units)
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def remember(module: str, text: str) -> None:
    """The source that a module was just loaded from."""
    _texts[module] = text
    _units.cache_clear()


def _text(module: str) -> str | None:
    if module not in _texts:
        try:
            _texts[module] = inspect.getsource(sys.modules[module])
        except (KeyError, OSError, TypeError):
            return None
    return _texts[module]


@dataclass(frozen=True)
class _Unit:
    """A top-level statement, or one name of an import: the names that it binds or changes, those that it reads, and
    the modules that it imports, each with the dots before it.
    """

    names: frozenset[str]
    needs: tuple[str, ...]
    text: str
    imports: tuple[tuple[int, str], ...] = ()
    is_definition: bool = False


def _reached(module: str, name: str) -> list[_Unit]:
    """What `name` is made of, and what that needs, in the order of the file."""
    units, binding = _units(module)
    wanted, seen, found = [name, _EVERY], set[str](), set[int]()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        for number in binding.get(name, ()):
            if number not in found:
                found.add(number)
                wanted += units[number].needs
    return [units[number] for number in sorted(found)]


@cache
def _units(module: str) -> tuple[list[_Unit], dict[str, list[int]]]:
    """All of a module, and by name the numbers of those that bind or change it."""
    units = [unit for node in ast.parse(_text(module) or "").body for unit in _units_of(node)]
    binding: dict[str, list[int]] = {}
    for number, unit in enumerate(units):
        for name in unit.names:
            binding.setdefault(name, []).append(number)
    return units, binding


def _units_of(node: ast.stmt) -> Iterator[_Unit]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            source, level = (node.module or "", node.level) if isinstance(node, ast.ImportFrom) else ("", 0)
            text = f"{'.' * level}{source} {alias.name} {bound}"
            ours = (source or alias.name).partition(".")[0] in ("datakit", "__future__")
            yield _Unit(frozenset([bound]), (), "" if ours else text, tuple(_imported(node, alias)), True)
        return
    if isinstance(node, ast.If) and (test := ast.unparse(node.test)) in _NOT_RUN:
        if test in _TYPES:
            for inner in node.body:
                yield from _units_of(inner)
        return
    needs = tuple(inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))
    is_definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    told = tuple(_imports(node))
    yield _Unit(frozenset(_touched(node)), needs, ast.dump(_bare(node)), told, is_definition)


def _touched(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds in its module, or changes what they stand for."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
        return
    if isinstance(node, ast.Lambda):
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    if isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
        yield node.id
    if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        yield from _roots(node)
    if isinstance(node, ast.Expr):  # `TABLE.update(…)`: it is there for what it changes
        yield from _roots(node)
    for child in ast.iter_child_nodes(node):
        yield from _touched(child)


def _roots(node: ast.AST) -> Iterator[str]:
    return (inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))


def _imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import | ast.ImportFrom):
            for alias in inner.names:
                yield from _imported(inner, alias)


def _imported(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> Iterator[tuple[int, str]]:
    """The modules that this may load: of `from a import b`, a and perhaps a.b."""
    if isinstance(node, ast.Import):
        yield 0, alias.name
        return
    yield node.level, node.module or ""
    yield node.level, f"{node.module}.{alias.name}" if node.module else alias.name


def _files(module: str, units: list[_Unit]) -> list[str]:
    """The trees of the user's own files that these import, and that those import, by module name."""
    loaded = sys.modules.get(module)
    if loaded is None or not _is_own(getattr(loaded, "__file__", None)):
        return []
    found: dict[str, str] = {}
    package = getattr(loaded, "__package__", None) or ""
    waiting = [(package, *told) for unit in units for told in unit.imports]
    while waiting:
        package, level, name = waiting.pop()
        full = _absolute(package, level, name)
        if full in found or full == module or (path := _own_file(full)) is None:
            continue
        if full not in _texts:
            _texts[full] = importlib.util.decode_source(path.read_bytes())
        try:
            tree = ast.parse(_texts[full])
        except (SyntaxError, ValueError):  # said where it is imported, if it is
            found[full] = _texts[full]
            continue
        found[full] = ast.dump(_bare(tree))
        inner = full if path.name == "__init__.py" else full.rpartition(".")[0]
        waiting += [(inner, *told) for told in _imports(tree)]
    return [f"{name} {found[name]}" for name in sorted(found)]


def _absolute(package: str, level: int, name: str) -> str:
    try:
        return importlib.util.resolve_name("." * level + name, package) if level else name
    except ImportError:  # more dots than packages: it fails where it is imported
        return ""


def _own_file(module: str) -> Path | None:
    """The file of a module that is the user's own. Imports nothing that is not."""
    top = module.partition(".")[0]
    if not top or top in sys.stdlib_module_names or top == "datakit":
        return None
    file = None
    try:
        for name in dict.fromkeys([top, module]):  # to find a.b, Python imports a
            loaded = sys.modules.get(name)
            found = loaded.__spec__ if loaded is not None else importlib.util.find_spec(name)
            if found is None or (found.has_location and not _is_own(found.origin)):
                return None
            file = found.origin if found.has_location else None  # a folder without __init__.py has none
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(file) if file and file.endswith(".py") else None


def _is_own(file: str | None) -> bool:
    """Whether a source file is neither Python's nor of an installed package."""
    if not file:
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(root) for root in _installed())


@cache
def _installed() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    roots = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    roots += [*site.getsitepackages(), site.getusersitepackages()]
    return (*(Path(root).resolve() for root in roots), Path(__file__).resolve().parent)


def _bare(node: ast.AST) -> ast.AST:
    """The node without docstrings, which say but do not do."""
    for inner in ast.walk(node):
        if (
            isinstance(inner, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and ast.get_docstring(inner) is not None
        ):
            inner.body = inner.body[1:] or [ast.Pass()]
    return node
