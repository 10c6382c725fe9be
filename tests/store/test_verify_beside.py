from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.errors import StoreError
from datakit.store.layout import Layout, ShardPlan, StoreInfo
from datakit.store.metadata import to_parquet
from datakit.store.reader import open_store
from datakit.store.tar_reader import iter_samples
from datakit.store.tree import finish_tree, write_shard
from datakit.store.verify import verify

from .damage import (
    TAR,
    found,
    reseal,
    with_sidecar,
    with_values,
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"nsamples": 6', b'"nsamples": 5'),
        (b'"filesize": ', b'"filesize": 1'),
        (b"wids-shard-index-v1", b"wids-shard-index-v2"),
        (b'"shardlist"', b'"base": "https://example.org", "shardlist"'),
        (b"{", b"["),
    ],
)
def test_a_wids_index_of_another_content(copy: Path, old: bytes, new: bytes) -> None:
    path = copy / "data" / "train.index.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(old, new, 1))
    assert path.read_bytes() != data
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


OTHERS = {
    "README.md": "configs and dataset_info",
    "croissant.json": "distribution and recordSet",
    "arrow/train/state.json": "_data_files and _fingerprint",
    "arrow/train/dataset_info.json": "features",
    "arrow/dataset_dict.json": "splits",
}


def pairing(root: Path) -> set[tuple[str, str]]:
    return {(problem.file, problem.reason) for problem in verify(root, deep=True).problems}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, toys: list[Any], toy_info: StoreInfo) -> Path:
    """A store of the same name with two samples less, one class name changed and no column `tier`."""
    root, layout = (
        tmp_path_factory.mktemp("other") / "s",
        Layout(label="label", class_names=("no", "yes", "?")),
    )
    rows, plan = toys[0].rows.drop_columns("tier").slice(0, 5), ShardPlan(split="train", index=0, of=1)
    entry = write_shard(root, plan, rows, toys[0].images[:5], layout=layout)
    finish_tree(root, entries=[entry], layout=layout, info=toy_info)
    return root


@pytest.mark.parametrize("name", OTHERS)
def test_what_other_tools_are_told_is_of_this_store(copy: Path, other: Path, name: str) -> None:
    shutil.copy(other / name, copy / name)
    reseal(copy)
    assert verify(copy).ok
    (problem,) = verify(copy, deep=True).problems
    assert (problem.file, problem.reason) == (name, "pairing")
    assert problem.detail == f"its {OTHERS[name]} are not this store's"
    for data in (b"", b"\xff", b"[" * 100_000, b"[]"):
        (copy / name).write_bytes(data)
        reseal(copy)
        assert pairing(copy) == {(name, "pairing")}


def test_texts_for_people_may_change(copy: Path) -> None:
    path = copy / "README.md"
    path.write_text(
        path.read_text().replace("pretty_name: Toy birds", "pretty_name: Birds, as toys") + "\nMore.\n"
    )
    reseal(copy)
    assert verify(copy, deep=True).ok


def test_an_index_of_energon_may_be_there_and_may_not_lie(copy: Path) -> None:
    records = [record for record, _ in iter_samples(copy / TAR)]
    offsets = [*(record.offset for record in records), records[-1].offset + records[-1].size]
    index = copy / f"{TAR}.idx"
    index.write_bytes(np.array(offsets, "<u8").tobytes())
    assert verify(copy, deep=True).ok
    for wrong in (offsets[:-1], [*offsets[:3], 0, *offsets[4:]], [number + 512 for number in offsets]):
        index.write_bytes(np.array(wrong, "<u8").tobytes())
        assert verify(copy).ok
        assert pairing(copy) == {(f"{TAR}.idx", "pairing")}


def test_sidecars_in_the_tree_and_elsewhere(copy: Path, other: Path, tmp_path: Path) -> None:
    inside, outside = copy / "embeddings" / "clip.arrow", tmp_path / "clip.arrow"
    (copy / "mine.parquet").write_bytes(b"no parquet, and nobody's")
    for path in (inside, outside):
        with_sidecar(copy, path)
    assert verify(copy, deep=True, sidecars=[outside]).ok
    with_sidecar(other, inside)
    with_sidecar(other, outside)
    problems = verify(copy, deep=True, sidecars=[outside]).problems
    assert [(problem.file, problem.reason) for problem in problems] == [
        ("embeddings/clip.arrow", "pairing"), (str(outside), "pairing"),
    ]  # fmt: skip
    assert all("belongs to another store" in problem.detail for problem in problems)


@pytest.mark.parametrize(
    ("change", "said", "key"),
    [
        (lambda keys: keys[1:], "1 of 32 samples have no row", "bird-0000"),
        (lambda keys: [*keys, "bird-x"], "1 of its rows are of no sample", "bird-x"),
        (lambda keys: [*keys, keys[0]], "names a key twice", ""),
    ],
)
def test_a_sidecar_with_other_rows_than_the_store(
    copy: Path, change: Callable[[list[str]], list[str]], said: str, key: str
) -> None:
    store = open_store(copy)
    with_sidecar(
        copy, copy / "clip.arrow", change([key for split in store.splits for key in store[split].keys])
    )
    (problem,) = verify(copy, deep=True).problems
    assert (problem.file, problem.reason, problem.key) == ("clip.arrow", "pairing", key)
    assert said in problem.detail
    shutil.copy(copy / "LICENSE", copy / "clip.arrow")
    (problem,) = verify(copy, deep=True, sidecars=[copy / "clip.arrow"]).problems
    assert "no readable sidecar" in problem.detail


def test_a_list_of_another_build_is_not_read(copy: Path) -> None:
    path = copy / "lists" / "seed1.parquet"
    table = pq.read_table(path)
    path.write_bytes(to_parquet(with_values(table, "label", lambda labels: [*labels[1:], labels[0]])))
    with pytest.raises(StoreError, match=r"lists/seed1\.parquet is not the one written"):
        _ = open_store(copy).select("seed1").splits


def test_a_sidecar_that_unpacks_to_too_much_is_refused_by_its_head(copy: Path) -> None:
    digest = open_store(copy).digest
    rows = pa.table({"key": ["k"], "value": pa.array([bytes(80 << 20)], pa.binary())})
    marked = rows.replace_schema_metadata({"datakit.store": digest})
    pq.write_table(marked, copy / "captions.parquet", compression="zstd", use_dictionary=False)
    assert (copy / "captions.parquet").stat().st_size < 100_000
    report = verify(copy, deep=True)
    assert any(
        "captions.parquet" in problem.file and "out of" in problem.detail for problem in report.problems
    )
