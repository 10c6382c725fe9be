"""The grammar of `where`: text to a tree of tests, without knowing the columns; what each test means is `where.py`'s.

either  = both ("or" both)*                both = one ("and" one)*             one = "not" one | "(" either ")" | test
test    = operand sign operand | name ["not"] ("in" "(" value, … ")" | "between" value "and" value | "like" 'a%')
        | name ["not"] "contains" value | name "is" ["not"] "null" | name
sign    = "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">="
value   = 'text' | "text" | number | "true" | "false" | "null"
name    = part ("." part)*                 part = bare | "quoted" | [bracketed]
Words of the grammar are read in any case, names as they are. A quote within quotes is written twice. Where a test
begins, and after a value, "x" is a name; elsewhere it is a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from datakit.errors import ConfigError
from datakit.index.where_tree import (
    Both,
    Compare,
    Contains,
    Either,
    In,
    Like,
    Name,
    Node,
    Not,
    Null,
    Truth,
    Value,
)

MAX_TEXT = 10_000  # letters
MAX_DEPTH = 50  # brackets and `not` within each other
MAX_DIGITS = 40  # letters of a number; no column holds more
EXCERPT = 20  # letters shown on either side of a fault

_TOKEN = re.compile(
    r"""
    (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<word>[^\W\d]\w*)
    |(?P<text>'(?:[^']|'')*+')
    |(?P<quoted>"(?:[^"]|"")*+")
    |(?P<bracketed>\[(?:[^\]]|\]\])*+\])
    |(?P<sign><=|>=|<>|!=|==|[=<>(),.])
    |(?P<end>\Z)
    """,
    re.VERBOSE,
)
_SPACE = re.compile(r"\s*")
_SIGNS = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_TURNED = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_VALUES = {"true": True, "false": False, "null": None}
_WORDS = frozenset(("and", "or", "not", "in", "between", "like", "contains", "is", *_VALUES))


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int

    @property
    def word(self) -> str:
        """Of the grammar, in small letters; empty for anything else."""
        low = self.text.lower()
        return low if self.kind == "word" and low in _WORDS else ""


def read_where(text: str) -> Node:
    """The tree of a text. Raises ConfigError that shows where the text goes wrong, or says that it is too long."""
    if len(text) > MAX_TEXT:
        raise ConfigError(f"where has {len(text)} letters; it may have {MAX_TEXT}")
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        fault(text, problem.start, "this is no letter of Unicode")
    reader = _Reader(text)
    found = reader.either()
    if reader.token.kind != "end":
        reader.wrong("`and`, `or` or the end was expected")
    return found


def fault(text: str, at: int, problem: str) -> NoReturn:
    """Raise ConfigError for the letter `at` of a text."""
    before = ("…" if at > EXCERPT else "") + text[max(0, at - EXCERPT) : at]
    after = text[at : at + EXCERPT] + ("…" if len(text) > at + EXCERPT else "")
    shown = f"{before}⟪here⟫{after}".encode("utf-8", "backslashreplace").decode()
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)
    raise ConfigError(f"where, letter {at + 1}: {problem}: {shown}")


class _Reader:
    """One token ahead, by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = 0
        self._depth = 0
        self.token = self._next()

    def _next(self) -> _Token:
        space = _SPACE.match(self._text, self._end)
        start = space.end() if space else self._end
        match = _TOKEN.match(self._text, start)
        if match is None:
            opened = self._text[start] in "'\"["
            fault(self._text, start, "what is opened here has no end" if opened else "this means nothing")
        self._end = match.end()
        return _Token(str(match.lastgroup), match.group(), start)

    def _take(self) -> _Token:
        token, self.token = self.token, self._next()
        return token

    def wrong(self, expected: str) -> NoReturn:
        fault(self._text, self.token.at, expected)

    def _skip(self, *words: str) -> str:
        """The word or sign that was there of these, now read; empty if none was."""
        here = self.token.word or (self.token.text if self.token.kind == "sign" else "")
        if here in words:
            self._take()
            return here
        return ""

    def _need(self, word: str) -> None:
        if not self._skip(word):
            self.wrong(f"`{word}` was expected")

    def either(self) -> Node:
        parts = self._joined("or", self._both)
        return parts[0] if len(parts) == 1 else Either(parts)

    def _both(self) -> Node:
        parts = self._joined("and", self._one)
        return parts[0] if len(parts) == 1 else Both(parts)

    def _joined(self, word: str, part: Callable[[], Node]) -> tuple[Node, ...]:
        parts = [part()]
        while self._skip(word):
            parts.append(part())
        return tuple(parts)

    def _one(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.wrong(f"more than {MAX_DEPTH} brackets and `not` within each other")
        if self._skip("not"):
            found: Node = Not(self._one())
        elif self._skip("("):
            found = self.either()
            self._need(")")
        else:
            found = self._test()
        self._depth -= 1
        return found

    def _test(self) -> Node:
        if self._is_value() and self.token.kind != "quoted":
            value = self._value()
            sign = self._sign() or self.wrong("=, !=, <, <=, > or >= was expected")
            return Compare(self._name(), _TURNED[sign], value)
        name = self._name()
        if sign := self._sign():
            return Compare(name, sign, self._value() if self._is_value() else self._name("a value"))
        if self._skip("is"):
            no = self._skip("not")
            self._need("null")
            return Not(Null(name)) if no else Null(name)
        no = self._skip("not")
        found = self._named(name)
        if no and isinstance(found, Truth):
            self.wrong("`in`, `between`, `like` or `contains` was expected")
        return Not(found) if no else found

    def _named(self, name: Name) -> Node:
        if self._skip("in"):
            self._need("(")
            values = [self._value()]
            while self._skip(","):
                values.append(self._value())
            self._need(")")
            return In(name, tuple(values))
        if self._skip("between"):
            least = self._value()
            self._need("and")
            return Both((Compare(name, ">=", least), Compare(name, "<=", self._value())))
        if self._skip("like"):
            return Like(name, self._value())
        if self._skip("contains"):
            return Contains(name, self._value())
        return Truth(name)

    def _sign(self) -> str:
        return _SIGNS[self._take().text] if self.token.text in _SIGNS else ""

    def _is_value(self) -> bool:
        return self.token.kind in ("number", "text", "quoted") or self.token.word in _VALUES

    def _value(self) -> Value:
        if not self._is_value():
            self.wrong("a value was expected (a 'text' in quotes, a number, true, false or null)")
        token = self._take()
        if token.kind in ("text", "quoted"):
            return Value(_unquoted(token.text), token.at)
        if token.kind == "word":
            return Value(_VALUES[token.word], token.at)
        whole = token.text.lstrip("+-").isdigit()
        if len(token.text) > MAX_DIGITS or (not whole and abs(float(token.text)) == float("inf")):
            fault(self._text, token.at, "this number is too large")
        return Value(int(token.text) if whole else float(token.text), token.at)

    def _name(self, expected: str = "the name of a column") -> Name:
        start = self.token.at
        parts = [self._part(expected)]
        while self._skip("."):
            parts.append(self._part("the name of a field"))
        return Name(tuple(parts), start)

    def _part(self, expected: str) -> str:
        if self.token.kind not in ("word", "quoted", "bracketed") or self.token.word:
            self.wrong(f"{expected} was expected")
        token = self._take()
        return token.text if token.kind == "word" else _unquoted(token.text)


def _unquoted(text: str) -> str:
    end = text[-1]
    return text[1:-1].replace(end + end, end)
