"""The Arrow form: mapped by Hugging Face as it lies, typed, and written a batch at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.errors import StoreError
from datakit.store import arrow
from datakit.store.arrow import arrow_shard
from datakit.store.layout import Layout
from datakit.store.metadata import published_rows


def test_a_split_and_the_whole_load_from_disk(store_root: Path) -> None:
    import datasets

    whole = datasets.load_from_disk(str(store_root / "arrow"))
    assert {name: rows.num_rows for name, rows in whole.items()} == {"train": 20, "test": 5, "near_ood": 7}
    features = whole["near_ood"].features
    assert features["image"] == datasets.Image()
    assert features["label"].names == ["no", "1.0", "a: b # c"]
    assert features["taxonomy"] == datasets.List(datasets.Value("string"))
    assert set(whole["near_ood"]["label"]) == {-1}
    assert whole["train"].info.license == "CC-BY-4.0 AND MIT"


def test_one_file_maps_alone_with_its_types(store_root: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_file(str(store_root / "arrow" / "train" / "data-00001-of-00003.arrow"))
    assert len(rows) == 7
    assert rows[0]["image"].size == (24, 20)
    assert rows.features["label"].int2str(2) == "a: b # c"


def test_equal_data_have_equal_fingerprints_and_others_do_not(store_root: Path) -> None:
    import datasets

    found = [
        datasets.load_from_disk(str(store_root / "arrow" / name))._fingerprint for name in ("train", "test")
    ]
    again = datasets.load_from_disk(str(store_root / "arrow" / "train"))._fingerprint
    assert found[0] == again != found[1]


def batches(path: Path) -> list[int]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        return [batch.num_rows for batch in stream]


def test_no_more_than_a_batch_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = published_rows(pa.table({"key": [f"k{i}" for i in range(250)]}), Layout())
    with arrow_shard(tmp_path / "by_rows.arrow", rows, Layout()) as shard:
        for i in range(250):
            shard.add(f"k{i}.jpg", b"x")
    assert batches(tmp_path / "by_rows.arrow") == [100, 100, 50]
    monkeypatch.setattr(arrow, "BATCH_BYTES", 1000)
    with arrow_shard(tmp_path / "by_bytes.arrow", rows, Layout()) as shard:
        for i in range(250):
            shard.add(f"k{i}.jpg", bytes(500))
    assert set(batches(tmp_path / "by_bytes.arrow")) == {2}
    assert shard.sink.size == (tmp_path / "by_bytes.arrow").stat().st_size


def test_too_few_images_leave_no_file(tmp_path: Path) -> None:
    rows: Any = published_rows(pa.table({"key": ["a", "b"]}), Layout())
    with (
        pytest.raises(StoreError, match="1 images came for 2 rows"),
        arrow_shard(tmp_path / "x.arrow", rows, Layout()) as shard,
    ):
        shard.add("a.jpg", b"x")
    assert list(tmp_path.iterdir()) == []
