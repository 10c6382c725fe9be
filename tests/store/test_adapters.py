"""Other libraries' pipelines over our index give our samples, each once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from datakit.errors import ConfigError
from datakit.store.reader import open_store


@pytest.mark.parametrize("workers", [0, 2])
def test_a_webdataset_pipeline_reads_by_our_index(store_root: Path, workers: int) -> None:
    wds = pytest.importorskip("webdataset")
    from torch.utils.data import DataLoader

    view = open_store(store_root)["train"]
    pipeline = wds.DataPipeline(view.webdataset(shuffle=True, seed=1), wds.decode("pil"))
    samples = list(DataLoader(pipeline, batch_size=None, num_workers=workers))
    assert Counter(sample["__key__"] for sample in samples) == Counter(view.keys)
    labels = dict(zip(view.keys, view.table(["label"])["label"].to_pylist(), strict=True))
    assert all(sample["cls"] == labels[sample["__key__"]] for sample in samples)
    assert all(sample["jpg"].size == (24, 20) for sample in samples)
    assert {"__key__", "__url__", "jpg", "json", "cls", "txt"} <= set(samples[0])
    with pytest.raises(ConfigError, match="whole samples"):
        view.webdataset(fields=["label"])


def test_a_hugging_face_stream_is_typed_and_whole(store_root: Path) -> None:
    pytest.importorskip("datasets")
    store = open_store(store_root)
    for view in (store["train"], store.select("seed1")["train"]):
        data = view.hugging_face(shuffle=True, seed=2)
        assert data.features["label"].names == view.store.class_names
        rows = list(data)
        assert [row["__key__"] for row in rows] == [s["__key__"] for s in view.samples(shuffle=True, seed=2)]
        assert rows[0]["image"].size == (24, 20)
        wanted = dict(zip(view.keys, view.table(["label"])["label"].to_pylist(), strict=True))
        assert {row["__key__"]: row["label"] for row in rows} == wanted
