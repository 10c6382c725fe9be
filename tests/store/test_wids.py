"""The wids index: what its reader requires, by URLs that survive a move of the store."""

from __future__ import annotations

import json
from pathlib import Path


def test_the_index_lists_the_shards_of_its_split(store_root: Path) -> None:
    index = json.loads((store_root / "data" / "train.index.json").read_bytes())
    assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
    assert [shard["nsamples"] for shard in index["shardlist"]] == [7, 7, 6]
    for shard in index["shardlist"]:
        assert "/" not in shard["url"]
        assert (store_root / "data" / shard["url"]).stat().st_size == shard["filesize"]


def test_every_split_has_one(store_root: Path) -> None:
    indices = sorted(path.name for path in (store_root / "data").glob("*.json"))
    assert indices == ["near_ood.index.json", "test.index.json", "train.index.json"]
