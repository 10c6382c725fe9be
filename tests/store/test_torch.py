"""Tensors: processes give what threads give, and an epoch goes on whatever made its first part."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.store.reader import Store, open_store

torch = pytest.importorskip("torch")

HOW: dict[str, Any] = {"shuffle": True, "seed": 5, "fields": ["image", "label"], "target_size": 8}


@pytest.fixture
def store(store_root: Path) -> Store:
    return open_store(store_root)


def keys(batches: Any) -> list[str]:
    return [key for batch in batches for key in batch["__key__"]]


def test_batches_are_tensors_of_the_sizes_said(store: Store) -> None:
    loader = store.torch(8, crop="random", **HOW)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    images, labels = batches[0]["image"], batches[0]["label"]
    assert images.shape == (8, 3, 8, 8) and images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert Counter(keys(batches)) == Counter(store["train"].keys)


def test_processes_give_the_same_batches_and_the_same_state(store: Store) -> None:
    threads, processes = (store.torch(3, crop="random", workers=workers, **HOW) for workers in (0, 2))
    states: list[list[Any]] = [[], []]
    for number, loader in enumerate((threads, processes)):
        for batch in loader:
            states[number].append((batch, loader.state_dict()))
    for (ours, state), (theirs, other) in zip(*states, strict=True):
        assert state == other and ours["__key__"] == theirs["__key__"]
        assert torch.equal(ours["image"], theirs["image"]) and torch.equal(ours["label"], theirs["label"])


@pytest.mark.parametrize("workers", [(0, 2), (2, 0)])
def test_an_epoch_goes_on_with_another_number_of_workers_and_ranks(
    store: Store, workers: tuple[int, int]
) -> None:
    whole = keys(store.torch(2, **HOW))
    first = store.torch(2, workers=workers[0], **HOW)
    begun = keys(islice(first, 3))  # in the making ahead: more, which does not count
    state = first.state_dict()
    assert state["position"] == 6
    parts = []
    for rank in range(2):
        rest = store.torch(2, workers=workers[1], rank=rank, world=2, **HOW)
        rest.load_state_dict(state)
        parts.append(keys(rest))
    assert begun + [key for pair in zip(*parts, strict=True) for key in pair] == whole


def test_damage_is_told_from_workers_as_from_threads(
    store_root: Path, tmp_path: Path, build_store: Any
) -> None:
    build_store(tmp_path / "copy")
    row = open_store(tmp_path / "copy")["train"].table(["shard", "image_offset"]).to_pylist()[7]
    path = tmp_path / "copy" / "data" / f"{row['shard']}.tar"
    data = bytearray(path.read_bytes())
    data[row["image_offset"] + 30] ^= 1
    path.write_bytes(data)
    for workers in (0, 2):
        loader = open_store(tmp_path / "copy").torch(4, workers=workers, on_error="skip", **HOW)
        assert len(keys(loader)) == 19
        samples = loader.batches.samples
        assert samples.skipped == {"damaged": 1} and samples.skipped_keys == [("bird-0007", "damaged")]


def test_a_dataset_by_number_and_a_stream_feed_a_loader_of_ones_own(store: Store) -> None:
    from torch.utils.data import DataLoader

    def pair(sample: dict[str, Any]) -> tuple[str, int]:
        return sample["__key__"], sample["label"]

    data = store["train"].torch_dataset(transform=pair)
    assert len(data) == 20 and data[-1][0] == "bird-0019"
    with pytest.raises(IndexError):
        data[20]
    found = [key for names, _ in DataLoader(data, batch_size=6, num_workers=2) for key in names]
    assert found == store["train"].keys
    stream = store["train"].torch_dataset(stream=True, transform=pair, shuffle=True)
    found = [key for names, _ in DataLoader(stream, batch_size=6, num_workers=2) for key in names]
    assert Counter(found) == Counter(store["train"].keys)


def test_what_a_transform_makes_is_collated_as_torch_does(store: Store) -> None:
    def to_pair(sample: dict[str, Any]) -> tuple[Any, int]:
        return torch.zeros(3, 4) + sample["label"], sample["label"]

    def to_dict(sample: dict[str, Any]) -> dict[str, Any]:
        return {"x": torch.full((2,), float(sample["label"])), "key": sample["__key__"]}

    for workers in (0, 2):
        pictures, labels = next(iter(store.torch(5, workers=workers, transform=to_pair)))
        assert pictures.shape == (5, 3, 4) and torch.equal(pictures[:, 0, 0], labels.float())
        batch = next(iter(store.torch(5, workers=workers, transform=to_dict)))
        assert batch["x"].shape == (5, 2) and batch["key"] == store["train"].keys[:5]
    counted = store.torch(5, collate=len)
    assert list(counted) == [5, 5, 5, 5]


@pytest.mark.parametrize("shape", [(300, 300, 3), (1, 1, 3), (7, 900, 3), (2400, 2400, 3)])
def test_the_filter_of_tensors_is_pillows_to_a_step_and_warns_of_nothing(
    shape: tuple[int, int, int], recwarn: pytest.WarningsRecorder
) -> None:
    from PIL import Image as pil

    from datakit.store.torch import resized

    whole = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    whole.flags.writeable = False
    wanted = np.asarray(pil.fromarray(whole).resize((50, 50), pil.Resampling.BILINEAR)).astype(int)
    for given in (whole, whole[:, ::-1][:, ::-1], np.asfortranarray(whole), whole.copy()):
        out = np.zeros((50, 50, 3), np.uint8)
        before = given.copy()
        resized(given, out)
        assert np.abs(out - wanted).max() <= 1 and np.array_equal(given, before)
    assert not recwarn.list
