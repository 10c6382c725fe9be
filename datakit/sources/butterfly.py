"""Butterfly-200, official layout: 200 species in 116 genera, 23 subfamilies and 5 families.

Read: `Butterfly200_{train,val,test}_release.txt`, a line `path species genus subfamily family`, and `images/` (or
`images_small/`). All ids count **from 1**. The species' name is that of its folder (`001.Genus_species`); the
levels above have ids only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datakit.errors import CatalogError
from datakit.sources.entry import ClassNames, Entry, Folder, Problem
from datakit.sources.lists import entry, layout, lines, unlabelled

SPLITS = ("train", "val", "test")
IMAGES = ("images", "images_small")


def scan(root: Path | None) -> Iterator[Entry | Problem]:
    """The images, split by split, each in the order of its list."""
    base = layout(root, "Butterfly200_train_release.txt", "Butterfly200")
    images = next((name for name in IMAGES if (base / name).is_dir()), None)
    if images is None:
        raise CatalogError(f"{base} has no folder images")
    folder, names = Folder(base), ClassNames()
    for split in SPLITS:
        for number, line in lines(base / f"Butterfly200_{split}_release.txt"):
            path, *ids = line.rsplit(" ", 4)
            name = f"{images}/{path}"
            if len(ids) != 4 or not all(part.isdigit() and int(part) > 0 for part in ids):
                yield unlabelled(name, f"line {number} of the {split} list has no four ids from 1 on")
                continue
            species, genus, subfamily, family = map(int, ids)
            fields = {
                "class_name": names(species_name(path)),
                "orig_label": species,
                "taxonomy": [f"family {family}", f"subfamily {subfamily}", f"genus {genus}"],
                "official_split": split,
            }
            yield entry(folder, name, fields)


def species_name(path: str) -> str:
    """`Danaus plexippus` of `012.Danaus_plexippus/3.jpg`; the whole folder's name where it has no number."""
    number, _, name = path.partition("/")[0].partition(".")
    return (name or number).replace("_", " ")
