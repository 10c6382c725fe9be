"""diff names exactly what was changed between two stores, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from datakit.cli import cli
from datakit.errors import StoreError
from datakit.store.diff import StoreDiff, diff, diff_text
from datakit.store.diff_rows import Side, differing, join
from datakit.store.layout import Layout, ShardPlan, StoreInfo
from datakit.store.reader import Store, open_store
from datakit.store.tar_reader import iter_samples
from datakit.store.tree import finish_tree, write_shard

Sample = tuple[dict[str, Any], bytes]
Change = Callable[[dict[str, list[Sample]]], Any]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(
    toys: list[Any], toy_layout: Layout, toy_info: StoreInfo, tmp_path_factory: pytest.TempPathFactory
) -> Make:
    """make(change): the toy store with its samples changed, five to a shard."""

    def build(
        change: Change = lambda splits: None,
        layout: Layout = toy_layout,
        schema: pa.Schema | None = None,
        **given: Any,
    ) -> Path:
        root = tmp_path_factory.mktemp("store") / "s"
        splits: dict[str, list[Sample]] = {}
        for toy in toys:
            pairs = zip(toy.rows.to_pylist(), toy.images, strict=True)
            splits.setdefault(toy.plan.split, []).extend(pairs)
        change(splits)
        schema, entries = schema or toys[0].rows.schema, []
        for split, samples in splits.items():
            shards = [samples[start : start + 5] for start in range(0, len(samples), 5)]
            for index, shard in enumerate(shards):
                plan = ShardPlan(split=split, index=index, of=len(shards))
                rows = pa.Table.from_pylist([row for row, _ in shard], schema)
                entries.append(write_shard(root, plan, rows, [image for _, image in shard], layout=layout))
        finish_tree(root, entries=entries, layout=layout, info=toy_info, **given)
        return root

    return build


@pytest.fixture(scope="module")
def plain(make: Make) -> Path:
    return make()


def compare(a: Path, b: Path, **words: Any) -> StoreDiff:
    return diff(open_store(a), open_store(b), **words)


def counts(found: StoreDiff) -> dict[str, int]:
    kinds = ("added", "removed", "renamed", "changed", "moved", "same")
    return {kind: getattr(found.samples, kind) for kind in kinds}


def expected(**given: int) -> dict[str, int]:
    return {"added": 0, "removed": 0, "renamed": 0, "changed": 0, "moved": 0, **given}


def test_a_store_and_itself_and_its_twin(plain: Path, make: Make) -> None:
    for other in (plain, make()):
        found = compare(plain, other)
        assert found.equal and found.identical
        assert counts(found) == expected(same=32)


def test_every_kind_of_change_is_told_apart(plain: Path, make: Make, toys: list[Any]) -> None:
    def change(splits: dict[str, list[Sample]]) -> None:
        train = splits["train"]
        train[0] = (train[0][0] | {"caption": "another"}, train[0][1])
        train[1] = (train[1][0] | {"label": 2, "tier": "far"}, train[1][1])
        train[2] = (train[2][0], toys[0].images[0])
        train[3] = (train[3][0] | {"__key__": "bird-new-name"}, train[3][1])
        train[4] = (train[4][0] | {"tier": "mid"}, train[4][1])  # in the metadata alone: no byte of the tar
        splits["test"].append(train.pop(5))
        del train[6]
        splits["near_ood"].insert(
            0, (train[0][0] | {"__key__": "brand-new"}, b"\xff\xd8\xff of no other image")
        )

    found = compare(plain, make(change))
    assert counts(found) == expected(added=1, removed=1, renamed=1, changed=4, moved=1, same=25)
    assert found.samples.fields == {"label": 1, "caption": 1, "tier": 2, "image": 1}
    assert found.samples.moves == {"train → test": 1}
    rows = {kind: list(rows) for kind, rows in found.samples.rows.items()}
    assert rows == {
        "added": [{"key": "brand-new", "split": "near_ood"}],
        "removed": [{"key": "bird-0007", "split": "train"}],
        "renamed": [{"from": "bird-0003", "to": "bird-new-name"}],
        "changed": [
            {"key": "bird-0000", "split": "train", "fields": ["caption"]},
            {"key": "bird-0001", "split": "train", "fields": ["label", "tier"]},
            {"key": "bird-0002", "split": "train", "fields": ["image"]},
            {"key": "bird-0004", "split": "train", "fields": ["tier"]},
        ],
        "moved": [{"key": "bird-0005", "from": "train", "to": "test"}],
    }
    assert not found.equal


def test_the_other_way_round_added_is_removed(plain: Path, make: Make) -> None:
    other = make(lambda splits: splits["test"].pop())
    assert counts(compare(plain, other)) == expected(removed=1, same=31)
    assert counts(compare(other, plain)) == expected(added=1, same=31)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("boxes", None, []),
        ("boxes", [{"x": 1, "name": "a"}], [{"x": 1, "name": None}]),
        ("taxonomy", ["a", "b"], ["b", "a"]),
        ("caption", None, ""),  # the same byte of the tar: only the metadata tell
        ("score", math.nan, 0.5),
        ("score", None, math.nan),
        ("mean_rgb", [math.nan], [0.0]),
        ("orig_label", 0, None),
    ],
)
def test_a_value_of_any_type(make: Make, name: str, old: Any, new: Any) -> None:
    # Not in JSON, which has no NaN.
    layout = Layout(label="label", caption="caption")

    def setting(value: Any) -> Path:
        return make(lambda splits: splits["train"][11][0].update({name: value}), layout=layout)

    found = compare(setting(old), setting(new)).samples
    assert dict(found.fields) == {name: 1}
    assert [row["key"] for row in found.rows["changed"]] == ["bird-0011"]
    other = make(lambda splits: [splits["train"][11][0].update({name: old}), splits["train"][12][0].update(label=1)],
                 layout=layout)  # fmt: skip
    assert dict(compare(setting(old), other).samples.fields) == {"label": 1}  # NaN is like NaN


def test_rows_in_another_order_and_in_other_shards_are_the_same(plain: Path, make: Make) -> None:
    other = make(lambda splits: [samples.reverse() for samples in splits.values()])
    found = compare(plain, other)
    assert found.equal and not found.identical
    assert counts(found) == expected(same=32)


def test_images_that_are_alike_are_paired_once(plain: Path, make: Make) -> None:
    def twice(splits: dict[str, list[Sample]]) -> None:
        for number in range(3):
            splits["train"].append(
                (splits["train"][0][0] | {"__key__": f"copy-{number}"}, splits["train"][0][1])
            )

    def twice_and_renamed(splits: dict[str, list[Sample]]) -> None:
        twice(splits)
        for at, (row, image) in enumerate(splits["train"]):
            splits["train"][at] = (row | {"__key__": row["__key__"].replace("copy", "twin")}, image)
        splits["train"].pop()

    found = compare(make(twice), make(twice_and_renamed)).samples
    assert (found.renamed, found.removed, found.added) == (2, 1, 0)
    # A copy beside its original is another sample, not the original renamed.
    assert counts(compare(plain, make(twice))) == expected(added=3, same=32)


def test_shards_that_are_the_same_are_not_read(
    plain: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make(lambda splits: splits["train"][19][0].update(caption="x"))
    read: list[str] = []
    own = Store.metadata

    def noted(self: Store, path: str, columns: Any = None) -> Any:
        read.append(path)
        return own(self, path, columns)

    monkeypatch.setattr(Store, "metadata", noted)
    assert counts(compare(plain, other)) == expected(changed=1, same=31)
    assert set(read) == {"metadata/train-00003-of-00004.parquet"}


def test_columns_and_layout(plain: Path, make: Make, toy_layout: Layout, toys: list[Any]) -> None:
    schema = toys[0].rows.schema
    schema = schema.remove(schema.get_field_index("tier")).append(pa.field("extra", pa.string()))
    at = schema.get_field_index("orig_label")
    schema = schema.set(at, pa.field("orig_label", pa.int32()))
    layout = replace(toy_layout, json_fields=toy_layout.json_fields[1:])
    found = compare(plain, make(schema=schema, layout=layout))
    assert found.layout == ("json_fields",)
    assert found.samples.columns_added == ("extra",)
    assert found.samples.columns_removed == ("tier",)
    assert found.samples.columns_retyped == ("orig_label",)
    assert dict(found.samples.fields) == {"members": 32}  # other bytes of the same values
    text = diff_text(found)
    assert "columns retyped: orig_label" in text and "… and 12 more" in text


def test_lists_are_compared_too(make: Make, toys: list[Any]) -> None:
    keys = [row["__key__"] for toy in toys for row in toy.rows.to_pylist()]

    def listed(split: list[str], label: list[int], names: list[str] = keys) -> pa.Table:
        return pa.table({"key": names, "split": split, "label": label})

    a = make(selections={"one": listed(["train"] * 32, [0] * 32), "gone": listed(["train"] * 32, [0] * 32)})
    split, label = ["test", *["train"] * 30], [0, 1, *[0] * 29]
    b = make(selections={"one": listed(split, label, keys[:31]), "new": listed(["train"] * 32, [0] * 32)})
    found = compare(a, b)
    assert found.samples.equal and not found.equal
    assert (found.selections_added, found.selections_removed) == (("new",), ("gone",))
    one = found.selections["one"]
    assert (one.added, one.removed, one.changed, one.moved, one.same) == (0, 1, 1, 1, 29)
    assert dict(one.fields) == {"label": 1}
    assert "lists/new: only in B" in diff_text(found)


def test_a_damaged_sample_is_named_and_not_taken_for_a_change(plain: Path, make: Make) -> None:
    other = make(lambda splits: splits["train"][0][0].update(caption="x"))
    shard = other / "data" / "train-00000-of-00004.tar"
    record = next(iter(iter_samples(shard)))[0]
    data = bytearray(shard.read_bytes())
    data[record.offset + 700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"train-00000-of-00004.*bird-0000"):
        compare(plain, other)
    (other / "metadata" / "train-00000-of-00004.parquet").unlink()
    with pytest.raises(StoreError, match=r"train-00000-of-00004\.parquet"):
        compare(plain, other)


def test_the_verb(plain: Path, make: Make) -> None:
    other = str(make(lambda splits: [row.update(caption="\x1b[2J") for row, _ in splits["train"]]))
    run = CliRunner().invoke
    shown = run(cli, ["diff", str(plain), other, "--show", "3"])
    assert shown.exit_code == 0, shown.output
    assert "changed   20   (caption 20)" in shown.output and "… and 17 more" in shown.output
    value = json.loads(run(cli, ["diff", str(plain), other, "--json"]).output)
    assert value["v"] == 1 and value["samples"]["changed"] == 20 and value["equal"] is False
    assert len(value["samples"]["rows"]["changed"]) == 20
    assert run(cli, ["diff", str(plain), other, "--exit-code"]).exit_code == 3
    assert run(cli, ["diff", str(plain), str(plain), "--exit-code"]).exit_code == 0
    assert run(cli, ["diff", str(plain), other, "--show", "0"]).output.count("bird-") == 0


def test_many_rows_cost_little_memory() -> None:
    """The join alone, on columns made up: 200,000 rows a side, in reverse order, one in a hundred changed."""
    rows = 200_000
    keys = np.array([f"k{number:09d}" for number in range(rows)])
    tables = {
        "a": pa.table({"key": keys, "text": keys}),
        "b": pa.table({"key": keys[::-1], "text": [f"{k}!" if k.endswith("00") else k for k in keys[::-1]]}),
    }

    class Made:
        def __init__(self, name: str) -> None:
            self.name = name

        def metadata(self, path: str, columns: list[str]) -> pa.Table:
            return tables[self.name].select(columns)

    a, b = (Side(Made(name), ["x"], tables[name].schema) for name in tables)  # type: ignore[arg-type]
    before = pa.total_allocated_bytes()
    pairs = join(a, b)
    changed = differing(a, b, "text", pairs.left, pairs.right)
    assert changed.sum() == rows // 100
    assert keys[pairs.left[0]] == keys[::-1][pairs.right[0]]
    assert pa.total_allocated_bytes() - before < 64 * rows  # bytes kept
