"""verify finds every kind of damage, and names the file; deep, also forms that disagree though sealed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.store.contents import canonical
from datakit.store.metadata import to_parquet
from datakit.store.tar import TarWriter
from datakit.store.tar_reader import iter_samples
from datakit.store.verify import verify

TAR = "data/train-00001-of-00003.tar"
ROWS = "metadata/train-00001-of-00003.parquet"
ARROW = "arrow/train/data-00001-of-00003.arrow"


@pytest.fixture
def copy(store_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store_root, tmp_path / "copy"))


def reseal(root: Path) -> None:
    """Make the manifest vouch for the files as they are now: only a comparison of contents can tell."""
    manifest = json.loads((root / "manifest.json").read_bytes())

    def now(path: str) -> dict[str, Any]:
        data = (root / path).read_bytes()
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    manifest["files"] = {path: now(path) for path in manifest["files"]}
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            for form in ("tar", "metadata", "arrow"):
                shard[form] |= now(shard[form]["path"])
    body = {name: value for name, value in manifest.items() if name != "digest"}
    sealed = {**body, "digest": hashlib.sha256(canonical(body)).hexdigest()}
    (root / "manifest.json").write_bytes(canonical(sealed))


def found(root: Path, deep: bool = False) -> set[tuple[str, str]]:
    return {(problem.file, problem.reason) for problem in verify(root, deep=deep).problems}


@pytest.mark.parametrize("deep", [False, True])
def test_a_store_as_written_has_no_problem(store_root: Path, deep: bool) -> None:
    report = verify(store_root, deep=deep)
    assert report.ok, report.text()
    assert report.samples == 32
    assert report.text().endswith("all as written")
    assert report.to_json()["ok"] is True


def test_a_bit_changed_in_any_file_is_found_and_the_file_named(copy: Path) -> None:
    rng = np.random.default_rng(7)
    for path in sorted(json.loads((copy / "manifest.json").read_bytes())["files"]):
        data = (copy / path).read_bytes()
        changed = bytearray(data)
        at = int(rng.integers(len(data)))
        changed[at] ^= 1 << int(rng.integers(8))
        (copy / path).write_bytes(changed)
        assert (path, "digest") in found(copy), (path, at)
        (copy / path).write_bytes(data)
    assert verify(copy).ok


def mutants(data: bytes, rng: np.random.Generator) -> list[bytes]:
    """A tar damaged in the ways that other readers take for a shorter or another one."""
    cut = int(rng.integers(1, len(data)))
    block = int(rng.integers(len(data) // 512)) * 512
    bit = int(rng.integers(len(data)))
    flipped = bytearray(data)
    flipped[bit] ^= 1 << int(rng.integers(8))
    zeroed = bytearray(data)
    zeroed[block : block + 512] = bytes(512) if any(data[block : block + 512]) else b"x" * 512
    swapped = data[512:1024] + data[:512] + data[1024:]
    return [data[:cut], data[:block], bytes(flipped), bytes(zeroed), swapped, data + data, b""]


def test_every_mutant_of_a_shard_is_found(copy: Path) -> None:
    rng = np.random.default_rng(3)
    data = (copy / TAR).read_bytes()
    tried = 0
    for _ in range(25):
        for mutant in mutants(data, rng):
            (copy / TAR).write_bytes(mutant)
            assert any(file == TAR for file, _ in found(copy))
            tried += 1
    assert tried == 175


def test_missing_and_unlisted_files(copy: Path) -> None:
    (copy / ROWS).unlink()
    (copy / "LICENSE").unlink()
    shutil.copy(copy / TAR, copy / "data" / "train-00003-of-00003.tar")
    (copy / "data" / "train-00001-of-00003.tar.part-77").write_bytes(b"")
    (copy / "data" / "train-00001-of-00003.tar.idx").write_bytes(b"energon's own, no part of the store")
    (copy / ".datakit").mkdir(exist_ok=True)
    (copy / ".datakit" / "x.tar").write_bytes(b"")
    assert found(copy, deep=True) == {
        (ROWS, "missing"),
        (ROWS, "count"),
        ("LICENSE", "missing"),
        ("data/train-00003-of-00003.tar", "unlisted"),
        ("data/train-00001-of-00003.tar.part-77", "unfinished"),
    }


def test_no_manifest_or_a_changed_one(copy: Path, tmp_path: Path) -> None:
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"samples": 20', b'"samples": 21'))
    assert found(copy) == {("manifest.json", "manifest")}
    report = verify(tmp_path / "nothing")
    assert not report.ok
    assert "no store" in report.text()


def rewrite_rows(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    (root / ROWS).write_bytes(to_parquet(change(pq.read_table(root / ROWS))))


def rewrite_tar(root: Path, change: Callable[[int, dict[str, bytes]], dict[str, bytes] | None]) -> None:
    """The shard anew, and its rows' places with it, so that only what `change` did is wrong."""
    samples = list(iter_samples(root / TAR))
    with TarWriter(root / TAR) as tar:
        for number, (record, fields) in enumerate(samples):
            if (changed := change(number, fields)) is not None:
                tar.add(record.key, changed)
    records = tar.record.records
    table = pq.read_table(root / ROWS)
    if len(records) == table.num_rows:
        for name in ("offset", "size", "xxh3"):
            column = pa.array([getattr(record, name) for record in records], table.schema.field(name).type)
            table = table.set_column(table.column_names.index(name), name, column)
        (root / ROWS).write_bytes(to_parquet(table))


def test_rows_in_another_order_than_the_tar(copy: Path) -> None:
    rewrite_rows(copy, lambda table: table.take([1, 0, *range(2, table.num_rows)]))
    reseal(copy)
    assert verify(copy).ok
    assert (TAR, "order") in found(copy, deep=True)


def test_a_row_too_few(copy: Path) -> None:
    rewrite_rows(copy, lambda table: table.slice(1))
    reseal(copy)
    assert (ROWS, "count") in found(copy)
    assert {(ROWS, "count"), (TAR, "order")} <= found(copy, deep=True)


def test_a_sample_too_few_in_the_tar(copy: Path) -> None:
    rewrite_tar(copy, lambda number, fields: None if number == 6 else fields)
    reseal(copy)
    assert (TAR, "count") in found(copy, deep=True)


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("cls", b"0", "sample"),
        ("cls", b"zero", "sample"),
        ("txt", b"another caption", "sample"),
        ("json", b'{"class_name":"no"}', "sample"),
        ("json", b"{", "sample"),
        ("jpg", b"\xff\xd8\xff\xe0 no image after all", "image"),
        ("extra", b"", "sample"),
    ],
)
def test_a_sample_that_is_not_what_the_metadata_says(
    copy: Path, member: str, value: bytes, reason: str
) -> None:
    rewrite_tar(copy, lambda number, fields: {**fields, member: value} if number == 3 else fields)
    reseal(copy)
    problems = verify(copy, deep=True).problems
    assert (TAR, reason, "bird-0010") in {(p.file, p.reason, p.key) for p in problems}
    assert {p.key for p in problems} == {"bird-0010"}


def test_arrow_files_of_another_shard(copy: Path) -> None:
    shutil.copy(copy / "arrow/train/data-00000-of-00003.arrow", copy / ARROW)
    reseal(copy)
    assert (ARROW, "order") in found(copy, deep=True)
    (copy / ARROW).write_bytes((copy / ARROW).read_bytes()[:2000])
    reseal(copy)
    assert (ARROW, "sample") in found(copy, deep=True)


def test_a_wids_index_with_another_count(copy: Path) -> None:
    path = copy / "data" / "train.index.json"
    path.write_bytes(path.read_bytes().replace(b'"nsamples": 6', b'"nsamples": 5'))
    reseal(copy)
    assert found(copy) == {("data/train.index.json", "count")}
    path.write_bytes(b"[]")
    reseal(copy)
    assert found(copy) == {("data/train.index.json", "count")}


def test_a_list_with_a_key_that_no_shard_holds(copy: Path) -> None:
    path = copy / "lists" / "seed1.parquet"
    table = pq.read_table(path)
    keys = pa.array(["bird-9999", *table["key"].to_pylist()[1:]])
    path.write_bytes(to_parquet(table.set_column(table.column_names.index("key"), "key", keys)))
    reseal(copy)
    assert verify(copy).ok
    assert found(copy, deep=True) == {("lists/seed1.parquet", "count")}


def test_a_manifest_cannot_point_outside(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": "0" * 64}
    body = {name: value for name, value in manifest.items() if name != "digest"}
    sealed = {**body, "digest": hashlib.sha256(canonical(body)).hexdigest()}
    (copy / "manifest.json").write_bytes(canonical(sealed))
    report = verify(copy)
    assert [problem.file for problem in report.problems] == ["manifest.json"]
    assert "no path of a file within a store" in report.text()


def test_text_stays_short_however_many_problems(copy: Path) -> None:
    for number in range(80):
        (copy / "data" / f"more-{number:05d}.tar").write_bytes(b"")
    report = verify(copy)
    assert len(report.problems) == 80
    assert "… and 30 more" in report.text()
    assert len(report.text().splitlines()) == 53
