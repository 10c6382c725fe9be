"""What a request may hold, in pieces of JSON Schema: they check its words and its JSON, and OpenAPI shows them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from datakit.errors import ConfigError, did_you_mean

Schema = Mapping[str, Any]
TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
TRUTH: Schema = {"type": "boolean"}
PASSED = ("token",)  # words of an address that are not of the question
SHOWN = 40  # letters of a wrong word that are repeated

_IS: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
}
_SAID = {
    "string": "a text", "boolean": "true or false", "integer": "a whole number", "number": "a number",
    "array": "a list",
}  # fmt: skip
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def or_null(schema: Schema) -> Schema:
    """The same, or null: as clients write what they leave out."""
    return {**schema, "type": [schema["type"], "null"]}


def checked(name: str, value: Any, schema: Schema) -> Any:
    """`value`, if the schema allows it. Raises ConfigError naming what it is of."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kind = next((kind for kind in kinds if _IS[kind](value)), "")
    if kind == "array":
        return [checked(name, item, schema["items"]) for item in value]
    if not kind or (kind in ("integer", "number") and not _within(value, schema)):
        raise ConfigError(
            f"{name} must be {' or '.join(_said(one, schema) for one in kinds if one in _SAID)}"
        )
    if kind == "string" and not _is_text(value):
        raise ConfigError(f"{name} holds half a character, which no text can")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _within(value: float, schema: Schema) -> bool:
    try:
        finite = math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        finite = False
    return finite and schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)


def _said(kind: str, schema: Schema) -> str:
    limits = {"minimum", "maximum"} <= set(schema) and kind in ("integer", "number")
    return _SAID[kind] + (f" from {schema['minimum']} to {schema['maximum']}" if limits else "")


def of_json(value: Any, properties: Mapping[str, Schema], *, more: bool = False) -> dict[str, Any]:
    """The fields of a JSON object; one of a list may stand alone. more: others are passed over. Raises ConfigError."""
    if not isinstance(value, Mapping):
        raise ConfigError("a JSON object is wanted")
    found = {}
    for name, item in value.items():
        if name not in properties:
            if not more:
                raise _unknown(name, properties)
            continue
        alone = isinstance(item, str) and properties[name]["type"] == "array"
        found[name] = checked(name, [item] if alone else item, properties[name])
    return found


def of_words(words: Iterable[tuple[str, str]], properties: Mapping[str, Schema]) -> dict[str, Any]:
    """The same of an address or a form, where all is text; what was left empty is not there. Raises ConfigError."""
    found: dict[str, Any] = {}
    for name, text in words:
        if name in PASSED:
            continue
        if name not in properties:
            raise _unknown(name, properties)
        if not text.strip():
            continue
        if properties[name]["type"] == "array":
            found.setdefault(name, []).append(checked(name, text, properties[name]["items"]))
            continue
        if name in found:
            raise ConfigError(f"{name} is given twice")
        found[name] = checked(name, _read(text, properties[name]["type"]), properties[name])
    return found


def _read(text: str, kind: str) -> Any:
    if kind == "integer":
        return int(text) if _WHOLE.fullmatch(text.strip()) else text
    if kind == "number":
        try:
            return float(text)
        except ValueError:
            return text
    return text not in ("0", "false") if kind == "boolean" else text


def _unknown(name: str, properties: Mapping[str, Schema]) -> ConfigError:
    shown = name[:SHOWN].encode("utf-8", "replace").decode()
    hint = did_you_mean(shown, properties) or f"; there are {', '.join(properties) or 'none'}"
    return ConfigError(f"unknown word {shown}{hint}")
