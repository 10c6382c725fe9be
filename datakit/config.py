"""Words to a frozen dataclass: `key=value`, dotted keys, `key+=v`, `~key`, `@file.yaml`.

A value is parsed by the schema's type and by nothing else: `no`, `007` and `12:30` stay what was typed where a
str is wanted. A key may be cut to its last part where only one key ends so: `fraction` for `holdout.fraction`.
Types known: str, int, float, bool, Literal, X | None, tuple[X, ...], and nested dataclasses. A field's metadata
may have `help`, and `least` and `most` for its number or numbers.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin

from datakit.errors import ConfigError, did_you_mean
from datakit.texts import load_yaml
from datakit.values import convert, kind_name, to_text

C = TypeVar("C")
_SCHEDULER = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):\d{1,5}")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a build runs; none of this changes a byte of what it makes, but for samples that a limit here breaks."""

    workers: int = field(
        default=0,
        metadata={
            "help": "processes, or jobs at once on run.scheduler; 0: one a core, or a worker",
            "least": 0,
        },
    )
    cache: str = field(default="", metadata={"help": "folder of steps; default <out>/.datakit"})
    max_failed: float = field(
        default=0.01,
        metadata={
            "help": "share of a step's samples that may be broken before the build stops",
            "least": 0,
            "most": 1,
        },
    )
    stale: Literal["stop", "keep", "redo"] = field(
        default="stop",
        metadata={
            "help": "when a stage's code changed and its version did not: stop, keep or redo its steps"
        },
    )
    inline: bool = field(default=False, metadata={"help": "run in this process, for debugging"})
    recheck: bool = field(
        default=True,
        metadata={"help": "read the steps that are there already, and make damaged ones again"},
    )
    on: Literal["auto", "local", "dask"] = field(
        default="auto",
        metadata={"help": "processes of this machine, or Dask; auto: Dask where run.scheduler is given"},
    )
    scheduler: str = field(
        default="",
        metadata={"help": "tcp://host:port of a Dask scheduler, whose workers see the same folders"},
    )
    timeout: float = field(
        default=300.0,
        metadata={
            "help": "seconds that one sample, or one batch, may take in a stage before its worker is replaced and, "
            "the second time, the sample is broken; 0: no limit",
            "least": 0,
        },
    )
    reduce_timeout: float = field(
        default=0.0,
        metadata={"help": "seconds that a reduce may take before the build stops; 0: no limit", "least": 0},
    )
    memory: int = field(
        default=0,
        metadata={
            "help": "megabytes that a worker may hold before it is replaced and, the second time, the sample that it "
            "was on is broken; 0: no limit",
            "least": 0,
        },
    )

    def __post_init__(self) -> None:
        if self.scheduler and not _SCHEDULER.fullmatch(self.scheduler):
            raise ConfigError(f"run.scheduler={self.scheduler} is no address like tcp://host:8786")
        if self.scheduler and self.on == "local":
            raise ConfigError("run.on=local and run.scheduler contradict each other; give one of them")
        if self.inline and self.on_dask:
            raise ConfigError("run.inline=true runs in this process, not on Dask; leave it or Dask out")

    @property
    def on_dask(self) -> bool:
        return self.on == "dask" or bool(self.scheduler)


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of a schema."""

    name: str
    kind: Any
    default: Any
    help: str
    least: float | None = None
    most: float | None = None

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def limits(self) -> str:
        """For people: `from 0 to 1`."""
        if self.least is None:
            return "" if self.most is None else f"at most {self.most}"
        return f"at least {self.least}" if self.most is None else f"from {self.least} to {self.most}"


def keys(schema: type[Any], prefix: str = "") -> Iterator[Key]:
    """Every key of the dataclass `schema`, nested ones dotted, in the order written."""
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            yield from keys(typing.cast(type, kind), f"{prefix}{item.name}.")
        else:
            yield Key(
                name=prefix + item.name,
                kind=kind,
                default=_default(item),
                help=item.metadata.get("help", ""),
                least=item.metadata.get("least"),
                most=item.metadata.get("most"),
            )


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


def parse(schema: type[C], words: Iterable[str], prefix: str = "", others: Collection[str] = ()) -> C:
    """`schema` filled from `words`. Raises ConfigError naming the word and, for a near miss, the key meant.

    prefix: before every key, as `run.`.  others: keys that stand elsewhere, for that hint only.
    """
    return _fill(schema, read(schema, words, prefix, others), prefix)


def read(
    schema: type[Any], words: Iterable[str], prefix: str = "", others: Collection[str] = ()
) -> dict[str, Any]:
    """The values that `words` give, by full key."""
    known = {key.name: key for key in keys(schema, prefix)}
    values: dict[str, Any] = {}
    for word in expand(words):
        name, operation, text = split_word(word)
        key = known[resolve(name, known, others)]
        if operation == "~":
            values.pop(key.name, None)
            continue
        value = convert(text, key.kind, key.name)
        if operation == "+=":
            if get_origin(key.kind) is not tuple:
                raise ConfigError(f"{key.name}+= adds to a list, and {key.name} is not one")
            value = (*values.get(key.name, () if key.required else key.default), *value)
        values[key.name] = _within(key, value)
    return values


def _within(key: Key, value: Any) -> Any:
    for number in value if isinstance(value, tuple) else (value,):
        too_low = number is not None and key.least is not None and number < key.least
        too_high = number is not None and key.most is not None and number > key.most
        if too_low or too_high:
            raise ConfigError(f"{key.name}={to_text(value)}: must be {key.limits}")
    return value


def split_word(word: str) -> tuple[str, Literal["=", "+=", "~"], str]:
    """`a.b=c=d` → (`a.b`, `=`, `c=d`): only the first `=` counts."""
    if word.startswith("~"):
        return word[1:], "~", ""
    name, equals, text = word.partition("=")
    if not equals or not name:
        raise ConfigError(f"{word!r} is not key=value (write recipe=fg_ood, not recipe fg_ood)")
    return (name[:-1], "+=", text) if name.endswith("+") else (name, "=", text)


def resolve(name: str, known: Mapping[str, Any], others: Collection[str] = ()) -> str:
    """The full key for `name`, itself or its last part where that is unique."""
    if name in known:
        return name
    ends = [key for key in known if key.endswith("." + name)]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ConfigError(f"{name} could be {' or '.join(ends)}: write one of them in full")
    tails = {key.rpartition(".")[2]: key for key in known}
    hint = did_you_mean(name, [*known, *tails, *others])
    raise ConfigError(f"unknown key {name}{hint or '; known: ' + ', '.join([*known, *others])}")


def expand(words: Iterable[str]) -> Iterator[str]:
    """`@file.yaml` replaced by the words it holds. Scalars stay text: YAML guesses nothing."""
    for word in words:
        if word.startswith("@"):
            yield from _file_words(Path(word[1:]))
        else:
            yield word


def _file_words(path: Path) -> Iterator[str]:
    try:
        found = load_yaml(path)
    except (OSError, ValueError) as problem:
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


def key_lines(schema: type[Any], prefix: str = "") -> Iterator[str]:
    """For people: every key with its default, type and meaning."""
    for key in keys(schema, prefix):
        default = "..." if key.required else to_text(key.default)
        notes = (kind_name(key.kind), key.limits, "required" if key.required else "")
        yield f"  {key.name}={default}  {', '.join(note for note in notes if note)}"
        if key.help:
            yield f"      {key.help}"


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
