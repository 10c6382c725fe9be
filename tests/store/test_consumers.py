"""Every reader that the store is made for gets all samples, the same first and the same last ones."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from datakit.store.reader import open_store
from datakit.store.verify import verify

GIVEN = os.environ.get("DATAKIT_TEST_CONSUMERS", "")
COUNTS = {"train": 20, "test": 5, "near_ood": 7}


@pytest.fixture(scope="module", params=COUNTS)
def split(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def expected(toys: list[Any], split: str) -> list[tuple[dict[str, Any], bytes]]:
    """(row, image bytes) of the split, as they went in."""
    return [
        pair
        for toy in toys
        if toy.plan.split == split
        for pair in zip(toy.rows.to_pylist(), toy.images, strict=True)
    ]


def test_plain_tar(store_root: Path, split: str, expected: list[Any]) -> None:
    members: list[tuple[str, bytes]] = []
    for path in sorted((store_root / "data").glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            members += [(item.name, tar.extractfile(item).read()) for item in tar]  # type: ignore[union-attr]
    row, image = expected[-1]
    assert len(members) == 4 * COUNTS[split]
    assert members[-4] == (f"{row['__key__']}.jpg", image)
    assert [name.rpartition(".")[2] for name, _ in members[:4]] == ["jpg", "json", "cls", "txt"]


def test_gnu_tar(store_root: Path, split: str, expected: list[Any]) -> None:
    shards, names = sorted((store_root / "data").glob(f"{split}-*.tar")), []
    for path in shards:
        listed = subprocess.run(["tar", "-tf", path], check=True, capture_output=True, text=True)
        assert not listed.stderr
        names += listed.stdout.split()
    assert len(names) == 4 * COUNTS[split]
    for at, shard in ((0, shards[0]), (-1, shards[-1])):
        row, image = expected[at]
        member = f"{row['__key__']}.jpg"
        assert names[4 * at] == member
        assert subprocess.run(["tar", "-xOf", shard, member], check=True, capture_output=True).stdout == image


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face(
    store_root: Path, split: str, expected: list[Any], tmp_path: Path, streaming: bool
) -> None:
    import datasets

    loaded = datasets.load_dataset(str(store_root), split=split, streaming=streaming, cache_dir=str(tmp_path))
    features = loaded.features
    assert list(features) == ["jpg", "json", "cls", "txt", "__key__", "__url__"]
    assert features["cls"].names == ["no", "1.0", "a: b # c"]
    assert features["json"]["boxes"] == datasets.List(
        {"x": datasets.Value("int32"), "name": datasets.Value("string")}
    )
    rows = list(loaded.cast_column("jpg", datasets.Image(decode=False)))
    assert len(rows) == COUNTS[split]
    for found, (row, image) in zip(rows, expected, strict=True):
        assert found["__key__"] == row["__key__"]
        assert found["jpg"]["bytes"] == image
        assert found["cls"] == row["label"]  # -1 too: a ClassLabel takes it for "no class"
        assert found["txt"] == (row["caption"] or "")
        assert found["json"] == {name: row[name] for name in found["json"]}
    assert loaded[0]["jpg"].size == (24, 20) if not streaming else next(iter(loaded))["jpg"].size


def test_hugging_face_sees_every_split_and_refuses_a_short_one(store_root: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(store_root), cache_dir=str(tmp_path / "whole"))
    assert {name: rows.num_rows for name, rows in loaded.items()} == COUNTS
    broken = shutil.copytree(store_root, tmp_path / "broken")
    shard = broken / "data" / "train-00001-of-00003.tar"
    shard.write_bytes(shard.read_bytes()[: 512 * 12] + bytes(1024))  # a cut that tar readers do not see
    with pytest.raises(datasets.exceptions.NonMatchingSplitsSizesError):
        datasets.load_dataset(str(broken), cache_dir=str(tmp_path / "short"))


WEBDATASET = """
import webdataset
for split, shards in (("train", 3), ("test", 1), ("near_ood", 2)):
    braces = f"data/{split}-{{00000..{shards - 1:05d}}}-of-{shards:05d}.tar"
    for row in webdataset.WebDataset(braces, shardshuffle=False, empty_check=False):
        give(split, row["__key__"], row["jpg"], int(row["cls"]), json.loads(row["json"])["orig_label"])
"""
WIDS = """
import wids
for split in ("train", "test", "near_ood"):
    rows = wids.ShardListDataset(f"data/{split}.index.json", cache_dir="data", transformations=[])
    for index in range(len(rows)):
        row = rows[index]
        label, fields = int(row[".cls"].read()), json.loads(row[".json"].read())
        give(split, row["__key__"], row[".jpg"].read(), label, fields["orig_label"])
assert not list(pathlib.Path(os.environ["WIDS_CACHE"]).glob("*")), "cache_dir did not keep wids from copying"
"""
CROISSANT = """
import mlcroissant
document = mlcroissant.Dataset(jsonld="croissant.json")
for split in ("train", "test", "near_ood"):
    for row in document.records(split):
        image = row[f"{split}/image"].fp.getvalue()
        key, label = row[f"{split}/key"].decode(), int(row[f"{split}/label"])
        original = row[f"{split}/orig_label"]
        give(split, key, image, label, None if original is None else int(original))
"""


DUCKDB = """
import duckdb
rows = "SELECT split, key, shard, image_offset, image_size, label, orig_label FROM 'metadata/*-of-*.parquet'"
for split, key, shard, offset, size, *more in duckdb.sql(rows + " ORDER BY shard, index_in_shard").fetchall():
    with open(f"data/{shard}.tar", "rb") as tar:
        tar.seek(offset)
        give(split, key, tar.read(size), *more)
"""
ENERGON = """
from megatron.energon import DefaultTaskEncoder, WorkerConfig, get_loader, get_val_dataset

class Raw(DefaultTaskEncoder):
    decoder = None

    def batch(self, samples):
        return samples

for split in ("train", "test", "near_ood"):
    alone = WorkerConfig(rank=0, world_size=1, num_workers=0)
    rows = get_val_dataset(".", split_part=split, worker_config=alone, batch_size=1, task_encoder=Raw())
    for batch in get_loader(rows):
        for sample in batch:
            give(split, sample.__key__, sample.image, sample.caption.decode())
"""
READERS = {
    "webdataset 1": (WEBDATASET, ""),
    "webdataset 0.2.111": (f"{WEBDATASET}assert webdataset.__version__ == '0.2.111'\n", "webdataset-0.2"),
    "wids": (WIDS, ""),
    "mlcroissant": (CROISSANT, ""),
    "duckdb": (DUCKDB, "duckdb"),
}


def samples(toys: list[Any], *columns: str) -> dict[str, list[Any]]:
    """Split → [key, image's digest, columns …] of each sample, as they went in."""
    found: dict[str, list[Any]] = {}
    for toy in toys:
        for row, image in zip(toy.rows.to_pylist(), toy.images, strict=True):
            sample = [row["__key__"], hashlib.sha256(image).hexdigest(), *(row[name] for name in columns)]
            found.setdefault(toy.plan.split, []).append(sample)
    return found


def consumer(name: str) -> Path:
    """A folder that tools/test installs, `.venv/consumers/<name>`; where it did, its absence is no reason to skip."""
    folder = Path(GIVEN or Path(sys.prefix) / "consumers") / name
    if not GIVEN and not folder.is_dir():
        pytest.skip(f"{folder} is not there; tools/test installs it")
    return folder


@pytest.mark.parametrize("reader", READERS)
def test_in_a_process_of_its_own(store_root: Path, toys: list[Any], tmp_path: Path, reader: str) -> None:
    """These leave files open, use what is deprecated, or are of another version than ours: a process for each."""
    listing = sorted(path.name for path in (store_root / "data").iterdir())
    code, folder = READERS[reader]
    found = run_reader(code, store_root, tmp_path, consumer(folder) if folder else None)
    expected = samples(toys, "label", "orig_label")
    if code is CROISSANT:  # it walks extracted shards in the order of a hash of their paths
        found = {split: sorted(rows) for split, rows in found.items()}
    assert found == expected
    assert sorted(path.name for path in (store_root / "data").iterdir()) == listing


def test_megatron_energon(store_root: Path, toys: list[Any], tmp_path: Path) -> None:
    folder, root = consumer("energon"), shutil.copytree(store_root, tmp_path / "store")
    words = ["prepare", ".", "--non-interactive", "--sample-type", "CaptioningSample"]
    words += ["--field-map", '{"image": "jpg", "caption": "txt"}']
    for split in COUNTS:
        words += ["--split-parts", f"{split}:data/{split}-.*"]
    prepare = f"import sys; from megatron.energon.cli.main import main; sys.argv[1:] = {words!r}; main()"
    done = run_python(prepare, root, {"PYTHONPATH": str(folder)})
    assert done.returncode == 0, done.stdout + done.stderr
    found = run_reader(ENERGON, root, tmp_path, folder)
    assert found == {
        split: [[key, digest, caption or ""] for key, digest, caption in rows]
        for split, rows in samples(toys, "caption").items()
    }
    # It leaves .nv-meta and an index beside every shard: no other reader minds, and verify holds them against ours.
    assert len(list((root / "data").glob("*.tar.idx"))) == 6
    report = verify(root, deep=True)
    assert report.ok, report.text()
    hugging_face = "import datasets\nfor split, rows in datasets.load_dataset(os.getcwd()).items():\n"
    hugging_face += "    for row in rows.cast_column('jpg', datasets.Image(decode=False)):\n"
    hugging_face += "        give(split, row['__key__'], row['jpg']['bytes'])\n"
    assert run_reader(hugging_face, root, tmp_path) == samples(toys)


def run_reader(code: str, root: Path, cache: Path, folder: Path | None = None) -> Any:
    """What `code`, run in the store's folder, gives of each sample: split → [key, image's digest, label …].

    folder: packages that stand before the environment's own.
    """
    head = "import atexit, hashlib, json, os, pathlib, sys\nfound = {}\n"
    head += "def give(split, key, image, *more):\n"
    head += "    found.setdefault(split, []).append([key, hashlib.sha256(image).hexdigest(), *more])\n"
    tail = "\npathlib.Path(os.environ['RESULT']).write_text(json.dumps(found))\n"
    result = cache / "result.json"
    environment = {
        "RESULT": str(result),
        **({"PYTHONPATH": str(folder)} if folder else {}),
        "CROISSANT_CACHE": str(cache / "croissant"),
        "WIDS_CACHE": str(cache / "wids"),
        "HF_HOME": str(cache / "hf"),
    }
    done = run_python(head + code + tail, root, environment)
    assert done.returncode == 0, done.stderr
    return json.loads(result.read_text())


def run_python(code: str, root: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_arrow(store_root: Path, split: str, expected: list[Any]) -> None:
    import datasets

    rows = datasets.load_from_disk(str(store_root / "arrow" / split))
    raw = rows.cast_column("image", datasets.Image(decode=False))
    assert len(rows) == COUNTS[split]
    for found, (row, image) in zip(raw, expected, strict=True):
        assert found["image"]["bytes"] == image
        assert {name: found[name] for name in row if name != "__key__"} == {
            name: value for name, value in row.items() if name != "__key__"
        }
    assert rows[0]["image"].size == (24, 20)


def test_datakit(store_root: Path, split: str, expected: list[Any]) -> None:
    view = open_store(store_root)[split]
    assert len(view) == COUNTS[split]
    for found, (row, image) in zip(view, expected, strict=True):
        assert found["image"].encoded == image
        assert found["__key__"] == row["__key__"]


def test_what_the_card_tells_to_run_runs(store_root: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (store_root / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    code = "\n".join(
        f"{block}\nfor _ in store['train'] if {number} == 0 else rows: give('{number}', 'key', b'')\n"
        for number, block in enumerate(blocks)
    )
    found = run_reader(code, store_root, tmp_path)
    assert {number: len(rows) for number, rows in found.items()} == {str(i): 20 for i in range(6)}
