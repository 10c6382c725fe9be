"""What a reader gives: an Entry an image, a Problem for what is none, and the few things that readers share.

A reader is a module with `scan(root, **options) -> Iterator[Entry | Problem]`: sorted, the same on every machine,
never with all images in memory. Names in lists are untrusted: none leads out of the source.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from datakit.blob import Blob
from datakit.errors import CatalogError
from datakit.store.owned import is_ours

IMAGES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".svg"})
SPLITS = {"train": "train", "training": "train", "trn": "train"}
SPLITS |= {"val": "val", "valid": "val", "validation": "val", "dev": "val"}
SPLITS |= {"test": "test", "testing": "test", "tst": "test"}
FIRST = ("__key__", "key", "name", "image", "catalog", "pool", "content")
MEASURED = (
    "width",
    "height",
    "format",
    "bytes",
    "mean_rgb",
    "phash",
    "phash_flip",
    "changes",
    "features",
    "pixels",
)
CHOSEN = (
    "label",
    "role",
    "tier",
    "split",
    "publish",
    "reason",
    "nearest_id_class",
    "tax_distance",
    "tax_ratio",
)
PLACED = ("file_name", "shard", "index_in_shard", "offset", "size", "image_offset", "image_size", "xxh3")
OURS = frozenset(
    {*FIRST, *MEASURED, *CHOSEN, *PLACED, "dup_group"}
)  # columns that a build makes; a source's go by another name


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image of a source. `name`: what the source calls it, unique; `data`: its encoded bytes, best as a Blob."""

    name: str
    data: Blob | bytes
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a reader could not give. `reason` is a short constant; `dropped`: left out by policy, not failed."""

    name: str
    reason: str
    detail: str
    dropped: bool = False


class File(NamedTuple):
    """A file under a root: POSIX name relative to it, as found; path; bytes."""

    name: str
    path: str
    size: int

    @property
    def is_image(self) -> bool:
        return is_image(self.name)


def is_image(name: str) -> bool:
    """Whether the extension is one of an image format that we read."""
    return os.path.splitext(name)[1].lower() in IMAGES  # noqa: PTH122 (pathlib: 20x the time)


def walk(root: Path, *, follow_links: bool = False) -> Iterator[File | Problem]:
    """Every file under `root`, folder by folder in the order of names; a store of ours within it is not looked into.

    A build may lie in its own source: what it wrote is not of the source, and so is not even counted.
    Problems: `hidden` (a name with a leading dot; a folder counts once), `path_outside` (a link that leaves the
    root, unless followed), `not_a_file` (pipe, device, link to nothing), `bad_name` (not UTF-8),
    `unreadable_folder`.
    """
    real = os.path.realpath(root)
    yield from _walk(str(root), "", {real}, real if not follow_links else "")


def _walk(folder: str, prefix: str, above: set[str], inside: str) -> Iterator[File | Problem]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as problem:
        detail = f"the folder cannot be read: {problem.strerror}"
        yield Problem(name=prefix or folder, reason="unreadable_folder", detail=detail)
        return
    for entry in entries:
        name = prefix + entry.name
        unfit = _unfit(entry, name, inside)
        if unfit:
            yield unfit
        elif entry.is_dir():
            if is_ours(Path(entry.path)):
                continue
            target = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if target not in above:  # a link to a folder above it would never end
                yield from _walk(entry.path, f"{name}/", above | {target}, inside)
        else:
            yield File(name, entry.path, entry.stat().st_size)


def _unfit(entry: os.DirEntry[str], name: str, inside: str) -> Problem | None:
    if not _is_text(name):
        shown = name.encode("utf-8", "backslashreplace").decode()
        return Problem(name=shown, reason="bad_name", detail="the file's name is not UTF-8: rename it")
    if entry.name.startswith("."):
        return Problem(name=name, reason="hidden", detail="its name starts with a dot", dropped=True)
    if inside and entry.is_symlink() and not _within(os.path.realpath(entry.path), inside):
        return Problem(name=name, reason="path_outside", detail="a link to a place outside of the source")
    try:
        mode, detail = entry.stat().st_mode, "a pipe or a device"
    except OSError as problem:
        mode, detail = 0, f"a link to nothing, or closed to us: {problem.strerror}"
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        return Problem(name=name, reason="not_a_file", detail=detail)
    return None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


@dataclass(frozen=True)
class Folder:
    """Files that a list names, looked up under one root."""

    root: Path
    _real: dict[str, bool] = field(default_factory=dict, repr=False)

    def find(self, name: str) -> Blob | Problem:
        """The file that a list calls `name`. Problems: `path_outside`, `missing_file`, `bad_name`."""
        pure = PurePosixPath(name)
        if not name or "\0" in name or not _is_text(name):
            shown = name.encode("utf-8", "backslashreplace").decode()
            return Problem(name=shown, reason="bad_name", detail="empty, not UTF-8, or with a zero byte")
        if pure.is_absolute() or ".." in pure.parts:
            return Problem(
                name=name, reason="path_outside", detail="it is absolute or climbs out of the source"
            )
        path = f"{self.root}/{pure}"
        try:
            found = os.lstat(path)
            if not self._holds(path, stat.S_ISLNK(found.st_mode)):
                detail = "a link to a place outside of the source"
                return Problem(name=name, reason="path_outside", detail=detail)
            found = Path(path).stat() if stat.S_ISLNK(found.st_mode) else found
        except OSError as problem:
            detail = f"it is listed, but there is no such file under {self.root}: {problem.strerror}"
            return Problem(name=name, reason="missing_file", detail=detail)
        if not stat.S_ISREG(found.st_mode):
            return Problem(name=name, reason="missing_file", detail="it is listed, but it is no file")
        return Blob(path, 0, found.st_size)

    def _holds(self, path: str, is_link: bool) -> bool:
        """Whether `path` really lies under the root: its folder (looked up once) and, of a link, its target."""
        folder = os.path.dirname(path)  # noqa: PTH120
        if folder not in self._real:
            self._real[folder] = _within(os.path.realpath(folder), os.path.realpath(self.root))
        if not is_link:
            return self._real[folder]
        return _within(os.path.realpath(path), os.path.realpath(self.root))


@dataclass(frozen=True)
class ClassNames:
    """Class names, and those of the taxonomy above them, as one spelling each.

    `Rose` and `rose` are one class typed in two ways, or two that fall together on some disks and in every
    comparison of names: no choice made image by image would be right, so this stops unless told to merge.
    """

    fold_case: bool = False
    _seen: dict[tuple[tuple[str, ...] | None, str], str] = field(default_factory=dict, repr=False)

    def __call__(self, name: str, above: tuple[str, ...] | None = None) -> str:
        """`name` in NFC, in the spelling seen first. Raises CatalogError on a second spelling.

        above: of a name in the taxonomy, those above it; None for a class.
        """
        plain = unicodedata.normalize("NFC", name)
        first = self._seen.setdefault((above, plain.casefold()), plain)
        if first != plain and not self.fold_case:
            what = "classes" if above is None else "in the taxonomy"
            raise CatalogError(
                f"{what} {first!r} and {plain!r} differ in case only: rename one of them, "
                "or give options.fold_case=true to merge them"
            )
        return first

    def spell(self, fields: Mapping[str, object]) -> dict[str, object]:
        """`fields` with `class_name` and every level of `taxonomy` in their one spelling."""
        spelt = dict(fields)
        if isinstance(fields.get("class_name"), str):
            spelt["class_name"] = self(str(fields["class_name"]))
        levels = fields.get("taxonomy")
        if isinstance(levels, list):
            path: tuple[str, ...] = ()
            for level in levels:
                path = (*path, self(level, path))
            spelt["taxonomy"] = list(path)
        return spelt


def carried(row: Mapping[str, object], taken: Collection[str] = ()) -> dict[str, object]:
    """The fields of `row` that nobody has taken, in order; those with a name of ours get `source_` before it."""
    return {
        f"source_{name}" if name in OURS else name: value for name, value in row.items() if name not in taken
    }


def source_folder(root: Path | None) -> Path:
    """`root`, which must be a folder. Raises CatalogError."""
    if root is None or not root.is_dir():
        raise CatalogError(f"{root or 'the source'} is no folder: give source=FOLDER")
    return root
