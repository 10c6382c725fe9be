"""Shards, ours and foreign: images stay in their tar, and nothing is lost between two shards without a word."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.blob import Blob
from datakit.errors import CatalogError
from datakit.sources.webdataset import braces, scan, shards_of
from datakit.store.owned import claim
from datakit.store.tree import Layout, ShardPlan, write_shard

Read = Callable[..., Any]
MANIFEST = '{"format": "datakit-store"}'


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, **fields: bytes) -> list[tuple[str, bytes]]:
    return [(f"{key}.{extension}", data) for extension, data in fields.items()]


def test_members_of_one_key_are_a_sample(tmp_path: Path, read: Read, bytes_of: Any) -> None:
    said = {"class_name": "rose", "taxonomy": ["plant"], "price": 3, "split": "x", "orig_label": None}
    members = [
        *sample("a/0001", jpg=b"one", json=json.dumps(said).encode(), cls=b"7\n", txt=b"a rose\n"),
        *sample("0002", png=b"two", cls=b"-1", npy=b"array"),
    ]
    entries, problems = read(scan(tar(tmp_path / "s.tar", members)))
    assert not problems
    assert {name: dict(entry.fields) for name, entry in entries.items()} == {
        "a/0001": {
            "class_name": "rose",
            "taxonomy": ["plant"],
            "orig_label": 7,
            "caption": "a rose",
            "price": 3,
            "source_split": "x",
        },
        "0002": {},
    }
    assert isinstance(entries["0002"].data, Blob)
    assert [bytes_of(entry) for entry in entries.values()] == [b"one", b"two"]


def test_what_is_no_sample_is_named(tmp_path: Path, read: Read) -> None:
    first = [
        ("README", b"hello"),
        *sample("text-only", txt=b"no picture"),
        *sample("bad-json", jpg=b"x", json=b"{"),
        *sample("list", jpg=b"x", json=b"[]"),
        *sample("bad-cls", jpg=b"x", cls=b"rose"),
        *sample("same", jpg=b"x"),
        *sample("twice", jpg=b"x"),
        *sample("twice", jpg=b"y"),
    ]
    tar(tmp_path / "d" / "0.tar", first)
    tar(tmp_path / "d" / "1.tar", [*sample("same", jpg=b"y"), *sample("new", jpg=b"z")])
    entries, problems = read(scan(tmp_path / "d"))
    assert set(entries) == {"same", "new"}
    assert [(p.name, p.reason, p.dropped) for p in problems] == [
        ("README", "no_key", True),
        ("text-only", "no_image", False),
        ("bad-json", "bad_json", False),
        ("list", "bad_json", False),
        ("bad-cls", "bad_label", False),
        ("twice", "duplicate_key", False),
        ("same", "duplicate_key", False),
    ]
    assert problems[-1].detail == "in 1.tar, and before in 0.tar; the first is kept"


def test_links_in_a_tar_are_counted_and_not_followed(tmp_path: Path, read: Read) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.USTAR_FORMAT) as file:
        for name, kind in [
            ("a", tarfile.DIRTYPE),
            ("a/0.jpg", tarfile.REGTYPE),
            ("a/1.jpg", tarfile.LNKTYPE),
            ("a/2.jpg", tarfile.LNKTYPE),
            ("a/3.jpg", tarfile.SYMTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a/0.jpg"
            file.addfile(info, io.BytesIO(b""))
    entries, problems = read(scan(tmp_path / "s.tar"))
    assert set(entries) == {"a/0"}
    assert [(p.name, p.reason, p.dropped) for p in problems] == [
        ("s.tar: hard link 1", "not_a_file", False),
        ("s.tar: hard link 2", "not_a_file", False),
        ("s.tar: symlink 1", "not_a_file", False),
    ]


def test_the_picture_of_several_is_the_one_named(tmp_path: Path, read: Read, bytes_of: Any) -> None:
    shard = tar(
        tmp_path / "s.tar", sample("0", **{"png": b"plain", "seg.png": b"mask", "depth.png": b"depth"})
    )
    assert bytes_of(read(scan(shard))[0]["0"]) == b"plain"
    assert bytes_of(read(scan(shard, image="seg.png"))[0]["0"]) == b"mask"


@pytest.mark.parametrize("cut", [512, 700, 1024, 1536])
def test_a_cut_shard_stops_and_is_named(tmp_path: Path, cut: int) -> None:
    shard = tar(tmp_path / "cut.tar", [*sample("0", jpg=b"x" * 600), *sample("1", jpg=b"y" * 600)])
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(CatalogError, match=r"cut\.tar is damaged"):
        list(scan(shard))


def test_patterns_mean_what_a_shell_means(tmp_path: Path) -> None:
    names = ["s-08.tar", "s-09.tar", "s-10.tar", "t-a.tar", "other.txt"]
    for name in names:
        (tmp_path / name).touch()
    assert braces("s-{08..10}-{a,b}.tar")[:3] == ["s-08-a.tar", "s-08-b.tar", "s-09-a.tar"]

    def found(*parts: str) -> list[str]:
        return [path.name for path in shards_of("::".join(f"{tmp_path}/{part}" for part in parts))]

    assert found("s-{08..10}.tar") == names[:3]
    assert found("s-*.tar") == names[:3]
    assert found("t-a.tar", "s-{08,10}.tar") == ["t-a.tar", "s-08.tar", "s-10.tar"]
    assert found("") == names[:4]
    with pytest.raises(CatalogError, match=r"there is no shard .*s-11\.tar"):
        found("s-{08..11}.tar")
    with pytest.raises(CatalogError, match=r"there is no \.tar"):
        found("u-*.tar")
    with pytest.raises(CatalogError, match="give source"):
        list(scan(None))


def test_a_shard_may_be_called_as_a_pattern_is(tmp_path: Path) -> None:
    for name in ("set[1]/s.tar", "s-{0,1}.tar"):
        assert shards_of(str(tar(tmp_path / name, []))) == [tmp_path / name]


def test_a_pattern_may_be_longer_than_a_name(tmp_path: Path, read: Read) -> None:
    names = [f"{number:050d}" for number in range(8)]
    shards = [tar(tmp_path / f"{name}.tar", sample(name, jpg=b"x")) for name in names]
    braced = tmp_path / f"{{{','.join(names)}}}.tar"
    for root in (braced, Path("::".join(path.name for path in shards))):
        with contextlib.chdir(tmp_path):
            assert set(read(scan(root))[0]) == set(names)
    with pytest.raises(CatalogError, match="there is no shard"):
        shards_of("x" * 300)


def test_shards_of_a_build_within_the_source_are_not_of_the_source(tmp_path: Path) -> None:
    shards = [tar(tmp_path / name, []) for name in ("a/0.tar", "b/1.tar")]
    claim(tmp_path / "builds" / "first")
    tar(tmp_path / "builds" / "first" / "data" / "train-00000-of-00001.tar", [])
    tar(tmp_path / "builds" / "first" / ".datakit" / "steps" / "00000.tar", [])
    assert shards_of(str(tmp_path)) == shards


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The tree that datakit publishes, as far as a reader looks."""
    root = tmp_path / "store"
    for split, keys in {"train": ["a", "b"], "near_ood": ["c"]}.items():
        shard = f"{split}-00000-of-00001"
        tar(
            root / "data" / f"{shard}.tar",
            [m for key in keys for m in sample(key, jpg=key.encode(), cls=b"0")],
        )
        rows = [
            {"key": key, "split": split, "label": 0, "class_name": f"class {key}", "width": 9} for key in keys
        ]
        (root / "metadata").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), root / "metadata" / f"{shard}.parquet")
    (root / "manifest.json").write_text(MANIFEST)
    return root


def test_a_store_of_ours_keeps_its_splits_and_columns(store: Path, read: Read) -> None:
    entries, problems = read(scan(store))
    assert not problems
    assert {name: dict(entry.fields) for name, entry in entries.items()} == {
        "a": {"class_name": "class a", "official_split": "train", "source_split": "train"},
        "b": {"class_name": "class b", "official_split": "train", "source_split": "train"},
        "c": {"class_name": "class c", "source_split": "near_ood"},
    }


def test_a_store_is_read_as_our_writer_writes_it(tmp_path: Path, read: Read, bytes_of: Any) -> None:
    rows = [
        {"__key__": f"k{index}", "label": index, "class_name": f"c{index}", "taxonomy": ["t"], "price": 0.5}
        for index in range(3)
    ]
    images = [b"\xff\xd8\xff" + bytes([index]) for index in range(3)]
    plan = ShardPlan(split="test", index=0, of=1)
    layout = Layout(label="label", json_fields=("class_name",), class_names=("c0", "c1", "c2"), arrow=False)
    write_shard(tmp_path / "s", plan, pa.Table.from_pylist(rows), images, layout=layout)
    (tmp_path / "s" / "manifest.json").write_text(MANIFEST)
    entries, problems = read(scan(tmp_path / "s"))
    assert not problems
    assert [bytes_of(entry) for entry in entries.values()] == images
    assert entries["k1"].fields == {
        "class_name": "c1",
        "taxonomy": ["t"],
        "price": 0.5,
        "official_split": "test",
        "source_split": "test",
    }


def test_a_manifest_of_somebody_else_makes_no_store(tmp_path: Path, read: Read) -> None:
    tar(tmp_path / "d" / "data" / "0.tar", sample("a", jpg=b"a", cls=b"5"))
    (tmp_path / "d" / "manifest.json").write_text('{"shards": 1}')
    entries, problems = read(scan(tmp_path / "d"))
    assert not problems
    assert entries["a"].fields == {"orig_label": 5}


def test_metadata_that_does_not_go_with_its_shard_stops(store: Path) -> None:
    path = store / "metadata" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array([1, 0])), path)
    with pytest.raises(CatalogError, match="does not go with its shard"):
        list(scan(store))
    pq.write_table(table.slice(0, 1), path)
    with pytest.raises(CatalogError, match="has no row for b"):
        list(scan(store))
