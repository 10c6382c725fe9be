"""The loader gives every sample once, in an order that no rank or restart can change, or names what is damaged."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import ConfigError, SampleError, StoreError
from datakit.image import Image
from datakit.store import shards as shards_module
from datakit.store.loader import Samples
from datakit.store.reader import Store, open_store
from datakit.store.sidecar import write_sidecar

SHUFFLES = ["none", "window", "full"]


@pytest.fixture
def store(store_root: Path) -> Store:
    return open_store(store_root)


def keys(samples: Any) -> list[str]:
    return [sample["__key__"] for sample in samples]


def interleaved(parts: list[list[str]]) -> list[str]:
    """What ranks gave, in the order of the global positions."""
    return [part[turn] for turn in range(max(map(len, parts))) for part in parts if turn < len(part)]


def test_samples_are_those_of_the_view(store: Store) -> None:
    for each in (store, store.select("seed1")):
        view = each["train"]
        for ours, theirs in zip(view.samples(), view, strict=True):
            assert ours["image"].encoded == theirs["image"].encoded
            assert {n: v for n, v in ours.items() if n != "image"} == {
                n: v for n, v in theirs.items() if n != "image"
            }


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("selected", [False, True])
def test_every_sample_once_an_epoch_over_all_ranks(store: Store, shuffle: str, selected: bool) -> None:
    view = (store.select("seed1") if selected else store)["train"]
    whole = keys(view.samples(shuffle=shuffle, seed=4, epoch=2))
    assert Counter(whole) == Counter(view.keys)
    for world in (2, 3, 7):
        parts = [
            list(keys(view.samples(shuffle=shuffle, seed=4, epoch=2, rank=rank, world=world, uneven="keep")))
            for rank in range(world)
        ]
        assert interleaved(parts) == whole


@pytest.mark.parametrize(("uneven", "each"), [("repeat", 7), ("drop", 6)])
def test_ranks_are_equal_so_that_none_waits(store: Store, uneven: Any, each: int) -> None:
    view = store["train"]  # 20 samples
    loaders = [view.samples(rank=rank, world=3, uneven=uneven, shuffle=True) for rank in range(3)]
    parts = [keys(loader) for loader in loaders]
    assert [len(part) for part in parts] == [len(loader) for loader in loaders] == [each] * 3
    counts = Counter(key for part in parts for key in part)
    assert set(counts.values()) == ({1, 2} if uneven == "repeat" else {1})
    assert len(counts) == (20 if uneven == "repeat" else 18)


def test_the_next_for_is_the_next_epoch_and_one_left_early_begins_again(store: Store) -> None:
    samples = store["train"].samples(shuffle=True, seed=1)
    first, second = keys(samples), keys(samples)
    assert first != second and Counter(first) == Counter(second)
    assert samples.epoch == 2
    third = keys(islice(samples, 5))
    assert keys(samples)[:5] == third
    samples.set_epoch(0)
    assert keys(samples) == first


def run(
    make: Callable[..., Any], state: dict[str, Any] | None, world: int, steps: int
) -> tuple[Any, list[Any]]:
    """All ranks for some steps from a state on: the state after, and what they gave, in global order."""
    given, states = [], []
    for rank in range(world):
        loader = make(rank=rank, world=world)
        if state:
            loader.load_state_dict(json.loads(json.dumps(state)))
        given.append(list(islice(iter(loader), steps)))
        states.append(loader.state_dict())
    assert all(one == states[0] for one in states)
    return states[0], [given[rank][turn] for turn in range(steps) for rank in range(world)]


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_resumed_twice_with_other_ranks_it_is_the_same_epoch(store: Store, shuffle: str) -> None:
    view = store["train"]  # 20 samples: 1 rank to s, 2 ranks to t, 4 ranks to the end
    whole = keys(view.samples(shuffle=shuffle, seed=9))

    def make(**part: Any) -> Samples:
        return view.samples(shuffle=shuffle, seed=9, uneven="keep", **part)

    for first in range(0, 20, 4):
        for second in range((20 - first) // 4 * 2 // 2):
            state, begun = run(make, None, 1, first)
            state, gone_on = run(make, state, 2, second)
            assert state["position"] == first + 2 * second
            parts = []
            for rank in range(4):
                loader = make(rank=rank, world=4)
                loader.load_state_dict(state)
                parts.append(keys(loader))
            assert keys(begun) + keys(gone_on) + interleaved(parts) == whole


def test_a_state_is_refused_where_it_does_not_belong(store: Store, build_store: Any, tmp_path: Path) -> None:
    state = store["train"].samples().state_dict()
    build_store(tmp_path / "other", selections={})
    for view in (store["test"], store.select("seed1")["train"], open_store(tmp_path / "other")["train"]):
        with pytest.raises(StoreError, match="the state is of another"):
            view.samples().load_state_dict(state)
    samples = store["train"].samples()
    for wrong in ({}, {**state, "version": 99}, {**state, "position": 21}, {**state, "epoch": "x"}):
        with pytest.raises(ConfigError):
            samples.load_state_dict(wrong)


def test_only_the_fields_asked_for_are_read(
    store: Store, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy / "data")
    view = open_store(copy)["train"]
    assert [sorted(sample) for sample in view.samples(fields=["label"])] == [["__key__", "label"]] * 20
    with pytest.raises(StoreError, match=r"data/train-00000-of-00003\.tar is missing"):
        next(iter(view.samples(fields=["image"])))
    read: list[str] = []
    before = shards_module.read_metadata
    monkeypatch.setattr(
        shards_module,
        "read_metadata",
        lambda path, columns, **more: read.extend(columns) or before(path, columns, **more),
    )
    next(iter(store["train"].samples(fields=["image", "tier"])))
    assert "tier" in read and "caption" not in read and "boxes" not in read
    with pytest.raises(ConfigError, match="no field labl; did you mean label"):
        store["train"].samples(fields=["labl"])


def mutants(data: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Damage of every kind that reliability.md names, each to one shard."""
    at = int(rng.integers(len(data)))
    block = at // 512 * 512
    yield "bit", data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
    yield "cut", data[:at]
    yield "cut at a block", data[:block]
    yield "twice", data + data
    yield "empty", b""
    if data[block : block + 512].strip(b"\0"):
        yield "zeros", data[:block] + bytes(512) + data[block + 512 :]


def test_no_mutant_of_a_shard_is_read_as_if_it_were_whole(copy: Path) -> None:
    rng = np.random.default_rng(0)
    tars = sorted((copy / "data").glob("train-*.tar"))
    originals = {path: path.read_bytes() for path in tars}
    cases = 0
    for _ in range(15):
        path = tars[int(rng.integers(len(tars)))]
        for name, data in [*mutants(originals[path], rng), ("swapped", originals[tars[path == tars[0]]])]:
            if data == originals[path]:
                continue
            path.write_bytes(data)
            with pytest.raises(StoreError, match=path.name):
                keys(open_store(copy)["train"].samples(shuffle=True))
            cases += 1
            assert name
        path.write_bytes(originals[path])
    assert cases > 60
    assert len(keys(open_store(copy)["train"].samples())) == 20


def test_metadata_are_held_against_the_manifest(copy: Path) -> None:
    path = sorted((copy / "metadata").glob("train-*.parquet"))[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(StoreError, match=rf"{path.name} is not as written"):
        keys(open_store(copy)["train"].samples())


def test_what_is_skipped_is_counted_and_named_and_moves_no_other_sample(copy: Path) -> None:
    view = open_store(copy)["train"]
    whole = keys(view.samples(shuffle=True, seed=2))
    table = view.table(["key", "shard", "image_offset"]).to_pylist()
    for row in (table[3], table[12]):
        with (copy / "data" / f"{row['shard']}.tar").open("r+b") as tar:
            tar.seek(row["image_offset"] + 40)
            byte = tar.read(1)
            tar.seek(-1, 1)
            tar.write(bytes([byte[0] ^ 1]))
    bad = {table[3]["key"], table[12]["key"]}
    samples = open_store(copy)["train"].samples(shuffle=True, seed=2, on_error="skip")
    assert keys(samples) == [key for key in whole if key not in bad]
    assert samples.skipped == {"damaged": 2}
    assert {key for key, _ in samples.skipped_keys} == bad
    with pytest.raises(StoreError, match="its xxh3 differs"):
        keys(open_store(copy)["train"].samples())


def test_a_batch_is_what_its_samples_are(store: Store) -> None:
    view = store["train"]
    loader = view.batches(6, target_size=16, fields=["image", "label", "caption"])
    batches = list(loader)
    assert [len(batch["label"]) for batch in batches] == [6, 6, 6, 2] and len(loader) == 4
    assert [key for batch in batches for key in batch["__key__"]] == view.keys
    assert all(
        batch["image"].shape[1:] == (16, 16, 3) and batch["image"].dtype == np.uint8 for batch in batches
    )
    assert (
        np.concatenate([batch["label"] for batch in batches]).tolist()
        == view.table(["label"])["label"].to_pylist()
    )
    assert [len(batch["label"]) for batch in view.batches(6, drop_last=True)] == [6, 6, 6]
    encoded = next(iter(view.batches(3)))["image"]
    assert all(isinstance(image, Image) for image in encoded)


@pytest.mark.parametrize("crop", ["centre", "random"])
def test_threads_change_no_pixel(store: Store, crop: Any) -> None:
    def pixels(threads: int) -> list[np.ndarray[Any, Any]]:
        loader = store["train"].batches(4, threads=threads, target_size=12, crop=crop, shuffle=True, seed=3)
        return [batch["image"] for batch in loader]

    for alone, together in zip(pixels(0), pixels(3), strict=True):
        assert np.array_equal(alone, together)


def test_random_crops_differ_by_epoch_and_key_and_repeat(store: Store) -> None:
    loader = store["train"].batches(20, target_size=12, crop="random", fields=["image"])
    first, second = next(iter(loader))["image"], None
    loader.set_epoch(1)
    second = next(iter(loader))["image"]
    assert not np.array_equal(first, second)
    loader.set_epoch(0)
    assert np.array_equal(next(iter(loader))["image"], first)


def test_errors_of_threads_come_in_order_and_name_the_sample(store: Store) -> None:
    def refuse(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__key__"] == "bird-0009":
            raise ValueError("a user's own")
        return sample

    given = []
    with pytest.raises(ValueError, match="a user's own"):
        for batch in store["train"].batches(4, threads=2, transform=refuse):
            given += batch["__key__"]
    assert given == store["train"].keys[:8]


def test_an_image_that_does_not_decode_is_named_or_skipped(
    build_store: Any, tmp_path: Path, toys: list[Any]
) -> None:
    broken = toys[0].images[2][:200]
    kept, toys[0].images[2] = toys[0].images[2], broken
    try:
        build_store(tmp_path / "broken")
    finally:
        toys[0].images[2] = kept
    view = open_store(tmp_path / "broken")["train"]
    with pytest.raises(SampleError, match=r"train-00000-of-00003\.tar, sample bird-0002"):
        list(view.batches(5, target_size=8))
    loader = view.batches(5, target_size=8, on_error="skip")
    assert sum(len(batch["image"]) for batch in loader) == 19
    assert sum(loader.samples.skipped.values()) == 1
    assert loader.samples.skipped_keys[0][0] == "bird-0002"


def test_ranks_come_from_the_environment_or_in_pairs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert len(store["train"].samples()) == 5
    assert keys(store["train"].samples()) == store["train"].keys[1::4]
    with pytest.raises(ConfigError, match="go together"):
        store["train"].samples(rank=0)
    with pytest.raises(ConfigError, match="ranks go from 0 to 1"):
        store["train"].samples(rank=2, world=2)
    for wrong in ({"shuffle": "all"}, {"uneven": "pad"}, {"on_error": "ignore"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            store["train"].samples(**wrong)  # type: ignore[arg-type]


def test_sidecars_are_zipped_on_by_key(store: Store, tmp_path: Path) -> None:
    every = [key for name in store.splits for key in store[name].keys]
    order = np.random.default_rng(0).permutation(len(every))
    table = pa.table(
        {
            "key": [every[i] for i in order],
            "caption": [f"new {every[i]}" for i in order],
            "emb": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(order, 4).astype(np.float32)), 4),
        }
    )
    write_sidecar(tmp_path / "more.arrow", table, store)
    for each in (store, store.select("seed1")):
        view = each["train"].zip(tmp_path / "more.arrow")
        for shuffle in SHUFFLES:
            for sample in view.samples(shuffle=shuffle):
                assert sample["caption"] == f"new {sample['__key__']}"
                assert sample["emb"].tolist() == [every.index(sample["__key__"])] * 4
        assert view[2]["caption"] == f"new {view.keys[2]}"
        assert view.table(["caption"])["caption"].to_pylist() == [f"new {key}" for key in view.keys]
    batch = next(
        iter(store["train"].zip(tmp_path / "more.arrow", columns=["emb"]).batches(5, fields=["emb"]))
    )
    assert batch["emb"].shape == (5, 4)


def test_a_sidecar_of_another_store_or_with_gaps_is_refused(
    store: Store, build_store: Any, tmp_path: Path
) -> None:
    view = store["train"]
    build_store(tmp_path / "other", selections={})
    table = pa.table({"key": view.keys, "x": list(range(20))})
    write_sidecar(tmp_path / "theirs.arrow", table, open_store(tmp_path / "other"))
    with pytest.raises(StoreError, match="belongs to another store"):
        view.zip(tmp_path / "theirs.arrow")
    write_sidecar(tmp_path / "gap.arrow", table.slice(1), store)
    with pytest.raises(StoreError, match="lacks 1 of 20 samples, the first bird-0000"):
        view.zip(tmp_path / "gap.arrow")
    assert [s["x"] for s in view.zip(tmp_path / "gap.arrow", partial=True).samples()] == [None, *range(1, 20)]
    write_sidecar(tmp_path / "twice.arrow", pa.concat_tables([table, table]), store)
    with pytest.raises(StoreError, match="names a key twice"):
        view.zip(tmp_path / "twice.arrow")
    (tmp_path / "none.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(StoreError, match="no readable sidecar"):
        view.zip(tmp_path / "none.parquet")


def test_many_shards_stay_within_the_files_that_are_open(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "HANDLES", 1)
    samples = store["train"].samples(shuffle="full")
    assert Counter(keys(samples)) == Counter(store["train"].keys)
    assert len(samples.reading.shards._handles) == 1


def test_what_a_loader_gave_stays_as_it_was_however_long_it_is_kept(store: Store) -> None:
    """Its memory is used again only when nobody holds it."""
    wanted = {sample["__key__"]: bytes(sample["image"].encoded) for sample in store.samples()}
    samples = store.samples()
    kept = [sample for _ in range(5) for sample in samples]
    views = {type(sample["image"].buffer) for sample in kept}
    assert views == {memoryview}  # else there is nothing to see here
    others = pickle.loads(pickle.dumps(kept))
    for sample, other in zip(kept, others, strict=True):
        assert bytes(sample["image"].buffer) == wanted[sample["__key__"]] == other["image"].encoded
        assert sample["image"].encoded == wanted[sample["__key__"]]
    with pytest.raises(TypeError):
        next(iter(store.samples()))["image"].buffer[0] = 0


@pytest.mark.parametrize("crop", ["centre", "random"])
def test_batches_that_are_kept_stay_as_they_were(store: Store, crop: Any) -> None:
    how: dict[str, Any] = {"target_size": 400, "crop": crop, "fields": ["image"], "shuffle": True}
    loader, apart = store["train"].batches(7, **how), store["train"].batches(7, threads=0, **how)
    kept = [batch for _ in range(2) for batch in loader]
    fresh = []
    for _ in range(2):
        for batch in apart:
            fresh.append(batch["image"].copy())
            del batch
    assert all(np.array_equal(one["image"], other) for one, other in zip(kept, fresh, strict=True))
    assert len(kept) == 6
