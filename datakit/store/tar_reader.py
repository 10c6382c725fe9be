"""Tars read without trust: our own walk over the headers, loud where others are silent.

webdataset and datasets take a tar that was cut between members, or has a damaged header, for a
shorter one. Here every header must match its checksum and every tar must have its end, or a
StoreError names file and byte. Nothing is extracted to disk: no name is ever used as a path.
"""

from __future__ import annotations

import functools
import io
import itertools
import operator
import os
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from datakit.errors import StoreError
from datakit.store.files import Handle
from datakit.store.tar import BLOCK, END, SampleRecord

MAX_EXTENDED = 1 << 16  # bytes of a PAX or GNU header, and so of a name
MAX_TAIL = 1 << 20  # bytes after the last member: GNU tar pads to 10 KiB, tapes to larger blocks

_ZEROS = bytes(BLOCK)
_REGULAR = {b"0", b"\0", b"7"}
_SKIPPED = {b"1": "hard link", b"2": "symlink", b"5": "directory"}
_SKIPPED |= dict.fromkeys((b"3", b"4", b"6"), "device")
_EXTENDED = {b"x", b"g", b"L", b"K"}  # PAX for one member, for all; GNU long name, long link target
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,5}) ")
_PAX_SIZE = re.compile(rb"[0-9]{1,19}")
_KEY_AND_EXTENSION = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a tar may ask of its reader, which holds one sample in memory."""

    sample_bytes: int = 1 << 30


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar: `size` bytes from `offset` on; its first header is at `start`."""

    name: str
    offset: int
    size: int
    start: int

    @property
    def end(self) -> int:
        """Where its padding ends and the next header begins."""
        return self.offset + _padded(self.size)

    @property
    def key(self) -> str:
        """Path up to the basename's first dot; empty if nothing stands before or after that dot."""
        match = _KEY_AND_EXTENSION.fullmatch(self.name)
        return match[1] if match else ""

    @property
    def extension(self) -> str:
        """What follows `key` and its dot, in lower case."""
        return self.name[len(self.key) + 1 :].lower()


def read_sample(
    shard: int | str | Path,
    record: SampleRecord,
    *,
    verify: bool = False,
) -> dict[str, bytes]:
    """The fields of one sample, by extension, from one positional read.

    shard: a path, or an open descriptor, whose position is neither used nor moved.
    verify: compare xxh3 too, which covers headers and padding; without it, headers must be sound.
    StoreError if the record's range does not hold this sample.
    """
    with _opened(shard) as tar:
        return _read(tar, record, verify)


def read_sample_of(handle: Handle, name: str, record: SampleRecord) -> dict[str, bytes]:
    """As `read_sample` with `verify`, from an open file that messages call `name`."""
    return _read(_Tar(name, handle.size, handle.read), record, verify=True)


def fields_of(data: bytes, record: SampleRecord, name: str) -> dict[str, bytes]:
    """The fields of one sample out of its bytes, all of them as in the record. StoreError if they are not its."""
    start = record.offset
    part = _Tar(name, start + len(data), lambda offset, size: data[offset - start : offset - start + size])
    return _read(part, record, verify=False)


def iter_samples(
    path: str | Path, *, limits: Limits = DEFAULT_LIMITS, skipped: Counter[str] | None = None
) -> Iterator[tuple[SampleRecord, dict[str, bytes]]]:
    """The samples of a tar in their order: the record our writer would have given, and the fields.

    skipped: counts what belongs to no sample, by kind: "symlink", "directory", "no key", ...
    StoreError as for `iter_members`, and for a field that comes twice, a sample in two places, or
    one above the limit. It is raised on arrival: the samples before it have been given.
    """
    skipped = Counter() if skipped is None else skipped
    seen: set[str] = set()
    with _opened(path) as tar:
        members = _with_key(_whole(tar, skipped), skipped)
        for key, group in itertools.groupby(members, operator.attrgetter("key")):
            parts = list(group)
            start, size = parts[0].start, parts[-1].end - parts[0].start
            if key in seen:
                raise tar.error(start, f"sample {key!r} was here before, with others between")
            if size > limits.sample_bytes:
                raise tar.error(start, f"a sample of {size} bytes, {limits.sample_bytes} at most")
            seen.add(key)
            data = tar.read(start, size)
            digest = xxhash.xxh3_128_hexdigest(data)
            yield SampleRecord(key, start, size, digest), _fields(tar, parts, data)


def iter_members(path: str | Path, *, skipped: Counter[str] | None = None) -> Iterator[Member]:
    """The regular files of a tar in their order; reads headers only.

    skipped: counts links, devices and directories, by kind.
    StoreError for a damaged header, a member that reaches beyond the file, a missing end of the
    archive or anything after it, and a name that is absolute, climbs (`..`) or is not UTF-8.
    OSError if the file cannot be opened.
    """
    with _opened(path) as tar:
        yield from _whole(tar, Counter() if skipped is None else skipped)


@dataclass(frozen=True, slots=True)
class _Tar:
    """Bytes by position, up to `end`; `name` is for messages."""

    name: str
    end: int
    pread: Callable[[int, int], bytes]  # offset, size -> at most size bytes

    def read(self, offset: int, size: int) -> bytes:
        # Asked before reading: an absurd size must not become an allocation.
        inside = 0 <= offset <= offset + size <= self.end
        data = self.pread(offset, size) if inside else b""
        if len(data) != size:
            raise self.error(offset, f"the file is cut: it does not have {size} bytes here")
        return data

    def error(self, offset: int, what: str) -> StoreError:
        return StoreError(f"{self.name}, byte {offset}: {what}")


@contextmanager
def _opened(shard: int | str | Path) -> Iterator[_Tar]:
    lent = isinstance(shard, int)
    with io.FileIO(shard, closefd=not lent) as file:
        size = os.fstat(file.fileno()).st_size
        name = f"descriptor {shard}" if lent else str(shard)
        yield _Tar(name, size, functools.partial(_pread, file.fileno()))


def _pread(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    # One call gives 2 GiB at most.
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more
    return data


def _read(tar: _Tar, record: SampleRecord, verify: bool) -> dict[str, bytes]:
    start, end = record.offset, record.offset + record.size
    data = tar.read(start, record.size)
    if verify and xxhash.xxh3_128_hexdigest(data) != record.xxh3:
        raise tar.error(start, f"sample {record.key!r} is not as written: its xxh3 differs")
    part = _Tar(tar.name, end, lambda offset, size: data[offset - start : offset - start + size])
    skipped: Counter[str] = Counter()
    members = list(_with_key(_walk(part, start, skipped), skipped))
    if not members or members[-1].end != end or any(m.key != record.key for m in members):
        raise tar.error(start, f"sample {record.key!r} is not in these {record.size} bytes")
    return _fields(part, members, data)


def _fields(tar: _Tar, members: list[Member], data: bytes) -> dict[str, bytes]:
    fields: dict[str, bytes] = {}
    for member in members:
        if member.extension in fields:
            raise tar.error(member.start, f"{member.name!r}: its sample has this field already")
        body = member.offset - members[0].start
        fields[member.extension] = data[body : body + member.size]
    return fields


def _with_key(members: Iterable[Member], skipped: Counter[str]) -> Iterator[Member]:
    for member in members:
        if member.key:
            yield member
        else:
            skipped["no key"] += 1


def _whole(tar: _Tar, skipped: Counter[str]) -> Iterator[Member]:
    end = yield from _walk(tar, 0, skipped)
    tail = tar.end - end
    if tail < len(END):
        raise tar.error(end, "the file stops without an end of archive: it was cut")
    if tail > MAX_TAIL or tar.read(end, tail).count(0) != tail:
        raise tar.error(end, "more follows the end of archive: a damaged header, or two tars")


def _walk(tar: _Tar, offset: int, skipped: Counter[str]) -> Generator[Member, None, int]:
    """Members from `offset` on; returns the position of the first block of zeros, or the end."""
    start = offset
    told: dict[bytes, bytes] = {}  # of the next member, by extended headers
    while offset < tar.end and (header := _header(tar, offset)):
        kind, name, size = header
        body = offset + BLOCK
        if kind in _EXTENDED:
            told |= _extended(tar, offset, kind, size)
            offset = body + _padded(size)
            continue
        if kind in _REGULAR:
            size = int(told.get(b"size", size))
            if body + _padded(size) > tar.end:
                raise tar.error(offset, f"{size} bytes announced, {tar.end - body} are left")
            path = _checked_name(tar, offset, told.get(b"path", name))
            yield Member(path, body, size, start)
        elif kind in _SKIPPED:
            skipped[_SKIPPED[kind]] += 1
            size = 0  # no bytes follow, whatever the header says
        else:
            raise tar.error(offset, f"a member of unknown type {kind!r}")
        start = offset = body + _padded(size)
        told = {}
    if start != offset:
        raise tar.error(start, "an extended header without the member it speaks of")
    return offset


def _header(tar: _Tar, offset: int) -> tuple[bytes, bytes, int] | None:
    """Kind, name and size; None for a block of zeros."""
    block = tar.read(offset, BLOCK)
    if block == _ZEROS:
        return None
    checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _number(block[148:156]) != checksum:
        packed = next((name for start, name in _PACKED.items() if not offset and block.startswith(start)), "")
        what = f"{packed}, not a tar: unpack it first" if packed else "no tar header, or a damaged one"
        raise tar.error(offset, what)
    size = _number(block[124:136])
    if size is None:
        raise tar.error(offset, "a size that is no number")
    name = block[:100].partition(b"\0")[0]
    # GNU tar, told by its magic, keeps times where USTAR has the name's prefix.
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return block[156:157], name, size


def _number(field: bytes) -> int | None:
    if field[0] == 0x80:  # GNU, base 256: what octal digits cannot say
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    return int(match[1] or b"0", 8) if match else None


def _extended(tar: _Tar, offset: int, kind: bytes, size: int) -> dict[bytes, bytes]:
    """What a PAX or GNU header tells of the next member; `path` and `size` are used."""
    if size > MAX_EXTENDED:
        raise tar.error(offset, f"an extended header of {size} bytes, {MAX_EXTENDED} at most")
    body = tar.read(offset + BLOCK, size)
    if kind == b"L":
        return {b"path": body.partition(b"\0")[0]}
    return _pax(tar, offset, body) if kind == b"x" else {}


def _pax(tar: _Tar, offset: int, body: bytes) -> dict[bytes, bytes]:
    """Records `<length of all of it> <key>=<value>\\n`, one after the other."""
    told: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        length = _PAX_LENGTH.match(body, at)
        end = at + int(length[1]) if length else 0
        if not length or end <= length.end() or body[end - 1 : end] != b"\n":
            raise tar.error(offset, "a PAX header that does not parse")
        key, _, value = body[length.end() : end - 1].partition(b"=")
        told[key] = value
        at = end
    if not _PAX_SIZE.fullmatch(told.get(b"size", b"0")):
        raise tar.error(offset, "a PAX size that is no number")
    if any(key.startswith(b"GNU.sparse") for key in told):
        raise tar.error(offset, "a sparse member, whose bytes are not its content")
    return told


def _checked_name(tar: _Tar, offset: int, raw: bytes) -> str:
    name = raw.decode(errors="replace").removeprefix("./")  # as `tar -c .` gives
    parts = name.split("/")
    if not parts[0] or ".." in parts or "\0" in name or "\ufffd" in name:
        raise tar.error(offset, f"an empty, absolute, climbing or non-UTF-8 name: {raw[:80]!r}")
    return name


def _padded(size: int) -> int:
    return size + -size % BLOCK
