from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from datakit.errors import CatalogError, ConfigError, EnvironmentProblem
from datakit.store import source_copy
from datakit.store.cache import Cache
from datakit.store.client import Client
from datakit.store.contents import Contents, canonical, read_contents
from datakit.store.reader import open_store
from datakit.store.source_copy import local_copy
from datakit.store.upload import upload
from datakit.store.urls import parse_url
from datakit.store.verify import verify

from .web import QUICK, serve


def put(url: str, path: str, data: bytes) -> None:
    client = Client(parse_url(url), QUICK)
    client.now("pipe_file", client.url.at(path), data)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_folder_of_s3_is_copied_and_only_what_changed_is_fetched_again(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a/1.jpg": b"one", "a/2.jpg": b"two", "b/c/3.jpg": b"three", "b/empty": b""}
    for path, data in files.items():
        put(f"{bucket}/birds", path, data)
    put(f"{bucket}/birds2", "x.jpg", b"a neighbour, not below")
    asked: list[str] = []
    whole = Client.read

    def read(self: Client, path: str, *given: Any, **options: Any) -> bytes:
        asked.append(path)
        return whole(self, path, *given, **options)

    monkeypatch.setattr(Client, "read", read)
    place = local_copy(f"{bucket}/birds/")
    assert tree(place) == files and sorted(asked) == sorted(files)
    assert local_copy(f"{bucket}/birds") == place and len(asked) == len(files)
    put(f"{bucket}/birds", "a/2.jpg", b"owt")
    client = Client(parse_url(f"{bucket}/birds"), QUICK)
    client.now("rm_file", client.url.at("a/1.jpg"))
    (place / "b/c/3.jpg").write_bytes(b"XXXXX")
    del asked[:]
    assert tree(local_copy(f"{bucket}/birds")) == {"a/2.jpg": b"owt", "b/c/3.jpg": b"three", "b/empty": b""}
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
        web.faults[:] = ["403"]  # of z.csv/manifest.json: some servers deny what is not there
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


@pytest.mark.parametrize("place", ["web", "bucket"])
def test_a_store_of_ours_is_copied_as_its_manifest_says(
    place: str, store_root: Path, bucket: str, tmp_path: Path
) -> None:
    name = "birds-1.0"  # as a file is named
    shutil.copytree(store_root, tmp_path / "web" / name)
    tar = read_contents(store_root).entries[0].tar.path
    whole = (store_root / tar).read_bytes()
    other = bytes([whole[0] ^ 1]) + whole[1:]
    with serve(tmp_path / "web") as web:
        url = f"{web.url}/{name}"
        if place == "bucket":
            url = f"{bucket}/{name}"
            upload(store_root, url)
            put(url, tar, other)
        else:
            (tmp_path / "web" / name / tar).write_bytes(other)
        with pytest.raises(CatalogError, match=f"{tar} is not as written"):
            local_copy(url)
        if place == "bucket":
            put(url, tar, whole)
        else:
            (tmp_path / "web" / name / tar).write_bytes(whole)
        listed = {*read_contents(store_root).files, "manifest.json"}
        assert tree(local_copy(url)) == {path: (store_root / path).read_bytes() for path in listed}
        assert verify(local_copy(url), deep=True).ok
        if place == "web":
            (tmp_path / "web" / name / "manifest.json").write_bytes(b"{}")
            with pytest.raises(CatalogError, match=r"birds-1\.0 is not there"):
                local_copy(url)
            (tmp_path / "web" / name).rename(tmp_path / "web" / "birds")
            with pytest.raises(CatalogError, match=r"manifest\.json is damaged"):
                local_copy(f"{web.url}/birds")


def test_a_store_that_is_replaced_while_it_is_copied_is_no_copy(
    store_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store_root, tmp_path / "web" / "birds")
    manifest = tmp_path / "web" / "birds" / "manifest.json"
    told = source_copy.contents_of

    def replaced(files: Any) -> Contents:
        contents = told(files)
        value = json.loads(manifest.read_bytes())
        body = {**{name: item for name, item in value.items() if name != "digest"}, "title": "Another"}
        manifest.write_bytes(canonical({**body, "digest": hashlib.sha256(canonical(body)).hexdigest()}))
        return contents

    monkeypatch.setattr(source_copy, "contents_of", replaced)
    with serve(tmp_path / "web") as web:
        with pytest.raises(CatalogError, match=r"manifest\.json changed while it was fetched"):
            local_copy(f"{web.url}/birds")
        monkeypatch.undo()
        monkeypatch.setenv("DATAKIT_CACHE_DIR", str(tmp_path / "cache"))
        assert open_store(local_copy(f"{web.url}/birds")).contents.title == "Another"


def test_a_file_is_never_of_two_times(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(f"{bucket}/birds", "a.tar", b"A" * 3000)
    monkeypatch.setattr(source_copy, "CHUNK", 1000)
    whole, asked = Client.read, 0

    def read(self: Client, *given: Any, **options: Any) -> bytes:
        nonlocal asked
        data, asked = whole(self, *given, **options), asked + 1
        if asked == 1:
            put(f"{bucket}/birds", "a.tar", b"B" * 3000)
        return data

    monkeypatch.setattr(Client, "read", read)
    with pytest.raises(CatalogError, match=r"a\.tar changed while it was fetched"):
        local_copy(f"{bucket}/birds")
    assert tree(local_copy(f"{bucket}/birds")) == {"a.tar": b"B" * 3000}


def test_a_folder_may_become_a_file_but_not_be_both(bucket: str) -> None:
    client = Client(parse_url(f"{bucket}/birds"), QUICK)
    put(f"{bucket}/birds", "x/y/1.jpg", b"1")
    assert tree(local_copy(f"{bucket}/birds")) == {"x/y/1.jpg": b"1"}
    client.now("rm_file", client.url.at("x/y/1.jpg"))
    put(f"{bucket}/birds", "x", b"2")
    assert tree(local_copy(f"{bucket}/birds")) == {"x": b"2"}
    put(f"{bucket}/birds", "x/y/1.jpg", b"1")
    with pytest.raises(CatalogError, match="a file and a folder called x"):
        local_copy(f"{bucket}/birds")
