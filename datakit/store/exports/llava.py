"""LLaVA's conversations: one JSON a split, loose images beside."""

from __future__ import annotations

import json
from pathlib import Path

from datakit.errors import ConfigError
from datakit.manifest import atomic
from datakit.store.exports.captioned import captioned
from datakit.store.exports.samples import caption_column, chosen, count_unused, used
from datakit.store.exports.target import Exported, target
from datakit.store.metadata import KEY
from datakit.store.reader import Store

IMAGE = "<image>"
PROMPT = "Describe the image."


def export_llava(
    store: Store,
    out: Path,
    *,
    selection: str | None = None,
    caption: str | None = None,
    prompt: str | None = None,
    materialize: bool = True,
) -> Exported:
    """`<split>.json`, a list of one conversation an image, and `images/`, to which nothing else is relative.

    The human asks `prompt`, the caption is the answer. `id` is the key, a str.
    """
    asked = (PROMPT if prompt is None else prompt).strip()
    if not asked or IMAGE in asked:
        raise ConfigError(f"prompt={prompt}: must be a text, and {IMAGE} stands before it by itself")
    found = chosen(store, selection)
    splits, name = used(found), caption_column(found, caption)
    with target(found, out, "llava", caption=name, prompt=asked, materialize=materialize) as made:
        count_unused(found, made)
        for split in splits:
            lines = captioned(
                found, split, made, caption=name, markup=(IMAGE,), columns=(), materialize=materialize
            )
            number = 0
            with atomic(made.root / f"{split}.json") as part, part.open("w", encoding="utf-8") as file:
                file.write("[")
                for number, (row, path, text, _) in enumerate(lines, 1):
                    turns = [
                        {"from": "human", "value": f"{IMAGE}\n{asked}"},
                        {"from": "gpt", "value": text},
                    ]
                    item = {"id": row[KEY], "image": path, "conversations": turns}
                    file.write(f"{',' if number > 1 else ''}\n{json.dumps(item, ensure_ascii=False)}")
                file.write("\n]\n")
            made.lists[f"{split}.json"] = number
    return made.done("llava", out, selection)
