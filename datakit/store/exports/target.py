"""The folder that an export makes: `<out>.part` until it is whole, then `out`, by one rename.

A killed export leaves `<out>.part`, which the same command completes. An `out` that is an earlier export of the same
is completed in place: files that are not as they should be are written anew. Nothing is deleted but the `.part-<pid>`
files of writes that were killed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datakit.errors import ConfigError, EnvironmentProblem
from datakit.manifest import remove_orphans, write_bytes, write_json
from datakit.store.owned import inside
from datakit.store.reader import Store

MARKER = "datakit-export.json"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote: `images` files, `lists` path → lines, and what it left out, by reason."""

    format: str
    out: str
    selection: str | None
    images: int
    lists: Mapping[str, int]
    skipped: Mapping[str, int]


@dataclass
class Target:
    """An export on its way. Paths are relative to its root."""

    root: Path
    lists: dict[str, int] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    images: int = 0

    def image(self, path: str, data: bytes) -> None:
        """A loose image. Not synced, one of very many: the whole folder is, once."""
        target = self.root / inside(path)  # keys come from the store, and that from anywhere
        try:
            self.images += 1
            if target.is_file() and target.read_bytes() == data:
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.part-{os.getpid()}")
            part.write_bytes(data)
            part.replace(target)
        except OSError as problem:
            raise EnvironmentProblem(f"cannot write {target}: {problem.strerror}") from problem

    def file(self, path: str, data: bytes, lines: int | None = None) -> None:
        """A small file, whole; one of the lists, if it has `lines`."""
        write_bytes(self.root / path, data)
        if lines is not None:
            self.lists[path] = lines

    def done(self, kind: str, out: Path, selection: str | None) -> Exported:
        return Exported(
            format=kind, out=str(out), selection=selection, images=self.images,
            lists=dict(self.lists), skipped=dict(sorted(self.skipped.items())),
        )  # fmt: skip


@contextlib.contextmanager
def target(store: Store, out: Path, kind: str, **words: Any) -> Iterator[Target]:
    """The folder of an export of this store; complete, and in its place, when the block ends.

    words: what else shapes its bytes. Raises ConfigError where something else is in the way; nothing is written then.
    """
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"{there} is a file; give a folder as out")
    what = {
        "format": kind,
        "store": store.name,
        "digest": store.digest,
        "selection": store.selection,
        **words,
    }
    what = {name: value for name, value in what.items() if value is not None}
    in_place = _is_begun(out, what)
    root = out if in_place else out.absolute().with_name(f"{out.absolute().name}.part")
    if not in_place:
        _is_begun(root, what)
    if root.exists():
        remove_orphans(root, ours=False)
    if not in_place:
        write_json(root / MARKER, {**what, "complete": False})
    made = Target(root)
    yield made
    counts = {"lists": made.lists, "skipped": dict(made.skipped), "images": made.images}
    write_json(root / MARKER, {**what, **counts, "complete": True})
    if not in_place:
        _publish(root, out)


def _is_begun(folder: Path, what: Mapping[str, Any]) -> bool:
    """Whether an export of the same is in this folder; False if it is empty or not there."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    try:
        found = json.loads((folder / MARKER).read_bytes())
        same = {name: item for name, item in found.items() if name not in _COUNTED} == what
    except (OSError, ValueError, AttributeError):
        same = False
    if not same:
        raise ConfigError(
            f"{folder} is not empty, and no export of this store with these words; choose a new folder"
        )
    return True


_COUNTED = ("lists", "skipped", "images", "complete")


def _publish(root: Path, out: Path) -> None:
    try:
        os.sync()  # all images at once: one by one they would wait for the disk one by one
        root.rename(out)  # also onto an empty folder
    except OSError as problem:
        raise EnvironmentProblem(f"cannot rename {root} to {out}: {problem.strerror}") from problem
