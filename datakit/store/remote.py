"""A store behind a URL: large files fetched whole into the cache on first use, or read by ranges where they lie.

    open_store("s3://bucket/birds")                  shards in the cache of this machine
    open_store("https://host/birds", cache=False)    a request a sample: right for few samples at random

What the manifest lists is held against its sha256 where it is read whole; a sample is held against its own digest by
whoever reads it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datakit.errors import DatakitError, StoreError
from datakit.store.cache import Cache
from datakit.store.client import Client, Patience, Seen
from datakit.store.files import Handle, LocalHandle, copied
from datakit.store.layout import File
from datakit.store.urls import Url

CHUNK = 16 << 20  # bytes of one request of a fetch: what is lost where a connection breaks
THREADS = 2  # that fetch ahead


class RemoteFiles:
    """The files below a URL. `cache`: None reads all of them where they lie."""

    def __init__(self, url: Url, cache: Cache | None = None, patience: Patience | None = None) -> None:
        self.cache = cache
        self.client = Client(url, patience)
        self._expected: Mapping[str, File] = {}
        self._ahead: _Ahead | None = None
        self._sound: set[str] = set()  # digests of copies that were compared

    @property
    def name(self) -> str:
        return self.client.url.name

    @property
    def local(self) -> Path | None:
        return None

    def expect(self, files: Mapping[str, File]) -> None:
        """What the manifest lists, by path: these are held against it, and kept in the cache."""
        self._expected = dict(files)

    def read(self, path: str) -> bytes:
        file = self._expected.get(path)
        if file is None:
            return self.client.read(path)
        if self.cache and self.cache.fits(file):
            handle = self._cached(file, self.cache)
            data = _as_written(file, handle.read(0, file.bytes))
            if data is not None:
                return data
            self.cache.forget(file, handle)  # damaged on the disk of this machine
            data = _as_written(file, self._cached(file, self.cache).read(0, file.bytes))
        else:
            data = _as_written(file, b"".join(self.chunks(file)))
        if data is None:
            raise StoreError(f"{self.name}/{path} is not as written: its sha256 is not the manifest's")
        return data

    def _cached(self, file: File, cache: Cache) -> LocalHandle:
        return cache.get(file, lambda: self.chunks(file))

    def open(self, file: File) -> Handle:
        ahead = self._fetching
        if self.cache is None or ahead is None or not self.cache.fits(file):
            return RemoteHandle(self.client, file, self.client.look(file.path))
        handle = self.cache.have(file)
        if handle is None:
            if problem := ahead.problem(file):
                raise problem
            handle = self._cached(file, self.cache)
        ahead.opened(file)
        return handle

    def forget(self, file: File, handle: Handle) -> bool:
        """The copy is hashed, once: where it is sound, the store itself is damaged."""
        if self.cache is None or not isinstance(handle, LocalHandle) or file.sha256 in self._sound:
            return False
        digest = hashlib.sha256()
        for start in range(0, file.bytes, CHUNK):
            digest.update(handle.read(start, min(CHUNK, file.bytes - start)))
        if digest.hexdigest() == file.sha256:
            self._sound.add(file.sha256)
            return False
        self.cache.forget(file, handle)
        return True

    def prefetch(self, files: Sequence[File]) -> None:
        """Fetch these, in this order, while others are read. What goes wrong is raised where they are opened."""
        if ahead := self._fetching:
            ahead.add(files)

    def chunks(self, file: File) -> Iterator[bytes]:
        """Its bytes, request by request; each is tried again on its own."""
        if file.bytes <= CHUNK or not self.client.ranges:
            yield self.client.read(file.path, limit=file.bytes)
            return
        first = self.client.read(file.path, 0, CHUNK)
        if not self.client.ranges:  # known from here on
            yield self.client.read(file.path, limit=file.bytes)
            return
        yield first
        for start in range(CHUNK, file.bytes, CHUNK):
            yield self.client.read(file.path, start, min(CHUNK, file.bytes - start))

    @property
    def _fetching(self) -> _Ahead | None:
        if self.cache is None:
            return None
        if self._ahead is None or self._ahead.process != os.getpid():
            self._ahead = _Ahead(self, self.cache)
        return self._ahead

    def __getstate__(self) -> dict[str, Any]:
        """For another process: where, not what is under way here."""
        return {**self.__dict__, "_ahead": None}


class RemoteHandle:
    """A file read by ranges where it lies."""

    def __init__(self, client: Client, file: File, seen: Seen) -> None:
        self._client, self._file = client, file
        # Some servers do not say; then every sample's digest is what tells.
        self.size = file.bytes if seen.size is None else seen.size

    def read(self, offset: int, size: int) -> bytes:
        there = max(0, min(size, self.size - offset))
        try:
            data = self._client.read(self._file.path, offset, there)
        except FileNotFoundError as problem:
            raise StoreError(f"{problem}: it is gone since it was opened") from None
        if not self._client.ranges and there < self.size:
            raise StoreError(
                f"{self._client.url.name}: the server sends whole files where parts are asked for; "
                "open the store with cache=True"
            )
        return data

    def read_into(self, offset: int, space: memoryview) -> int:
        return copied(self.read(offset, len(space)), space)


class _Ahead:
    """Threads of one process that fetch what will be opened soon. They end when there is nothing to fetch."""

    def __init__(self, files: RemoteFiles, cache: Cache) -> None:
        self.process = os.getpid()
        self._files, self._cache = files, cache
        self._lock = threading.Lock()
        self._waiting: deque[File] = deque()
        self._threads = 0
        self._fetched: dict[str, int] = {}  # bytes by digest, of what nobody opened yet or is under way
        self._problems: dict[str, DatakitError | FileNotFoundError] = {}

    def add(self, files: Iterable[File]) -> None:
        limit = self._cache.limit
        with self._lock:
            for file in files:
                # More than half of the cache, and what was fetched first would make room for what comes last.
                room = sum(self._fetched.values()) + file.bytes <= limit // 2
                if room and file.sha256 not in self._fetched and self._cache.fits(file):
                    self._fetched[file.sha256] = file.bytes
                    self._problems.pop(file.sha256, None)
                    self._waiting.append(file)
            for _ in range(min(THREADS, len(self._waiting)) - self._threads):
                threading.Thread(target=self._work, name="datakit-prefetch", daemon=True).start()
                self._threads += 1

    def opened(self, file: File) -> None:
        with self._lock:
            self._fetched.pop(file.sha256, None)

    def problem(self, file: File) -> DatakitError | FileNotFoundError | None:
        """What went wrong with it. Told once: the next to open it tries again."""
        with self._lock:
            return self._problems.pop(file.sha256, None)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                file = self._waiting.popleft()
            try:
                self._cache.get(file, partial(self._files.chunks, file))
            except (DatakitError, FileNotFoundError) as problem:
                with self._lock:
                    self._problems[file.sha256] = problem
                    self._fetched.pop(file.sha256, None)


def _as_written(file: File, data: bytes) -> bytes | None:
    return data if hashlib.sha256(data).hexdigest() == file.sha256 else None
