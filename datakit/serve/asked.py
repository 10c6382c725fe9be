"""What a page or a search is asked, out of an address, a form or JSON: checked, and put back into an address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from datakit.index.query import Request
from datakit.serve.kept import Uploads
from datakit.serve.schema import TEXT, TEXTS, TRUTH, WHOLE, Schema, of_json, of_words

PAGE = 48  # pictures a page
MOST = 2000  # results that can be scrolled to
MANY = ("text", "key", "upload", "minus_text", "minus_key", "minus_upload", "only")
ONE = ("where", "index")
TRUTHS = ("exact", "own")
ASKED: Mapping[str, Schema] = {
    "text": {**TEXTS, "description": "Words that images should be like."},
    "key": {**TEXTS, "description": "Samples that they should be like."},
    "upload": {**TEXTS, "description": "Pictures sent to the page before, by the names it gave them."},
    "minus_text": {**TEXTS, "description": "Words that they should not be like."},
    "minus_key": {**TEXTS, "description": "Samples that they should not be like."},
    "minus_upload": TEXTS,
    "where": {**TEXT, "description": "A filter over the columns: price < 50 and brand in ('x', 'y')"},
    "only": {**TEXTS, "description": "Further filters, all of which must hold too."},
    "index": {**TEXT, "description": "Its name; left out: the first that can answer."},
    "k": {**WHOLE, "minimum": 1, "maximum": MOST, "default": PAGE},
    "start": {**WHOLE, "minimum": 0, "maximum": MOST, "default": 0},
    "exact": {**TRUTH, "description": "Compare every row."},
    "own": {**TRUTH, "description": "Examples may be found."},
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The state of a page: all of it stands in its address."""

    text: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    upload: tuple[str, ...] = ()
    minus_text: tuple[str, ...] = ()
    minus_key: tuple[str, ...] = ()
    minus_upload: tuple[str, ...] = ()
    where: str = ""
    only: tuple[str, ...] = ()
    index: str = ""
    k: int = PAGE
    start: int = 0
    exact: bool = False
    own: bool = False

    @property
    def something(self) -> bool:
        return bool(self.text or self.key or self.upload)

    @property
    def filter(self) -> str:
        """`where` and `only` as one."""
        parts = [part for part in (self.where, *self.only) if part.strip()]
        return " and ".join(f"({part})" for part in parts) if len(parts) > 1 else "".join(parts)

    def words(self, but: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
        """The state as words of an address or hidden fields of a form, without those named."""
        left = set(but)
        for name in (name for name in MANY if name not in left):
            yield from ((name, value) for value in getattr(self, name))
        yield from ((name, getattr(self, name)) for name in ONE if name not in left and getattr(self, name))
        yield from ((name, "1") for name in TRUTHS if name not in left and getattr(self, name))
        for name, usual in (("start", 0), ("k", PAGE)):
            if name not in left and getattr(self, name) != usual:
                yield name, str(getattr(self, name))

    def url(self, path: str = "/", **changes: Any) -> str:
        """The address of this state, with changes."""
        words = list(replace(self, **changes).words())
        return path + (f"?{urlencode(words)}" if words else "")

    def sign(self, key: str) -> str:
        """plus, minus, or nothing, of a sample of the result."""
        return "plus" if key in self.key else "minus" if key in self.minus_key else ""

    def plus(self, key: str) -> Asked:
        found = self.off("key", key).off("minus_key", key)
        return replace(found, key=(*found.key, key))

    def minus(self, key: str) -> Asked:
        found = self.off("key", key).off("minus_key", key)
        return replace(found, minus_key=(*found.minus_key, key))

    def off(self, name: str, value: str) -> Asked:
        """Without one example or filter, from the first page on."""
        changes: dict[str, Any] = {name: tuple(one for one in getattr(self, name) if one != value)}
        return replace(self, start=0, **changes)

    def also(self, condition: str) -> Asked:
        return replace(self.off("only", condition), only=(*self.off("only", condition).only, condition))

    def request(self, uploads: Uploads, *, k: int) -> Request:
        """Raises ConfigError for what cannot be asked."""
        return Request(
            text=self.text,
            key=self.key,
            minus_text=self.minus_text,
            minus_key=self.minus_key,
            image=tuple(uploads.get(name) for name in self.upload),
            minus_image=tuple(uploads.get(name) for name in self.minus_upload),
            where=self.filter,
            index=self.index,
            exact=self.exact,
            own=self.own,
            k=k,
        )


def asked_of(words: Iterable[tuple[str, str]]) -> Asked:
    """Of name and value pairs. Raises ConfigError naming a word that is unknown, or of a wrong kind."""
    return _asked(of_words(words, ASKED))


def asked_of_json(value: Any) -> Asked:
    """Of a JSON object: as in an address, lists for what may come several times. Raises ConfigError."""
    return _asked(of_json(value, ASKED))


def _asked(found: Mapping[str, Any]) -> Asked:
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
    }
    return Asked(**given)
