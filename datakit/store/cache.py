"""Files from elsewhere, kept on this machine by digest: `<cache>/shards/<sha256>`, bounded, least used out first.

A file is written as `.part-…`, its bytes counted and hashed on the way, then synced and renamed: what has a digest
for a name has it for content too. One process fetches, others wait for it; a file that is open outlives its
removal. Nothing here is needed: it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datakit.errors import ConfigError, EnvironmentProblem, StoreError
from datakit.manifest import sync
from datakit.store.files import LocalHandle
from datakit.store.layout import File

LARGEST = 50 * 10**9  # bytes, where nobody says otherwise
SHARE = 0.2  # of what the disk has free and the cache has taken: likewise
ABANDONED = 3600.0  # seconds after which a part that nobody writes to is nobody's
WAIT = 900.0  # seconds for another process that fetches the same file, before fetching it too
POLL = (0.02, 0.5)  # seconds between looks, shortest and longest
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SOURCES = "sources"

Chunks = Callable[[], Iterable[bytes]]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A shard or a source's copy in the cache. `used`: seconds since the epoch."""

    kind: str
    name: str
    bytes: int
    used: float


def cache_folder() -> Path:
    """DATAKIT_CACHE_DIR, else `datakit` in XDG_CACHE_HOME, else ~/.cache/datakit."""
    if named := os.environ.get("DATAKIT_CACHE_DIR"):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "datakit"


def bytes_of(text: str, name: str) -> int:
    """`500000000`, `500MB` and `0.5 GB` alike; units are powers of 1000. Raises ConfigError naming `name`."""
    found = _BYTES.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"{name}={text}: give bytes, as 20000000000 or 20GB")
    return int(float(found[1]) * _UNITS[found[2].lower()])


class Cache:
    """The cache in a folder. `limit`: bytes; None: DATAKIT_CACHE_BYTES, else 50 GB or a fifth of the free disk."""

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder = folder or cache_folder()
        self._limit = limit
        if limit is None and (said := os.environ.get("DATAKIT_CACHE_BYTES")):
            self._limit = bytes_of(said, "DATAKIT_CACHE_BYTES")

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    @property
    def limit(self) -> int:
        """Bytes that the shards may take. The less of 50 GB and a fifth of the room, where nobody set it."""
        if self._limit is not None:
            return self._limit
        there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        room = shutil.disk_usage(there).free + sum(kept.bytes for kept in self._shards())
        return min(LARGEST, int(room * SHARE))

    def fits(self, file: File) -> bool:
        """Whether a file may be kept at all."""
        return bool(_SHA256.fullmatch(file.sha256)) and file.bytes <= self.limit

    def have(self, file: File) -> LocalHandle | None:
        """The file, opened, if it is here."""
        path = self.shards / file.sha256
        try:
            handle = LocalHandle(path)
            os.utime(path)  # used now
        except FileNotFoundError:
            return None
        except PermissionError as problem:
            raise EnvironmentProblem(
                f"cannot use {path}: {problem.strerror}; give another cache"
            ) from problem
        if handle.size == file.bytes:
            return handle
        self.forget(file, handle)
        return None

    def get(self, file: File, chunks: Chunks) -> LocalHandle:
        """The file, opened; fetched by `chunks` if it is not here, and by one process only.

        Raises StoreError naming the file if its bytes are not those of its digest, at a second try either.
        """
        if handle := self.have(file):
            return handle
        with _machine(self.folder), self._lock(file.sha256[:2]):
            if handle := self.have(file):
                return handle
            self._make_room(file.bytes)
            try:
                return self._fetch(file, chunks)
            except _Differs:
                pass
            try:
                return self._fetch(file, chunks)
            except _Differs as problem:
                raise StoreError(f"{file.path} is not as written, fetched twice: {problem}") from None

    def forget(self, file: File, handle: LocalHandle) -> None:
        """Let go of a file that was found to be damaged in `handle`; not of one that was fetched since."""
        path = self.shards / file.sha256
        with _machine(self.folder), contextlib.suppress(FileNotFoundError):
            if handle.is_at(path):
                path.unlink()

    def _fetch(self, file: File, chunks: Chunks) -> LocalHandle:
        self.shards.mkdir(parents=True, exist_ok=True)
        part = self.shards / f".part-{file.sha256}-{uuid.uuid4().hex}"
        digest, size = hashlib.sha256(), 0
        try:
            with part.open("xb") as target:
                for chunk in chunks():
                    digest.update(chunk)
                    size += target.write(chunk)
            if size != file.bytes:
                raise _Differs(f"{size} bytes, and {file.bytes} were written")
            if digest.hexdigest() != file.sha256:
                raise _Differs("its sha256 is not the manifest's")
            sync(part)
            handle = LocalHandle(part)  # open before anybody can remove it
            part.replace(self.shards / file.sha256)
            sync(self.shards)
            return handle
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, coming: int) -> None:
        with self._lock("room"):
            self._evict(self.limit - coming)

    def _evict(self, most: int) -> list[Kept]:
        """Remove the least used shards until `most` bytes are left, and parts that nobody goes on writing."""
        now, gone = time.time(), []
        parts = 0
        for part in self._files(".part-*"):
            with contextlib.suppress(FileNotFoundError):
                found = part.stat()
                if now - found.st_mtime > ABANDONED:
                    part.unlink()
                    gone.append(Kept(kind="part", name=part.name, bytes=found.st_size, used=found.st_mtime))
                else:
                    parts += found.st_size
        shards = sorted(self._shards(), key=lambda kept: (kept.used, kept.name))
        total = parts + sum(kept.bytes for kept in shards)
        for kept in shards:
            if total <= most:
                break
            (self.shards / kept.name).unlink(missing_ok=True)
            total -= kept.bytes
            gone.append(kept)
        return gone

    def _files(self, pattern: str) -> Iterator[Path]:
        return self.shards.glob(pattern) if self.shards.is_dir() else iter(())

    def _shards(self) -> Iterator[Kept]:
        for path in self._files("[0-9a-f]*"):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if _SHA256.fullmatch(path.name):
                    yield Kept(kind="shard", name=path.name, bytes=found.st_size, used=found.st_mtime)

    def _sources(self) -> Iterator[Kept]:
        for folder in sorted((self.folder / _SOURCES).glob("*/")):
            files = [path.stat() for path in folder.rglob("*") if path.is_file()]
            used = max((found.st_mtime for found in files), default=folder.stat().st_mtime)
            size = sum(found.st_size for found in files)
            yield Kept(kind="source", name=folder.name, bytes=size, used=used)

    def source(self, name: str) -> Path:
        """The folder for the copy of a source."""
        return self.folder / _SOURCES / name

    def kept(self) -> list[Kept]:
        """All that is here, the last used first."""
        return sorted([*self._shards(), *self._sources()], key=lambda kept: (-kept.used, kept.name))

    def collect(self, most: int | None = None, *, everything: bool = False) -> list[Kept]:
        """Remove shards down to `most` bytes (None: the limit), or everything, copies of sources too; what went."""
        if not self.folder.is_dir():
            return []
        with _machine(self.folder), self._lock("room"):
            gone = self._evict(0 if everything else self.limit if most is None else most)
            for kept in list(self._sources()) if everything else ():
                with self._lock(kept.name):
                    shutil.rmtree(self.source(kept.name))
                gone.append(kept)
        return gone

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """One process at a time, of those that are patient: after WAIT seconds a second one goes on as well."""
        with _machine(self.folder), self._lock(name):
            yield

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        path = self.folder / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            held = _locked(file.fileno())
            try:
                yield
            finally:
                if held:  # said aloud: a child that was forked meanwhile has the file open too
                    fcntl.flock(file, fcntl.LOCK_UN)


def _locked(descriptor: int) -> bool:
    """Whether the lock was had within WAIT. It saves work and nothing else: a stopped holder must not stop us."""
    end, pause = time.monotonic() + WAIT, POLL[0]
    while time.monotonic() < end:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(pause)
            pause = min(2 * pause, POLL[1])
    return False


class _Differs(Exception):
    """What was fetched is not what was written."""


@contextlib.contextmanager
def _machine(folder: Path) -> Iterator[None]:
    """Errors of the cache's own disk, named as such."""
    try:
        yield
    except FileNotFoundError:
        raise  # the caller's: a file that is not where it was fetched from
    except OSError as problem:
        raise EnvironmentProblem(
            f"the cache {folder} cannot be used: {problem.strerror or problem}; free some of the disk, name "
            "another by DATAKIT_CACHE_DIR, or read without it (cache=False)"
        ) from problem


def cache_list(cache: Cache) -> tuple[dict[str, Any], str]:
    """What `datakit cache ls` says: its object and its text."""
    kept = cache.kept()
    total = sum(item.bytes for item in kept if item.kind == "shard")
    found = {
        "folder": str(cache.folder),
        "limit": cache.limit,
        "bytes": total,
        "rows": [asdict(item) for item in kept],
    }
    lines = [
        f"{item.kind:<6}  {item.bytes / 1e6:>10.1f} MB  "
        f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(item.used))}  {item.name}"
        for item in kept
    ]
    head = f"{cache.folder}: shards {total / 1e6:.1f} MB of {cache.limit / 1e6:.1f} MB at most"
    return found, "\n".join([head, *lines])


def cache_collect(cache: Cache, words: Iterable[str], everything: bool) -> tuple[dict[str, Any], str]:
    """What `datakit cache gc [bytes=N]` did: its object and its text."""
    most: int | None = None
    for word in words:
        name, _, text = word.partition("=")
        if name != "bytes":
            raise ConfigError(f"{word}: cache gc knows bytes=N, as in bytes=20GB, and --all")
        most = bytes_of(text, "bytes")
    if everything and most is not None:
        raise ConfigError("give bytes=N or --all, not both")
    gone = cache.collect(most, everything=everything)
    freed = sum(item.bytes for item in gone)
    found = {"folder": str(cache.folder), "freed": freed, "rows": [asdict(item) for item in gone]}
    return found, f"{cache.folder}: {len(gone)} removed, {freed / 1e6:.1f} MB"
