"""Tars read: no damage is taken for an end, no dialect misread, no lie believed."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from datakit.blob import Blob
from datakit.errors import StoreError
from datakit.store.tar import BLOCK, SampleRecord, ShardRecord, TarWriter, header
from datakit.store.tar_reader import Limits, Member, iter_members, iter_samples, read_sample

SAMPLES = {
    f"cat/{n:04d}": {"jpg": bytes([n]) * size, "tok.npy": b"", "cls": b"%d" % n}
    for n, size in enumerate((0, 1, 511, 512, 513, 3000))
}


def own_tar(path: Path) -> ShardRecord:
    """SAMPLES as our writer writes them."""
    with TarWriter(path) as shard:
        for key, fields in SAMPLES.items():
            shard.add(key, fields)
    return shard.record


def read(path: Path, skipped: Counter[str] | None = None) -> dict[str, dict[str, bytes]]:
    return {record.key: fields for record, fields in iter_samples(path, skipped=skipped)}


def test_reading_gives_the_records_that_writing_gave(tmp_path: Path) -> None:
    shard = own_tar(tmp_path / "a.tar")
    assert [record for record, _ in iter_samples(tmp_path / "a.tar")] == shard.records
    with (tmp_path / "a.tar").open("rb") as file:
        for record, expected in zip(shard.records, SAMPLES.values(), strict=True):
            fields = read_sample(file.fileno(), record, verify=True)
            assert fields == read_sample(tmp_path / "a.tar", record) == expected
            assert list(fields) == list(expected)
        assert file.tell() == 0


def test_members_are_places_to_read_later(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    own_tar(path)
    for member in iter_members(path):
        expected = SAMPLES[member.key][member.extension]
        assert Blob(str(path), member.offset, member.size).read() == expected


def damages(data: bytes, members: list[Member]) -> Iterator[tuple[str, bytes]]:
    """Every way of ours to break a tar without breaking a body."""
    for member in members:
        at = member.start
        yield f"cut before header {at}", data[:at]
        yield f"cut inside header {at}", data[: at + 100]
        yield f"cut before the end of {at}", data[: member.end - 1]
        yield f"zeroed header {at}", data[:at] + bytes(BLOCK) + data[at + BLOCK :]
    # Name, mode, owner, size, time, checksum, kind, link, magic, prefix, padding.
    for byte in (0, 5, 99, 100, 108, 124, 134, 136, 148, 154, 155, 156, 157, 257, 263, 345, 511):
        at = members[3].start + byte
        yield f"flipped byte {byte}", data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
    end = members[-1].end
    yield "no end", data[:end]
    yield "half an end", data[: end + BLOCK]
    yield "part of an end", data[: end + BLOCK + 1]
    yield "two tars", data + data
    yield "bytes after the end", data + b"x"
    yield "endless zeros", data + bytes(1 << 21)
    yield "nothing", b""
    yield "no tar", b"\xff\xd8\xff" + bytes(5000)


def test_every_damage_to_the_structure_is_found(tmp_path: Path) -> None:
    path, broken = tmp_path / "a.tar", tmp_path / "broken.tar"
    own_tar(path)
    mutants = list(damages(path.read_bytes(), list(iter_members(path))))
    assert len(mutants) > 90
    for what, mutant in mutants:
        broken.write_bytes(mutant)
        with pytest.raises(StoreError, match=r"broken\.tar, byte \d+: "):
            pytest.fail(f"{what}: read as {len(read(broken))} samples")


def test_a_flipped_bit_anywhere_in_a_sample_is_found_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    record = own_tar(path).records[3]
    data = bytearray(path.read_bytes())
    for at in range(record.offset, record.offset + record.size, 37):
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(StoreError, match="xxh3"):
            read_sample(path, record, verify=True)
        data[at] ^= 1


def test_a_record_of_another_shard_is_refused(tmp_path: Path) -> None:
    record = own_tar(tmp_path / "a.tar").records[3]
    shift = BLOCK
    wrong = [
        SampleRecord("cat/0004", record.offset, record.size, record.xxh3),
        SampleRecord(record.key, record.offset + shift, record.size, record.xxh3),
        SampleRecord(record.key, record.offset, record.size - shift, record.xxh3),
        SampleRecord(record.key, record.offset, record.size + 2 * shift, record.xxh3),
        SampleRecord(record.key, record.offset, 1 << 60, record.xxh3),
        SampleRecord(record.key, record.offset, 0, record.xxh3),
        SampleRecord(record.key, -BLOCK, record.size, record.xxh3),
    ]
    for other in wrong:
        with pytest.raises(StoreError):
            read_sample(tmp_path / "a.tar", other)


def foreign(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar as others make them; a name ending in / is a directory, one with -> a symlink."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name.split("->")[0])
            info.size, info.mtime = len(data), 1_700_000_000.5 if form == tarfile.PAX_FORMAT else 1
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            elif "->" in name:
                info.type, info.linkname = tarfile.SYMTYPE, name.split("->")[1]
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_in_every_dialect(tmp_path: Path, form: int) -> None:
    folder = "./" + "long-folder-name/" * 7  # 121 bytes
    names = [f"{folder}{n:04d}.{extension}" for n in range(3) for extension in ("JPG", "seg.png")]
    path = foreign(tmp_path / "a.tar", [(name, name.encode()) for name in names], form)
    assert read(path) == {
        f"{folder}{n:04d}".removeprefix("./"): {
            "jpg": f"{folder}{n:04d}.JPG".encode(),
            "seg.png": f"{folder}{n:04d}.seg.png".encode(),
        }
        for n in range(3)
    }
    for record, fields in iter_samples(path):
        assert read_sample(path, record, verify=True) == fields


def test_names_beyond_ascii_are_read(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.tar", [("čtyři.jpg", b"4")], tarfile.PAX_FORMAT)
    assert read(path) == {"čtyři": {"jpg": b"4"}}


def test_what_is_no_file_is_passed_over_and_counted(tmp_path: Path) -> None:
    members = [("d/", b""), ("d/0.jpg", b"0"), ("d/1.jpg->/etc/passwd", b""), ("d/README", b"?")]
    members += [("d/.hidden", b"?"), ("d/0.cls", b"7"), ("d.v2/2.x.JPG", b"2")]
    skipped: Counter[str] = Counter()
    path = foreign(tmp_path / "a.tar", members)
    expected = {"d/0": {"jpg": b"0", "cls": b"7"}, "d.v2/2": {"x.jpg": b"2"}}
    assert read(path, skipped) == expected
    assert skipped == {"directory": 1, "symlink": 1, "no key": 2}
    assert {r.key: read_sample(path, r, verify=True) for r, _ in iter_samples(path)} == expected


@pytest.mark.filterwarnings("ignore")  # webdataset's own
def test_webdatasets_own_shards_are_read(tmp_path: Path) -> None:
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for key, fields in SAMPLES.items():
            writer.write({"__key__": key, "jpg": fields["jpg"], "cls": int(fields["cls"])})
    assert read(tmp_path / "a.tar") == {
        key: {"jpg": fields["jpg"], "cls": fields["cls"]} for key, fields in SAMPLES.items()
    }


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["/a.jpg", "../a.jpg", "a/../../b.jpg", "a/..", ".//a.jpg"])
def test_names_that_leave_their_folder_are_refused(tmp_path: Path, name: str, form: int) -> None:
    path = foreign(tmp_path / "a.tar", [("ok.jpg", b""), (name, b"")], form)
    with pytest.raises(StoreError, match="name"):
        list(iter_members(path))


def raw(kind: bytes, name: bytes, body: bytes = b"", *, size: bytes | None = None) -> bytes:
    """One member with a valid checksum, however odd its fields."""
    block = bytearray(header(name, len(body)))
    block[156:157] = kind
    if size is not None:
        block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + body + bytes(-len(body) % BLOCK)


@pytest.mark.parametrize(
    "members",
    [
        raw(b"0", b"a.jpg", size=b"77777777777\0"),
        raw(b"0", b"a.jpg", size=b"\x80" + b"\xff" * 11),
        raw(b"0", b"a.jpg", size=b"\xff" * 12),
        raw(b"0", b"a.jpg", size=b"0000000-001\0"),
        raw(b"0", b"a\xff.jpg"),
        raw(b"0", b""),
        raw(b"S", b"sparse.jpg"),
        raw(b"Z", b"unknown.jpg"),
        raw(b"x", b"pax", b"19 path=a\x00/../b.jpg\n") + raw(b"0", b"a.jpg"),
        raw(b"x", b"pax", b"22 GNU.sparse.major=1\n") + raw(b"0", b"a.jpg"),
        raw(b"x", b"pax", b"12 size=9e9\n") + raw(b"0", b"a.jpg"),
        raw(b"x", b"pax", b"29 size=99999999999999999999\n") + raw(b"0", b"a.jpg"),
        raw(b"x", b"pax", b"99 path=a\n") + raw(b"0", b"a.jpg"),
        raw(b"x", b"pax", b"0 path=a\n") + raw(b"0", b"a.jpg"),
        raw(b"x", b"pax", b"nonsense") + raw(b"0", b"a.jpg"),
        raw(b"x", b"pax", b"10 path=a\n"),
        raw(b"L", b"long", bytes(1 << 17)) + raw(b"0", b"a.jpg"),
        raw(b"L", b"long", b"../b.jpg\0") + raw(b"0", b"a.jpg"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, members: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(members + bytes(2 * BLOCK))
    with pytest.raises(StoreError, match=r"a\.tar, byte \d+: "):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "member",
    [
        raw(b"0", b"a.jpg", b"body", size=b"\x80" + (4).to_bytes(11, "big")),
        raw(b"7", b"a.jpg", b"body", size=b"          4 "),
        raw(b"\0", b"a.jpg", b"body"),
        raw(b"g", b"pax", b"13 comment=x\n") + raw(b"0", b"a.jpg", b"body"),
        raw(b"x", b"pax", b"10 size=4\n") + raw(b"0", b"a.jpg", b"body", size=b"00000000000\0"),
        raw(b"K", b"long", b"target\0") + raw(b"2", b"l.jpg") + raw(b"0", b"a.jpg", b"body"),
    ],
)
def test_odd_but_honest_headers_are_read(tmp_path: Path, member: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(member + bytes(20 * BLOCK))
    (found,) = iter_members(tmp_path / "a.tar")
    assert Blob(str(tmp_path / "a.tar"), found.offset, found.size).read() == b"body"


def test_a_sample_must_be_one_piece_of_distinct_fields_within_the_limit(tmp_path: Path) -> None:
    apart = foreign(tmp_path / "a.tar", [("a.jpg", b""), ("b.jpg", b""), ("a.cls", b"")])
    with pytest.raises(StoreError, match="here before"):
        read(apart)
    twice = foreign(tmp_path / "b.tar", [("a.jpg", b""), ("a.JPG", b"")])
    with pytest.raises(StoreError, match="already"):
        read(twice)
    large = foreign(tmp_path / "c.tar", [("a.jpg", bytes(2000))])
    with pytest.raises(StoreError, match="2000 at most"):
        list(iter_samples(large, limits=Limits(sample_bytes=2000)))
    assert list(iter_samples(large, limits=Limits(sample_bytes=BLOCK + 2048)))


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("a.jpg", "a", "jpg"),
        ("d.x/a.Seg.PNG", "d.x/a", "seg.png"),
        ("a", "", ""),
        ("d/.jpg", "", "jpg"),
    ],
)
def test_keys_end_at_the_first_dot_of_the_basename(name: str, key: str, extension: str) -> None:
    member = Member(name, 0, 0, 0)
    assert member.key == key
    if key:
        assert member.extension == extension


def test_a_packed_tar_is_told_what_it_is(tmp_path: Path) -> None:
    for start, said in ((b"\x1f\x8b\x08", "gzip"), (b"PK\x03\x04", "a zip"), (b"\x28\xb5\x2f\xfd", "zstd")):
        (tmp_path / "a.tar").write_bytes(start + bytes(range(256)) * 40)
        with pytest.raises(StoreError, match=f"{said}, not a tar: unpack it first"):
            list(iter_members(tmp_path / "a.tar"))
