"""The wids index of a split: how many samples each tar holds, beside the tars, by relative URL."""

from __future__ import annotations

import json
from collections.abc import Sequence

from datakit.store.layout import ShardEntry


def wids_index(name: str, split: str, entries: Sequence[ShardEntry]) -> bytes:
    """`data/<split>.index.json`; URLs resolve against the index's own place."""
    shards = [
        {
            "url": entry.tar.path.removeprefix("data/"),
            "nsamples": entry.samples,
            "filesize": entry.tar.bytes,
        }
        for entry in entries
    ]
    index = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": f"{name}-{split}",
        "shardlist": shards,
    }
    return json.dumps(index, indent=1, ensure_ascii=False).encode() + b"\n"
