"""The loader where something is damaged, stands beside or is shared: nothing is lost, no rank waits for another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from torch.utils.data import DataLoader

from datakit.errors import ConfigError, StoreError
from datakit.store.reader import open_store
from datakit.store.reading import Reading
from datakit.store.view import SplitView


@pytest.fixture
def damaged(store_root: Path, tmp_path: Path) -> Callable[..., SplitView]:
    """The train split, 20 samples, of which these are damaged."""

    def make(*numbers: int) -> SplitView:
        root = tmp_path / "damaged"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(store_root, root)
        rows = open_store(root)["train"].table(["shard", "image_offset"]).to_pylist()
        for number in numbers:
            path = root / "data" / f"{rows[number]['shard']}.tar"
            data = bytearray(path.read_bytes())
            data[rows[number]["image_offset"] + 30] ^= 1
            path.write_bytes(data)
        return open_store(root)["train"]

    return make


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_give_as_many_whatever_is_skipped(
    world: int, batch_size: int, damaged: Callable[..., SplitView]
) -> None:
    view = damaged(0, 2, 4, 5)
    whole = [{"rank": rank, "world": world, "on_error": "skip"} for rank in range(world)]
    for which in whole:
        samples = view.samples(**which)
        keys = [sample["__key__"] for sample in samples]
        assert len(keys) == len(samples) and samples.skipped
        batches = view.batches(batch_size, target_size=16, **which)
        assert sum(1 for _ in batches) == len(batches)
        stream = view.torch_dataset(stream=True, **which)
        assert sum(1 for _ in stream) == len(stream)
    loaders = [view.torch(1, target_size=16, workers=2, **which) for which in whole[:1]]
    assert [sum(1 for _ in loader) for loader in loaders] == [len(loader) for loader in loaders]
    alone = view.samples(rank=0, world=1, on_error="skip")
    assert sum(1 for _ in alone) == 16 and sum(alone.skipped.values()) == 4


def test_a_lost_shard_is_not_read_again_for_each_of_its_samples(
    damaged: Callable[..., SplitView], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, whole = list[Any](), Reading.read

    def read(self: Reading, place: Any) -> Any:
        reads.append(place)
        return whole(self, place)

    monkeypatch.setattr(Reading, "read", read)
    for numbers, given in ((range(20), 0), (range(18), 10)):
        samples = damaged(*numbers).samples(rank=0, world=2, on_error="skip")
        reads.clear()
        assert sum(1 for _ in samples) == given and len(reads) <= 3 * len(samples)


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_a_batch_that_raised_was_not_given(workers: int | None, damaged: Callable[..., SplitView]) -> None:
    view = damaged(6)
    make = view.batches if workers is None else view.torch
    words = {} if workers is None else {"workers": workers}
    loader, given = make(4, target_size=16, **words), list[str]()
    with pytest.raises(StoreError):
        for batch in loader:
            given += batch["__key__"]
    assert len(given) == 4 and loader.state_dict()["position"] == 4
    rest = make(4, target_size=16, on_error="skip", **words)
    rest.load_state_dict(loader.state_dict())
    given += [key for batch in rest for key in batch["__key__"]]
    assert given == [key for number, key in enumerate(view.keys) if number != 6]


def test_a_collate_that_fails_takes_no_samples_along(store_root: Path) -> None:
    view, calls = open_store(store_root)["train"], list[int]()

    def collate(samples: list[Any]) -> list[Any]:
        calls.append(len(samples))
        if len(calls) == 2:
            raise ZeroDivisionError
        return samples

    loader = view.batches(4, collate=collate)
    with pytest.raises(ZeroDivisionError):
        list(loader)
    assert loader.state_dict()["position"] == 4


def test_a_webdataset_pipeline_skips_and_counts(damaged: Callable[..., SplitView]) -> None:
    view = damaged(3, 7)
    source = view.webdataset(on_error="skip")
    keys = [sample["__key__"] for sample in source()]
    assert keys == [key for number, key in enumerate(view.keys) if number not in (3, 7)]
    assert source.samples.skipped == {"damaged": 2}  # type: ignore[attr-defined]
    with pytest.raises(StoreError):
        list(view.webdataset()())


def test_a_webdataset_pipeline_has_what_stands_beside(store_root: Path, tmp_path: Path) -> None:
    """A selection numbers its classes anew, a sidecar says more: whoever trains must have these."""
    store = open_store(store_root)
    keys = store["train"].keys
    sidecar = tmp_path / "more.parquet"
    vectors = pa.array([[number, 0.5] for number in range(len(keys))], pa.list_(pa.float32(), 2))
    columns = {"label": [number % 2 for number in range(len(keys))], "caption": [f"c{key}" for key in keys]}
    pq.write_table(pa.table({"key": keys, **columns, "vector": vectors, "score": range(len(keys))}), sidecar)
    view = store["train"].zip(sidecar)
    for number, (given, sample) in enumerate(zip(view.webdataset()(), view.samples(), strict=True)):
        assert given["cls"] == str(sample["label"]).encode() == str(number % 2).encode()
        told = json.loads(given["json"])
        assert (told["score"], told["vector"]) == (number, [number, 0.5])
        if store.layout.caption:
            assert given["txt"] == sample["caption"].encode() == f"c{keys[number]}".encode()
    for split in store.select("seed1").splits:
        chosen = store.select("seed1")[split]
        labels = [sample.get("label") for sample in chosen.samples()]
        assert [int(given["cls"]) for given in chosen.webdataset()()] == [
            -1 if label is None else label for label in labels
        ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_shuffled_anew_also_in_workers_that_live_on(workers: int, store_root: Path) -> None:
    stream = open_store(store_root)["train"].torch_dataset(stream=True, shuffle=True, fields=["label"])
    loader = DataLoader(stream, batch_size=None, num_workers=workers, persistent_workers=bool(workers))
    epochs = []
    for epoch in (0, 1, 1):
        stream.set_epoch(epoch)  # type: ignore[union-attr]
        epochs.append([sample["__key__"] for sample in loader])
    assert epochs[0] != epochs[1] == epochs[2] and sorted(epochs[0]) == sorted(epochs[1])


def test_a_webdataset_source_is_shuffled_anew_in_workers_when_told(store_root: Path) -> None:
    source = open_store(store_root)["train"].webdataset(shuffle=True)
    loader = DataLoader(webdataset.DataPipeline(source), batch_size=None, num_workers=2)
    epochs = []
    for epoch in (0, 1):
        source.set_epoch(epoch)  # type: ignore[attr-defined]
        epochs.append([sample["__key__"] for sample in loader])
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])


@pytest.mark.parametrize(
    "word", [{"rank": 0, "world": 2}, {"on_error": "skip"}, {"shuffle": True}, {"uneven": "drop"}]
)
def test_a_data_set_by_number_refuses_what_it_cannot_do(word: dict[str, Any], store_root: Path) -> None:
    with pytest.raises(ConfigError, match="takes no"):
        open_store(store_root)["train"].torch_dataset(**word)


@pytest.mark.parametrize("inner", [1.5, None])
def test_a_column_is_nobody_s_to_write_to(inner: float | None, store_root: Path, tmp_path: Path) -> None:
    keys = open_store(store_root)["train"].keys
    vectors = pa.array([[2.0, inner]] * len(keys), pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"key": keys, "vector": vectors}), tmp_path / "v.parquet")
    view = open_store(store_root)["train"].zip(tmp_path / "v.parquet")
    for sample in view.samples(fields=["vector"]):
        try:
            sample["vector"][:] = [-99.0, -99.0]
        except ValueError as problem:
            assert "read-only" in str(problem)
    assert [list(sample["vector"]) for sample in view.samples(fields=["vector"])] == [[2.0, inner]] * len(
        keys
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["x", "x"], "two columns x"),
        (["image", "x"], "a column image"),
        (["x", "__key__"], "a column __key__"),
    ],
)
def test_a_sidecar_hides_nothing(names: list[str], said: str, store_root: Path, tmp_path: Path) -> None:
    view = open_store(store_root)["train"]
    values = [pa.array(view.keys), *(pa.array(range(len(view))) for _ in names)]
    table = pa.Table.from_arrays(values, names=["key", *names])
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(StoreError, match=said):
        view.zip(tmp_path / "x.arrow")
    if "two" not in said:
        assert view.zip(tmp_path / "x.arrow", columns=["x"])[1]["x"] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("shuffle", "zzz"), ("seed", "x"), ("epoch", -1), ("position", 1.5), ("window", 0), ("epoch", True)],
)
def test_a_damaged_state_is_refused_whole(name: str, value: Any, store_root: Path) -> None:
    samples = open_store(store_root)["train"].samples(shuffle="window", seed=3)
    before = samples.state_dict()
    with pytest.raises(ConfigError):
        samples.load_state_dict({**before, name: value})
    assert samples.state_dict() == before
    samples.load_state_dict(before)
