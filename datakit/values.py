"""A value as text and back, by its type: str, int, float, bool, Literal, X | None, tuple[X, ...]."""

from __future__ import annotations

import json
import types
import typing
from typing import Any, Literal, get_args, get_origin

from datakit.errors import ConfigError, did_you_mean


def to_text(value: Any) -> str:
    """The text that `convert` reads back as `value`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        parts = [to_text(item) for item in value]
        plain = all(part and part == part.strip() and part[0] != "[" and "," not in part for part in parts)
        return ",".join(parts) if plain else json.dumps(parts, ensure_ascii=False)
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
        except (ValueError, RecursionError) as problem:
            raise ConfigError(f"{name}={text[:200]}: not a JSON list: {problem}") from None
    return [part.strip() for part in text.split(",")] if text else []


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
