from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datakit.errors import ConfigError, EnvironmentProblem, StoreError
from datakit.store.cache import ABANDONED, Cache, bytes_of, cache_folder
from datakit.store.layout import File


def file_of(data: bytes, path: str = "data/x.tar") -> File:
    return File(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def fill(cache: Cache, data: bytes) -> File:
    file = file_of(data)
    cache.get(file, lambda: [data[:3], data[3:]])
    return file


def names(cache: Cache) -> set[str]:
    return {path.name for path in cache.shards.iterdir()}


def test_a_file_is_fetched_once_and_named_by_its_digest(tmp_path: Path) -> None:
    cache, asked = Cache(tmp_path), []

    def chunks() -> Iterator[bytes]:
        asked.append(1)
        yield from (b"ab", b"", b"cd")

    file = file_of(b"abcd")
    for _ in range(3):
        assert cache.get(file, chunks).read(0, 9) == b"abcd"
    assert len(asked) == 1 and (tmp_path / "shards" / file.sha256).read_bytes() == b"abcd"


@pytest.mark.parametrize("wrong", [b"abcx", b"abc", b"abcde", b""])
def test_other_bytes_are_fetched_once_more_and_then_refused(wrong: bytes, tmp_path: Path) -> None:
    cache, file, answers = Cache(tmp_path), file_of(b"abcd"), [wrong, b"abcd"]
    handle = cache.get(file, lambda: [answers.pop(0)])
    assert handle.read(0, 4) == b"abcd"
    cache.forget(file, handle)
    answers = [wrong, wrong]
    with pytest.raises(StoreError, match=r"data/x\.tar is not as written"):
        cache.get(file, lambda: [answers.pop(0)])
    assert not answers and not names(cache)


def test_a_fetch_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"ab"
        raise EnvironmentProblem("the network")

    cache = Cache(tmp_path)
    with pytest.raises(EnvironmentProblem, match="the network"):
        cache.get(file_of(b"abcd"), chunks)
    assert not names(cache)


def test_the_least_used_go_first_and_never_more_is_kept_than_the_bound(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=30)
    files = [fill(cache, bytes([number]) * 10) for number in range(3)]
    for age, file in zip((10, 30, 20), files, strict=True):
        os.utime(cache.shards / file.sha256, (time.time() - age,) * 2)
    assert cache.have(files[1])  # used now
    fourth = fill(cache, b"x" * 10)
    assert names(cache) == {files[0].sha256, files[1].sha256, fourth.sha256}
    assert cache.fits(file_of(b"x" * 30)) and not cache.fits(file_of(b"x" * 31))


def test_a_file_that_is_open_outlives_its_removal(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=10)
    first = cache.get(file_of(b"a" * 10), lambda: [b"a" * 10])
    fill(cache, b"b" * 10)
    assert len(names(cache)) == 1 and first.read(0, 10) == b"a" * 10


def test_a_file_cut_on_disk_is_fetched_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    file = fill(cache, b"abcdef")
    (cache.shards / file.sha256).write_bytes(b"abc")
    assert cache.get(file, lambda: [b"abcdef"]).read(0, 6) == b"abcdef"


def test_one_fetches_while_the_others_wait(tmp_path: Path) -> None:
    data, asked = b"x" * 1000, []

    def chunks() -> Iterator[bytes]:
        asked.append(1)
        time.sleep(0.2)
        yield data

    def get() -> None:
        got.append(Cache(tmp_path).get(file_of(data), chunks).read(0, 1000))

    got: list[bytes] = []
    threads = [threading.Thread(target=get) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert got == [data] * 6 and len(asked) == 1


def test_a_killed_fetch_holds_nobody_up_and_is_swept(tmp_path: Path) -> None:
    data = b"x" * 1000
    script = f"""
import os, signal
from pathlib import Path
from datakit.store.cache import Cache
from datakit.store.layout import File
def chunks():
    yield b"x" * 500
    os.kill(os.getpid(), signal.SIGKILL)
Cache(Path({str(tmp_path)!r})).get(File(path="p", bytes=1000, sha256={file_of(data).sha256!r}), chunks)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == -9
    cache = Cache(tmp_path)
    assert [name for name in names(cache) if name.startswith(".part-")]
    file = fill(cache, data)
    part = next(cache.shards.glob(".part-*"))
    os.utime(part, (time.time() - ABANDONED - 1,) * 2)
    cache.collect()
    assert names(cache) == {file.sha256}


def test_a_disk_that_refuses_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("no folder")
    with pytest.raises(EnvironmentProblem, match=r"cannot be used.*DATAKIT_CACHE_DIR"):
        fill(Cache(tmp_path), b"abc")


def test_where_the_cache_lies_and_how_much_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("DATAKIT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "datakit" and Cache().limit <= 50 * 10**9
    monkeypatch.setenv("DATAKIT_CACHE_BYTES", "1.5 kB")
    assert Cache().limit == 1500 and bytes_of("20GB", "x") == 20 * 10**9
    monkeypatch.setenv("DATAKIT_CACHE_BYTES", "much")
    with pytest.raises(ConfigError, match="DATAKIT_CACHE_BYTES=much"):
        Cache()


def test_the_verbs_list_and_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from datakit.cli import cli

    def said(*words: str) -> dict[str, object]:
        cli.main(["cache", *words, "--json"], standalone_mode=False)
        return dict(json.loads(capsys.readouterr().out))

    cache = Cache()
    file = fill(cache, b"x" * 100)
    (cache.source("s") / "files").mkdir(parents=True)
    (cache.source("s") / "files" / "a.csv").write_bytes(b"1234")
    assert said("ls")["bytes"] == 100
    assert [row["name"] for row in said("ls")["rows"] if row["kind"] == "shard"] == [file.sha256]  # type: ignore
    assert said("gc")["freed"] == 0
    assert said("gc", "bytes=50")["freed"] == 100
    assert said("gc", "--all")["freed"] == 4 and said("ls")["rows"] == []
    for words in (["bytes=x"], ["size=5"], ["bytes=5", "--all"]):
        with pytest.raises(ConfigError):
            cli.main(["cache", "gc", *words], standalone_mode=False)
