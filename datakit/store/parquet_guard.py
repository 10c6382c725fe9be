"""What a Parquet file would unpack to, by its footer and the headers of its pages, before Arrow sees any of it.

Arrow takes a page as large as its header says: 30 kB of zstd become a gigabyte, a dictionary entry of 200 MB is
copied into every row that names it, a run of one value is a billion rows; and asked about a column that a damaged
footer only claims to have, it ends the process. All that is said lies uncompressed between the pages, so it is read
here, one header after the other, and the pages stay closed. Pages that unpack to more than they said Arrow refuses.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datakit.store.thrift import read_struct
from datakit.texts import TooLarge

Read = Callable[[int, int], bytes]  # size, offset

MAGIC = b"PAR1"
MAX_FOOTER = 16 << 20  # bytes
FREE_UNPACKED = 64 << 20  # bytes of the largest page of every column of a row group, together
MAX_RATIO = 32  # unpacked to packed, above that; images have 1, tables 2 to 10
FREE_ROWS = 100_000
ROWS_A_BYTE = 4  # above that: rows name images, and a name takes bytes
FREE_VALUES = 2_000_000  # of a column of lists, in a row group
VALUES_A_BYTE = 16
FREE_PAGES = 10_000
PAGE_BYTES = 1024  # of a page, on average, above that
BATCH = 64  # rows at a time: some hold the images themselves
BATCH_BYTES = 64 << 20
HEAD = 1 << 12  # bytes read for a page's header; with long statistics up to MAX_HEAD
MAX_HEAD = 1 << 20
MAX_SCHEMA = 100_000  # nodes; each costs Arrow a kilobyte
MAX_SCHEMA_DEPTH = 32
REPEATED = 2  # of a node of the schema
DICTIONARY = 2  # of a page


@dataclass(frozen=True, slots=True)
class Page:
    """A page's header: bytes when unpacked, bytes in the file, values."""

    unpacked: int
    packed: int
    values: int
    is_dictionary: bool


def open_parquet(source: str | Path | bytes) -> pq.ParquetFile:
    """The file, or the bytes of one, checked.

    Raises OSError, ValueError (damaged; TooLarge: a bomb), and what Arrow raises.
    """
    check_parquet(source)
    return pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source, pre_buffer=False)


def batches(path: Path) -> Iterator[Any]:
    """Record batches of a foreign file, each sound: text that is none would raise wherever it is first looked at.

    Raises as open_parquet.
    """
    rows = check_parquet(path)
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=rows):
            batch.validate(full=True)
            yield batch


def check_parquet(source: str | Path | bytes) -> int:
    """How many rows to take at a time. Raises OSError, ValueError (damaged), TooLarge (a bomb)."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes):
            size, read = len(source), lambda count, offset: source[offset : offset + count]
        else:
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            size, read = os.fstat(descriptor).st_size, functools.partial(os.pread, descriptor)
        try:
            return _checked(read, size, _footer(read, size))
        except (KeyError, TypeError, AttributeError, IndexError) as problem:
            raise ValueError(f"its footer lacks what Parquet needs: {problem!r}") from problem


def _footer(read: Read, size: int) -> dict[int, Any]:
    tail = read(8, size - 8) if size >= 12 else b""
    if tail[4:] != MAGIC or read(4, 0) != MAGIC:
        raise ValueError("no Parquet file, one that was cut, or an encrypted one")
    length = int.from_bytes(tail[:4], "little")
    if length > min(size - 12, MAX_FOOTER):
        raise ValueError(f"a footer of {length} bytes in a file of {size}")
    return read_struct(read(length, size - 8 - length))[0]


def _checked(read: Read, size: int, footer: dict[int, Any]) -> int:
    rows, groups, repeated = int(footer[3]), footer.get(4, []), _repeated(footer[2])
    if rows != sum(group[3] for group in groups) or rows < 0:
        raise ValueError(f"{rows} rows, which are not those of its row groups")
    if rows > max(FREE_ROWS, size * ROWS_A_BYTE):
        raise TooLarge(f"{rows} rows out of {size} bytes")
    left, dictionary = FREE_PAGES + size // PAGE_BYTES, 1
    for number, group in enumerate(groups):
        columns = group[1]
        if len(columns) != len(repeated):
            raise ValueError(f"row group {number} has {len(columns)} columns, the schema {len(repeated)}")
        pages = [_pages(read, size, column, left) for column in columns]
        left -= sum(map(len, pages))
        _check_group(number, pages, repeated)
        dictionary = max(
            [dictionary, *(page.unpacked for some in pages for page in some if page.is_dictionary)]
        )
    # Every row of a batch may hold a copy of the largest entry.
    return max(1, min(BATCH, BATCH_BYTES // dictionary))


def _check_group(number: int, columns: Sequence[Sequence[Page]], repeated: Sequence[bool]) -> None:
    unpacked = packed = 0
    for pages, is_repeated in zip(columns, repeated, strict=True):
        stored = sum(page.packed for page in pages)
        values = sum(page.values for page in pages if not page.is_dictionary)
        if is_repeated and values > max(FREE_VALUES, stored * VALUES_A_BYTE):
            raise TooLarge(f"row group {number}: lists of {values} values out of {stored} bytes")
        unpacked += max((page.unpacked for page in pages), default=0)
        packed += stored
    if unpacked > max(FREE_UNPACKED, packed * MAX_RATIO):
        raise TooLarge(f"row group {number}: pages of {unpacked} bytes out of {packed}")


def _repeated(schema: Sequence[dict[int, Any]]) -> list[bool]:
    """For each column whether it holds lists, by the tree of the schema, which is written node by node."""
    if len(schema) > MAX_SCHEMA:
        raise TooLarge(f"a schema of {len(schema)} nodes")
    found: list[bool] = []
    above: list[tuple[int, bool]] = []  # children still to come, and whether they are within a list
    for node in schema:
        within = bool(above and above[-1][1]) or node.get(3) == REPEATED
        children = node.get(5, 0)
        if above:
            above[-1] = (above[-1][0] - 1, above[-1][1])
        if children:
            above.append((children, within))
        elif above:
            found.append(within)
        while above and not above[-1][0]:
            above.pop()
        if len(above) > MAX_SCHEMA_DEPTH or (above and above[-1][0] < 0):
            raise ValueError("a schema nested too deep, or of no tree")
    if above:
        raise ValueError("a schema that stops early")
    return found


def _pages(read: Read, size: int, column: dict[int, Any], most: int) -> list[Page]:
    """The headers of a column chunk, in order."""
    if 1 in column:
        raise ValueError("a column that lies in another file")
    told = column[3]
    start, length = told[9], told[7]
    if told.get(11):
        start = min(start, told[11])
    if start < 4 or length < 0 or start + length > size:
        raise ValueError(f"a column of {length} bytes at byte {start} of {size}")
    end = start + length
    pages: list[Page] = []
    while start < end:
        page, header = _page(read, start, end)
        pages.append(page)
        if len(pages) > most:
            raise TooLarge(f"more pages than one in {PAGE_BYTES} bytes")
        start += header + page.packed
    return pages


def _page(read: Read, start: int, end: int) -> tuple[Page, int]:
    """The page at `start` and the bytes of its header."""
    for room in (HEAD, MAX_HEAD):
        data = read(min(room, end - start), start)
        try:
            fields, length = read_struct(data)
        except IndexError:
            continue
        told = next((fields[number] for number in (5, 7, 8) if isinstance(fields.get(number), dict)), None)
        unpacked, packed, values = fields.get(2), fields.get(3), (told or {}).get(1, 0)
        if not (isinstance(unpacked, int) and isinstance(packed, int) and isinstance(values, int)):
            break
        if min(unpacked, packed, values) < 0:
            break
        return Page(unpacked, packed, values, fields.get(1) == DICTIONARY), length
    raise ValueError(f"byte {start}: no header of a page")
