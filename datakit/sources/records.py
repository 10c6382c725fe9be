"""Rows of a CSV, JSON lines or Parquet file, streamed; a bad row costs that row and is reported with its number.

CSV is read by the standard library and not by Arrow: Arrow guesses a type a block and then fails a million
rows later, and a ragged row there has no cells to show. CSV cells stay text, an empty one is null.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from datakit.errors import CatalogError, SampleError
from datakit.sources.entry import SPLITS, Problem
from datakit.store.parquet_guard import batches
from datakit.texts import MAX_LINE, BoundedLines, load_json

Row = dict[str, object]

SUFFIXES = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
GROUPS = ("identity_group", "capture_group", "variant_group")
TEXTS = ("class_name", *GROUPS, "caption", "licence", "attribution", "source_url", "concept")
LISTS = ("taxonomy", "captions")
STANDARD = frozenset({*TEXTS, *LISTS, "orig_label", "official_split"})
ZEROS = re.compile(r"\.0*\s*$")


class Record(NamedTuple):
    """A row and its number: the line of a text file, the row of a Parquet file, from 1."""

    number: int
    row: Row


def read(path: Path, *, delimiter: str = ",", encoding: str = "utf-8-sig") -> Iterator[Record | Problem]:
    """The rows of `path` in order. Problems: `empty_row` (dropped), `unreadable_row`.

    Raises CatalogError: no such kind of file, not readable at all, columns without a name or with the same one.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise CatalogError(f"{path}: a table must end in one of {', '.join(SUFFIXES)}")
    try:
        if kind == "csv":
            tabs = path.suffix.lower() == ".tsv" or delimiter in ("tab", "\\t")
            yield from _csv(path, "\t" if tabs else delimiter, encoding)
        elif kind == "jsonl":
            yield from _jsonl(path)
        else:
            yield from _parquet(path)
    except UnicodeDecodeError as problem:
        raise CatalogError(f"{path} is not {encoding} text: {problem}; give options.encoding") from problem
    except (OSError, LookupError, ValueError, csv.Error, pa.ArrowException) as problem:
        raise CatalogError(f"cannot read the table {path}: {problem}") from problem


def _csv(path: Path, delimiter: str, encoding: str) -> Iterator[Record | Problem]:
    if len(delimiter) != 1:
        raise CatalogError(f"options.delimiter={delimiter}: must be one character, or tab")
    with path.open(newline="", encoding=encoding) as file:
        rows = BoundedLines(file)
        reader = csv.reader(rows, delimiter=delimiter, strict=True)
        header = next(reader, [])
        _check_columns(path, header)
        while True:
            first = reader.line_num + 1
            rows.mark()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as problem:
                if str(problem) == "unexpected end of data":
                    raise CatalogError(f"{path}: a quote in line {first} is never closed") from problem
                yield from _lost(path, range(first, reader.line_num + 1), str(problem))
                continue
            if not any(cells):
                detail = f"line {reader.line_num} is empty"
                yield Problem(
                    name=f"{path.name}:{reader.line_num}", reason="empty_row", detail=detail, dropped=True
                )
            elif len(cells) != len(header):
                detail = f"{len(cells)} cells under {len(header)} columns"
                yield from _lost(path, range(first, reader.line_num + 1), detail)
            else:
                yield Record(reader.line_num, {n: c or None for n, c in zip(header, cells, strict=True)})


def _lost(path: Path, lines: range, detail: str) -> Iterator[Problem]:
    """One Problem a line: a quote too many makes one row of several, each of which was an image."""
    where = f", in the row of lines {lines[0]} to {lines[-1]}" if len(lines) > 1 else ""
    for number in lines:
        yield unreadable(path, number, detail + where)


def _check_columns(path: Path, header: list[str]) -> None:
    doubled = {name for name in header if header.count(name) > 1 or not name.strip()}
    if not header or doubled:
        what = (
            f"columns without a name or with the same one: {sorted(doubled)}" if header else "no first line"
        )
        raise CatalogError(f"{path} has {what}; its first line must name the columns")


def _jsonl(path: Path) -> Iterator[Record | Problem]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE:
                raise CatalogError(f"{path}: line {number} has more than {MAX_LINE} bytes")
            if not line.strip():
                detail = f"line {number} is empty"
                yield Problem(name=f"{path.name}:{number}", reason="empty_row", detail=detail, dropped=True)
                continue
            try:
                row = load_json(line)
            except ValueError as problem:
                yield unreadable(path, number, f"no JSON: {problem}")
                continue
            yield Record(number, row) if isinstance(row, dict) else unreadable(path, number, "no JSON object")


def _parquet(path: Path) -> Iterator[Record | Problem]:
    number = 0
    for batch in batches(path):
        for row in batch.to_pylist():
            number += 1
            yield Record(number, row)


def unreadable(path: Path, number: int, detail: str) -> Problem:
    """A row that cannot be read, by file and number."""
    return Problem(name=f"{path.name}:{number}", reason="unreadable_row", detail=f"row {number}: {detail}")


def standard(row: Mapping[str, object]) -> Row:
    """The standard fields of `row` in their types; null and blank text are as good as absent.

    Raises SampleError: `bad_label` (orig_label is no whole number), `bad_split` (none of train, val, test by any
    of their usual names), `bad_field` (a text that is none, a list that is none).
    """
    fields: Row = {}
    for name, value in row.items():
        if name not in STANDARD or blank(value):
            continue
        if name == "orig_label":
            fields[name] = _label(value)
        elif name == "official_split":
            fields[name] = _split(value)
        elif name in LISTS:
            fields[name] = _texts(name, value)
        else:
            fields[name] = _text(name, value)
    return fields


def blank(value: object) -> bool:
    """Whether a cell says nothing: null, or text of spaces at most."""
    return value is None or (isinstance(value, str) and not value.strip())


def whole(value: object) -> int | None:
    """`value` as a whole number, also of `3.0`: pandas makes floats of a column of whole numbers with a null."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return int(ZEROS.sub("", value) if isinstance(value, str) else value)
        except ValueError:
            pass
    return None


def _label(value: object) -> int:
    number = whole(value)
    if number is not None:
        return number
    raise SampleError(
        "bad_label", f"label {value!r} is no whole number; of names, give options.class_name=COLUMN"
    )


def _split(value: object) -> str:
    try:
        return SPLITS[str(value).strip().lower()]
    except KeyError:
        raise SampleError("bad_split", f"split {value!r} is none of {', '.join(SPLITS)}") from None


def _text(name: str, value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as pandas has numbers beside a null
    if isinstance(value, str | int):
        return str(value)
    raise SampleError("bad_field", f"{name} is {type(value).__name__}, not text")


def _texts(name: str, value: object) -> list[str]:
    if isinstance(value, list):
        return [_text(name, item) for item in value if not blank(item)]
    raise SampleError("bad_field", f"{name} is {type(value).__name__}, not a list of texts")
