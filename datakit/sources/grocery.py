"""GroceryStoreDataset (Klasson et al. 2019): shelf photographs of 81 products under 43 coarse classes.

Read: `classes.csv` (fine and coarse names and ids from 0, the path of a description), `train.txt`, and
`val.txt`, `test.txt` where they are (`path, fine id, coarse id` a line). The taxonomy is the top folder (Fruit,
Packages, Vegetables) and the coarse class; the caption is the product's description, one for a class.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from datakit.errors import CatalogError
from datakit.sources.entry import Entry, Folder, Problem
from datakit.sources.lists import entry, layout, lines, unlabelled
from datakit.texts import dict_rows

SPLITS = ("train", "val", "test")


def scan(root: Path | None) -> Iterator[Entry | Problem]:
    """The images, list by list. With one list only there is no official split: it says nothing of how to test."""
    base = layout(root, "classes.csv", "dataset")
    folder, classes = Folder(base), _classes(base)
    present = [split for split in SPLITS if (base / f"{split}.txt").exists()]
    if not present:
        raise CatalogError(f"{base} has none of train.txt, val.txt, test.txt")
    for split in present:
        for number, line in lines(base / f"{split}.txt"):
            path, _, ids = line.partition(",")
            fine = ids.partition(",")[0].strip()
            if fine not in classes:
                yield unlabelled(path, f"line {number} of {split}.txt has the class {fine!r}, which is none")
                continue
            official = split if len(present) > 1 else None
            yield entry(folder, path, classes[fine] | {"official_split": official})


def _classes(base: Path) -> dict[str, dict[str, object]]:
    """fine id → the fields of its class."""
    try:
        with (base / "classes.csv").open(newline="", encoding="utf-8-sig") as file:
            return {row["Class ID (int)"]: _class(base, row) for row in dict_rows(file)}
    except (KeyError, ValueError, csv.Error) as problem:
        raise CatalogError(f"{base / 'classes.csv'} is not as expected: {problem!r}") from problem


def _class(base: Path, row: Mapping[str, str]) -> dict[str, object]:
    place = row["Product Description Path (str)"].lstrip("/")
    described = Folder(base).find(place)
    text = None if isinstance(described, Problem) else described.read().decode("utf-8-sig").strip()
    return {
        "class_name": row["Class Name (str)"],
        "orig_label": int(row["Class ID (int)"]),
        "taxonomy": [PurePosixPath(place).parts[1], row["Coarse Class Name (str)"]],
        "caption": text or None,
    }
