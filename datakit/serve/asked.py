"""What a request asks, out of an address, a form or JSON: checked, bounded, and put back into an address."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from datakit.errors import ConfigError
from datakit.index.query import Request

PAGE = 48  # pictures a page
MOST = 2000  # results that can be scrolled to
UPLOADS = 256  # pictures that were asked with and are still known
MANY = ("text", "key", "minus_text", "minus_key", "upload")
KNOWN = (*MANY, "where", "k", "start", "index", "exact", "own", "token")


class Uploads:
    """Pictures that were asked with, by a name nobody can guess; the oldest are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images: OrderedDict[str, bytes] = OrderedDict()

    def keep(self, image: bytes) -> str:
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._images[name] = image
            while len(self._images) > UPLOADS:
                self._images.popitem(last=False)
        return name

    def get(self, name: str) -> bytes:
        with self._lock:
            if name not in self._images:
                raise ConfigError("that picture is not known any more: choose it again")
            return self._images[name]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The state of a page: all of it stands in its address."""

    text: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    minus_text: tuple[str, ...] = ()
    minus_key: tuple[str, ...] = ()
    upload: tuple[str, ...] = ()
    where: str = ""
    index: str = ""
    k: int = PAGE
    start: int = 0
    exact: bool = False
    own: bool = False

    @property
    def something(self) -> bool:
        return bool(self.text or self.key or self.upload)

    def url(self, path: str = "/", **changes: Any) -> str:
        """The address of this state, with changes."""
        state = replace(self, **changes)
        words: list[tuple[str, Any]] = [(name, value) for name in MANY for value in getattr(state, name)]
        words += [(name, getattr(state, name)) for name in ("where", "index") if getattr(state, name)]
        words += [("start", state.start)] if state.start else []
        words += [("k", state.k)] if state.k != PAGE else []
        words += [(name, "1") for name in ("exact", "own") if getattr(state, name)]
        return path + (f"?{urlencode(words)}" if words else "")

    def plus(self, key: str) -> Asked:
        return replace(
            self, key=(*_without(self.key, key), key), minus_key=_without(self.minus_key, key), start=0
        )

    def minus(self, key: str) -> Asked:
        return replace(
            self, minus_key=(*_without(self.minus_key, key), key), key=_without(self.key, key), start=0
        )

    def off(self, key: str) -> Asked:
        return replace(self, minus_key=_without(self.minus_key, key), key=_without(self.key, key), start=0)

    def also(self, condition: str) -> Asked:
        where = f"({self.where}) and {condition}" if self.where.strip() else condition
        return replace(self, where=where, start=0)

    def request(self, uploads: Uploads, *, k: int) -> Request:
        """Raises ConfigError for what cannot be asked."""
        return Request(
            text=self.text,
            key=self.key,
            minus_text=self.minus_text,
            minus_key=self.minus_key,
            image=tuple(uploads.get(name) for name in self.upload),
            where=self.where,
            index=self.index,
            exact=self.exact,
            own=self.own,
            k=k,
        )


def _without(keys: Sequence[str], key: str) -> tuple[str, ...]:
    return tuple(one for one in keys if one != key)


def asked_of(words: Iterable[tuple[str, Any]]) -> Asked:
    """Of name and value pairs. Raises ConfigError naming a word that is unknown or no number."""
    many: dict[str, list[str]] = {name: [] for name in MANY}
    one: dict[str, Any] = {}
    for name, value in words:
        if name not in KNOWN:
            raise ConfigError(f"unknown word {name[:40]}; there are {', '.join(KNOWN[:-1])}")
        if not isinstance(value, str):
            raise ConfigError(f"{name} must be a text")
        if name in many:
            many[name] += [value] if value.strip() else []
        elif name in ("k", "start"):
            one[name] = number(name, value, least=0 if name == "start" else 1, most=MOST)
        elif name in ("exact", "own"):
            one[name] = value not in ("", "0", "false")
        elif name != "token":
            one[name] = value
    lists: dict[str, Any] = {name: tuple(values) for name, values in many.items()}
    return Asked(**lists, **one)


def number(name: str, value: Any, *, least: int, most: int) -> int:
    """Raises ConfigError for what is no whole number from `least` to `most`."""
    try:
        found = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
    except ValueError:
        found = None
    if found is None or not least <= found <= most:
        raise ConfigError(f"{name} must be a whole number from {least} to {most}")
    return found


def asked_of_json(value: Any) -> Asked:
    """Of a JSON object: as in an address, lists for what may come several times. Raises ConfigError."""
    if not isinstance(value, Mapping):
        raise ConfigError("a JSON object is wanted")
    words: list[tuple[str, Any]] = []
    for name, item in value.items():
        if isinstance(item, list) and name in MANY:
            words += [(name, one) for one in item]
        elif isinstance(item, bool):
            words.append((name, "1" if item else ""))
        else:
            words.append((name, str(item) if isinstance(item, int) else item))
    return asked_of(words)
