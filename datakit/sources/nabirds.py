"""NABirds, official layout: 555 visual categories of some 400 North American species.

Read: `images.txt`, `image_class_labels.txt`, `train_test_split.txt` (1 = train), `classes.txt` and
`hierarchy.txt` (child, parent; over all nodes, so labels are not contiguous), `photographers.txt` if there, and
`images/`. A category with a remark in brackets (sex, age, plumage) is a variant of the species above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from datakit.errors import CatalogError
from datakit.sources.entry import Entry, Folder, Problem
from datakit.sources.lists import entry, layout, pairs, unlabelled

SPLIT = {"1": "train", "0": "test"}


def scan(root: Path | None) -> Iterator[Entry | Problem]:
    """The images in the order of `images.txt`; the photographer is the capture group."""
    base = layout(root, "hierarchy.txt", "nabirds")
    folder = Folder(base)
    names, parents = pairs(base / "classes.txt"), pairs(base / "hierarchy.txt")
    label_of, split_of = pairs(base / "image_class_labels.txt"), pairs(base / "train_test_split.txt")
    by = pairs(base / "photographers.txt") if (base / "photographers.txt").exists() else {}
    for key, path in pairs(base / "images.txt").items():
        name, label = f"images/{path}", label_of.get(key, "")
        if label not in names or split_of.get(key) not in SPLIT:
            yield unlabelled(name, f"image {key} has class {label or 'none'} and split {split_of.get(key)}")
            continue
        nodes = above(label, parents)
        unknown = next((node for node in nodes if node not in names), None)
        if unknown:
            yield unlabelled(name, f"class {label} lies below {unknown}, which is none of classes.txt")
            continue
        fields = {
            "class_name": names[label],
            "orig_label": int(label),
            "taxonomy": [names[node] for node in nodes],
            "identity_group": species(label, names, parents),
            "official_split": SPLIT[split_of[key]],
            "capture_group": by.get(key),
            "attribution": by.get(key),
        }
        yield entry(folder, name, fields)


def above(label: str, parents: Mapping[str, str]) -> list[str]:
    """The nodes above `label`, from below the root (Birds) down. Raises CatalogError on a circle."""
    found: list[str] = []
    while label in parents:
        label = parents[label]
        if label in found:
            raise CatalogError(f"hierarchy.txt: node {label} is above itself")
        found.append(label)
    return found[-2::-1]


def species(label: str, names: Mapping[str, str], parents: Mapping[str, str]) -> str:
    """The species of a category: its parent for a variant such as `Northern Harrier (Adult male)`, else itself."""
    is_variant = names[label].endswith(")") and parents.get(label) in names
    return names[parents[label]] if is_variant else names[label]
