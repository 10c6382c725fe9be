"""CUB-200-2011, official layout: 200 bird species with attributes.

Read: `images.txt`, `image_class_labels.txt` (classes from 1), `classes.txt`, `train_test_split.txt` (1 = train),
`images/`, and on demand `attributes/class_attribute_labels_continuous.txt`: 200 lines of 312 percentages.
The taxonomy is the last word of a species' name (Albatross, Warbler …), the nearest thing to one that CUB has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datakit.errors import CatalogError
from datakit.sources.entry import Entry, Folder, Problem
from datakit.sources.lists import entry, layout, lines, pairs, unlabelled

SPLIT = {"1": "train", "0": "test"}
ATTRIBUTES = "attributes/class_attribute_labels_continuous.txt"


def scan(root: Path | None, *, attributes: bool = False) -> Iterator[Entry | Problem]:
    """The images in the order of `images.txt`.

    attributes: also a field `attributes`, 312 floats in [0, 1], the same for all images of a class.
    """
    base = layout(root, "images.txt", "CUB_200_2011")
    folder = Folder(base)
    label_of, split_of = pairs(base / "image_class_labels.txt"), pairs(base / "train_test_split.txt")
    vectors = class_attributes(base) if attributes else {}
    names = class_names(base)
    for key, path in pairs(base / "images.txt").items():
        name, label = f"images/{path}", label_of.get(key, "")
        if label not in names or split_of.get(key) not in SPLIT:
            yield unlabelled(name, f"image {key} has class {label or 'none'} and split {split_of.get(key)}")
            continue
        fields: dict[str, object] = {
            "class_name": names[label],
            "orig_label": int(label),
            "taxonomy": [names[label].split(" ")[-1]],
            "official_split": SPLIT[split_of[key]],
        }
        if attributes:
            fields["attributes"] = vectors[names[label]]
        yield entry(folder, name, fields)


def class_names(base: Path) -> dict[str, str]:
    """label → `Black footed Albatross`, of `001.Black_footed_Albatross`."""
    return {
        label: name.partition(".")[2].replace("_", " ") for label, name in pairs(base / "classes.txt").items()
    }


def class_attributes(root: Path) -> dict[str, list[float]]:
    """class name → 312 floats: the share of people who saw each attribute. For `holdout.mode=attributes`."""
    base = layout(root, "classes.txt", "CUB_200_2011")
    names = list(class_names(base).values())
    rows = [[float(cell) / 100 for cell in line.split()] for _, line in lines(base / ATTRIBUTES)]
    if len(rows) != len(names) or len({len(row) for row in rows}) != 1:
        raise CatalogError(
            f"{base / ATTRIBUTES}: {len(rows)} rows for {len(names)} classes, or rows of two lengths"
        )
    return dict(zip(names, rows, strict=True))
