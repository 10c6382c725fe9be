"""A source behind a URL, copied to this machine before it is read: `<cache>/sources/<hash of the URL>/`.

A file is fetched once and kept while the server says the same size and the same token (ETag) of it; one whose
server says neither is fetched each time. What a build makes of it depends on its bytes, never on the copy's place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datakit.errors import CatalogError, ConfigError, EnvironmentProblem, StoreError
from datakit.manifest import atomic, write_json
from datakit.store.cache import Cache
from datakit.store.client import DENIED, Client, Patience, Seen, status
from datakit.store.contents import Contents, contents_of, read_contents
from datakit.store.layout import MANIFEST
from datakit.store.remote import CHUNK, RemoteFiles
from datakit.store.urls import Url, public_url

TOGETHER = 16  # files that are fetched at once: sources are often many and small
MAX_UNTOLD = 2 << 30  # bytes of a file whose size the server does not say: it is held in memory
_FETCHED = "fetched.json"

Known = dict[
    str, list[object]
]  # path → size and token as the server said them, size and time as they are here


def local_copy(source: str, cache: Cache | None = None, patience: Patience | None = None) -> Path:
    """The folder or file of this machine that holds what `source=` names. Raises CatalogError, EnvironmentProblem.

    A URL names a folder of s3://, gs://, hf://, or a file; of http(s):// a file, or a store of ours.
    """
    if any(sign in source for sign in "*{}"):
        raise ConfigError(f"source={source}: a URL has no patterns; give the folder")
    url, cache = public_url(source, "source"), cache or Cache()
    name = hashlib.sha256(url.base.encode()).hexdigest()[:32]
    folder = cache.source(name)
    with cache.lock(name):
        try:
            wanted = _wanted(url, patience)
            _fetch(wanted, folder)
        except FileNotFoundError as problem:
            raise CatalogError(f"source={source}: {problem} is not there") from None
        except StoreError as problem:
            raise CatalogError(f"source={source}: {problem}") from problem
    return folder / "files" / next(iter(wanted.files)) if wanted.is_file else folder / "files"


@dataclass(frozen=True)
class _Wanted:
    """What to fetch: files below the client's folder, of one file the folder that it is in.

    store: the manifest, where they are a store of ours; what it lists is held against it.
    """

    client: Client
    files: dict[str, Seen]
    is_file: bool = False
    store: Contents | None = None


def _wanted(url: Url, patience: Patience | None) -> _Wanted:
    client = Client(url, patience)
    head, _, last = url.base.rpartition("/")
    beside = Client(Url(scheme=url.scheme, base=head), patience)
    found = {} if url.web else client.listing()
    # A key may end in a slash: the mark of a folder, for tools that show folders.
    found = {path: seen for path, seen in found.items() if not path.endswith("/") and path}
    # Asked first: a name may have a dot, and some servers have a page for every folder.
    if store := _store(client, found, is_named=bool(PurePosixPath(last).suffix)):
        listed = {path: found.get(path) or client.look(path) for path in (MANIFEST, *store.files)}
        return _Wanted(client, {**found, **listed}, store=store)
    return _Wanted(client, found) if found else _Wanted(beside, {last: beside.look(last)}, is_file=True)


def _store(client: Client, found: Mapping[str, Seen], *, is_named: bool) -> Contents | None:
    """The manifest, where there is one of ours; of a web server, whatever is there by its name must be.

    is_named: the URL ends as that of a file, and a server that answers everything has said nothing.
    """
    if client.url.web:
        try:
            client.look(MANIFEST)
        except FileNotFoundError:
            return None
        except EnvironmentProblem as problem:
            if status(problem) in DENIED:  # some say so of what is not there
                return None
            raise
    elif MANIFEST not in found:
        return None
    try:
        return contents_of(RemoteFiles(client.url, patience=client.patience))
    except StoreError:
        if client.url.web and not is_named:
            raise
        return None


def _fetch(wanted: _Wanted, folder: Path) -> None:
    files, client = folder / "files", wanted.client
    _check_paths(client, wanted.files)
    known = _known(folder)
    todo = [
        path
        for path, seen in wanted.files.items()
        if known.get(path) != _stamp(seen, files / path) or not seen.token
    ]
    _prune(files, wanted.files)
    if not todo:
        return

    def fetch(path: str) -> None:
        listed = wanted.store and wanted.store.files.get(path)
        _fetch_file(client, path, wanted.files[path], files / path, listed.sha256 if listed else None)
        known[path] = _stamp(wanted.files[path], files / path)

    try:
        with ThreadPoolExecutor(TOGETHER) as pool:
            waiting = [pool.submit(fetch, path) for path in todo]
            try:
                for future in waiting:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        # What an attempt that broke off had is had: the next one goes on.
        write_json(folder / _FETCHED, {path: known[path] for path in sorted(set(known) & set(wanted.files))})
    if wanted.store and read_contents(files).digest != wanted.store.digest:
        raise _changed(client, MANIFEST)


def _prune(files: Path, wanted: Collection[str]) -> None:
    """Remove what is not at the source. By what is there, not by what was noted: a killed attempt noted nothing."""
    for here in sorted(files.rglob("*"), reverse=True):  # a folder after what is in it
        if here.is_dir() and not here.is_symlink():
            with contextlib.suppress(OSError):  # not empty
                here.rmdir()
        elif here.relative_to(files).as_posix() not in wanted:
            here.unlink(missing_ok=True)


def _fetch_file(client: Client, path: str, seen: Seen, target: Path, sha256: str | None) -> None:
    digest, size, requests = hashlib.sha256(), 0, 0
    with atomic(target) as part:
        try:
            with part.open("wb") as copy:
                for chunk in _chunks(client, path, seen.size):
                    copy.write(chunk)
                    digest.update(chunk)
                    size, requests = size + len(chunk), requests + 1
            # One answer is of one file; several may be of an old one and a new one.
            is_torn = requests > 1 and client.look(path).token != seen.token
        except FileNotFoundError as problem:
            raise StoreError(f"{problem} went away while it was fetched") from None
        if is_torn or seen.size not in (None, size):
            raise _changed(client, path)
        if sha256 not in (None, digest.hexdigest()):
            name = client.url.below(path).name
            raise StoreError(f"{name} is not as written: its sha256 is not the manifest's")


def _changed(client: Client, path: str) -> StoreError:
    return StoreError(f"{client.url.below(path).name} changed while it was fetched; run the command again")


def _chunks(client: Client, path: str, size: int | None) -> Iterable[bytes]:
    if size is None or size <= CHUNK or not client.ranges:
        yield client.read(path, limit=MAX_UNTOLD if size is None else size)
        return
    for start in range(0, size, CHUNK):
        yield client.read(path, start, min(CHUNK, size - start))


def _check_paths(client: Client, paths: Collection[str]) -> None:
    """Raise CatalogError for a name that is no path below a folder: whoever writes there may call files anything."""
    for path in paths:
        parts = PurePosixPath(path)
        plain = str(parts) == path and not parts.is_absolute() and not {"..", "."} & set(parts.parts)
        if not plain or not path.isprintable() or "\\" in path:
            raise CatalogError(
                f"{client.url.name} has a file called {path!r}, which is no path below a folder"
            )
        if both := next((str(above) for above in parts.parents if str(above) in paths), None):
            raise CatalogError(
                f"{client.url.name} has a file and a folder called {both}, which no disk can hold; rename one"
            )


def _known(folder: Path) -> Known:
    try:
        return dict(json.loads((folder / _FETCHED).read_bytes()))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        return {}
    except OSError as problem:
        raise EnvironmentProblem(f"cannot read {folder / _FETCHED}: {problem.strerror}") from problem


def _stamp(seen: Seen, path: Path) -> list[object]:
    """Of a file there and its copy here; equal stamps, equal bytes."""
    try:
        here = os.stat(path)  # noqa: PTH116
    except OSError:
        return []
    return [seen.size, seen.token, here.st_size, here.st_mtime_ns]
