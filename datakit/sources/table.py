"""A CSV, JSON lines or Parquet table that names its images: one row an image, any column a field.

Catalogs `csv`, `jsonl` and `parquet` share it. `source` is the table, or a folder with one in it; paths are
relative to the table's folder, or to `images=`. Parquet may also hold the images themselves, as Hugging Face
writes them: a column of {bytes, path}. A column `label` of words is taken for the class where there is no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from datakit.errors import CatalogError, SampleError, did_you_mean
from datakit.sources import records
from datakit.sources.entry import ClassNames, Entry, Folder, Problem, carried

PATHS = ("path", "file_name", "filename", "image_path", "image", "file")  # column of the path, by custom
USUAL = {"class_name": "class_name", "orig_label": "label", "official_split": "split", "caption": "caption"}


def scan(
    root: Path | None,
    *,
    suffix: str = "",
    path: str = "",
    images: str = "",
    class_name: str = "class_name",
    label: str = "label",
    split: str = "split",
    taxonomy: Sequence[str] = (),
    caption: str = "caption",
    fold_case: bool = False,
    delimiter: str = ",",
    encoding: str = "utf-8-sig",
) -> Iterator[Entry | Problem]:
    """The images that the rows name, in the order of the table.

    suffix: the table's, where `root` is a folder.  path: column of the image; empty: the first of `path`,
    `file_name`, `filename`, `image_path`, `image`, `file`.  images: folder of the paths.  class_name, label,
    split, caption: columns of these fields; taxonomy: columns from the root down.  Columns called as a standard
    field are that field; any other is carried along.  Problems: those of `records.read`, and `missing_file`,
    `path_outside`, `no_path`, `duplicate_key`, `bad_label`, `bad_split`, `bad_field`.
    """
    tables = _tables(root, suffix)
    base = Path(images) if Path(images).is_absolute() else tables[0].parent / images
    wanted = {"class_name": class_name, "orig_label": label, "official_split": split, "caption": caption}
    reader = _Reader(Folder(base), path, wanted, tuple(taxonomy), ClassNames(fold_case))
    for table in tables:
        for record in records.read(table, delimiter=delimiter, encoding=encoding):
            yield record if isinstance(record, Problem) else reader.entry(table, record)


def _tables(root: Path | None, suffix: str) -> list[Path]:
    """The table, or the parts of it: files of the suffix in `root`, in order of names. Several only of Parquet."""
    if root is None or not root.exists():
        raise CatalogError(
            f"{root or 'the source'} is not there: give source=TABLE, or the folder it lies in"
        )
    if root.is_file():
        return [root]
    found = sorted(item for item in root.iterdir() if item.suffix.lower() == f".{suffix}" and item.is_file())
    if not found or (len(found) > 1 and suffix != "parquet"):
        raise CatalogError(f"{root} has {len(found)} .{suffix} files: give source=TABLE")
    return found


@dataclass
class _Reader:
    """Rows to entries; remembers what the first rows showed, and the names seen."""

    folder: Folder
    path: str
    wanted: Mapping[str, str]
    taxonomy: tuple[str, ...]
    names: ClassNames
    _columns: dict[str, str] = field(default_factory=dict)
    _have: list[str] = field(default_factory=list)
    _settled: bool = False
    _seen: set[str] = field(default_factory=set)

    def entry(self, table: Path, record: records.Record) -> Entry | Problem:
        """The image of one row."""
        row, where = record.row, f"{table.name}:{record.number}"
        if not self._columns:
            self._columns = self._look(table, row)
        self._settle_label(row)
        cell = row.get(self.path)
        name, data = _embedded(cell, where) if isinstance(cell, dict) else (cell, None)
        if not isinstance(name, str) or not name:
            return Problem(
                name=where, reason="no_path", detail=f"row {record.number}: nothing in {self.path}"
            )
        found = data if data is not None else self.folder.find(name)
        if isinstance(found, Problem):
            detail = f"row {record.number} of {table.name}: {found.detail}"
            return Problem(name=found.name, reason=found.reason, detail=detail)
        name = PurePosixPath(name).as_posix()
        if name in self._seen:
            detail = f"row {record.number} of {table.name} names it again; the first row is kept"
            return Problem(name=name, reason="duplicate_key", detail=detail)
        self._seen.add(name)
        try:
            return Entry(name=name, data=found, fields=self._fields(row))
        except SampleError as problem:
            detail = f"row {record.number} of {table.name}: {problem.detail}"
            return Problem(name=name, reason=problem.reason, detail=detail)

    def _fields(self, row: records.Row) -> records.Row:
        known = {name: value for name, value in row.items() if name in records.STANDARD}
        known |= {
            name: row[column] for name, column in self._columns.items() if not records.blank(row.get(column))
        }
        if self.taxonomy:
            known["taxonomy"] = [row.get(column) for column in self.taxonomy]
        fields = self.names.spell(records.standard(known))
        taken = {self.path, *self._columns.values(), *self.taxonomy, *records.STANDARD}
        return fields | carried(row, taken)

    def _look(self, table: Path, row: records.Row) -> dict[str, str]:
        """field → column. A column that was asked for by another name than the usual one must be there."""
        asked = {column for name, column in self.wanted.items() if column != USUAL[name]}
        self._have = _columns_of(table, row, {self.path} if self.path else PATHS, {*asked, *self.taxonomy})
        self.path = self.path or next((name for name in PATHS if name in self._have), PATHS[0])
        for column in [self.path, *sorted(asked), *self.taxonomy]:
            if column not in self._have:
                hint = did_you_mean(column, self._have)
                raise CatalogError(f"{table} has no column {column}{hint}; it has {', '.join(self._have)}")
        return {
            name: column
            for name, column in self.wanted.items()
            if column != USUAL[name] or column not in asked | {self.path}
        }

    def _settle_label(self, row: records.Row) -> None:
        """Labels that are words name the class; the first row that has a label decides, for those before too."""
        label = row.get(self._columns.get("orig_label", ""))
        if self._settled or records.blank(label):
            return
        self._settled = True
        named = self._columns.get("class_name") in {*self._have, *row}
        if isinstance(label, str) and records.whole(label) is None and not named:
            self._columns["class_name"] = self._columns.pop("orig_label")


def _columns_of(table: Path, row: records.Row, paths: Collection[str], asked: Set[str]) -> list[str]:
    """The columns of a table, by its first row.

    A line of JSON may leave out a key: there further lines are read, until one of `paths` and all of `asked` are met.
    """
    have = dict.fromkeys(row)
    if records.SUFFIXES.get(table.suffix.lower()) == "jsonl":
        rest = (record for record in records.read(table) if isinstance(record, records.Record))
        while not (asked <= have.keys() and have.keys() & set(paths)) and (record := next(rest, None)):
            have |= dict.fromkeys(record.row)
    return list(have)


def _embedded(cell: Mapping[str, object], where: str) -> tuple[object, bytes | None]:
    """(name, bytes) of a {bytes, path} cell.

    Bytes go by their row: Hugging Face keeps only the last part of the path beside them, and `a/0.jpg` and
    `b/0.jpg` would be one name.
    """
    data, path = cell.get("bytes"), cell.get("path")
    if isinstance(data, bytes):
        return (f"{where}/{path}" if path else where), data
    return path, None
