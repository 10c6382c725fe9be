"""Images that a Hugging Face data set names by path: in its own folder or repository, or in a zip there.

A path is as `datasets` streams it: `/data/a.jpg`, `hf://datasets/USER/NAME@REVISION/a.jpg`, and of a zip's member
`zip://a.jpg::PATH`. Rows are untrusted: a path may lie in a table as anybody wrote it.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from datakit.blob import Blob
from datakit.errors import SampleError
from datakit.image_guard import MAX_ENCODED
from datakit.sources.entry import Folder, Problem

ZIP = "zip://"
OPEN = 8  # zips at a time: opening one reads its whole index
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError)  # what a cut or altered archive raises
# RuntimeError: encrypted, or packed in a new way.
_BROKEN = (OSError, KeyError, RuntimeError, *DAMAGED)


class LocalFiles:
    """The files of a folder, which must be resolved."""

    def __init__(self, root: Path) -> None:
        self._root, self._folder, self._zip = root, Folder(root), lru_cache(OPEN)(_open)

    def find(self, path: str) -> Blob | bytes:
        """The image. Raises SampleError: `path_outside`, `missing_file`, `bad_name`."""
        members, place = _cut(path)
        found = self._folder.find(place.removeprefix(f"{self._root}/"))
        if isinstance(found, Problem):
            raise SampleError(found.reason, f"{path}: {found.detail}")
        return _member(members, found.path, self._zip) if members else found


class HubFiles:
    """The files of a repository of the hub."""

    def __init__(self, repo: str) -> None:
        self._repo, self._zip = repo, lru_cache(OPEN)(_open)

    def find(self, path: str) -> bytes:
        """The image. Raises SampleError: `path_outside`, `missing_file`."""
        members, place = _cut(path)
        ours = f"hf://datasets/{self._repo}"
        if not place.startswith((f"{ours}@", f"{ours}/")) or ".." in place.split("/"):
            raise SampleError("path_outside", f"{path} is not of the repository {self._repo}")
        return _member(members, place, self._zip) if members else _read(place)


def _cut(path: str) -> tuple[list[str], str]:
    """Members of zips, the innermost first, and the file that they lie in."""
    *members, place = path.split("::") if path.startswith(ZIP) else [path]
    if not all(member.startswith(ZIP) for member in members):
        raise SampleError("path_outside", f"{path} is neither a file nor of a zip")
    return members, place


def _member(members: list[str], place: str, zip_at: Callable[[str], Any]) -> bytes:
    inner, *outer = members
    if outer:
        raise SampleError("bad_name", f"{inner} of {outer[0]}: a zip within a zip; unpack the outer one")
    try:
        archive, name = zip_at(place), inner.removeprefix(ZIP)
        if (size := archive.info(name)["size"] or 0) > MAX_ENCODED:
            raise SampleError("too_large", f"{inner} of {place}: {size} bytes, {MAX_ENCODED} at most")
        data: bytes = archive.cat_file(name)
    except _BROKEN as problem:
        raise SampleError("missing_file", f"{inner} of {place}: {problem}") from problem
    return data


def _open(place: str) -> Any:
    import fsspec

    return fsspec.filesystem("zip", fo=place)


def _read(place: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(place, "rb") as file:
            data: bytes = file.read()
    except OSError as problem:
        raise SampleError("missing_file", f"{place}: {problem}") from problem
    return data
