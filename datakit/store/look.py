"""What a store holds, for people: columns, counts, the first rows, one sample in full, a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from datakit.config import parse
from datakit.errors import ConfigError, did_you_mean
from datakit.manifest import write_bytes
from datakit.rng import rng_for
from datakit.store.lines import aligned, jsonable, plain, table_lines, text_of
from datakit.store.metadata import KEY, LOCATION
from datakit.store.reader import SplitView, Store, open_store
from datakit.store.sheet import Entry, contact_sheet

HINTED = 10_000  # keys among which a near one is looked for


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """The words of `datakit inspect`."""

    split: str | None = field(
        default=None, metadata={"help": "split to look at (or its name alone); none: the first"}
    )
    selection: str | None = field(
        default=None, metadata={"help": "list of keys: seed1 …; none: as in the shards"}
    )
    rows: int = field(default=5, metadata={"help": "rows of the table", "least": 0, "most": 1000})
    columns: tuple[str, ...] = field(
        default=(), metadata={"help": "of the table; none: as many as fit, labels and captions first"}
    )
    key: str | None = field(default=None, metadata={"help": "a sample to show in full"})
    sheet: str | None = field(default=None, metadata={"help": "PNG file to write a contact sheet to"})
    images: int = field(default=24, metadata={"help": "images of the sheet", "least": 1, "most": 600})
    seed: int | None = field(
        default=0, metadata={"help": "draws the images of the sheet; none: the first of the split"}
    )


def inspect_words(place: str, words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What the words ask of the store: (JSON, text for people)."""
    named = [
        f"split={word}" if "=" not in word and not word.startswith(("~", "@")) else word for word in words
    ]
    asked = parse(InspectOptions, named)
    store = open_store(place)
    store = store if asked.selection is None else store.select(asked.selection)
    if asked.key is not None:
        return _sample(store, asked)
    view = store[asked.split or next(iter(store.splits))]
    found = {**_described(store), "split": view.split, "head": _head(view, asked)}
    lines = [*_description(found), "", *table_lines(found["head"], _chosen(view, asked))]
    if asked.sheet is not None:
        found["sheet"] = _sheet(view, asked)
        lines += ["", _sheet_line(found["sheet"])]
    return found, "\n".join(lines)


def _described(store: Store) -> dict[str, Any]:
    schema = store.schema(store.contents.entries[0].metadata.path)
    layout = store.layout
    members = dict.fromkeys(layout.json_fields, "json")
    members |= {name: member for name, member in ((layout.label, "cls"), (layout.caption, "txt")) if name}
    columns = [
        {"name": item.name, "type": str(item.type), "member": members.get(item.name, "")}
        for item in schema
        if item.name not in LOCATION.names
    ]
    return {
        "store": store.files.name,
        "name": store.name,
        "title": store.contents.title,
        "digest": store.digest,
        "selection": store.selection,
        "selections": list(store.selections),
        "samples": sum(store.splits.values()),
        "splits": dict(store.splits),
        "classes": len(store.class_names),
        "members": list(layout.extensions),
        "columns": columns,
    }


def _description(found: Mapping[str, Any]) -> list[str]:
    of = f", selection {found['selection']}" if found["selection"] else ""
    lines = [
        plain(f"{found['store']}: {found['title']} ({found['name']}){of}"),
        f"{found['samples']} samples of {', '.join(found['members'])}; {found['classes']} classes",
        "",
        "splits",
        *aligned([(f"  {split}", str(count)) for split, count in found["splits"].items()], right=True),
    ]
    if found["selections"]:
        lines.append(f"  further selections: {', '.join(map(plain, found['selections']))}")
    rows = [
        (
            f"  {plain(column['name'])}",
            column["type"],
            f"in the tar: {column['member']}" if column["member"] else "",
        )
        for column in found["columns"]
    ]
    return [*lines, "", "columns", *aligned(rows)]


def _head(view: SplitView, asked: InspectOptions) -> list[dict[str, Any]]:
    rows = view.table(_chosen(view, asked)).slice(0, asked.rows).to_pylist()
    return [{name: jsonable(value) for name, value in row.items()} for row in rows]


def _chosen(view: SplitView, asked: InspectOptions) -> list[str]:
    """The columns of the table: key, label, class and caption first; none of the sample's place."""
    if asked.columns:
        return list(dict.fromkeys([KEY, *asked.columns]))
    layout = view.store.layout
    first = [KEY, layout.label, "class_name", layout.caption]
    names = [name for name in view.columns if name not in LOCATION.names]
    return [name for name in dict.fromkeys([*first, *names]) if name in names]


def _sample(store: Store, asked: InspectOptions) -> tuple[dict[str, Any], str]:
    """Raises ConfigError for a key that the store does not hold."""
    assert asked.key is not None
    splits = [asked.split] if asked.split else list(store.splits)
    for split in splits:
        view = store[split]
        index = pc.index(view.table([KEY])[KEY], asked.key).as_py()
        if index >= 0:
            return _one(view, index)
    keys = (
        [key for split in splits for key in store[split].keys] if sum(store.splits.values()) <= HINTED else []
    )
    where = f"split {asked.split} of {store.files.name}" if asked.split else store.files.name
    raise ConfigError(f"{where} holds no sample {asked.key}{did_you_mean(asked.key, keys)}")


def _one(view: SplitView, index: int) -> tuple[dict[str, Any], str]:
    sample = view[index]
    row = {name: column[index].as_py() for name, column in zip(view.columns, view.table(), strict=True)}
    header = sample["image"].header
    image = {
        "format": header.format, "width": header.width, "height": header.height, "mode": header.mode,
        "bytes": len(sample["image"].encoded),
    }  # fmt: skip
    found = {"key": row[KEY], "image": image, "row": {name: jsonable(value) for name, value in row.items()}}
    lines = [
        plain(
            f"{row[KEY]}: data/{row['shard']}.tar, sample {row['index_in_shard']}; its digest is the one written"
        ),
        "  image  {format}, {width} x {height} px, {mode}, {bytes} bytes".format(**image),
        *aligned([(f"  {plain(name)}", plain(text_of(value))) for name, value in found["row"].items()]),
    ]
    return found, "\n".join(lines)


def _sheet(view: SplitView, asked: InspectOptions) -> dict[str, Any]:
    path = Path(str(asked.sheet))
    if path.suffix.lower() != ".png":
        raise ConfigError(f"sheet={path}: must end in .png")
    number = min(asked.images, len(view))
    rows = np.arange(number)
    if asked.seed is not None:
        rows = rng_for(asked.seed, "sheet", view.split).choice(len(view), number, replace=False)
    names = view.table(["class_name"])["class_name"] if "class_name" in view.columns else None
    entries = []
    for row in sorted(int(row) for row in rows):  # in the order of the shards: each is read once
        sample = view[row]
        name = names[row].as_py() if names is not None else None
        entries.append(Entry(sample["image"], str(name or ""), sample["__key__"]))
    how = "the first" if asked.seed is None else f"drawn by seed {asked.seed}"
    of = f", selection {view.store.selection}" if view.store.selection else ""
    title = f"{view.store.name} · {view.split}{of} · {number} of {len(view)} images, {how}"
    data, broken = contact_sheet(title, sorted(entries, key=lambda entry: (entry.name, entry.key)))
    write_bytes(path, data)
    return {"path": str(path), "images": number, "undecodable": broken, "seed": asked.seed}


def _sheet_line(sheet: Mapping[str, Any]) -> str:
    broken = f", {sheet['undecodable']} of them undecodable" if sheet["undecodable"] else ""
    return f"{sheet['path']}: {sheet['images']} images{broken}"
