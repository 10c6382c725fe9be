"""Words to a frozen dataclass: `key=value`, dotted keys, `key+=v`, `~key`, `@file.yaml`.

A value is parsed by the schema's type and by nothing else: `no`, `007` and `12:30` stay what was typed where a
str is wanted. A key may be cut to its last part where only one key ends so: `fraction` for `holdout.fraction`.
Types known: str, int, float, bool, Literal, X | None, tuple[X, ...], and nested dataclasses.
"""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from datakit.errors import ConfigError, did_you_mean

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a build runs; none of this changes a byte of what it makes."""

    workers: int = field(default=0, metadata={"help": "processes; 0: one a core"})
    cache: str = field(default="", metadata={"help": "folder of steps; default <out>/.datakit"})
    max_failed: float = field(
        default=0.01,
        metadata={"help": "share of a step's samples that may be broken before the build stops"},
    )
    stale: Literal["stop", "keep", "redo"] = field(
        default="stop",
        metadata={
            "help": "when a stage's code changed and its version did not: stop, keep or redo its steps"
        },
    )
    inline: bool = field(default=False, metadata={"help": "run in this process, for debugging"})


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of a schema."""

    name: str
    kind: Any
    default: Any
    help: str


def keys(schema: type[Any], prefix: str = "") -> Iterator[Key]:
    """Every key of the dataclass `schema`, nested ones dotted, in the order written."""
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            yield from keys(typing.cast(type, kind), f"{prefix}{item.name}.")
        else:
            default = _default(item)
            yield Key(
                name=prefix + item.name,
                kind=kind,
                default=default,
                help=item.metadata.get("help", ""),
            )


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


def parse(schema: type[C], words: Iterable[str]) -> C:
    """`schema` filled from `words`. Raises ConfigError naming the word and, for a near miss, the key meant."""
    known = {key.name: key for key in keys(schema)}
    values: dict[str, Any] = {}
    for word in expand(words):
        name, operation, text = split_word(word)
        key = known[resolve(name, known)]
        if operation == "~":
            values.pop(key.name, None)
        elif operation == "+=":
            old = values.get(key.name, key.default)
            if not isinstance(old, tuple):
                raise ConfigError(f"{key.name}+= adds to a list, and {key.name} is not one")
            values[key.name] = old + convert(text, key.kind, key.name)
        else:
            values[key.name] = convert(text, key.kind, key.name)
    return _fill(schema, values, "")


def split_word(word: str) -> tuple[str, Literal["=", "+=", "~"], str]:
    """`a.b=c=d` → (`a.b`, `=`, `c=d`): only the first `=` counts."""
    if word.startswith("~"):
        return word[1:], "~", ""
    name, equals, text = word.partition("=")
    if not equals or not name:
        raise ConfigError(f"{word!r} is not key=value (write recipe=fg_ood, not recipe fg_ood)")
    return (name[:-1], "+=", text) if name.endswith("+") else (name, "=", text)


def resolve(name: str, known: Mapping[str, Any]) -> str:
    """The full key for `name`, itself or its last part where that is unique."""
    if name in known:
        return name
    ends = [key for key in known if key.endswith("." + name)]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ConfigError(f"{name} could be {' or '.join(ends)}: write one of them in full")
    tails = {key.rpartition(".")[2]: key for key in known}
    hint = did_you_mean(name, [*known, *tails])
    raise ConfigError(f"unknown key {name}{hint or '; known: ' + ', '.join(known)}")


def expand(words: Iterable[str]) -> Iterator[str]:
    """`@file.yaml` replaced by the words it holds. Scalars stay text: YAML guesses nothing."""
    for word in words:
        if word.startswith("@"):
            yield from _file_words(Path(word[1:]))
        else:
            yield word


def _file_words(path: Path) -> Iterator[str]:
    import yaml

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, yaml.YAMLError) as problem:
        raise ConfigError(f"cannot read {path}: {problem}") from problem
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must hold keys and values, not {type(found).__name__}")
    yield from to_words(found)


def to_words(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A nested mapping as words: `{"a": {"b": [1, 2]}}` → `a.b=1,2`. `__` in a Python keyword is a dot."""
    for name, value in values.items():
        full = prefix + name.replace("__", ".")
        if isinstance(value, Mapping):
            yield from to_words(value, full + ".")
        else:
            yield f"{full}={to_text(value)}"


def to_text(value: Any) -> str:
    """The text that `convert` reads back as `value`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        parts = [to_text(item) for item in value]
        return (
            json.dumps(parts, ensure_ascii=False) if any("," in part for part in parts) else ",".join(parts)
        )
    return str(value)


def convert(text: str, kind: Any, name: str) -> Any:
    """`text` as a `kind`, or a ConfigError that says what was expected."""
    origin = get_origin(kind)
    if origin is Literal:
        if text in get_args(kind):
            return text
        legal = ", ".join(get_args(kind))
        raise ConfigError(f"{name}={text}: must be one of {legal}{did_you_mean(text, get_args(kind))}")
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in get_args(kind) if arg is not type(None)]
        return None if text.lower() in ("none", "null", "") else convert(text, inner[0], name)
    if origin is tuple:
        return tuple(convert(part, get_args(kind)[0], name) for part in _parts(text, name))
    return _scalar(text, kind, name)


def _scalar(text: str, kind: Any, name: str) -> Any:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ("true", "yes", "on", "1"):
            return True
        if text.lower() in ("false", "no", "off", "0"):
            return False
        raise ConfigError(f"{name}={text}: must be true or false")
    try:
        value = kind(text)
    except ValueError:
        expected = {"int": "a whole number", "float": "a number"}[kind.__name__]
        raise ConfigError(f"{name}={text}: must be {expected}") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ConfigError(f"{name}={text}: must be a finite number")
    return value


def _parts(text: str, name: str) -> list[str]:
    if text.startswith("["):
        try:
            return [str(part) for part in json.loads(text)]
        except ValueError as problem:
            raise ConfigError(f"{name}={text}: not a JSON list: {problem}") from None
    return [part.strip() for part in text.split(",")] if text else []


def _fill(schema: type[C], values: Mapping[str, Any], prefix: str) -> C:
    hints = typing.get_type_hints(schema)
    arguments: dict[str, Any] = {}
    for item in dataclasses.fields(schema):  # type: ignore[arg-type]
        full = prefix + item.name
        if dataclasses.is_dataclass(hints[item.name]):
            arguments[item.name] = _fill(typing.cast(type, hints[item.name]), values, full + ".")
        elif full in values:
            arguments[item.name] = values[full]
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{full} is required: give {full}=...")
    return schema(**arguments)


def resolved_words(config: Any) -> list[str]:
    """Every key of a filled schema as a word: what a build records and what a worker is given."""
    return [f"{key.name}={to_text(_get(config, key.name))}" for key in keys(type(config))]


def as_dict(config: Any) -> dict[str, Any]:
    """Every key of a filled schema, dotted, with its value."""
    return {key.name: _get(config, key.name) for key in keys(type(config))}


def changed(config: Any) -> dict[str, Any]:
    """The keys that are not at their default, dotted, with their values."""
    defaults = {key.name: key.default for key in keys(type(config))}
    return {name: value for name, value in as_dict(config).items() if value != defaults[name]}


def _get(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def kind_name(kind: Any) -> str:
    """A type for people: `a, b or c`, `list of int`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(inner)
    if origin is tuple:
        return f"list of {kind_name(inner[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if arg is type(None) else kind_name(arg) for arg in inner)
    return str(getattr(kind, "__name__", kind))


def layered(schema: type[Any], prefix: str, words: Iterable[str]) -> list[str]:
    """`words` with those of lower rank before them: user file, project `datakit.toml`, environment.

    Environment: DATAKIT_<KEY>, as DATAKIT_WORKERS for run.workers. Files: the table named `prefix`.
    """
    known = {key.name for key in keys(schema)}
    config_home = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
    below: list[str] = []
    for path in (config_home / "datakit" / "datakit.toml", Path("datakit.toml")):
        below += list(to_words(_toml_table(path, prefix)))
    below += [
        f"{name}={os.environ[variable]}"
        for name in sorted(known)
        if (variable := "DATAKIT_" + name.upper().replace(".", "_")) in os.environ
    ]
    return [*below, *words]


def _toml_table(path: Path, table: str) -> dict[str, Any]:
    import tomllib

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get(table, {})
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError) as problem:
        raise ConfigError(f"cannot read {path}: {problem}") from problem
    return dict(found)
