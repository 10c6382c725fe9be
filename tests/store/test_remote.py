from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from datakit.errors import ConfigError, EnvironmentProblem, MissingExtra, StoreError
from datakit.store import remote
from datakit.store.cache import Cache
from datakit.store.client import Client, Patience
from datakit.store.contents import contents_of
from datakit.store.layout import File
from datakit.store.reader import open_store
from datakit.store.remote import RemoteFiles
from datakit.store.upload import upload
from datakit.store.urls import SCHEMES, Scheme, parse_url, redacted

from .web import QUICK, Web, opened, samples


@pytest.mark.parametrize("ranges", [True, False])
def test_no_more_is_taken_than_a_file_may_have(
    ranges: bool, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datakit.store.client.MAX_WHOLE", 1 << 20)  # of what nobody listed
    web.ranges = ranges
    store = opened(f"{web.url}/birds", Cache(tmp_path / "new"))
    entry = store.contents.entries[0]
    alone = RemoteFiles(store.files.client.url, patience=QUICK)  # type: ignore[attr-defined]
    head = alone.client.read(entry.tar.path, 512, 512)
    for read in (
        lambda: contents_of(alone),
        lambda: store.files.read(entry.metadata.path),
        lambda: store.files.open(entry.tar),
        lambda: alone.read("croissant.json"),
    ):
        web.sent, web.faults = 0, ["endless"] * 2
        with pytest.raises(StoreError, match=r"has more than the \d+ bytes|is not as written"):
            read()
        assert len(web.faults) < 2 and web.sent < 32 << 20  # what is under way when it is closed
    web.sent, web.faults = 0, ["endless"]
    assert alone.client.read(entry.tar.path, 512, 512) == head
    assert not web.faults and web.sent < 32 << 20


@pytest.mark.parametrize("cache", [True, False])
def test_a_store_reads_the_same_from_a_folder_a_web_server_and_s3(
    cache: bool, web: Web, store_root: Path, bucket: str
) -> None:
    upload(store_root, f"{bucket}/deep/birds")
    here = open_store(store_root)
    for place in (f"{web.url}/birds", f"{web.url}/birds/", f"{bucket}/deep/birds"):
        there = open_store(place, cache=cache)
        assert samples(there) == samples(here) and there.digest == here.digest
        assert there.select("seed1").splits == here.select("seed1").splits
        assert [s["__key__"] for s in there["train"]] == [s["__key__"] for s in here["train"]]


@pytest.mark.parametrize("fault", ["503", "500", "429", "cut", "drop"])
def test_what_may_pass_is_tried_again(fault: str, web: Web, tmp_path: Path) -> None:
    whole = samples(opened(f"{web.url}/birds"))
    for cache in (None, Cache(tmp_path / "new")):
        store = opened(f"{web.url}/birds", cache)
        web.faults += [fault, "", fault, fault, ""]
        assert samples(store) == whole
        assert not web.faults


def test_tries_are_bounded_and_the_last_error_says_what_and_where(web: Web) -> None:
    client = Client(parse_url(f"{web.url}/birds"), QUICK)
    web.faults += ["503"] * 10
    with pytest.raises(EnvironmentProblem, match=r"/birds/README\.md cannot be reached: 503"):
        client.read("README.md")
    assert len(web.asked) == QUICK.tries


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("403", EnvironmentProblem),
        ("401", EnvironmentProblem),
        ("404", FileNotFoundError),
        ("400", StoreError),
    ],
)
@pytest.mark.parametrize("ask", [Client.read, Client.look])
def test_what_lasts_is_asked_once(
    fault: str, error: type[Exception], ask: Callable[[Client, str], object], web: Web
) -> None:
    web.faults += [fault]
    with pytest.raises(error):
        ask(Client(parse_url(f"{web.url}/birds"), QUICK), "README.md")
    assert len(web.asked) == 1


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        patience = Patience(tries=2, first_wait=0.01, read=0.2, total=5)
        client = Client(parse_url(f"http://127.0.0.1:{silent.getsockname()[1]}/x"), patience)
        started = time.monotonic()
        with pytest.raises(EnvironmentProblem, match="run the same command again"):
            client.read("y")
        assert time.monotonic() - started < 3


def test_s3_tells_missing_from_denied_from_unreachable(
    bucket: str, monkeypatch: pytest.MonkeyPatch, s3_server: str
) -> None:
    client = Client(parse_url(f"{bucket}/x"), QUICK)
    for ask in (client.read, client.look):
        with pytest.raises(FileNotFoundError, match=f"{bucket}/x/none"):
            ask("none")
    assert client.listing() == {}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(EnvironmentProblem, match="cannot be reached"):
        Client(parse_url(f"{bucket}/x"), QUICK).read("none")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(EnvironmentProblem, match="no credentials"):
        Client(parse_url(f"{bucket}/x"), QUICK).read("none")


def test_a_changed_file_is_refused_wherever_it_is_read(web: Web, tmp_path: Path) -> None:
    data = web.root / "birds" / "data" / "train-00000-of-00003.tar"
    table = web.root / "birds" / "metadata" / "test-00000-of-00001.parquet"
    for path in (data, table):
        whole = path.read_bytes()
        path.write_bytes(whole[:700] + bytes([whole[700] ^ 1]) + whole[701:])
        for cache in (None, Cache(tmp_path / path.stem)):
            with pytest.raises(StoreError, match=path.stem):
                samples(opened(f"{web.url}/birds", cache))
        path.write_bytes(whole[:-100])
        with pytest.raises(StoreError, match=path.stem):
            samples(opened(f"{web.url}/birds", Cache(tmp_path / f"{path.stem}-cut")))
        path.write_bytes(whole)


def test_a_large_file_comes_in_ranges_that_are_tried_again_one_by_one(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CHUNK", 1000)
    store = opened(f"{web.url}/birds", Cache(tmp_path / "new"))
    file = store.contents.entries[0].tar
    web.asked.clear()
    web.faults += ["", "", "cut", "503"]
    handle = store.files.open(file)
    assert hashlib.sha256(handle.read(0, file.bytes)).hexdigest() == file.sha256
    requests = -(-file.bytes // 1000)
    assert len(web.asked) == requests + 2 and all(wanted for _, _, wanted in web.asked)


def test_a_server_without_ranges_serves_whole_shards_but_no_samples(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CHUNK", 1000)
    web.ranges = False
    assert samples(opened(f"{web.url}/birds", Cache(tmp_path / "new")))
    with pytest.raises(StoreError, match="cache=True"):
        samples(opened(f"{web.url}/birds"))


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_store_in_use_goes_to_other_processes(start: str, bucket: str, store_root: Path) -> None:
    upload(store_root, f"{bucket}/birds")
    store = open_store(f"{bucket}/birds", cache=False)
    reading = store["train"].samples(fields=["image", "label"])
    here = [sample["image"].encoded for sample in reading]
    with multiprocessing.get_context(start).Pool(1) as pool:
        found = pool.apply_async(list, (reading,)).get(30)
    assert [sample["image"].encoded for sample in found] == here
    assert [sample["image"].encoded for sample in reading] == here


def test_a_pickle_takes_no_connection_along(web: Web) -> None:
    store = opened(f"{web.url}/birds")
    samples(store)
    assert samples(pickle.loads(pickle.dumps(store))) == samples(store)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "local:///etc/passwd",
        "memory://x",
        "pipe:cat://x",
        "zip://x::s3://b/y",
        "s3://b/x::file:///etc",
        "simplecache::s3://b/x",
        "ftp://host/x",
        "s3://",
        "s3://key:secret@b/x",
        "http:///x",
        "http://host/a b",
        "http://host:99999999/x",
        "S3://b/x",
    ],
)
def test_only_these_schemes_and_no_chains(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEMES, "gs", Scheme(extra="gcs", module="datakit_has_no_such_module"))
    with pytest.raises(MissingExtra, match=r"gs://.*datakit\[gcs\]"):
        open_store("gs://bucket/x")


def test_secrets_of_a_url_open_doors_and_are_told_to_nobody(web: Web) -> None:
    web.authorization = "Basic dXNlcjpodW50ZXIy"
    url = web.url.replace("http://", "http://user:hunter2@") + "/birds?token=hunter3"
    store = open_store(url, cache=False)
    assert len(samples(store)) == 32
    web.faults += ["503"] * 4
    said = [repr(store), store.files.name]
    for path, fault in (("x", "404"), ("x", "403"), ("x", "400"), ("x", "503")):
        web.faults[:] = [fault] * 10
        with pytest.raises((StoreError, EnvironmentProblem, FileNotFoundError)) as caught:
            RemoteFiles(parse_url(url), None, QUICK).read(path)
        said.append(str(caught.value))
        assert caught.value.__cause__ is None
    assert "hunter" not in "".join(said)
    assert redacted(f"no {url} and s3://b/x?y=hunter4 here") == (
        f"no {web.url.replace('http://', 'http://***@')}/birds?… and s3://b/x?… here"
    )


def test_names_are_parts_of_a_path_whatever_they_hold(web: Web, tmp_path: Path) -> None:
    odd = "a ?b#c%20ä&d.txt"
    (web.root / odd).write_bytes(b"odd")
    assert Client(parse_url(web.url), QUICK).read(odd) == b"odd"


def test_a_handle_reads_parts_and_no_further_than_the_end(web: Web) -> None:
    (web.root / "x").write_bytes(bytes(range(100)))
    files = RemoteFiles(parse_url(web.url), None, QUICK)
    handle = files.open(File(path="x", bytes=100, sha256="0" * 64))
    assert handle.size == 100
    assert handle.read(90, 20) == bytes(range(90, 100)) and handle.read(100, 5) == b"" == handle.read(5, 0)
    assert handle.read(3, 4) == bytes(range(3, 7))
