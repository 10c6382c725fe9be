"""Data-Juicer's JSON lines: one file a split, loose images beside, and a recipe to start from."""

from __future__ import annotations

import json
from pathlib import Path

from datakit.manifest import atomic
from datakit.store.exports.captioned import captioned
from datakit.store.exports.samples import caption_column, chosen, count_unused, kept, used
from datakit.store.exports.target import Exported, target
from datakit.store.metadata import KEY
from datakit.store.reader import Store

IMAGE, END = "<__dj__image>", "<|__dj__eoc|>"
MARKUP = ("<__dj__", "<|__dj__")


def export_datajuicer(
    store: Store,
    out: Path,
    *,
    selection: str | None = None,
    caption: str | None = None,
    materialize: bool = True,
) -> Exported:
    """`<split>.jsonl`: `text` with the image's place in it, `images` relative to the file, `meta`, `stats`.

    `meta` has the key, the split and what is known of the class and the source; all lines have the same fields.
    """
    found = chosen(store, selection)
    splits, name = used(found), caption_column(found, caption)
    with target(found, out, "datajuicer", caption=name, materialize=materialize) as made:
        count_unused(found, made)
        for split in splits:
            columns = kept(found[split])
            lines = captioned(
                found, split, made, caption=name, markup=MARKUP, columns=columns, materialize=materialize
            )
            number = 0
            with atomic(made.root / f"{split}.jsonl") as part, part.open("w", encoding="utf-8") as file:
                for row, path, text, image in lines:
                    item = {
                        "text": f"{IMAGE} {text} {END}",
                        "images": [path],
                        "meta": {"key": row[KEY], "split": split, **{name: row[name] for name in columns}},
                        "stats": {
                            "image_widths": [image.header.width],
                            "image_heights": [image.header.height],
                        },
                    }
                    file.write(json.dumps(item, ensure_ascii=False) + "\n")
                    number += 1
            made.lists[f"{split}.jsonl"] = number
            made.file(f"recipe-{split}.yaml", _recipe(split))
    return made.done("datajuicer", out, selection)


def _recipe(split: str) -> bytes:
    """A run that opens every image and leaves out none: operators go where this one is."""
    return (
        f"dataset_path: ./{split}.jsonl\nexport_path: ./processed/{split}.jsonl\nnp: 2\n"
        "process:\n  - image_shape_filter:\n      min_width: 1\n      min_height: 1\n"
    ).encode()
