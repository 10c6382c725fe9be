"""A finished store, published to a URL: its files in any order, manifest.json last, as one small object.

A place has no manifest, or a complete one. What is about to be there, and what an earlier publication left, is
noted first in `.datakit/upload.json`, so that a killed upload goes on and nothing is left that none can name. Where
files would change under an earlier publication's manifest, that manifest is taken away before the first of them
does: its readers find no store then, never other bytes. Files of the earlier one go only when the new one stands.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datakit.errors import ConfigError, StoreError
from datakit.store.client import Client, Patience, Seen
from datakit.store.contents import Contents, canonical, read_contents
from datakit.store.layout import FORMAT, MANIFEST, File
from datakit.store.owned import OURS, inside
from datakit.store.target import target_of
from datakit.store.urls import is_url, parse_url

NOTE = f"{OURS}/upload.json"
TOGETHER = 4  # files that go up at once

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """What a publication did. `withdrawn`: whether an earlier manifest had to go first; `removed`: stale files."""

    url: str
    files: int
    sent: int
    bytes_sent: int
    removed: int
    withdrawn: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        there = self.files - self.sent
        lines = [
            f"{self.url}: {self.sent} files sent, {self.bytes_sent / 1e6:.1f} MB; {there} were there already"
        ]
        if self.withdrawn:
            lines.append("the earlier publication was withdrawn before its files changed")
        if self.removed:
            lines.append(f"{self.removed} files of the earlier publication removed")
        return "\n".join(lines)


def upload(
    root: str | os.PathLike[str],
    url: str,
    *,
    takeover: bool = False,
    patience: Patience | None = None,
    tell: Tell = lambda text: None,
) -> Uploaded:
    """Publish the store in the folder `root` to `url`; the same call again goes on, or finds nothing to do.

    takeover: go on where an upload of another store was not finished.  Raises ConfigError (no place for a store),
    StoreError (files not as written; another publication at the same time), EnvironmentProblem.
    """
    if not is_url(url):
        raise ConfigError(f"{url} is a folder: `build out={url}`, or copy the store; publish takes a URL")
    contents, manifest = read_contents(root), (Path(root) / MANIFEST).read_bytes()
    client = Client(parse_url(url), patience)
    return _Publication(client, Path(root), contents, manifest, tell).run(takeover)


class _Publication:
    def __init__(self, client: Client, root: Path, contents: Contents, manifest: bytes, tell: Tell) -> None:
        self.client, self.target = client, target_of(client)
        self.root, self.contents, self.manifest, self.tell = root, contents, manifest, tell
        self.name = client.url.name

    def run(self, takeover: bool) -> Uploaded:
        there = self.client.listing()
        old, noted = self._small(MANIFEST, there), self._small(NOTE, there)
        if not old and not noted and there:
            found = ", ".join(sorted(there)[:3]) + (", …" if len(there) > 3 else "")
            raise ConfigError(
                f"{self.name} holds files that datakit did not write ({found}); choose an empty place"
            )
        listed = _listed(self.name, old)
        left = self._begun(noted, old, takeover) | set(listed)
        missing = self._missing(there)
        if old == self.manifest and not missing and not left - set(self.contents.files):
            self._forget(there)
            return self._report([], 0, withdrawn=False)
        self._check_here(missing)
        token = there[NOTE].token if noted else None
        self._note(left, token)
        withdrawn = old != self.manifest and any(
            path in listed and listed[path] != file.sha256 for path, file in self.contents.files.items()
        )
        if withdrawn:
            self.tell(f"{self.name}: taking the earlier manifest away, for files of its will change")
            self.target.remove(MANIFEST)
        self._send(missing)
        self._complete()
        if old != self.manifest or withdrawn:
            self._commit(None if withdrawn or not old else there[MANIFEST].token)
        gone = left - set(self.contents.files)
        self._each(self.target.remove, sorted(gone))
        self.target.settle(set(self.contents.files) | left)
        self.target.remove(NOTE)
        return self._report(missing, len(gone), withdrawn=withdrawn)

    def _small(self, path: str, there: dict[str, Seen]) -> bytes | None:
        return self.client.read(path) if path in there else None

    def _begun(self, noted: bytes | None, old: bytes | None, takeover: bool) -> set[str]:
        """The files that an attempt which did not end may have left."""
        if noted is None:
            return set()
        try:
            note = json.loads(noted)
            digest, files = str(note["digest"]), {str(inside(path)) for path in note["files"]}
        except (ValueError, LookupError, TypeError) as problem:
            raise StoreError(f"{self.name}/{NOTE} is damaged: {problem}; remove it") from problem
        finished = old is not None and _digest_of(old) == digest
        if digest != self.contents.digest and not finished and not takeover:
            raise ConfigError(
                f"{self.name}: an upload of another store was begun there and has not ended; where none is running, "
                "give --takeover"
            )
        return files

    def _missing(self, there: dict[str, Seen]) -> list[File]:
        """Files that must be sent: all but those of which the place proves that it holds them."""
        files = list(self.contents.files.values())
        known = [file for file in files if file.path in there]
        proved = {
            file.path
            for file, holds in zip(
                known, self._each(lambda f: self.target.holds(f, there[f.path]), known), strict=True
            )
            if holds
        }
        return [file for file in files if file.path not in proved]

    def _check_here(self, missing: list[File]) -> None:
        """Before anything changes there. Raises StoreError where a file is not as written."""
        for file in missing:
            digest = hashlib.sha256()
            try:
                with (self.root / file.path).open("rb") as data:
                    while chunk := data.read(1 << 20):
                        digest.update(chunk)
            except OSError as problem:
                raise StoreError(f"{self.root / file.path} cannot be read: {problem.strerror}") from problem
            if digest.hexdigest() != file.sha256:
                raise StoreError(f"{self.root / file.path} is not as written; run datakit verify {self.root}")

    def _note(self, left: set[str], replaces: str | None) -> None:
        files = sorted(left | set(self.contents.files))
        note = canonical({"format": FORMAT, "digest": self.contents.digest, "files": files})
        if not self.target.put_text(NOTE, note, replaces):
            raise StoreError(f"{self.name}: another upload began there at the same moment; let it end")

    def _send(self, missing: list[File]) -> None:
        total, done, lock = sum(file.bytes for file in missing), 0, threading.Lock()

        def send(file: File) -> None:
            nonlocal done
            self.target.put(file, self.root / file.path)
            with lock:
                done += file.bytes
                self.tell(f"{self.name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB, {file.path}")

        self._each(send, missing)

    def _complete(self) -> None:
        """Look at all of it once more. Raises StoreError before a manifest could list what is not there."""
        there = self.client.listing()
        for file in self.contents.files.values():
            if file.path not in there or there[file.path].size != file.bytes:
                raise StoreError(f"{self.name}/{file.path} is not there whole; run the same command again")
        note = json.loads(self.client.read(NOTE)) if NOTE in there else {}
        if note.get("digest") != self.contents.digest:
            raise StoreError(f"{self.name}: another upload took the place over; nothing is published")

    def _commit(self, replaces: str | None) -> None:
        if not self.target.put_text(MANIFEST, self.manifest, replaces):
            raise StoreError(f"{self.name}: another upload ended there first; run the same command again")

    def _forget(self, there: dict[str, Seen]) -> None:
        if NOTE in there:
            self.target.remove(NOTE)

    def _report(self, sent: list[File], removed: int, *, withdrawn: bool) -> Uploaded:
        return Uploaded(
            url=self.name,
            files=len(self.contents.files),
            sent=len(sent),
            bytes_sent=sum(file.bytes for file in sent),
            removed=removed,
            withdrawn=withdrawn,
        )

    def _each(self, do: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """`do` of all, some at a time; after the first error no further one is begun."""
        with ThreadPoolExecutor(TOGETHER) as pool:
            waiting = [pool.submit(do, item) for item in items]
            try:
                return [future.result() for future in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _listed(name: str, manifest: bytes | None) -> dict[str, str]:
    """Path → sha256 of what a manifest lists. Raises ConfigError for one that is not ours."""
    if manifest is None:
        return {}
    try:
        value = json.loads(manifest)
        if value["format"] != FORMAT:
            raise ValueError("another format")
        return {str(inside(path)): str(file["sha256"]) for path, file in value["files"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as problem:
        raise ConfigError(
            f"{name}/{MANIFEST} is no manifest of a store ({problem}); choose an empty place"
        ) from problem


def _digest_of(manifest: bytes) -> str:
    return str(json.loads(manifest).get("digest", ""))
