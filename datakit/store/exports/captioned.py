"""One text an image, as LLaVA and Data-Juicer want it: which samples have one that their readers take for text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from datakit.image import Image
from datakit.store.exports.samples import samples
from datakit.store.exports.target import Target
from datakit.store.metadata import KEY
from datakit.store.reader import Store

NO_CAPTION, MARKUP = "no_caption", "markup_in_caption"


def captioned(
    store: Store,
    split: str,
    made: Target,
    *,
    caption: str,
    markup: Sequence[str],
    columns: Sequence[str],
    materialize: bool,
) -> Iterator[tuple[dict[str, Any], str, str, Image]]:
    """(row, path of its image, caption without surrounding blanks, image), image written; the rest is counted.

    `no_caption`: null or blank. `markup_in_caption`: it holds a word of `markup`, which readers would take for an
    image or an end of text, so that their counts of images no longer fit.
    """
    for row, image in samples(store[split], [caption, *(name for name in columns if name != caption)]):
        text = (row[caption] or "").strip()
        if not text or any(word in text for word in markup):
            made.skipped[MARKUP if text else NO_CAPTION] += 1
            continue
        path = str(PurePosixPath("images", split, f"{row[KEY]}.{store.layout.image_extension}"))
        if materialize:
            made.image(path, image.encoded)
        yield row, path, text, image
