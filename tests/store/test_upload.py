from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datakit.errors import ConfigError, StoreError
from datakit.store import target
from datakit.store import upload as uploading
from datakit.store.client import Client
from datakit.store.contents import canonical
from datakit.store.reader import open_store
from datakit.store.target import Bucket, Plain
from datakit.store.tree import Layout
from datakit.store.upload import NOTE, upload
from datakit.store.urls import parse_url

from .web import QUICK

BuildStore = Callable[..., dict[str, Any]]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture
def root(store_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store_root, tmp_path / "birds"))


@pytest.fixture
def other(build_store: BuildStore, toy_layout: Layout, tmp_path: Path) -> Path:
    """Another store whose files have the names of the first one's: it lacks its Arrow files and its list."""
    layout = Layout(
        label="label", json_fields=("class_name",), class_names=toy_layout.class_names, arrow=False
    )
    build_store(tmp_path / "other", layout=layout, selections={}, provenance={"seed": 2})
    return tmp_path / "other"


def objects(url: str) -> dict[str, bytes]:
    client = Client(parse_url(url), QUICK)
    return {path: client.read(path) for path in client.listing()}


def tree(root: Path) -> dict[str, bytes]:
    listed = json.loads((root / "manifest.json").read_bytes())["files"]
    return {path: (root / path).read_bytes() for path in [*listed, "manifest.json"]}


def put(url: str, path: str, data: bytes) -> None:
    client = Client(parse_url(url), QUICK)
    client.now("pipe_file", client.url.at(path), data)


def test_what_is_published_is_the_tree_and_once_more_is_nothing_to_do(bucket: str, root: Path) -> None:
    (root / "stranger.txt").write_text("no file of the store")
    place = f"{bucket}/a/b"
    first, again = upload(root, place), upload(root, place)
    assert objects(place) == tree(root)
    assert (first.sent, first.removed, first.withdrawn) == (len(tree(root)) - 1, 0, False)
    assert again.sent == again.removed == 0


def test_a_bucket_s_own_root_is_a_place_too(bucket: str, root: Path) -> None:
    upload(root, bucket)
    assert objects(bucket) == tree(root) and len(open_store(bucket, cache=False)["test"]) == 5


def test_large_files_go_up_in_parts(bucket: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    monkeypatch.setattr(target, "PART", 3000)
    place = f"{bucket}/x"
    upload(root, place)
    assert objects(place) == tree(root)
    assert upload(root, place).sent == 0


@pytest.mark.parametrize("fatal", (0, 1, 12, 31))
def test_a_killed_upload_has_no_manifest_and_goes_on(fatal: int, bucket: str, root: Path) -> None:
    place, calls = f"{bucket}/x", 0
    whole = Bucket._now

    def now(self: Bucket, method: str, path: str, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > fatal:
            raise Killed
        return whole(self, method, path, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "_now", now)
        with pytest.raises(Killed):
            upload(root, place)
    there = objects(place)
    if "manifest.json" not in there:
        with pytest.raises(StoreError, match="is no store"):
            open_store(place)
    done = upload(root, place)
    assert objects(place) == tree(root)
    # What was sent before is not sent again, but for what was under way.
    assert done.sent <= len(tree(root)) - 1 - len(
        [path for path in there if path not in (NOTE, "manifest.json")]
    )


def test_size_and_name_alone_prove_nothing(bucket: str, root: Path) -> None:
    place = f"{bucket}/x"
    upload(root, place)
    path = "data/train-00000-of-00003.tar"
    put(place, path, bytes((root / path).stat().st_size))
    assert upload(root, place).sent == 1
    assert objects(place) == tree(root)


def test_another_store_of_the_same_names_replaces_the_first_and_leaves_nothing_of_it(
    bucket: str, root: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/x"
    upload(root, place)
    put(place, "theirs/notes.txt", b"no file of ours")
    seen: list[set[str]] = []
    whole = Bucket.put

    def watched(self: Bucket, *given: Any) -> None:
        seen.append(set(Client(parse_url(place), QUICK).listing()))
        whole(self, *given)

    monkeypatch.setattr(Bucket, "put", watched)
    done = upload(other, place)
    assert done.withdrawn and done.removed > 5
    # While files change there is no manifest; the old one's files are all still there.
    assert seen and all(
        "manifest.json" not in names and set(tree(root)) - {"manifest.json"} <= names for names in seen
    )
    assert objects(place) == tree(other) | {"theirs/notes.txt": b"no file of ours"}


def test_a_manifest_whose_files_stay_as_they_are_stands_until_the_next_one_does(
    bucket: str, root: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/x"
    upload(root, place)
    longer = json.loads((root / "manifest.json").read_bytes())
    (root / "more.txt").write_bytes(b"more")
    longer["files"]["more.txt"] = {"bytes": 4, "sha256": hashlib.sha256(b"more").hexdigest()}
    del longer["digest"]
    longer["digest"] = hashlib.sha256(canonical(longer)).hexdigest()
    (root / "manifest.json").write_bytes(canonical(longer))
    stood: list[bool] = []
    whole = Bucket.put

    def watched(self: Bucket, *given: Any) -> None:
        stood.append(objects(place)["manifest.json"] == tree(store_root)["manifest.json"])
        whole(self, *given)

    monkeypatch.setattr(Bucket, "put", watched)
    done = upload(root, place)
    assert (done.sent, done.withdrawn, stood) == (1, False, [True])
    assert objects(place) == tree(root)


def test_a_place_that_holds_something_else_is_left_alone(bucket: str, root: Path) -> None:
    put(f"{bucket}/x", "photo.jpg", b"theirs")
    with pytest.raises(ConfigError, match=r"photo\.jpg"):
        upload(root, f"{bucket}/x")
    put(f"{bucket}/y", "manifest.json", b'{"format": "something else"}')
    with pytest.raises(ConfigError, match="no manifest of a store"):
        upload(root, f"{bucket}/y")
    assert objects(f"{bucket}/x") == {"photo.jpg": b"theirs"} and len(objects(f"{bucket}/y")) == 1


def test_an_unfinished_upload_of_another_store_is_taken_over_only_on_demand(
    bucket: str, root: Path, other: Path
) -> None:
    place = f"{bucket}/x"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "put", _killed)
        with pytest.raises(Killed):
            upload(root, place)
    with pytest.raises(ConfigError, match="--takeover"):
        upload(other, place)
    upload(other, place, takeover=True)
    assert objects(place) == tree(other)


def _killed(*given: Any) -> None:
    raise Killed


def test_two_uploads_at_once_leave_one_whole_store(bucket: str, root: Path, other: Path) -> None:
    place = f"{bucket}/x"
    publication = uploading._Publication

    def racing(self: Any) -> None:
        complete(self)
        # At the last moment another one starts, takes over and ends.
        if self.root == root:
            upload(other, place, takeover=True)

    complete = publication._complete
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publication, "_complete", racing)
        with pytest.raises(StoreError, match="another upload"):
            upload(root, place)
    assert json.loads(objects(place)["manifest.json"])["digest"] == open_store(other).digest


def test_a_tree_that_is_not_as_written_is_not_published(bucket: str, root: Path) -> None:
    path = root / "data" / "train-00001-of-00003.tar"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(StoreError, match=r"train-00001-of-00003\.tar is not as written"):
        upload(root, f"{bucket}/x")
    assert "manifest.json" not in objects(f"{bucket}/x")


def test_answers_that_were_lost_do_not_fail_the_second_try(
    bucket: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Bucket._now

    def lost(self: Bucket, method: str, path: str, **keywords: Any) -> Any:
        answer = whole(self, method, path, **keywords)
        if (method, path) not in done:
            done.add((method, path))
            raise ConnectionResetError("after the fact")
        return answer

    done: set[tuple[str, str]] = set()
    monkeypatch.setattr(Bucket, "_now", lost)
    monkeypatch.setattr(target, "PART", 3000)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    upload(root, f"{bucket}/x", patience=QUICK)
    assert objects(f"{bucket}/x") == tree(root)


def test_other_file_systems_take_stores_too(bucket: str, root: Path, other: Path) -> None:
    """By the part that knows nothing of S3, as for gs:// and hf://."""
    place = f"{bucket}/x"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploading, "target_of", Plain)
        upload(root, place)
        assert objects(place) == tree(root)
        assert upload(other, place).removed
    assert objects(place) == tree(other)


def test_what_takes_no_upload_says_so(root: Path) -> None:
    for place, said in (("http://127.0.0.1:9/x", "take no uploads"), ("/somewhere", "publish takes a URL")):
        with pytest.raises(ConfigError, match=said):
            upload(root, place)


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_store_that_is_damaged_here_takes_none_down_there(
    bucket: str, root: Path, other: Path, how: str
) -> None:
    url = f"{bucket}/birds"
    upload(root, url)
    before = objects(url)
    file = next(iter(sorted((other / "metadata").glob("*.parquet"))))
    if how == "gone":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(StoreError, match=file.name):
        upload(other, url)
    assert objects(url) == before
