"""FGVC-Aircraft 2013b, official layout: 100 variants in 70 families of 30 manufacturers.

Read under `data/`: `images_variant_{train,val,test}.txt`, `images_family_*.txt`, `images_manufacturer_*.txt`
(`id name` a line), `variants.txt`, whose line numbers from 0 are the labels that others use, and `images/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datakit.errors import CatalogError
from datakit.sources.entry import Entry, Folder, Problem
from datakit.sources.lists import entry, layout, lines, pairs, unlabelled

SPLITS = ("train", "val", "test")


def scan(root: Path | None) -> Iterator[Entry | Problem]:
    """The images, split by split, each in the order of its list."""
    base = layout(root, "variants.txt", "data", "fgvc-aircraft-2013b/data")
    folder = Folder(base)
    labels = {name: number for number, (_, name) in enumerate(lines(base / "variants.txt"))}
    seen: set[str] = set()
    for split in SPLITS:
        family, maker = (pairs(base / f"images_{level}_{split}.txt") for level in ("family", "manufacturer"))
        for key, variant in pairs(base / f"images_variant_{split}.txt").items():
            name = f"images/{key}.jpg"
            if key in seen:
                raise CatalogError(f"{base}: image {key} is in two splits")
            seen.add(key)
            if variant not in labels or key not in family or key not in maker:
                yield unlabelled(name, f"variant {variant!r} is none, or the image has no family or maker")
                continue
            fields = {
                "class_name": variant,
                "orig_label": labels[variant],
                "taxonomy": [maker[key], family[key]],
                "official_split": split,
            }
            yield entry(folder, name, fields)
