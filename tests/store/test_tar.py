"""Our tars: the same bytes every time, read alike by everyone, whole or not there at all."""

from __future__ import annotations

import hashlib
import resource
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import xxhash

from datakit.blob import Blob
from datakit.errors import EnvironmentProblem, SampleError, StoreError
from datakit.store.tar import BLOCK, BUFFER, MAX_BODY, Digest, ShardRecord, TarWriter
from datakit.store.tar_reader import iter_samples, read_sample

Fields = Mapping[str, bytes | memoryview | Blob]

# Sizes around a block: nothing, less, exactly, more.
SAMPLES: dict[str, dict[str, bytes]] = {
    f"cat/{n:04d}": {"jpg": bytes([n]) * size, "tok.npy": b"", "cls": b"%d" % n}
    for n, size in enumerate((0, 1, 511, 512, 513, 3000))
}


def write(path: Path, samples: Mapping[str, Fields], *, digest: Digest = "sha256") -> ShardRecord:
    with TarWriter(path, digest=digest) as shard:
        for key, fields in samples.items():
            shard.add(key, fields)
    return shard.record


def blob(path: Path, data: bytes) -> Blob:
    path.write_bytes(data)
    return Blob(str(path), 0, len(data))


def read(path: Path) -> dict[str, dict[str, bytes]]:
    return {record.key: fields for record, fields in iter_samples(path)}


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "a.tar", SAMPLES)
    # From files, of today and of another mode; with other digests.
    blobs = {
        key: {name: blob(tmp_path / f"{n}.{name}", data) for name, data in fields.items()}
        for n, (key, fields) in enumerate(SAMPLES.items())
    }
    assert write(tmp_path / "b.tar", blobs) == first
    for digest in ("xxh3", "none"):
        write(tmp_path / f"{digest}.tar", SAMPLES, digest=digest)
    tars = {path.read_bytes() for path in tmp_path.glob("*.tar")}
    assert len(tars) == 1


def test_records_name_exactly_the_bytes_of_each_sample(tmp_path: Path) -> None:
    shard = write(tmp_path / "a.tar", SAMPLES)
    data = (tmp_path / "a.tar").read_bytes()
    assert (shard.samples, shard.bytes) == (len(SAMPLES), len(data))
    assert shard.sha256 == hashlib.sha256(data).hexdigest()
    end = 0
    for record in shard.records:
        assert record.offset == end
        end += record.size
        assert record.xxh3 == xxhash.xxh3_128_hexdigest(data[record.offset : end])
    assert data[end:] == bytes(2 * BLOCK)


def test_digests_are_made_as_asked(tmp_path: Path) -> None:
    full = write(tmp_path / "a.tar", SAMPLES)
    xxh3 = write(tmp_path / "b.tar", SAMPLES, digest="xxh3")
    none = write(tmp_path / "c.tar", SAMPLES, digest="none")
    assert xxh3.records == full.records and xxh3.sha256 is None
    assert {record.xxh3 for record in none.records} == {""} and none.sha256 is None


def test_tar_and_tarfile_read_every_member(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", SAMPLES)
    names = [f"{key}.{extension}" for key, fields in SAMPLES.items() for extension in fields]
    command = ["tar", "-tf", str(tmp_path / "a.tar")]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (listed.stdout.split(), listed.stderr) == (names, "")
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
        bodies = [tar.extractfile(member) for member in members]
        data = [body.read() for body in bodies if body]
    assert [member.name for member in members] == names
    owners = {(m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members}
    assert owners == {(0o444, 0, 0, 0, "", "")}
    assert data == [data for fields in SAMPLES.values() for data in fields.values()]


@pytest.mark.filterwarnings("ignore")  # webdataset's own
def test_webdataset_reads_every_sample(tmp_path: Path) -> None:
    import webdataset

    write(tmp_path / "a.tar", SAMPLES)
    samples = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == list(SAMPLES)
    for sample, fields in zip(samples, SAMPLES.values(), strict=True):
        assert {name: sample[name] for name in fields} == fields


@pytest.mark.filterwarnings("ignore")  # wids' own
def test_wids_reads_every_sample_by_number(tmp_path: Path) -> None:
    from wids.wids import IndexedTarSamples

    write(tmp_path / "a.tar", SAMPLES)
    samples = IndexedTarSamples(path=str(tmp_path / "a.tar"))
    for number, (key, fields) in enumerate(SAMPLES.items()):
        sample = samples[number]
        assert sample["__key__"] == key
        assert {name: sample[f".{name}"].read() for name in fields} == fields
    samples.close()


@pytest.mark.parametrize("size", [BUFFER - 1024, BUFFER - 512, BUFFER, BUFFER + 1, 9 * BUFFER + 7])
def test_bodies_of_any_size_pass_through_the_buffer(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    source = tmp_path / "source"
    source.write_bytes(b"before" + data + b"after")
    middle = Blob(str(source), len(b"before"), size)
    shard = write(tmp_path / "a.tar", {"x": {"a": data, "b": middle, "c": memoryview(data)}})
    assert read(tmp_path / "a.tar") == {"x": {"a": data, "b": data, "c": data}}
    assert shard.sha256 == hashlib.sha256((tmp_path / "a.tar").read_bytes()).hexdigest()
    fields = read_sample(tmp_path / "a.tar", shard.records[0], verify=True)
    assert fields["b"] == data


def test_memoryviews_of_any_shape_are_their_bytes(tmp_path: Path) -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    views = {"a": matrix.data, "b": matrix.T.data, "c": matrix[:0].data}
    write(tmp_path / "a.tar", {"x": views})
    expected = {"a": matrix.tobytes(), "b": matrix.T.tobytes(), "c": b""}
    assert read(tmp_path / "a.tar") == {"x": expected}


@pytest.mark.parametrize(
    "key",
    ["", "A", "a.b", "é", "ａ", "a b", "a/b/c", "/a", "a/", "../a", "a\n", "a" * 65, "__a__/b"],
)
def test_keys_that_a_reader_would_misread_are_refused(tmp_path: Path, key: str) -> None:
    with TarWriter(tmp_path / "a.tar") as shard, pytest.raises(StoreError, match="is no key"):
        shard.add(key, {"jpg": b""})


@pytest.mark.parametrize("extension", ["", "JPG", "a-b", ".a", "a.", "a..b", "a/b", "ä", "a\n"])
def test_extensions_outside_the_grammar_are_refused(tmp_path: Path, extension: str) -> None:
    with TarWriter(tmp_path / "a.tar") as shard, pytest.raises(StoreError, match="no extension"):
        shard.add("a", {extension: b""})


@pytest.mark.parametrize("extension", ["pkl", "pickle", "pyd", "pth", "pt", "seg.pt", "pyd.gz"])
def test_extensions_that_run_code_are_refused(tmp_path: Path, extension: str) -> None:
    with TarWriter(tmp_path / "a.tar") as shard, pytest.raises(StoreError, match="run code"):
        shard.add("a", {extension: b""})


def test_samples_that_do_not_fit_the_shard_are_refused(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "a.tar") as shard:
        shard.add("a", {"jpg": b"first"})
        with pytest.raises(StoreError, match="already"):
            shard.add("a", {"jpg": b"second"})
        with pytest.raises(StoreError, match="101 bytes"):
            shard.add("d" * 48 + "/" + "k" * 48, {"jpg": b""})
        with pytest.raises(StoreError, match="no fields"):
            shard.add("b", {})
        shard.add("d" * 48 + "/" + "k" * 47, {"jpg": b"100 bytes of name"})
    assert read(tmp_path / "a.tar")["a"] == {"jpg": b"first"}
    assert shard.record.samples == 2


def vanish(path: Path) -> None:
    path.unlink()


def shrink(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("size", [1000, 3 * BUFFER])
@pytest.mark.parametrize(
    ("change", "reason"),
    [(vanish, "missing_file"), (shrink, "changed"), (become_a_folder, "unreadable_file")],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_sample_that_fails_leaves_no_trace(
    tmp_path: Path, change: Callable[[Path], None], reason: str, size: int, last: bool
) -> None:
    source = blob(tmp_path / "source", bytes(size))
    change(tmp_path / "source")
    after = {} if last else {"z": {"jpg": b"after"}}
    with TarWriter(tmp_path / "a.tar") as shard:
        shard.add("a", {"jpg": b"before"})
        with pytest.raises(SampleError) as caught:
            shard.add("b", {"json": bytes(size), "jpg": source, "cls": b"1"})
        for key, fields in after.items():
            shard.add(key, fields)
    assert caught.value.reason == reason
    assert shard.record == write(tmp_path / "b.tar", {"a": {"jpg": b"before"}} | after)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_failed_key_may_be_tried_again(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "a.tar") as shard:
        with pytest.raises(SampleError):
            shard.add("a", {"jpg": Blob(str(tmp_path / "absent"), 0, 1)})
        shard.add("a", {"jpg": b"x"})
    assert read(tmp_path / "a.tar") == {"a": {"jpg": b"x"}}


def test_a_body_above_ustar_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "a.tar") as shard, pytest.raises(SampleError, match="at most"):
        shard.add("a", {"jpg": Blob(str(tmp_path / "absent"), 0, MAX_BODY + 1)})
    assert read(tmp_path / "a.tar") == {}


def test_an_exception_leaves_neither_shard_nor_part(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), TarWriter(tmp_path / "a.tar") as shard:
        shard.add("a", {"jpg": b"x"})
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_old_shard_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"old")
    with TarWriter(tmp_path / "a.tar") as shard:
        shard.add("a", {"jpg": b"x"})
        assert (tmp_path / "a.tar").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    assert read(tmp_path / "a.tar") == {"a": {"jpg": b"x"}}


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files cannot grow over 64 KiB: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
def test_a_disk_that_refuses_is_the_environments_fault(tmp_path: Path) -> None:
    refused = pytest.raises(EnvironmentProblem, match=r"cannot write .*a\.tar")
    with refused, TarWriter(tmp_path / "a.tar") as shard:
        shard.add("a", {"jpg": bytes(1 << 17)})
    assert list(tmp_path.iterdir()) == []
    with refused, TarWriter(tmp_path / "absent" / "a.tar"):
        pass
