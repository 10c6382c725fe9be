"""YAML, TOML and JSON that others wrote: bounded in bytes, in nesting and in what they stand for.

Each parser has its bomb: a page of `[` ends Python's stack, ten lines of YAML anchors are a billion words, a tag names
a class to build. What is read here is text, numbers, lists and tables, a few levels deep, and nothing else.
"""

from __future__ import annotations

import csv
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MAX_SETTINGS = 1 << 18  # bytes of a recipe's words or a catalog; the largest of ours has 4,000
MAX_NESTING = 32  # lists and tables within each other
MAX_PARTS = 100_000  # lists and objects of a JSON text
MAX_LINE = 1 << 22  # characters of a line, or of a row of several; parsed, JSON takes up to 27 times as much

_DOTTED = re.compile(rf"""(?:(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')\s*+\.\s*+){{{MAX_NESTING}}}""")


class TooLarge(ValueError):
    """A text beyond its bounds; the message says which."""


def read_settings(path: Path) -> str:
    """The text of a small file. Raises OSError, ValueError (not UTF-8; too large)."""
    with path.open("rb") as file:
        data = file.read(MAX_SETTINGS + 1)
    if len(data) > MAX_SETTINGS:
        raise TooLarge(f"more than {MAX_SETTINGS} bytes")
    return data.decode()


def load_toml(path: Path) -> dict[str, Any]:
    """The table of a TOML file. Raises OSError, ValueError."""
    text = read_settings(path)
    if _DOTTED.search(text):  # a table for each dot, which takes tomllib the square of their number
        raise TooLarge(f"a key of more than {MAX_NESTING} parts")
    try:
        table = tomllib.loads(text)
    except RecursionError as problem:
        raise TooLarge(f"lists or tables more than {MAX_NESTING} deep") from problem
    _check_nesting(table)
    return table


def load_yaml(path: Path) -> Any:
    """Text, lists and mappings of text out of a YAML file; scalars stay text. Raises OSError, as `parse_yaml`."""
    return parse_yaml(read_settings(path))


def parse_yaml(text: str) -> Any:
    """The same of YAML. Raises ValueError: no YAML, anchors, tags, more than one document's worth of nesting."""
    import yaml

    try:
        depth = 0
        # Before anything is built: these events come one by one, however deep they are.
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            _check_event(event, depth)
        return yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as problem:
        raise ValueError(str(problem)) from problem


def _check_event(event: Any, depth: int) -> None:
    line = f"line {event.start_mark.line + 1}" if event.start_mark else "its start"
    if depth > MAX_NESTING:
        raise TooLarge(f"{line}: lists or mappings more than {MAX_NESTING} deep")
    if getattr(event, "anchor", None):
        raise ValueError(
            f"{line}: the anchor or alias {event.anchor!r}; write the value out where it is meant"
        )
    if getattr(event, "tag", None) not in (None, "!"):
        raise ValueError(f"{line}: the tag {event.tag!r}; values have no types here, the recipe knows them")


def load_json(text: str | bytes) -> Any:
    """JSON of `MAX_NESTING` levels at most, its texts fit for UTF-8. Raises ValueError."""
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    parts = data.count(b"[") + data.count(b"{")
    if parts > MAX_PARTS:
        raise TooLarge(f"more than {MAX_PARTS} lists and objects")
    try:
        value = json.loads(text)
    except RecursionError as problem:
        raise TooLarge(f"lists or objects more than {MAX_NESTING} deep") from problem
    if parts > MAX_NESTING:
        _check_nesting(value)
    if b"\\ud" in data or b"\\uD" in data:
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # half a pair is no character, and no column can hold it
    return value


def _check_nesting(value: Any) -> None:
    level = [value]
    for _ in range(MAX_NESTING):
        level = [inner for item in level for inner in _inner(item)]
        if not level:
            return
    raise TooLarge(f"lists or objects more than {MAX_NESTING} deep")


def _inner(item: Any) -> Iterator[Any]:
    """The lists and tables right within one."""
    within = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return (one for one in within if isinstance(one, dict | list))


def dict_rows(file: IO[str]) -> Iterator[dict[str, str]]:
    """The rows of an open CSV file with a head. Raises csv.Error, ValueError."""
    lines = BoundedLines(file)
    for row in csv.DictReader(lines):
        lines.mark()
        yield row


class BoundedLines:
    """The lines of an open text file, each no longer than MAX_LINE; nor are those since the last `mark` together.

    A parser that asks for lines until its row is complete would else take in the whole file for one quote.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file, self._since, self.number = file, 0, 0

    def mark(self) -> None:
        self._since = 0

    def __iter__(self) -> BoundedLines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        self._since += len(line)
        if self._since >= MAX_LINE:
            raise TooLarge(f"line {self.number}: a row of more than {MAX_LINE} characters")
        return line
