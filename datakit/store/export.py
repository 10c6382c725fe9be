"""A store as loose files for other tools: OpenOOD's image lists, and plain folders of classes.

The target is new, empty, or an earlier export of the same store, which is completed: files that are not as they
should be are written anew. Nothing is deleted but the `.part` files of an export that was killed.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datakit.config import parse
from datakit.errors import ConfigError, EnvironmentProblem, StoreError
from datakit.manifest import remove_orphans, write_bytes, write_json
from datakit.store.layout import check_split
from datakit.store.metadata import read_metadata_schema
from datakit.store.reader import SplitView, Store, open_store

MARKER = "datakit-export.json"
UNUSED = "reserve"  # the split of images that a selection leaves out
_KEPT = ("class_name", "orig_label", "tier", "nearest_id_class", "licence", "attribution", "source_url")
_FORMULA = re.compile(r"[=+\-@\t\r]")  # what a spreadsheet would run

Format = Literal["openood", "imagefolder"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The words of `datakit export`."""

    store: str = field(metadata={"help": "folder of a built tree"})
    out: str = field(metadata={"help": "folder to write; new or empty"})
    format: Format = field(default="openood", metadata={"help": "layout to write"})
    selection: str | None = field(
        default=None, metadata={"help": "list of keys: seed1 …; none: as in the shards"}
    )


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote: `lists` path → lines, `images` files."""

    format: Format
    out: str
    selection: str | None
    images: int
    lists: Mapping[str, int]


def export_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Export as the words say: (JSON, text for people)."""
    options = parse(ExportOptions, words)
    write = export_openood if options.format == "openood" else export_imagefolder
    done = write(open_store(options.store), Path(options.out), selection=options.selection)
    lines = [f"  {path}: {count} lines" for path, count in done.lists.items()]
    return vars(done).copy(), "\n".join([f"{done.out}: {done.images} images", *lines])


def export_openood(store: Store, out: Path, *, selection: str | None = None) -> Exported:
    """`benchmark_imglist/<name>/*.txt`, lines `path label` under `images_classic/`, and `labels.csv` beside them.

    Lists: train_, val_, test_<name>; val_ood; test_<tier> for a split <tier>_ood; train_oe for outliers. The label
    is -1 wherever the image is none of the ID classes; labels.csv keeps its class and its label at the source.
    """
    chosen, name = _chosen(store, selection), _slug(store.name)
    lists, names = f"benchmark_imglist/{name}", _list_names(_used(chosen), name)
    with _target(chosen, out, "openood") as done:
        rows: list[dict[str, Any]] = []
        for split in _used(chosen):
            found = list(_materialise(chosen, split, out, f"images_classic/{name}/{split}"))
            lines = [f"{row['path'].removeprefix('images_classic/')} {row['label']}\n" for row in found]
            path = f"{lists}/{names[split]}"
            write_bytes(out / path, "".join(lines).encode())
            done[path] = len(lines)
            rows += [{"list": path.rpartition("/")[2], **row} for row in found]
        write_bytes(out / lists / "labels.csv", _csv(rows))
    return Exported(format="openood", out=str(out), selection=selection, images=len(rows), lists=done)


def export_imagefolder(store: Store, out: Path, *, selection: str | None = None) -> Exported:
    """`<split>/<class>/<key>.<extension>` as torchvision's ImageFolder reads it, and labels.csv.

    For Hugging Face a README.md lists the splits: `load_dataset(out)` has them all. `load_dataset("imagefolder",
    data_dir=out)` reads no README and keeps those splits alone that it knows by name (train, val, test).
    """
    chosen = _chosen(store, selection)
    with _target(chosen, out, "imagefolder") as done:
        splits = _used(chosen)
        rows = [row for split in splits for row in _materialise(chosen, split, out, split)]
        write_bytes(out / "README.md", _card(splits))
        write_bytes(out / "labels.csv", _csv(rows))
    return Exported(format="imagefolder", out=str(out), selection=selection, images=len(rows), lists=done)


def _chosen(store: Store, selection: str | None) -> Store:
    return store if selection is None else store.select(selection)


def _used(store: Store) -> list[str]:
    """The splits to export. Raises ConfigError for a name that is none: a list may hold anything, even `../`."""
    for split in store.splits:
        check_split(split)
    return [split for split in store.splits if split != UNUSED]


def _list_names(splits: Sequence[str], name: str) -> dict[str, str]:
    """Split → file of its list. Raises ConfigError where two splits would share one."""
    taken: dict[str, str] = {}
    for split in splits:
        path = f"{_list_name(split, name)}.txt"
        if path in taken:
            both = f"the splits {taken[path]} and {split} would share the list {path}"
            raise ConfigError(f"{both}; rename one of them, or export with format=imagefolder")
        taken[path] = split
    return {split: path for path, split in taken.items()}


def _list_name(split: str, name: str) -> str:
    if split in ("train", "val", "test"):
        return f"{split}_{name}"
    if split == "outliers":
        return "train_oe"
    if split != "val_ood" and split.endswith("_ood"):
        return f"test_{split.removesuffix('_ood')}"
    return split


def _materialise(store: Store, split: str, out: Path, folder: str) -> Iterator[dict[str, Any]]:
    """Write the images of a split; a row for each: path, key, split, label and what is known of its class."""
    view, extension = store[split], store.layout.image_extension
    directory = _directories(store)
    for sample, row in zip(view, _rows(view), strict=True):
        key = sample["__key__"]
        label = _checked_label(row["label"], split, key)
        path = f"{folder}/{directory(row.get('class_name'))}/{key}.{extension}"
        _write_image(out / path, sample["image"].encoded)
        yield {"path": path, "key": key, "split": split, **row, "label": label}


def _rows(view: SplitView) -> list[dict[str, Any]]:
    name = _label_column(view.store)
    if name not in view.columns:
        raise ConfigError(f"{view.store.root} has no labels, which this format needs")
    kept = [column for column in _KEPT if column in view.columns]
    table = view.table(list(dict.fromkeys([name, *kept])))
    found: list[dict[str, Any]] = table.rename_columns(["label", *table.column_names[1:]]).to_pylist()
    return found


def _label_column(store: Store) -> str:
    """A selection may number its classes anew, as `label`; else the store's own labels."""
    if store.selection is not None:
        listed = read_metadata_schema(store.root / "lists" / f"{store.selection}.parquet")
        if "label" in listed.names:
            return "label"
    return store.layout.label or "label"


def _checked_label(label: int | None, split: str, key: str) -> int:
    value = -1 if label is None else label
    # A scorer takes -1 for OOD and all else for ID, whatever the list is called.
    if split in ("train", "val", "test") and value < 0:
        raise StoreError(f"{key} in {split} has no class; an in-distribution list cannot hold it")
    if (split.endswith("_ood") or split == "outliers") and value >= 0:
        raise StoreError(f"{key} in {split} has the label {value} of an in-distribution class")
    return value


def _directories(store: Store) -> Callable[[str | None], str]:
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
        taken.setdefault(_slug(name).lower(), []).append(name)
    unique = {name: _slug(name) for group in taken.values() if len(group) == 1 for name in group}

    def directory(name: str | None) -> str:
        if name is None:
            return "none"
        return (
            unique.get(name) or f"{_slug(name)}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
        )

    return directory


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "class"


def _write_image(path: Path, data: bytes) -> None:
    try:
        if path.is_file() and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part-{os.getpid()}")
        part.write_bytes(data)  # not synced, one of very many: the marker says when all are there
        part.replace(path)
    except OSError as problem:
        raise EnvironmentProblem(f"cannot write {path}: {problem.strerror}") from problem


@contextlib.contextmanager
def _target(store: Store, out: Path, kind: Format) -> Iterator[dict[str, int]]:
    """The folder `out`, marked as an export of this store; complete when the block ends."""
    there = next(path for path in (out, *out.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"{there} is a file; give a folder as out")
    what = {"format": kind, "store": store.name, "digest": store.digest, "selection": store.selection}
    if out.exists() and any(out.iterdir()):
        try:
            found = json.loads((out / MARKER).read_bytes())
            same = {name: found.get(name) for name in what} == what
        except (OSError, ValueError, AttributeError):
            same = False
        if not same:
            raise ConfigError(f"{out} is not empty, and no export of this store; choose a new folder")
        remove_orphans(out, ours=False)
    write_json(out / MARKER, {**what, "complete": False})
    lists: dict[str, int] = {}
    yield lists
    write_json(out / MARKER, {**what, "complete": True, "lists": lists})


def _card(splits: Sequence[str]) -> bytes:
    """A README that names the folder of each split: by themselves readers find those that they know by name."""
    # Quoted: a split called `no` is false in YAML.
    files = "".join(f"  - split: {json.dumps(split)}\n    path: {split}/**\n" for split in splits)
    return f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n".encode()


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        # Keys are for joins, and by their grammar at most sums of cells: `-a0`.
        writer.writerow({name: value if name == "key" else _inert(value) for name, value in row.items()})
    return text.getvalue().encode()


def _inert(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, quoted; numbers as they are."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
