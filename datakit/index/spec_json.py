"""A spec out of JSON, every key known and of its kind."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal

from datakit.errors import ConfigError, did_you_mean
from datakit.index.spec import Spec


def from_json(value: Mapping[str, Any]) -> Spec:
    """The inverse of `to_json`. Raises ConfigError naming the key that is not known or of the wrong kind."""
    found: Spec = _read(Spec, value, "spec")
    return found


def _read(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must hold keys")
    hints, known = typing.get_type_hints(kind), {part.name for part in dataclasses.fields(kind)}
    for name in value:
        if name not in known:
            raise ConfigError(f"unknown key {where}.{name}{did_you_mean(name, known)}")
    return kind(**{name: _as(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _as(hint: Any, item: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _read(hint, item, where)
    if typing.get_origin(hint) is Literal:
        if item not in typing.get_args(hint):
            raise ConfigError(f"{where}={item}: must be one of {', '.join(typing.get_args(hint))}")
        return item
    if typing.get_origin(hint) is tuple:
        return _pairs(item, where)
    kinds = typing.get_args(hint) or (hint,)
    if item is None and type(None) in kinds:
        return item
    if bool in kinds:
        if not isinstance(item, bool):
            raise ConfigError(f"{where}={item!r}: must be true or false")
        return item
    if not isinstance(item, int | float if float in kinds else int) or isinstance(item, bool):
        raise ConfigError(f"{where}={item!r}: must be a {'number' if float in kinds else 'whole number'}")
    return item


def _pairs(item: Any, where: str) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((int(dims), int(many)) for dims, many in item)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}={item!r}: must be pairs of numbers") from None
