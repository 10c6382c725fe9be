from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from datakit.cli import cli
from datakit.errors import ConfigError, StoreError
from datakit.store.contents import canonical, is_data
from datakit.store.layout import Layout, ShardPlan, StoreInfo
from datakit.store.reader import open_store
from datakit.store.tree import finish_tree, write_shard
from datakit.store.verify import verify

from .damage import (
    ROWS,
    TAR,
    forge,
    found,
    reseal,
    rewrite_tar,
    with_sidecar,
)


def without_splits(manifest: dict[str, Any]) -> None:
    manifest.update(splits={}, split_order=[], selections=[], samples=0)
    manifest["files"] = {path: file for path, file in manifest["files"].items() if not is_data(path)}


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
    (copy / ".huggingface.yaml").write_bytes(b"configs: []")
    (copy / ".datakit").mkdir(exist_ok=True)
    (copy / ".datakit" / "x.tar").write_bytes(b"")
    assert found(copy, deep=True) == {
        (ROWS, "missing"),
        ("LICENSE", "missing"),
        ("data/train-00003-of-00003.tar", "unlisted"),
        (".huggingface.yaml", "unlisted"),
        ("data/train-00001-of-00003.tar.part-77", "unfinished"),
    }


def test_no_manifest_or_a_changed_one(copy: Path, tmp_path: Path) -> None:
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"samples": 20', b'"samples": 21'))
    assert found(copy) == {("manifest.json", "manifest")}
    report = verify(tmp_path / "nothing")
    assert not report.ok
    assert "no store" in report.text()


@pytest.mark.parametrize(
    "change",
    [
        forge("samples", 33),
        forge("splits/train/samples", 21),
        forge("split_order", ["train", "test"]),
        forge("split_order", ["train", "test", "near_ood", "near_ood"]),
        forge("selections", []),
        lambda manifest: (
            manifest["splits"].update(val={"samples": 0, "shards": []}),
            manifest["split_order"].append("val"),
        ),
        forge("selections", ["seed1", "seed2"]),
        forge("layout/image_extension", "gif"),
        forge("layout/arrow", False),
        forge("layout/label", 5),
        forge("layout/metadata", "path"),
        forge("layout/class_names", [1, 2]),
        forge("splits/train/shards/1/metadata/path", "../outside.parquet"),
        forge("splits/train/shards/1/metadata/bytes", 1),
        forge("splits/train/shards/1/index", 0),
        forge("files/LICENSE", {"bytes": None, "sha256": ""}),
        forge("files/.", {"bytes": 0, "sha256": ""}),
        forge("files/data\u2028", {"bytes": 0, "sha256": ""}),
        lambda manifest: manifest["splits"]["near_ood"]["shards"].pop(),
        lambda manifest: (manifest["splits"].pop("near_ood"), manifest["split_order"].remove("near_ood")),
        without_splits,
        lambda manifest: manifest["files"].pop(ROWS),
        lambda manifest: manifest["files"].pop("lists/seed1.parquet"),
    ],
)
def test_a_manifest_that_contradicts_itself(copy: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    reseal(copy, change)
    assert found(copy) == {("manifest.json", "manifest")}
    with pytest.raises(StoreError):
        open_store(copy)


def test_a_manifest_that_is_a_folder(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").mkdir()
    assert found(copy, deep=True) == {("manifest.json", "manifest")}


@pytest.mark.parametrize(
    "name",
    ["README.md", "LICENSE", "croissant.json", "data/test.index.json", "arrow/dataset_dict.json",
     "arrow/test/state.json", "arrow/test/dataset_info.json"],
)  # fmt: skip
def test_a_file_that_every_store_has_is_neither_there_nor_listed(copy: Path, name: str) -> None:
    (copy / name).unlink()
    manifest = json.loads((copy / "manifest.json").read_bytes())
    del manifest["files"][name]
    (copy / "manifest.json").write_bytes(canonical(manifest))
    reseal(copy)
    assert found(copy) == {(name, "missing")}


def test_a_folder_that_is_a_link_is_looked_into(copy: Path, tmp_path: Path) -> None:
    for name in ("data", "arrow/train"):
        (copy / name).rename(tmp_path / name.replace("/", "-"))
        (copy / name).symlink_to(tmp_path / name.replace("/", "-"))
    (copy / "mine").symlink_to(tmp_path)  # nothing of the store behind it
    assert verify(copy, deep=True).ok
    (tmp_path / "data" / "train-00003-of-00003.tar").write_bytes(b"")
    (tmp_path / "arrow-train" / "data-00003-of-00003.arrow").write_bytes(b"")
    assert found(copy) == {
        ("data/train-00003-of-00003.tar", "unlisted"),
        ("arrow/train/data-00003-of-00003.arrow", "unlisted"),
    }


@pytest.fixture
def small(tmp_path: Path, toys: list[Any], toy_layout: Layout, toy_info: StoreInfo) -> Path:
    """One shard, one list."""
    plan, toy = ShardPlan(split="train", index=0, of=1), toys[0]
    entry = write_shard(tmp_path, plan, toy.rows, toy.images, layout=toy_layout)
    listed = pa.table({"key": toy.rows["__key__"], "split": ["train"] * 7, "label": [0] * 7})
    finish_tree(tmp_path, entries=[entry], layout=toy_layout, info=toy_info, selections={"seed1": listed})
    return tmp_path


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    ("name", "flips"),
    [
        ("metadata/train-00000-of-00001.parquet", 40),
        ("lists/seed1.parquet", 40),
        ("arrow/train/data-00000-of-00001.arrow", 20),
        ("data/train-00000-of-00001.tar", 20),
        ("data/train.index.json", 20),
        ("manifest.json", 20),
    ],
)
def test_a_flipped_bit_is_never_raised_and_only_new_digests_can_hide_it(
    small: Path, name: str, flips: int, sealed: bool
) -> None:
    rng, data = np.random.default_rng(53), (small / name).read_bytes()
    manifest = (small / "manifest.json").read_bytes()
    for at in rng.integers(len(data), size=flips):
        changed = bytearray(data)
        changed[at] ^= 1 << int(rng.integers(8))
        (small / name).write_bytes(changed)
        if sealed and name != "manifest.json":
            reseal(small)
        reasons = {problem.reason for problem in verify(small, deep=True).problems if problem.file == name}
        assert sealed or reasons & {"digest", "manifest"}, at
        (small / "manifest.json").write_bytes(manifest)


def test_a_manifest_cannot_point_outside(copy: Path) -> None:
    reseal(copy, lambda manifest: manifest["files"].update({"../secret": {"bytes": 1, "sha256": "0" * 64}}))
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


def test_the_verb_names_shard_and_key_and_exits_3(copy: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(cli, ["verify", str(copy), "--deep"]).exit_code == 0
    rewrite_tar(copy, lambda number, fields: {**fields, "txt": b"x"} if number == 3 else fields)
    reseal(copy)
    done = run(cli, ["verify", str(copy), "--deep"])
    assert isinstance(done.exception, StoreError) and done.exception.exit_code == 3
    assert f"{TAR} [bird-0010]: sample: txt not as the metadata make it" in done.output
    value = json.loads(run(cli, ["verify", str(copy), "--deep", "--json"]).output)
    assert (TAR, "bird-0010") in {(problem["file"], problem["key"]) for problem in value["problems"]}
    asked = run(cli, ["verify", str(copy), "--sidecar", "x.arrow"]).exception
    assert isinstance(asked, ConfigError) and "give both" in str(asked)
    with_sidecar(copy, tmp_path / "x.arrow", ["bird-0000"])
    done = run(cli, ["verify", str(copy), "--deep", "--sidecar", str(tmp_path / "x.arrow")])
    assert f"{tmp_path / 'x.arrow'} [bird-0001]: pairing: 31 of 32 samples have no row" in done.output
