"""What all exports ask of a store: its splits, its samples with some columns, names that are safe in any tool."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from datakit.errors import ConfigError, StoreError, did_you_mean
from datakit.image import Image
from datakit.store.exports.target import Target
from datakit.store.layout import check_split
from datakit.store.metadata import KEY
from datakit.store.reader import SplitView, Store
from datakit.store.tar import check_key

UNUSED = "reserve"  # the split of images that a selection leaves out
KEPT = ("class_name", "orig_label", "tier", "nearest_id_class", "licence", "attribution", "source_url")
BATCH = 1024  # rows as Python objects at a time
_FORMULA = re.compile(r"[=+\-@\t\r]")  # what a spreadsheet would run


def chosen(store: Store, selection: str | None) -> Store:
    return store if selection is None else store.select(selection)


def used(store: Store) -> list[str]:
    """The splits to export. Raises ConfigError for a name that is none: a list may hold anything, even `../`."""
    for split in store.splits:
        check_split(split)
    return [split for split in store.splits if split != UNUSED]


def count_unused(store: Store, made: Target) -> None:
    """Note the samples of no split, and those that a selection does not list."""
    if reserve := store.splits.get(UNUSED):
        made.skipped[UNUSED] += reserve
    if rest := sum(store.contents.counts.values()) - sum(store.splits.values()):
        made.skipped["not_listed"] += rest


def rows(view: SplitView, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The named columns of every sample, and its key, in order."""
    for batch in view.table([KEY, *(name for name in columns if name != KEY)]).to_batches(BATCH):
        for row in batch.to_pylist():
            check_key(row[KEY])
            yield row


def samples(view: SplitView, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], Image]]:
    """As `rows`, each with its image, whose bytes are checked."""
    whole = view.samples(rank=0, world=1, fields=["image"])  # whatever a launcher set in the environment
    for row, sample in zip(rows(view, columns), whole, strict=True):
        if sample["__key__"] != row[KEY]:
            raise StoreError(f"{view.split}: {sample['__key__']} where the metadata have {row[KEY]}")
        yield row, sample["image"]


def schema(store: Store) -> pa.Schema:
    """The columns of every split, those of a selection's list in place of the shards' own."""
    own = store.schema(store.contents.entries[0].metadata.path)
    listed = pa.schema([])
    if store.selection is not None:
        listed = store.schema(f"lists/{store.selection}.parquet")
    return pa.schema([*listed, *(field for field in own if field.name not in listed.names)])


def kept(view: SplitView) -> list[str]:
    """The columns that most people want to have beside a label."""
    return [column for column in KEPT if column in view.columns]


def label_column(store: Store) -> str:
    """A selection may number its classes anew, as `label`; else the store's own labels."""
    if store.selection is not None and "label" in store.schema(f"lists/{store.selection}.parquet").names:
        return "label"
    return store.layout.label or "label"


def directories(store: Store) -> Callable[[str | None], str]:
    """Class → folder: no spaces, none shared, also where capitals do not count; `none` for images of no class."""
    names = sorted(
        {
            name
            for split in store.splits
            if "class_name" in store[split].columns
            for name in store[split].table(["class_name"])["class_name"].unique().to_pylist()
            if name is not None
        }
    )
    taken: dict[str, list[str]] = {"none": [""]}
    for name in names:
        taken.setdefault(slug(name).lower(), []).append(name)
    unique = {name: slug(name) for group in taken.values() if len(group) == 1 for name in group}

    def directory(name: str | None) -> str:
        if name is None:
            return "none"
        return unique.get(name) or f"{slug(name)}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"

    return directory


def slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "class"


def csv_bytes(found: Sequence[Mapping[str, Any]]) -> bytes:
    """A table for people and spreadsheets; what would run there is quoted."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in found for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in found:
        # Keys are for joins, and by their grammar at most sums of cells: `-a0`.
        writer.writerow({name: value if name == KEY else _inert(value) for name, value in row.items()})
    return text.getvalue().encode()


def _inert(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, quoted; numbers as they are."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def caption_column(store: Store, caption: str | None, *, several: bool = False) -> str:
    """The column of captions. Raises ConfigError where there is none, or not of text (or, `several`, lists of it)."""
    name, there = caption or store.layout.caption, schema(store)
    if name is None:
        raise ConfigError(f"{store.files.name} has no captions, which this format needs; give caption=COLUMN")
    if name not in there.names:
        raise ConfigError(f"{store.files.name} has no column {name}{did_you_mean(name, there.names)}")
    kind = str(there.field(name).type)
    if kind != "string" and not (several and kind.startswith("list<") and kind.endswith(": string>")):
        raise ConfigError(f"caption={name}: the column is {kind}, not text; choose another")
    return name
