"""Plain folders of classes, as torchvision and Hugging Face read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from datakit.store.exports.openood import labelled
from datakit.store.exports.samples import chosen, count_unused, csv_bytes, used
from datakit.store.exports.target import Exported, target
from datakit.store.reader import Store


def export_imagefolder(store: Store, out: Path, *, selection: str | None = None) -> Exported:
    """`<split>/<class>/<key>.<extension>` as torchvision's ImageFolder reads it, and labels.csv.

    For Hugging Face a README.md lists the splits: `load_dataset(out)` has them all. `load_dataset("imagefolder",
    data_dir=out)` reads no README and keeps those splits alone that it knows by name (train, val, test).
    """
    found = chosen(store, selection)
    splits = used(found)
    with target(found, out, "imagefolder") as made:
        count_unused(found, made)
        table = [row for split in splits for row in labelled(found, split, made, split)]
        made.file("README.md", _card(splits))
        made.file("labels.csv", csv_bytes(table))
    return made.done("imagefolder", out, selection)


def _card(splits: Sequence[str]) -> bytes:
    """A README that names the folder of each split: by themselves readers find those that they know by name."""
    # Quoted: a split called `no` is false in YAML.
    files = "".join(f"  - split: {json.dumps(split)}\n    path: {split}/**\n" for split in splits)
    return f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n".encode()
