"""A source behind a URL, copied to this machine before it is read: `<cache>/sources/<hash of the URL>/`.

A file is fetched once and kept while the server says the same size and the same token (ETag) of it; one whose
server says neither is fetched each time. What a build makes of it depends on its bytes, never on the copy's place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from datakit.errors import CatalogError, ConfigError, EnvironmentProblem, StoreError
from datakit.manifest import atomic, write_json
from datakit.store.cache import Cache
from datakit.store.client import Client, Patience, Seen
from datakit.store.contents import contents_of
from datakit.store.layout import MANIFEST
from datakit.store.remote import CHUNK, RemoteFiles
from datakit.store.urls import Url, public_url

TOGETHER = 16  # files that are fetched at once: sources are often many and small
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
            client, wanted = _wanted(url, patience)
            _fetch(client, wanted, folder)
        except FileNotFoundError as problem:
            raise CatalogError(f"source={source}: {problem} is not there") from None
        except StoreError as problem:
            raise CatalogError(f"source={source}: {problem}") from problem
    return folder / "files" / next(iter(wanted)) if client.url.base != url.base else folder / "files"


def _wanted(url: Url, patience: Patience | None) -> tuple[Client, dict[str, Seen]]:
    """What to fetch, and from where: of one file, the folder that it is in."""
    client = Client(url, patience)
    head, _, last = url.base.rpartition("/")
    beside = Client(Url(scheme=url.scheme, base=head), patience)
    if url.web:
        if PurePosixPath(last).suffix:
            # Asked first: where there is no such file, some servers deny it instead of saying so.
            with contextlib.suppress(FileNotFoundError):
                return beside, {last: beside.look(last)}
        with contextlib.suppress(FileNotFoundError, StoreError):
            files = contents_of(RemoteFiles(url, patience=patience)).files
            return client, {path: client.look(path) for path in (MANIFEST, *files)}
        return beside, {last: beside.look(last)}
    found = client.listing()
    if not found:
        return beside, {last: beside.look(last)}
    # A key may end in a slash: the mark of a folder, for tools that show folders.
    return client, {path: seen for path, seen in found.items() if not path.endswith("/") and path}


def _fetch(client: Client, wanted: dict[str, Seen], folder: Path) -> None:
    files = folder / "files"
    for path in wanted:
        _check_path(client, path)
    known = _known(folder)
    todo = [
        path
        for path, seen in wanted.items()
        if known.get(path) != _stamp(seen, files / path) or not seen.token
    ]
    # By what is there, not by what was noted: a killed attempt noted nothing.
    for here in list(files.rglob("*")):
        if not here.is_dir() and here.relative_to(files).as_posix() not in wanted:
            here.unlink(missing_ok=True)
    if not todo:
        return

    def fetch(path: str) -> None:
        _fetch_file(client, path, wanted[path].size, files / path)
        known[path] = _stamp(wanted[path], files / path)

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
        write_json(folder / _FETCHED, {path: known[path] for path in sorted(set(known) & set(wanted))})


def _fetch_file(client: Client, path: str, size: int | None, target: Path) -> None:
    with atomic(target) as part:
        try:
            with part.open("wb") as copy:
                for chunk in _chunks(client, path, size):
                    copy.write(chunk)
        except FileNotFoundError as problem:
            raise StoreError(f"{problem} went away while it was fetched") from None
        if size is not None and part.stat().st_size != size:
            raise StoreError(
                f"{client.url.below(path).name} changed while it was fetched; run the command again"
            )


def _chunks(client: Client, path: str, size: int | None) -> Iterable[bytes]:
    if size is None or size <= CHUNK or not client.ranges:
        yield client.read(path)
        return
    for start in range(0, size, CHUNK):
        yield client.read(path, start, min(CHUNK, size - start))


def _check_path(client: Client, path: str) -> None:
    """Raise CatalogError for a name that is no path below a folder: whoever writes there may call files anything."""
    parts = PurePosixPath(path)
    plain = str(parts) == path and not parts.is_absolute() and not {"..", "."} & set(parts.parts)
    if not plain or not path.isprintable() or "\\" in path:
        raise CatalogError(f"{client.url.name} has a file called {path!r}, which is no path below a folder")


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
