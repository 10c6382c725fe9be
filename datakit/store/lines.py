"""Values of a store as lines for people and as JSON: what comes from anywhere must not reach a terminal as it is."""

from __future__ import annotations

import base64
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDTH, CELL = 118, 26  # letters of a line, and of a cell of the table


def jsonable(value: Any) -> Any:
    """A value of a column as JSON has it: bytes in base64, what is no finite number and dates as text."""
    if isinstance(value, dict):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def plain(text: str) -> str:
    """Without what a terminal would act on: stores come from anywhere."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def text_of(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def table_lines(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """As many columns as a line holds."""
    cells = {name: [short(row[name]) for row in rows] for name in names}
    used, width = list[str](), 0
    for name in names:
        width += max(map(width_of, [name, *cells[name]])) + 2
        if width > WIDTH and used:
            break
        used.append(name)
    lines = aligned([tuple(used), *zip(*(cells[name] for name in used), strict=True)])
    if left := list(names[len(used) :]):
        lines.append(f"… and {len(left)} more columns; columns=A,B chooses")
    return lines


def short(value: Any) -> str:
    text = plain(text_of(value))
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def width_of(text: str) -> int:
    """Columns of a terminal."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def aligned(rows: Iterable[Sequence[str]], *, right: bool = False) -> list[str]:
    """Cells in columns; right: the last one is of numbers."""
    table = [list(row) for row in rows]
    widths = [max(map(width_of, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [cell + " " * (width - width_of(cell)) for cell, width in zip(row, widths, strict=True)]
        if right:
            cells[-1] = cells[-1].rstrip().rjust(widths[-1])
        lines.append("  ".join(cells).rstrip())
    return lines
