"""OpenOOD's image lists over loose files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datakit.errors import ConfigError, StoreError
from datakit.store.exports.samples import (
    chosen,
    count_unused,
    csv_bytes,
    directories,
    kept,
    label_column,
    rows,
    samples,
    slug,
    used,
)
from datakit.store.exports.target import Exported, Target, target
from datakit.store.metadata import KEY
from datakit.store.reader import Store


def export_openood(
    store: Store, out: Path, *, selection: str | None = None, materialize: bool = True
) -> Exported:
    """`benchmark_imglist/<name>/*.txt`, lines `path label` under `images_classic/`, and `labels.csv` beside them.

    Lists: train_, val_, test_<name>; val_ood; test_<tier> for a split <tier>_ood; train_oe for outliers. The label
    is -1 wherever the image is none of the ID classes; labels.csv keeps its class and its label at the source.
    """
    found, name = chosen(store, selection), slug(store.name)
    splits = used(found)
    lists, names = f"benchmark_imglist/{name}", list_names(splits, name)
    with target(found, out, "openood", materialize=materialize) as made:
        count_unused(found, made)
        table: list[dict[str, Any]] = []
        for split in splits:
            written = list(labelled(found, split, made, f"images_classic/{name}/{split}", materialize))
            lines = [f"{row['path'].removeprefix('images_classic/')} {row['label']}\n" for row in written]
            made.file(f"{lists}/{names[split]}", "".join(lines).encode(), len(lines))
            table += [{"list": names[split], **row} for row in written]
        made.file(f"{lists}/labels.csv", csv_bytes(table))
    return made.done("openood", out, selection)


def list_names(splits: Sequence[str], name: str) -> dict[str, str]:
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


def labelled(
    store: Store, split: str, made: Target, folder: str, materialize: bool = True
) -> Iterator[dict[str, Any]]:
    """Write the images of a split; a row for each: path, key, split, label and what is known of its class."""
    view, extension = store[split], store.layout.image_extension
    name, directory = label_column(store), directories(store)
    if name not in view.columns:
        raise ConfigError(f"{store.files.name} has no labels, which this format needs")
    columns = list(dict.fromkeys([name, *kept(view)]))
    found = samples(view, columns) if materialize else ((row, None) for row in rows(view, columns))
    for row, image in found:
        key, label = row[KEY], _checked_label(row.pop(name), split, row[KEY])
        path = f"{folder}/{directory(row.get('class_name'))}/{key}.{extension}"
        if image is not None:
            made.image(path, image.encoded)
        yield {"path": path, "key": key, "split": split, "label": label, **row}


def _checked_label(label: int | None, split: str, key: str) -> int:
    value = -1 if label is None else label
    # A scorer takes -1 for OOD and all else for ID, whatever the list is called.
    if split in ("train", "val", "test") and value < 0:
        raise StoreError(f"{key} in {split} has no class; an in-distribution list cannot hold it")
    if (split.endswith("_ood") or split == "outliers") and value >= 0:
        raise StoreError(f"{key} in {split} has the label {value} of an in-distribution class")
    return value
