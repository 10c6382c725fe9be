"""Shards of tar, ours or anybody's: members with one key are a sample, its image stays where it lies.

`source` is a folder, a tar, or a pattern: `*`, `{00000..00003}`, `{a,b}`, several with `::` between. Of a sample's
members `json` (an object), `cls` (a label) and `txt` (a caption) are read as fields. A folder with our
`manifest.json` is a store: its splits come from the names of the shards, its fields from the metadata.
"""

from __future__ import annotations

import itertools
import operator
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from datakit.blob import Blob
from datakit.errors import CatalogError, SampleError, StoreError
from datakit.sources import records
from datakit.sources.entry import OURS, SPLITS, ClassNames, Entry, File, Problem, carried, walk
from datakit.store.owned import is_ours
from datakit.store.tar_reader import Member, iter_members
from datakit.texts import load_json

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")  # the first of these that a sample has
SPLIT = re.compile(r"(.+)-\d{5,}-of-\d{5,}")
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_TEXT = 1 << 20  # bytes of a member that is read as a field


def scan(root: Path | None, *, image: str = "", fold_case: bool = False) -> Iterator[Entry | Problem]:
    """The samples, shard by shard. `image`: the extension of the picture, where a sample has several.

    Problems: `no_image`, `duplicate_key` (in any shard), `bad_json`, `bad_label`, `bad_split`, `bad_field`,
    `not_a_file` (a link or a device, which has no bytes); `no_key` (a member of no sample, dropped).
    Raises CatalogError: no shard, or one that is damaged.
    """
    if root is None:
        raise CatalogError("give source=FOLDER, a tar or a pattern of tars")
    # A manifest.json alone is anybody's.
    is_store = _is_file(root / "manifest.json") and (root / "data").is_dir() and is_ours(root)
    wanted, names = ((image,) if image else IMAGES), ClassNames(fold_case)
    seen: dict[str, str] = {}
    for shard in shards_of(str(root)):
        metadata = _Metadata(root, shard) if is_store else None
        skipped: Counter[str] = Counter()
        for key, members in _samples(shard, skipped):
            row = metadata.row(key) if metadata and key else None
            if not key:
                for member in members:
                    yield Problem(name=member.name, reason="no_key", detail=f"in {shard.name}", dropped=True)
            elif key in seen:
                detail = f"in {shard.name}, and before in {seen[key]}; the first is kept"
                yield Problem(name=key, reason="duplicate_key", detail=detail)
            else:
                seen[key] = shard.name
                yield _entry(shard, key, members, row, wanted, names)
        yield from _without_bytes(shard, skipped)


def _without_bytes(shard: Path, skipped: Counter[str]) -> Iterator[Problem]:
    """A Problem a link or device; a folder is none, tar lists those along with what they hold."""
    detail = (
        f"in {shard.name}: it has no bytes of its own; make the tar with --dereference --hard-dereference"
    )
    for kind in sorted(skipped.keys() - {"directory"}):
        for number in range(1, skipped[kind] + 1):
            yield Problem(name=f"{shard.name}: {kind} {number}", reason="not_a_file", detail=detail)


def shards_of(source: str) -> list[Path]:
    """The tars that `source` means, sorted within each of its patterns. Raises CatalogError where there is none."""
    found: list[Path] = []
    for part in source.split("::"):
        path = Path(part).absolute()
        if os.path.isdir(path):  # noqa: PTH112 (pathlib: as in _is_file)
            matches = sorted(path.glob("*.tar")) or sorted(path.glob("data/*.tar")) or _below(path)
        elif _is_file(path):  # its name may hold the signs of a pattern
            matches = [path]
        else:
            matches = [match for one in braces(str(path)) for match in _glob(Path(one))]
        if not matches:
            raise CatalogError(f"source={part}: there is no .tar")
        for match in matches:
            if not _is_file(match):
                raise CatalogError(f"source={part}: there is no shard {match}")
        found += matches
    return found


def _is_file(path: Path) -> bool:
    """Whether there is such a file; of a pattern longer than a name may be pathlib raises OSError."""
    return os.path.isfile(path)  # noqa: PTH113


def _below(folder: Path) -> list[Path]:
    files = (item for item in walk(folder, follow_links=True) if isinstance(item, File))
    return [Path(file.path) for file in files if file.name.endswith(".tar")]


def _glob(path: Path) -> list[Path]:
    if not any(sign in str(path) for sign in "*?["):
        return [path]
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def braces(pattern: str) -> list[str]:
    """`s-{000..002}.tar` as three names, `{a,b}` as two; as a shell does it, padding kept."""
    match = BRACES.search(pattern)
    if not match:
        return [pattern]
    numbers = RANGE.fullmatch(match[1])
    if numbers:
        first, last = numbers.groups()
        parts = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        parts = match[1].split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for part in parts for name in braces(f"{head}{part}{tail}")]


def _samples(shard: Path, skipped: Counter[str]) -> Iterator[tuple[str, list[Member]]]:
    members = iter_members(shard, skipped=skipped)
    try:
        for key, group in itertools.groupby(members, operator.attrgetter("key")):
            yield key, list(group)
    except (StoreError, OSError) as problem:
        raise CatalogError(f"the shard {shard} is damaged, fetch it again: {problem}") from problem


def _entry(
    shard: Path,
    key: str,
    members: Sequence[Member],
    row: records.Row | None,
    wanted: Sequence[str],
    names: ClassNames,
) -> Entry | Problem:
    parts = {member.extension: member for member in members}
    picture = next((parts[extension] for extension in wanted if extension in parts), None)
    if len(parts) != len(members):
        return Problem(name=key, reason="duplicate_key", detail=f"in {shard.name} a member comes twice")
    if picture is None:
        detail = f"in {shard.name} it has {', '.join(parts)}, and none of {', '.join(wanted)}"
        return Problem(name=key, reason="no_image", detail=detail)
    try:
        fields = _of_members(shard, parts) if row is None else _of_store(shard, row)
    except SampleError as problem:
        return Problem(name=key, reason=problem.reason, detail=f"in {shard.name}: {problem.detail}")
    place = Blob(str(shard), picture.offset, picture.size)
    return Entry(name=key, data=place, fields=names.spell(fields))


def _of_members(shard: Path, parts: dict[str, Member]) -> records.Row:
    """The fields of a sample's own members; its JSON goes before `cls` and `txt`."""
    row: records.Row = {}
    if "txt" in parts:
        row["caption"] = _text(shard, parts["txt"]).strip() or None
    if "cls" in parts:
        label = _text(shard, parts["cls"]).strip()
        row["orig_label"] = None if label == "-1" else label  # -1 by custom: of no class
    if "json" in parts:
        try:
            said = load_json(_text(shard, parts["json"]))
        except ValueError as problem:
            raise SampleError("bad_json", str(problem)) from problem
        if not isinstance(said, dict):
            raise SampleError("bad_json", f"{type(said).__name__}, not an object")
        row |= {name: value for name, value in said.items() if value is not None}
    return records.standard(row) | carried(row, records.STANDARD)


def _text(shard: Path, member: Member) -> str:
    if member.size > MAX_TEXT:
        raise SampleError("bad_field", f"{member.name} has {member.size} bytes, {MAX_TEXT} at most")
    try:
        return Blob(str(shard), member.offset, member.size).read().decode()
    except UnicodeDecodeError as problem:
        raise SampleError("bad_field", f"{member.name} is not UTF-8") from problem


def _of_store(shard: Path, row: records.Row) -> records.Row:
    """The fields of a row of our metadata, without the columns that a build makes anew."""
    match = SPLIT.fullmatch(shard.stem)
    split = match[1] if match else None
    kept = {name: value for name, value in row.items() if name not in OURS}
    fields = records.standard(kept | {"official_split": split if split in SPLITS else None})
    return fields | carried(kept, records.STANDARD) | {"source_split": split}


class _Metadata:
    """The rows of a store's metadata beside one shard, read along with it."""

    def __init__(self, root: Path, shard: Path) -> None:
        self._path = root / "metadata" / f"{shard.stem}.parquet"
        self._rows = records.read(self._path)

    def row(self, key: str) -> records.Row:
        """The next row, which must be that of `key`."""
        found = next(self._rows, None)
        if not isinstance(found, records.Record) or found.row.get("key") != key:
            raise CatalogError(
                f"{self._path} does not go with its shard: it has no row for {key}; run verify"
            )
        return found.row
