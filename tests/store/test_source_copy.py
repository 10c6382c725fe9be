from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datakit.errors import CatalogError, ConfigError, EnvironmentProblem
from datakit.store import source_copy
from datakit.store.cache import Cache
from datakit.store.client import Client, Patience
from datakit.store.source_copy import local_copy
from datakit.store.urls import parse_url

from .web import serve

QUICK = Patience(tries=4, first_wait=0.01, longest_wait=0.02, total=5, connect=1, read=2, request=5)


def put(url: str, path: str, data: bytes) -> None:
    client = Client(parse_url(url), QUICK)
    client.now("pipe_file", client.url.at(path), data)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_folder_of_s3_is_copied_and_only_what_changed_is_fetched_again(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a/1.jpg": b"one", "a/2.jpg": b"two", "b/c/3.jpg": b"three"}
    for path, data in files.items():
        put(f"{bucket}/birds", path, data)
    put(f"{bucket}/birds2", "x.jpg", b"a neighbour, not below")
    asked: list[str] = []
    whole = Client.read

    def read(self: Client, path: str, *given: Any) -> bytes:
        asked.append(path)
        return whole(self, path, *given)

    monkeypatch.setattr(Client, "read", read)
    place = local_copy(f"{bucket}/birds/")
    assert tree(place) == files and sorted(asked) == sorted(files)
    assert local_copy(f"{bucket}/birds") == place and len(asked) == 3
    put(f"{bucket}/birds", "a/2.jpg", b"owt")
    client = Client(parse_url(f"{bucket}/birds"), QUICK)
    client.now("rm_file", client.url.at("a/1.jpg"))
    (place / "b/c/3.jpg").write_bytes(b"XXXXX")
    del asked[:]
    assert tree(local_copy(f"{bucket}/birds")) == {"a/2.jpg": b"owt", "b/c/3.jpg": b"three"}
    assert sorted(asked) == ["a/2.jpg", "b/c/3.jpg"]


def test_a_file_is_copied_alone_from_s3_and_from_the_web(bucket: str, tmp_path: Path) -> None:
    put(bucket, "tables/x.csv", b"path\n")
    put(bucket, "tables/y.csv", b"other\n")
    place = local_copy(f"{bucket}/tables/x.csv")
    assert place.name == "x.csv" and tree(place.parent) == {"x.csv": b"path\n"}
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "z.csv").write_bytes(b"path\n")
    with serve(tmp_path / "web") as web:
        assert local_copy(f"{web.url}/z.csv").read_bytes() == b"path\n"
        web.faults[:] = ["403"] * 3
        with pytest.raises(EnvironmentProblem, match="access denied"):
            local_copy(f"{web.url}/z.csv")
        web.faults.clear()
        with pytest.raises(CatalogError, match="not there"):
            local_copy(f"{web.url}/none.csv")
    with pytest.raises(CatalogError, match="not there"):
        local_copy(f"{bucket}/none")


def test_names_that_are_no_paths_are_refused(bucket: str) -> None:
    put(f"{bucket}/x", "a/../../b.jpg", b"")
    with pytest.raises(CatalogError, match="no path below a folder"):
        local_copy(f"{bucket}/x", Cache())
    assert not list(Cache().folder.rglob("b.jpg"))


@pytest.mark.parametrize(
    "source", ["http://user:word@host/x.csv", "https://host/x.csv?sig=1", "s3://b/{0..3}.tar", "file:///etc"]
)
def test_what_cannot_be_recorded_or_listed_is_refused(source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        local_copy(source)
    assert "word" not in str(caught.value).replace("words", "") and "sig" not in str(caught.value)


def test_a_killed_copy_leaves_nothing_that_is_not_at_the_source(
    bucket: str,
) -> None:
    files = {f"a/{number}.jpg": b"%d" % number for number in range(6)}
    for path, data in files.items():
        put(f"{bucket}/birds", path, data)
    place = local_copy(f"{bucket}/birds")
    (place.parent / source_copy._FETCHED).unlink()  # a kill comes before it is written
    (place / "a/1.jpg.part-1-0").write_bytes(b"half")
    client = Client(parse_url(f"{bucket}/birds"), QUICK)
    client.now("rm_file", client.url.at("a/0.jpg"))
    del files["a/0.jpg"]
    assert tree(local_copy(f"{bucket}/birds")) == files
