from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

from datakit.store import tar
from datakit.store.cache import Cache
from datakit.store.contents import contents_of
from datakit.store.reader import Store, open_store
from datakit.store.tar import SampleRecord

from .conftest import BuildStore
from .web import Web, opened, samples, serve


def test_a_shard_in_the_cache_is_asked_for_once_and_the_manifest_each_time(web: Web) -> None:
    for _ in range(2):
        samples(open_store(f"{web.url}/birds"))
    paths = [path for _, path, _ in web.asked]
    assert {path: paths.count(path) for path in paths if path.endswith(".tar")} == {
        path: 1 for path in paths if path.endswith(".tar")
    }
    assert paths.count("/birds/manifest.json") == 2 and any(path.endswith(".parquet") for path in paths)


def test_damage_on_the_cache_s_own_disk_is_fetched_anew_where_a_file_is_read_whole(
    web: Web, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "new")
    store = opened(f"{web.url}/birds", cache)
    file = store.contents.entries[0].metadata
    whole = store.files.read(file.path)
    kept = cache.shards / file.sha256
    kept.write_bytes(bytes(file.bytes))
    assert store.files.read(file.path) == whole == kept.read_bytes()


def test_a_copy_fetched_anew_is_not_let_go_of_for_the_damage_of_the_one_before(
    web: Web, tmp_path: Path
) -> None:
    """Two readers had the damaged copy open; the second finds the damage when the first has fetched it anew."""
    cache = Cache(tmp_path / "new")
    files = opened(f"{web.url}/birds", cache).files
    file = contents_of(files).entries[0].tar
    first = files.open(file)
    flip(cache.shards / file.sha256, 700)
    second = files.open(file)
    assert files.forget(file, first) and not (cache.shards / file.sha256).exists()
    whole = files.open(file).read(0, file.bytes)
    web.asked.clear()
    assert files.forget(file, second)
    assert (cache.shards / file.sha256).read_bytes() == whole and files.open(file).size == file.bytes
    assert not web.asked


@pytest.mark.parametrize("where", ["sample", "end"])
def test_a_shard_damaged_on_the_cache_s_own_disk_is_fetched_anew(
    where: str, web: Web, store_root: Path, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "new")
    whole = samples(opened(f"{web.url}/birds", cache))
    entry = open_store(store_root).contents.entries[0]
    kept = cache.shards / entry.tar.sha256
    for read in (samples, lambda store: samples_of_threads(store, 4)):
        flip(kept, 700 if where == "sample" else entry.tar.bytes - 1)
        web.asked.clear()
        assert read(opened(f"{web.url}/birds", cache)) == whole
        assert [path for _, path, _ in web.asked].count(f"/birds/{entry.tar.path}") == 1
        assert kept.read_bytes() == (store_root / entry.tar.path).read_bytes()


def flip(path: Path, at: int) -> None:
    """A bit of the byte at `at`, in place: nobody sees a file of another size meanwhile."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def samples_of_threads(store: Store, threads: int) -> list[tuple[object, ...]]:
    """As `samples`; every sample is read by all threads, at once."""

    def read(split: str, index: int) -> tuple[object, ...]:
        sample = store[split][index]
        return sample["__key__"], sample["image"].encoded, sample["label"], sample["class_name"]

    with ThreadPoolExecutor(threads) as pool:
        found = [
            [pool.submit(read, split, index) for _ in range(threads)]
            for split in store.splits
            for index in range(len(store[split]))
        ]
        assert all(len({future.result() for future in several}) == 1 for several in found)
        return [several[0].result() for several in found]


def test_a_store_that_is_damaged_itself_is_not_fetched_again_and_again(
    build_store: BuildStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest is of the bytes that are there, and the digests of its samples are not."""
    monkeypatch.setattr(tar, "SampleRecord", lambda key, at, size, _: SampleRecord(key, at, size, "0" * 32))
    build_store(tmp_path / "web" / "birds")
    monkeypatch.undo()
    monkeypatch.setenv("DATAKIT_CACHE_DIR", str(tmp_path / "cache"))
    with serve(tmp_path / "web") as served:
        stream = open_store(f"{served.url}/birds")["train"].samples(on_error="skip")
        assert not list(stream) and stream.skipped
        tars = [path for _, path, _ in served.asked if path.endswith(".tar")]
        assert tars and len(tars) == len(set(tars))


def test_a_shard_larger_than_the_cache_is_read_where_it_lies(web: Web, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new", limit=9000)
    store = opened(f"{web.url}/birds", cache)
    assert any(entry.tar.bytes > 9000 for entry in store.contents.entries)
    assert samples(store) == samples(opened(f"{web.url}/birds"))
    assert sum(kept.bytes for kept in cache.kept()) <= 9000


def test_prefetched_shards_are_there_when_they_are_opened(web: Web, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new")
    store = opened(f"{web.url}/birds", cache)
    files = [entry.tar for entry in store["train"].shards]
    store.files.prefetch(files)
    store.files.prefetch(files)
    _wait(lambda: all((cache.shards / file.sha256).exists() for file in files))
    tars = [path for _, path, _ in web.asked if path.endswith(".tar")]
    assert len(tars) == len(files)
    for file in files:
        assert store.files.open(file).size == file.bytes
    assert len([path for _, path, _ in web.asked if path.endswith(".tar")]) == len(files)


@pytest.mark.parametrize("shuffle", ["none", "window"])
def test_an_epoch_fetches_the_shards_of_its_next_window_ahead(
    shuffle: Literal["none", "window"], web: Web, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "new")
    view = opened(f"{web.url}/birds", cache)["train"]  # three shards
    loader = iter(view.samples(shuffle=shuffle, window=1))
    next(loader)
    # The window at hand and the next; the third when its turn comes.
    _wait(lambda: len(list(cache.shards.iterdir())) >= 2)
    rest = [sample["__key__"] for sample in loader]
    assert len(rest) == len(view) - 1
    tars = [path for _, path, _ in web.asked if path.endswith(".tar")]
    assert len(tars) == len(set(tars)) == 3


def test_what_fails_to_be_prefetched_is_raised_once_where_it_is_opened(web: Web, tmp_path: Path) -> None:
    store = opened(f"{web.url}/birds", Cache(tmp_path / "new"))
    file = store["train"].shards[0].tar
    path = web.root / "birds" / file.path
    path.rename(path.with_suffix(".away"))
    store.files.prefetch([file])
    _wait(lambda: not [t for t in threading.enumerate() if t.name == "datakit-prefetch"])
    path.with_suffix(".away").rename(path)
    with pytest.raises(FileNotFoundError, match=path.name):
        store.files.open(file)
    assert store.files.open(file).size == file.bytes


def test_no_more_is_fetched_ahead_than_half_of_the_cache_holds(web: Web, tmp_path: Path) -> None:
    store = opened(f"{web.url}/birds")
    files = [entry.tar for entry in store["train"].shards]
    cache = Cache(tmp_path / "new", limit=3 * max(file.bytes for file in files))
    store = opened(f"{web.url}/birds", cache)
    store.files.prefetch(files)
    _wait(lambda: not [t for t in threading.enumerate() if t.name == "datakit-prefetch"])
    assert len(list(cache.shards.iterdir())) == 1


def _wait(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)
