"""COCO captions: one JSON a split, loose images beside."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from datakit.manifest import atomic
from datakit.store.exports.samples import caption_column, chosen, count_unused, rows, samples, used
from datakit.store.exports.target import Exported, Target, target
from datakit.store.metadata import KEY
from datakit.store.reader import Store

NO_CAPTION = "no_caption"


def export_coco(
    store: Store,
    out: Path,
    *,
    selection: str | None = None,
    caption: str | None = None,
    materialize: bool = True,
) -> Exported:
    """`annotations/captions_<split>.json` and `<split>/<key>.<extension>`, to which its `file_name`s are relative.

    Numbers of images and captions are unique over all splits. An image without a caption is listed, without an
    annotation, and counted as `no_caption`. caption: a column of text, or of lists of it.
    """
    found = chosen(store, selection)
    splits, name = used(found), caption_column(found, caption, several=True)
    licences = _licences(found)
    with target(found, out, "coco", caption=name, materialize=materialize) as made:
        count_unused(found, made)
        first, numbers = 1, itertools.count(1)
        for split in splits:
            path = f"annotations/captions_{split}.json"
            images = _images(found, split, made, first, licences, materialize)
            captions = _captions(found, split, name, made, first, numbers)
            with atomic(made.root / path) as part, part.open("w", encoding="utf-8") as file:
                file.write(f'{{"info": {_json(_info(found))},\n"licenses": {_json(_listed(licences))},\n')
                _write_list(file, "images", images)
                file.write(",\n")
                made.lists[path] = _write_list(file, "annotations", captions)
                file.write("}\n")
            first += found.splits[split]
    return made.done("coco", out, selection)


def _images(
    store: Store,
    split: str,
    made: Target,
    first: int,
    licences: dict[str, int],
    materialize: bool,
) -> Iterator[dict[str, Any]]:
    columns = ["licence"] if licences else []
    for number, (row, image) in enumerate(samples(store[split], columns), first):
        name, header = f"{row[KEY]}.{store.layout.image_extension}", image.header
        if materialize:
            made.image(f"{split}/{name}", image.encoded)
        listed = {"id": number, "file_name": name, "width": header.width, "height": header.height}
        licence = licences.get(row.get("licence") or "")
        yield listed if licence is None else {**listed, "license": licence}


def _captions(
    store: Store, split: str, name: str, made: Target, first: int, numbers: Iterator[int]
) -> Iterator[dict[str, Any]]:
    for image, row in enumerate(rows(store[split], [name]), first):
        value = row[name]
        captions = [text for text in (value if isinstance(value, list) else [value]) if text and text.strip()]
        if not captions:
            made.skipped[NO_CAPTION] += 1
        for text in captions:
            yield {"id": next(numbers), "image_id": image, "caption": text}


def _info(store: Store) -> dict[str, Any]:
    """What the store's own description says."""
    said = json.loads(store.files.read("croissant.json"))
    date = str(said.get("datePublished", ""))[:10]
    return {
        "description": store.contents.title,
        "url": str(said.get("url", "")),
        "version": str(said.get("version", "")),
        "year": int(date[:4]) if date[:4].isdigit() else 0,
        "contributor": str((said.get("creator") or {}).get("name", "")),
        "date_created": date,
    }


def _licences(store: Store) -> dict[str, int]:
    """Licence → its number; none where the samples do not say theirs."""
    views = [store[split] for split in store.splits]
    if not all("licence" in view.columns for view in views):
        return {}
    names = {
        name for view in views for name in view.table(["licence"])["licence"].unique().to_pylist() if name
    }
    return {name: number for number, name in enumerate(sorted(names), 1)}


def _listed(licences: dict[str, int]) -> list[dict[str, Any]]:
    return [{"id": number, "name": name, "url": ""} for name, number in licences.items()]


def _write_list(file: IO[str], name: str, items: Iterator[dict[str, Any]]) -> int:
    """`"name": [items]`, one a line; how many. None of them is kept."""
    file.write(f'"{name}": [')
    number = 0
    for number, item in enumerate(items, 1):
        file.write(f"{',' if number > 1 else ''}\n{_json(item)}")
    file.write("]")
    return number


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
