"""Stanford Cars, official layout of a local copy: 196 classes of make, model, body and year.

Read: `cars_annos.mat` (one list of all, images in `car_ims/`), or `cars_train_annos.mat`,
`cars_test_annos_withlabels.mat` and `cars_meta.mat` (images in `cars_train/`, `cars_test/`), beside the images or
in `devkit/`. Labels count from 1. A model's years are one identity: they differ in a lamp or in nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datakit.errors import CatalogError
from datakit.sources.entry import Entry, Folder, Problem, source_folder
from datakit.sources.lists import entry, read_mat, unlabelled

TWO_WORDS = ("AM General", "Aston Martin", "Land Rover")  # makes; every other is the first word
YEAR = re.compile(r" (?:19|20)\d\d$")
PARTS = (("train", "cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat"))


def scan(root: Path | None) -> Iterator[Entry | Problem]:
    """The images in the order of the annotations."""
    base = source_folder(root)
    folder = Folder(base)
    names, rows = _whole(base) if _find(base, "cars_annos.mat") else _in_parts(base)
    for name, label, split in rows:
        if not 1 <= label <= len(names):
            yield unlabelled(name, f"class {label} of 1 to {len(names)}")
            continue
        class_name = names[label - 1]
        fields = {
            "class_name": class_name,
            "orig_label": label,
            "taxonomy": [make(class_name)],
            "identity_group": YEAR.sub("", class_name),
            "official_split": split,
        }
        yield entry(folder, name, fields)


def make(class_name: str) -> str:
    """`Aston Martin` of `Aston Martin Virage Coupe 2012`."""
    two = next((make for make in TWO_WORDS if class_name.startswith(f"{make} ")), None)
    return two or class_name.partition(" ")[0]


Row = tuple[str, int, str]  # name, label from 1, split


def _whole(base: Path) -> tuple[list[str], list[Row]]:
    found = _mat(base, "cars_annos.mat")
    splits = ("train", "test")
    rows = [
        (str(row["relative_im_path"]), int(row["class"]), splits[int(row["test"])])
        for row in found["annotations"]
    ]
    return [str(name) for name in found["class_names"]], rows


def _in_parts(base: Path) -> tuple[list[str], list[Row]]:
    rows = [
        (f"cars_{split}/{row['fname']}", int(row["class"]), split)
        for split, file in PARTS
        for row in _mat(base, file)["annotations"]
    ]
    return [str(name) for name in _mat(base, "cars_meta.mat")["class_names"]], rows


def _find(base: Path, file: str) -> Path | None:
    return next((path for path in (base / file, base / "devkit" / file) if path.is_file()), None)


def _mat(base: Path, file: str) -> dict[str, Any]:
    path = _find(base, file)
    if path is None:
        raise CatalogError(
            f"{base} has no {file}, nor has its folder devkit: give source= the folder that holds it"
        )
    return read_mat(path)
