"""Shards as plain USTAR tars, written, hashed and indexed in one pass.

Equal samples give equal bytes. `tar_reader` reads them back, and foreign ones.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import xxhash

from datakit.blob import Blob
from datakit.disk import confirm, disk, part_of, remember, sync
from datakit.errors import SampleError, StoreError

Digest = Literal["sha256", "xxh3", "none"]

BLOCK = 512  # bytes; a header is one block, a body is padded to whole ones
END = bytes(2 * BLOCK)  # closes every tar: without it, the tar was cut
MAX_NAME = 100  # bytes; longer names crash wids (PAX, GNU) or change its keys (USTAR prefix)
MAX_BODY = 8**11 - 1  # bytes; a USTAR size has eleven octal digits
BUFFER = 1 << 20  # bytes; a sample that fits is written at once, still in cache from read and hash

KEY = re.compile(r"[a-z0-9_-]{1,64}")
# No dots: readers end the key at the first. No directory like __x__: webdataset skips it silently.
_KEY_IN_DIRECTORY = re.compile(rf"(?:(?!__[a-z0-9_-]*__/){KEY.pattern}/)?{KEY.pattern}")
_EXTENSION = re.compile(r"[a-z0-9]+(?:\.[a-z0-9]+)*")
_RUNS_CODE = {"pickle", "pkl", "pt", "pth", "pyd"}  # readers unpickle what is named so


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """Where a sample lies in its tar: `size` bytes from its first header at `offset` to padded end.

    xxh3: xxh3_128 of exactly these bytes, in hex; empty if written with digest="none".
    """

    key: str
    offset: int
    size: int
    xxh3: str


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A complete shard: its size in `bytes`, the `sha256` of them if asked for, its samples."""

    samples: int
    bytes: int
    sha256: str | None
    records: list[SampleRecord]


class TarWriter:
    """One shard, which appears at `path` complete or not at all.

        with TarWriter(path) as shard:
            shard.add("cat/0001", {"jpg": Blob(file, 0, size), "cls": b"7"})
        shard.record    # set by the clean exit

    Bytes go to `<path>.part-<unique>`; a clean exit ends the tar, syncs it, reads it again and renames it to
    `path`; an exception removes it. EnvironmentProblem, here and in `add`, if the disk refuses, or gives
    back other bytes than were written.

    digest: "sha256" of the shard and xxh3 of each sample, "xxh3" of each sample only, or "none".
    fsync: False for scratch that need not outlive a power cut.
    """

    record: ShardRecord

    def __init__(self, path: Path, *, digest: Digest = "sha256", fsync: bool = True) -> None:
        self.path = path
        self._part = part_of(path)
        self._file = -1
        self._fsync = fsync
        self._digest = digest
        self._sha256 = hashlib.sha256()  # of the samples taken so far, if the digest is sha256
        self._xxh3 = xxhash.xxh3_128()  # of the same bytes, to compare with what the disk gives back
        self._records: dict[str, SampleRecord] = {}
        self._end = 0  # bytes of the samples taken so far
        self._buffer = memoryview(bytearray(BUFFER))

    def __enter__(self) -> Self:
        with disk(self._part):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self._part, flags, 0o666)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with disk(self.path):
            try:
                if kind is None:
                    self._commit()
            finally:
                try:
                    self._close()
                finally:
                    self._part.unlink(missing_ok=True)  # renamed by now, unless something failed

    def add(self, key: str, fields: Mapping[str, bytes | memoryview | Blob]) -> SampleRecord:
        """Append one sample, a member `key.extension` for each field in the order given.

        SampleError if a Blob's file is gone ("missing_file"), shorter than it was ("changed") or
        unreadable ("unreadable_file"), or a field is larger than USTAR can say ("too_large"):
        the shard is as before and takes the next sample. StoreError if the key is in the shard
        already, or key or extension are outside the grammar.
        """
        names = member_names(key, fields)
        if key in self._records:
            raise StoreError(f"{self.path} has a sample {key!r} already")
        xxh3, whole, sha256 = xxhash.xxh3_128(), self._xxh3.copy(), self._sha256.copy()
        hashes: list[_Hash] = [whole] if self._digest == "none" else [whole, xxh3]
        if self._digest == "sha256":
            hashes.append(sha256)
        draft = _Draft(self._write, self._end, self._buffer, hashes)
        for name, value in zip(names, fields.values(), strict=True):
            draft.member(name, value)
        draft.flush()
        digest = "" if self._digest == "none" else xxh3.hexdigest()
        record = SampleRecord(key, self._end, draft.end - self._end, digest)
        # Only now is the sample in. What a failed one wrote lies past the end: overwritten or cut.
        self._records[key], self._end = record, draft.end
        self._sha256, self._xxh3 = sha256, whole
        return record

    def _commit(self) -> None:
        self._write(memoryview(END), self._end)
        self._sha256.update(END)
        self._xxh3.update(END)
        size = self._end + len(END)
        os.ftruncate(self._file, size)
        if self._fsync:
            os.fsync(self._file)
        self._close()
        digest = self._xxh3.hexdigest()
        confirm(self._part, digest)
        self._part.rename(self.path)
        if self._fsync:
            sync(self.path.parent)
        remember(self.path, digest)
        self.record = ShardRecord(
            samples=len(self._records),
            bytes=size,
            sha256=self._sha256.hexdigest() if self._digest == "sha256" else None,
            records=list(self._records.values()),
        )

    def _close(self) -> None:
        # Forgotten first: a late `add` must not reach a file that was given the same number.
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _write(self, data: memoryview, offset: int) -> None:
        with disk(self.path):
            while data:
                count = os.pwrite(self._file, data, offset)
                data, offset = data[count:], offset + count


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...


class _Draft:
    """A sample on its way into the file, from `end` on: hashed and written a buffer at a time."""

    def __init__(
        self,
        write: Callable[[memoryview, int], None],
        end: int,
        buffer: memoryview,
        hashes: list[_Hash],
    ) -> None:
        self.end = end  # grows with every flush
        self._write = write
        self._buffer = buffer
        self._used = 0  # bytes of the buffer
        self._hashes = hashes

    def member(self, name: bytes, value: bytes | memoryview | Blob) -> None:
        """Header, body, padding."""
        size = value.size if isinstance(value, Blob) else memoryview(value).nbytes
        if size > MAX_BODY:
            raise SampleError("too_large", f"{name.decode()}: {size} bytes, {MAX_BODY} at most")
        self._put(memoryview(header(name, size)))
        if isinstance(value, Blob):
            self._copy(value)
        else:
            self._put(_flat(value))
        self._put(memoryview(END)[: -size % BLOCK])

    def flush(self) -> None:
        """Hash and write what waits in the buffer."""
        waiting = self._buffer[: self._used]
        for digest in self._hashes:
            digest.update(waiting)
        self._write(waiting, self.end)
        self.end += self._used
        self._used = 0

    def _put(self, data: memoryview) -> None:
        while data:
            piece = data[: len(self._buffer) - self._used]
            self._buffer[self._used : self._used + len(piece)] = piece
            self._advance(len(piece))
            data = data[len(piece) :]

    def _copy(self, blob: Blob) -> None:
        try:
            source = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._copy_from(source, blob)
            finally:
                os.close(source)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SampleError("missing_file", blob.path) from error
        except OSError as error:
            raise SampleError("unreadable_file", f"{blob.path}: {error.strerror}") from error

    def _copy_from(self, source: int, blob: Blob) -> None:
        missing = blob.size
        while missing:
            room = self._buffer[self._used : self._used + missing]
            count = os.preadv(source, [room], blob.offset + blob.size - missing)
            if not count:
                raise SampleError("changed", f"{blob.path} ends {missing} bytes early")
            self._advance(count)
            missing -= count

    def _advance(self, count: int) -> None:
        self._used += count
        if self._used == len(self._buffer):
            self.flush()


def check_key(key: object) -> None:
    """Raise StoreError for what is no key of a sample: a list or table may hold anything, even `../`."""
    if not isinstance(key, str) or not _KEY_IN_DIRECTORY.fullmatch(key):
        raise StoreError(f"{key!r} is no key: want {KEY.pattern}, or directory/key of it")


def member_names(key: str, extensions: Collection[str]) -> list[bytes]:
    """`key.extension` for each; StoreError if a consumer would misread one, or run code from it."""
    check_key(key)
    if not extensions:
        raise StoreError(f"sample {key!r} has no fields")
    for extension in extensions:
        _check_extension(extension)
    names = [f"{key}.{extension}".encode() for extension in extensions]
    if (size := max(map(len, names))) > MAX_NAME:
        raise StoreError(f"sample {key!r}: a member's name has {size} bytes, {MAX_NAME} at most")
    return names


@functools.cache
def _check_extension(extension: str) -> None:
    if not _EXTENSION.fullmatch(extension):
        raise StoreError(f"{extension!r} is no extension: want {_EXTENSION.pattern}")
    # Any part, not the last alone: webdataset takes .gz off, then decodes by what stood before it.
    if unsafe := _RUNS_CODE & set(extension.split(".")):
        raise StoreError(f"{extension!r} is refused: readers run code from .{unsafe.pop()} members")


# All that a header says beside name and size is constant: no clock, no user, no mode of the source.
_OWNER = b"0000444\0" + 2 * b"0000000\0"  # mode, user, group
_MTIME = b"00000000000\0"
_KIND = b"0" + bytes(100) + b"ustar\x0000"  # regular file, no link target, magic and version
_REST = bytes(64) + 2 * b"0000000\0" + bytes(155 + 12)  # no owner names, no device, no prefix
_CONSTANT_SUM = sum(_OWNER + _MTIME + _KIND + _REST) + 8 * ord(" ")  # a checksum counts as spaces


def header(name: bytes, size: int) -> bytes:
    """One USTAR header, 512 bytes: a regular file; name and size within MAX_NAME and MAX_BODY."""
    digits = b"%011o" % size
    before = name.ljust(100, b"\0") + _OWNER + digits + b"\0" + _MTIME
    checksum = b"%06o\0 " % (_CONSTANT_SUM + sum(name) + sum(digits))
    return before + checksum + _KIND + _REST


def _flat(value: bytes | memoryview) -> memoryview:
    view = memoryview(value)
    return view if view.format == "B" and view.ndim == 1 else memoryview(view.tobytes())
