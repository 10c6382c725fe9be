"""A folder of images, one folder a class: `[split/][level/ …/]class/image`.

The class is the folder an image lies in, the folders above it are its taxonomy. `levels=N` counts from the top
instead: N folders of taxonomy, then the class, and whatever lies deeper belongs to it. Top folders that are all
called train, val or test are the official split. A `metadata.csv`, `.jsonl` or `.parquet` with a column
`file_name`, as Hugging Face has it, in the folder itself or in a top folder, adds its columns to the images from
there on down, the nearer one first; where there is one, an image that none names is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datakit.blob import Blob
from datakit.errors import CatalogError, SampleError
from datakit.sources import records
from datakit.sources.entry import SPLITS, ClassNames, Entry, File, Problem, carried, source_folder, walk

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"


def scan(
    root: Path | None,
    *,
    levels: int = -1,
    splits: str = "auto",
    fold_case: bool = False,
    follow_links: bool = False,
) -> Iterator[Entry | Problem]:
    """Every image under `root`, folder by folder in the order of names.

    levels: folders of taxonomy above the class; -1: all there are.  splits: `auto`, `yes`, `no`: whether the top
    folders are splits.  Problems: `not_an_image_file`, `hidden`, `unlisted` (dropped); `no_class` (too few
    folders above); those of `walk`; of metadata files `missing_file`, `duplicate_key`, `path_outside`,
    `unreadable_row`, `bad_label`, `bad_split`.  Raises CatalogError where class names clash in case, or only
    some top folders look like splits.
    """
    base = source_folder(root)
    files = list(walk(base, follow_links=follow_links))
    inner = (file.name for file in files if isinstance(file, File) and "/" in file.name)
    tops = sorted({name.partition("/")[0] for name in inner})
    place = _Place(_split_folders(base, tops, splits), levels, ClassNames(fold_case))
    tables = {
        prefix: table for prefix in ["", *(f"{top}/" for top in tops)] if (table := _table(base, prefix))
    }
    for file in files:
        if isinstance(file, Problem):
            yield file
        elif file.name not in {table.name for table in tables.values()}:
            top = f"{file.name.partition('/')[0]}/"
            yield _image(file, place, [tables[prefix] for prefix in ("", top) if prefix in tables])
    for table in tables.values():
        yield from table.problems
        for name in sorted(table.rows):
            yield Problem(name=name, reason="missing_file", detail=f"{table.name} lists it")


def _image(file: File, place: _Place, tables: Sequence[_Table]) -> Entry | Problem:
    listed = [table.rows.pop(file.name) for table in tables if file.name in table.rows]
    row = {name: value for one in listed for name, value in one.items()}
    if not file.is_image:
        # Of policy, unless somebody asked for it by name.
        return Problem(
            name=file.name,
            reason="not_an_image_file",
            detail="its extension is none of an image",
            dropped=not listed,
        )
    if tables and not listed:
        detail = f"{' and '.join(table.name for table in tables)}: not listed there"
        return Problem(name=file.name, reason="unlisted", detail=detail, dropped=True)
    try:
        fields = place.fields(file.name, row)
    except SampleError as problem:
        return Problem(name=file.name, reason=problem.reason, detail=problem.detail)
    return Entry(name=file.name, data=Blob(file.path, 0, file.size), fields=fields)


@dataclass(frozen=True)
class _Place:
    """What the folders above an image tell of it."""

    splits: Mapping[str, str | None]
    levels: int
    names: ClassNames

    def fields(self, name: str, row: records.Row) -> records.Row:
        """The fields of the image called `name`; a row of metadata goes before its folders."""
        parts, official = name.split("/")[:-1], None  # not pathlib: 20x the time
        if self.splits:
            if not parts or parts[0] not in self.splits:
                raise SampleError("no_class", "it lies outside of the split folders")
            official, parts = self.splits[parts[0]], parts[1:]
        if self.levels >= 0 and len(parts) <= self.levels:
            detail = f"{len(parts)} folders above it; options.levels={self.levels} needs {self.levels + 1}"
            raise SampleError("no_class", detail)
        depth = self.levels if self.levels >= 0 else max(len(parts) - 1, 0)
        known: records.Row = {
            "class_name": parts[depth] if parts else None,
            "taxonomy": parts[:depth],
            "official_split": official,
        }
        known |= records.standard(row)
        return self.names.spell(known) | carried(row, records.STANDARD)


def _split_folders(base: Path, tops: list[str], splits: str) -> dict[str, str | None]:
    """top folder → the official split it is; empty where the top folders are none.

    One split folder alone says where images lie, not how to split them: its value is None.
    """
    if splits not in ("auto", "yes", "no"):
        raise CatalogError(f"options.splits={splits}: must be auto, yes or no")
    found = {name: SPLITS[name.lower()] for name in tops if name.lower() in SPLITS}
    others = [name for name in tops if name not in found]
    if splits == "no" or not found:
        return {}
    if others and splits == "auto":
        raise CatalogError(
            f"{base}: {', '.join(found)} look like splits and {', '.join(others[:3])} like classes: "
            "give options.splits=yes or options.splits=no"
        )
    alone = len(set(found.values())) < 2
    return {name: None if alone else split for name, split in found.items()}


@dataclass(frozen=True)
class _Table:
    """A metadata file: its rows by the image they name, and what was wrong with it."""

    name: str
    rows: dict[str, records.Row]
    problems: list[Problem]


def _table(base: Path, prefix: str) -> _Table | None:
    found = [name for name in METADATA if (base / prefix / name).is_file()]
    if len(found) > 1:
        raise CatalogError(f"{base / prefix} has {' and '.join(found)}: keep one of them")
    if not found:
        return None
    table = _Table(f"{prefix}{found[0]}", {}, [])
    for record in records.read(base / prefix / found[0]):
        if isinstance(record, Problem):
            table.problems.append(record)
        else:
            _add(table, prefix, record)
    return table


def _add(table: _Table, prefix: str, record: records.Record) -> None:
    if FILE_NAME not in record.row:
        raise CatalogError(f"{table.name} has no column {FILE_NAME}; it has {', '.join(record.row)}")
    listed = record.row.pop(FILE_NAME)
    pure = PurePosixPath(str(listed or ""))
    where, name = f"{table.name}:{record.number}", f"{prefix}{pure}"
    if not listed:
        table.problems.append(Problem(name=where, reason="unreadable_row", detail=f"no {FILE_NAME}"))
    elif pure.is_absolute() or ".." in pure.parts:
        detail = f"row {record.number} names {listed!r}, outside of the source"
        table.problems.append(Problem(name=where, reason="path_outside", detail=detail))
    elif name in table.rows:
        detail = f"row {record.number} names {name!r} again; the first row is kept"
        table.problems.append(Problem(name=where, reason="duplicate_key", detail=detail))
    else:
        table.rows[name] = record.row
