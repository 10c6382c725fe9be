"""The files of a store, wherever they lie: whole small ones, and positional reads of large ones.

`open_files` tells a folder from a URL. Readers know paths relative to the root, never where that is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from datakit.errors import StoreError
from datakit.store.layout import File
from datakit.store.urls import is_url, parse_url


class Handle(Protocol):
    """A large file, open for positional reads from any thread. It closes when nothing refers to it any more."""

    @property
    def size(self) -> int:
        """Bytes that it has now."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, fewer only at its end. Raises StoreError naming the file."""
        ...

    def read_into(self, offset: int, space: memoryview) -> int:
        """Fill `space` from `offset` on; bytes read, fewer only at the file's end. Raises StoreError."""
        ...


class Files(Protocol):
    """The files of one tree."""

    @property
    def name(self) -> str:
        """Of the root, for messages."""
        ...

    @property
    def local(self) -> Path | None:
        """The folder, if it is one of this machine."""
        ...

    def read(self, path: str) -> bytes:
        """A small file, whole. Raises FileNotFoundError, or StoreError where it cannot be read."""
        ...

    def open(self, file: File) -> Handle:
        """A file that the manifest lists. Raises FileNotFoundError, or StoreError where it cannot be opened."""
        ...

    def expect(self, files: Mapping[str, File]) -> None:
        """Say what the manifest lists, by path: what is fetched of it is held against that, and may be kept."""
        ...

    def forget(self, file: File, handle: Handle) -> bool:
        """Whether this is a copy on this machine that was damaged here. It is let go of: open the file again."""
        ...

    def prefetch(self, files: Sequence[File]) -> None:
        """Say which files will be opened soon, in this order. Returns at once; what fails is raised by `open`."""
        ...


def open_files(place: str | os.PathLike[str], *, cache: bool | str | os.PathLike[str] = True) -> Files:
    """The files below a folder or a URL.

    cache: whether large files of a URL are fetched whole and kept, or the folder to keep them in; files of this
    machine are never copied.  Raises ConfigError (a scheme that is not ours), MissingExtra.
    """
    if not is_url(text := os.fspath(place)):
        return LocalFiles(Path(text))
    from datakit.store.cache import Cache
    from datakit.store.remote import RemoteFiles

    url = parse_url(text)
    if isinstance(cache, bool):
        return RemoteFiles(url, Cache() if cache else None)
    return RemoteFiles(url, Cache(Path(cache).expanduser().absolute()))


def copied(data: bytes, space: memoryview) -> int:
    """Put `data` at the start of `space`; their length."""
    space[: len(data)] = data
    return len(data)


class LocalFiles:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def name(self) -> str:
        return str(self.root)

    @property
    def local(self) -> Path:
        return self.root

    def read(self, path: str) -> bytes:
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(path) from None
        except OSError as problem:
            raise StoreError(f"{self.root / path} cannot be read: {problem.strerror}") from problem

    def open(self, file: File) -> LocalHandle:
        return LocalHandle(self.root / file.path)

    def expect(self, files: Mapping[str, File]) -> None:
        """Nothing to do: whoever reads compares."""

    def forget(self, file: File, handle: Handle) -> bool:
        """There are no copies: False."""
        return False

    def prefetch(self, files: Sequence[File]) -> None:
        """Nothing to do: it is here."""


class LocalHandle:
    """A descriptor. Positional reads, not a memory map: a file that shrinks under a map kills its reader."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(str(path)) from None
        except OSError as problem:
            raise StoreError(f"{path} cannot be opened: {problem.strerror}") from problem

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def is_at(self, path: Path) -> bool:
        """Whether this file is what lies at `path` now. Raises FileNotFoundError where nothing does."""
        return os.path.samestat(os.fstat(self._descriptor), path.stat())

    def read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._descriptor, size, offset)
            # One call gives 2 GiB at most, and over a network perhaps less.
            while len(data) < size and (more := self._pread(size - len(data), offset + len(data))):
                data += more
            return data
        except OSError as problem:
            raise StoreError(f"{self.path} cannot be read: {problem.strerror}") from problem

    def _pread(self, size: int, offset: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def read_into(self, offset: int, space: memoryview) -> int:
        if not hasattr(os, "preadv"):  # Windows, old macOS
            return copied(self.read(offset, len(space)), space)
        try:
            done = os.preadv(self._descriptor, (space,), offset)
            while done < len(space) and (more := os.preadv(self._descriptor, (space[done:],), offset + done)):
                done += more
            return done
        except OSError as problem:
            raise StoreError(f"{self.path} cannot be read: {problem.strerror}") from problem

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Bound above: at the interpreter's end `os` may be gone before this is.
        if self._descriptor >= 0:
            close(self._descriptor)
            self._descriptor = -1
