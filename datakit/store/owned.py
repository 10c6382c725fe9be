"""Whose folder it is: a store goes only into an empty folder or one of ours, and deletes only what it wrote.

While a tree is written it has no manifest.json: the last complete one waits in .datakit, and every file is
noted there before it is written, so that an interrupted attempt leaves nothing that the next cannot name.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from datakit.disk import disk_problem
from datakit.errors import ConfigError, StoreError
from datakit.manifest import write_json
from datakit.store.layout import FORMAT, MANIFEST, VERSION

OURS = ".datakit"  # never part of the published tree
MAX_MANIFEST = 256 << 20  # bytes, of 200,000 shards
_MARKER = f"{OURS}/store.json"
_PREVIOUS = f"{OURS}/previous.json"
_NOTED = f"{OURS}/written.txt"


def claim(root: Path) -> None:
    """Make `root` a folder of ours; nothing happens to one that is already.

    Raises ConfigError for a folder with files that no store put there: nothing is written then.
    """
    if not is_ours(root):
        refuse_foreign(root)
        write_json(root / _MARKER, {"format": FORMAT, "version": VERSION})


def refuse_foreign(root: Path) -> None:
    """Raise ConfigError for what `claim` would not take, and write nothing in any case."""
    if is_ours(root):
        return
    try:
        found = sorted(path.name for path in root.iterdir() if path.name != OURS)
    except FileNotFoundError:
        found = []
    except NotADirectoryError:
        raise ConfigError(f"{root} is a file; a store needs a folder") from None
    if found:
        named = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise ConfigError(f"{root} holds files that datakit did not write ({named}); choose an empty folder")


def is_ours(root: Path) -> bool:
    """Whether a store is in this folder, or is being written there."""
    with contextlib.suppress(PermissionError):
        # A copy has no marker, and no manifest either while it is rewritten.
        manifests = (root / MANIFEST, root / _PREVIOUS)
        return (root / _MARKER).is_file() or any(_is_manifest(path) for path in manifests)
    return False


def note(root: Path, paths: Iterable[str]) -> None:
    """Say which files are about to be written. From here on the tree is no store until its next manifest."""
    # A line that a full disk cut must not run into the next attempt's first.
    lines = ("\n" + "".join(f"{path}\n" for path in paths)).encode()
    # One append is one write: workers that note at once do not mix their lines.
    try:
        (root / OURS).mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (root / MANIFEST).rename(root / _PREVIOUS)
        file = os.open(root / _NOTED, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            while lines:
                lines = lines[os.write(file, lines) :]
        finally:
            os.close(file)
    except OSError as problem:
        raise disk_problem(root / _NOTED, problem) from problem


def sweep(root: Path, keep: Iterable[str]) -> list[str]:
    """Delete what an earlier manifest or attempt left and the new tree does not hold; which files went."""
    kept = set(keep)
    gone = []
    for path in sorted(earlier(root) - kept):
        if (target := root / inside(path)).is_file():
            target.unlink()
            gone.append(path)
        _remove_empty(target.parent, root)
    for path in sorted(kept | set(_noted(root)) | {MANIFEST}):
        target = root / inside(path)
        for part in target.parent.glob(f"{target.name}.part-*"):
            part.unlink()
    return gone


def settle(root: Path) -> None:
    """Forget the attempts, once the new manifest stands."""
    for path in (_NOTED, _PREVIOUS):
        (root / path).unlink(missing_ok=True)


def inside(path: str) -> PurePosixPath:
    """`path`, if it stays within the tree. Raises StoreError: a manifest may come from anywhere."""
    parts = PurePosixPath(path)
    strange = not parts.parts or parts.is_absolute() or ".." in parts.parts or parts.parts[0] == OURS
    if strange or not path.isprintable():  # what is noted is noted by line
        raise StoreError(f"{path!r} is no path of a file within a store")
    return parts


def earlier(root: Path) -> set[str]:
    """The files that an earlier tree or attempt left."""
    files = set(_noted(root))
    for path in (_PREVIOUS, MANIFEST):
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            files |= set(json.loads((root / path).read_bytes())["files"])
    return files


def _noted(root: Path) -> list[str]:
    try:
        return [line for line in (root / _NOTED).read_text().splitlines() if line]
    except FileNotFoundError:
        return []


def _is_manifest(path: Path) -> bool:
    try:
        if path.stat().st_size > MAX_MANIFEST:
            return False
        return bool(json.loads(path.read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _remove_empty(folder: Path, root: Path) -> None:
    """The folders that the removal emptied, up to the root."""
    with contextlib.suppress(OSError):
        while folder != root:
            folder.rmdir()
            folder = folder.parent
