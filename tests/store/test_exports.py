"""Exports of captions and embeddings: the exact forms, checked by rule and by readers; nothing left out unsaid."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.errors import ConfigError, StoreError
from datakit.image import Image
from datakit.store.contents import read_contents
from datakit.store.export import (
    export_clip_retrieval,
    export_coco,
    export_datajuicer,
    export_llava,
    export_words,
)
from datakit.store.layout import Layout, ShardPlan, StoreInfo
from datakit.store.reader import Store, open_store
from datakit.store.sidecar import write_sidecar
from datakit.store.tree import finish_tree, write_shard

from .damage import reseal, rewrite_rows

COUNTS = {"train": 20, "test": 5, "near_ood": 7}


@pytest.fixture(scope="module")
def store(store_root: Path) -> Store:
    return open_store(store_root)


def captions(store: Store, split: str) -> dict[str, str]:
    table = store[split].table(["key", "caption"]).to_pylist()
    return {row["key"]: row["caption"] for row in table if row["caption"]}


@pytest.fixture(scope="module")
def coco(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("export") / "coco"
    return out, export_coco(store, out)


def test_coco_is_what_its_readers_index(store: Store, coco: tuple[Path, Any]) -> None:
    out, done = coco
    images, annotations = set[int](), set[int]()
    for split, count in COUNTS.items():
        found = json.loads((out / "annotations" / f"captions_{split}.json").read_bytes())
        assert list(found) == ["info", "licenses", "images", "annotations"]
        assert len(found["images"]) == count
        for image in found["images"]:
            assert type(image["id"]) is int and set(image) == {"id", "file_name", "width", "height"}
            header = Image((out / split / image["file_name"]).read_bytes()).header
            assert (image["width"], image["height"]) == (header.width, header.height) == (24, 20)
        ids = {image["id"]: Path(image["file_name"]).stem for image in found["images"]}
        for note in found["annotations"]:
            assert {name: type(value) for name, value in note.items()} == {
                "id": int,
                "image_id": int,
                "caption": str,
            }
        assert {ids[note["image_id"]]: note["caption"] for note in found["annotations"]} == captions(
            store, split
        )
        assert not images & set(ids)  # unique over all splits, so that they can be joined
        images |= set(ids)
        annotations |= {note["id"] for note in found["annotations"]}
        assert done.lists[f"annotations/captions_{split}.json"] == len(found["annotations"])
    assert len(images) == 32 and annotations == set(range(1, 32 - 8 + 1))
    assert done.skipped == {"no_caption": 8} and done.images == 32
    info = json.loads((out / "annotations" / "captions_test.json").read_bytes())["info"]
    assert info["description"] == "Toy birds" and info["year"] == 2026 and info["contributor"] == "A tester"


def with_columns(
    root: Path, toys: list[Any], info: StoreInfo, caption: str | None = None, **columns: pa.Array
) -> Store:
    """One shard of seven samples with further columns."""
    rows = toys[0].rows
    for name, values in columns.items():
        if name in rows.column_names:
            rows = rows.drop_columns(name)
        rows = rows.append_column(name, values)
    layout = Layout(label="label", caption=caption)
    plan = ShardPlan(split="train", index=0, of=1)
    entry = write_shard(root, plan, rows, toys[0].images, layout=layout)
    finish_tree(root, entries=[entry], layout=layout, info=info)
    return open_store(root)


def test_coco_takes_several_captions_and_knows_licences(
    tmp_path: Path, toys: list[Any], toy_info: StoreInfo
) -> None:
    several = pa.array([["a", " b"], [], None, [None, "c"], ["d"], ["e"], [" "]])
    licence = pa.array(["MIT", "CC0-1.0", None, "MIT", "MIT", "MIT", "MIT"])
    store = with_columns(tmp_path / "s", toys, toy_info, several=several, licence=licence)
    done = export_coco(store, tmp_path / "out", caption="several")
    found = json.loads((tmp_path / "out" / "annotations" / "captions_train.json").read_bytes())
    assert [(note["image_id"], note["caption"]) for note in found["annotations"]] == [
        (1, "a"), (1, " b"), (4, "c"), (5, "d"), (6, "e"),
    ]  # fmt: skip
    assert done.skipped == {"no_caption": 3}
    assert [row["name"] for row in found["licenses"]] == ["CC0-1.0", "MIT"]
    assert [image.get("license") for image in found["images"]] == [2, 1, None, 2, 2, 2, 2]
    with pytest.raises(ConfigError, match="not text"):
        export_llava(store, tmp_path / "no", caption="several")
    with pytest.raises(ConfigError, match="has no captions"):
        export_llava(store, tmp_path / "no")
    with pytest.raises(ConfigError, match="did you mean several"):
        export_llava(store, tmp_path / "no", caption="severall")
    assert not (tmp_path / "no").exists() and not (tmp_path / "no.part").exists()


def test_llava_conversations(store: Store, tmp_path: Path) -> None:
    done = export_llava(store, tmp_path / "out", prompt="What is it?")
    for split in COUNTS:
        found = json.loads((tmp_path / "out" / f"{split}.json").read_bytes())
        for item in found:
            assert set(item) == {"id", "image", "conversations"} and type(item["id"]) is str
            assert (tmp_path / "out" / item["image"]).read_bytes()[:3] == b"\xff\xd8\xff"
            human, gpt = item["conversations"]
            assert human == {"from": "human", "value": "<image>\nWhat is it?"}
            assert (
                set(gpt) == {"from", "value"}
                and gpt["from"] == "gpt"
                and gpt["value"].strip() == gpt["value"]
            )
        assert {item["id"]: item["conversations"][1]["value"] for item in found} == captions(store, split)
    assert done.skipped == {"no_caption": 8} and done.images == 24
    assert len(list((tmp_path / "out" / "images").rglob("*.jpg"))) == 24
    with pytest.raises(ConfigError, match="prompt="):
        export_llava(store, tmp_path / "no", prompt="<image> what?")


def test_words_that_readers_take_for_images_are_left_out_and_counted(
    tmp_path: Path, toys: list[Any], toy_info: StoreInfo
) -> None:
    texts = ["a <image> of it", "plain", None, "\t ", "end <|__dj__eoc|>", " blanks \n", "<__dj__image>"]
    store = with_columns(tmp_path / "s", toys, toy_info, caption="text", text=pa.array(texts))
    llava = export_llava(store, tmp_path / "llava")
    assert llava.skipped == {"markup_in_caption": 1, "no_caption": 2}
    found = json.loads((tmp_path / "llava" / "train.json").read_bytes())
    assert [item["conversations"][1]["value"] for item in found] == ["plain", texts[4], "blanks", texts[6]]
    juicer = export_datajuicer(store, tmp_path / "dj")
    assert juicer.skipped == {"markup_in_caption": 2, "no_caption": 2}


def test_datajuicer_lines_load_with_one_schema(store: Store, tmp_path: Path) -> None:
    import yaml
    from datasets import load_dataset

    done = export_datajuicer(store, tmp_path / "out")
    for split in COUNTS:
        path = tmp_path / "out" / f"{split}.jsonl"
        rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        expected = captions(store, split)
        assert {row["meta"]["key"]: row["text"] for row in rows} == {
            key: f"<__dj__image> {text} <|__dj__eoc|>" for key, text in expected.items()
        }
        for row in rows:
            assert row["text"].count("<__dj__image>") == len(row["images"]) == 1
            assert (tmp_path / "out" / row["images"][0]).is_file()
            assert row["stats"] == {"image_widths": [24], "image_heights": [20]}
        recipe = yaml.safe_load((tmp_path / "out" / f"recipe-{split}.yaml").read_text())
        assert set(recipe) == {"dataset_path", "export_path", "np", "process"}
        assert (tmp_path / "out" / recipe["dataset_path"]).is_file()
        assert done.lists[f"{split}.jsonl"] == len(expected)


def vectors(dim: int = 4, missing: int | None = None, shift: int = 0) -> pa.Array:
    rows = [
        None if row == missing else [float(row + column + shift) for column in range(dim)] for row in range(7)
    ]
    return pa.array(rows, pa.list_(pa.float32()))


def test_clip_retrieval_rows_are_the_parts_in_the_order_of_their_names(
    tmp_path: Path, toys: list[Any], toy_info: StoreInfo
) -> None:
    store = with_columns(
        tmp_path / "s", toys, toy_info, caption="caption", img=vectors(missing=2), txt=vectors(3)
    )
    done = export_clip_retrieval(store, tmp_path / "out", embedding="img", text_embedding="txt", per_part=4)
    assert done.skipped == {"no_embedding": 1} and done.images == 0
    root = tmp_path / "out" / "train"
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))
    assert names == [
        f"{kind}/{kind}_{part}.{end}"
        for kind, end in (("img_emb", "npy"), ("metadata", "parquet"), ("text_emb", "npy"))
        for part in ("0000", "0001")
    ]
    found = np.concatenate([np.load(path, allow_pickle=False) for path in sorted(root.glob("img_emb/*"))])
    assert found.dtype == np.float32 and found[:, 0].tolist() == [0, 1, 3, 4, 5, 6]
    table = pa.concat_tables([pq.read_table(path) for path in sorted(root.glob("metadata/*"))])
    keys = [key for number, key in enumerate(toys[0].rows["__key__"].to_pylist()) if number != 2]
    assert table["key"].to_pylist() == keys
    assert table["image_path"].to_pylist() == [f"images/train/{key}.jpg" for key in keys]
    assert "caption" in table.column_names
    assert json.loads((tmp_path / "out" / "indices_paths.json").read_bytes()) == {"train": "train"}


def test_part_names_sort_as_numbers_however_many(
    tmp_path: Path, toys: list[Any], toy_info: StoreInfo
) -> None:
    from datakit.store.exports.clip_retrieval import _digits

    assert [_digits(*case) for case in ((1, 1), (10_000, 1), (10_001, 1), (2_000_000, 1_000_000))] == [
        4,
        4,
        5,
        4,
    ]


@pytest.mark.parametrize("materialize", [True, False])
def test_a_key_that_leads_elsewhere_reaches_no_list_of_an_index(
    materialize: bool, tmp_path: Path, toys: list[Any], toy_info: StoreInfo
) -> None:
    with_columns(tmp_path / "s", toys, toy_info, img=vectors())
    path = tmp_path / "s" / read_contents(tmp_path / "s").entries[0].metadata.path
    table = pq.read_table(path)
    keys = ["../../../etc/passwd", *table["key"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.column_names.index("key"), "key", pa.array(keys)), path)
    reseal(tmp_path / "s")
    with pytest.raises(StoreError, match="is no key"):
        export_clip_retrieval(
            open_store(tmp_path / "s"), tmp_path / "out", embedding="img", materialize=materialize
        )


def test_embeddings_of_a_sidecar_are_joined_by_key_and_refused_of_another_store(
    tmp_path: Path, toys: list[Any], toy_info: StoreInfo
) -> None:
    store = with_columns(tmp_path / "s", toys, toy_info)
    keys = toys[0].rows["__key__"].to_pylist()
    sidecar = tmp_path / "emb.parquet"
    pq.write_table(pa.table({"key": keys[::-1], "img": vectors().take(pa.array(range(6, -1, -1)))}), sidecar)
    export_clip_retrieval(store, tmp_path / "out", embedding="img", sidecar=str(sidecar))
    assert np.load(tmp_path / "out/train/img_emb/img_emb_0000.npy")[:, 0].tolist() == list(range(7))
    pq.write_table(pa.table({"key": [f"x{key}" for key in keys], "img": vectors()}), sidecar)
    with pytest.raises(StoreError, match="lacks 7 of 7 samples, the first bird-0000"):
        export_clip_retrieval(store, tmp_path / "other", embedding="img", sidecar=str(sidecar))
    write_sidecar(sidecar, pa.table({"key": keys, "img": vectors(shift=5)}), store)  # an Arrow file, marked
    export_clip_retrieval(store, tmp_path / "marked", embedding="img", sidecar=str(sidecar))
    assert np.load(tmp_path / "marked/train/img_emb/img_emb_0000.npy")[0, 0] == 5
    twin = with_columns(tmp_path / "twin", toys, toy_info, other=pa.array(["x"] * 7))
    with pytest.raises(StoreError, match="belongs to another store"):
        export_clip_retrieval(twin, tmp_path / "other", embedding="img", sidecar=str(sidecar))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, r"float vectors there: none\), or sidecar=FILE"),
        ({"embedding": "tier"}, "tier is string, not a vector"),
        ({"embedding": "none"}, "has no column none"),
        ({"embedding": "ragged"}, r"vectors of \[1, 2\] numbers"),
    ],
)
def test_what_is_no_embedding_is_said(
    tmp_path: Path, toys: list[Any], toy_info: StoreInfo, words: dict[str, str], said: str
) -> None:
    extra = {"mean_rgb": pa.nulls(7, pa.string())}
    if "ragged" in words.values():
        extra = {"ragged": pa.array([[1.0]] * 6 + [[1.0, 2.0]])}
    store = with_columns(tmp_path / "s", toys, toy_info, **extra)
    with pytest.raises((ConfigError, StoreError), match=said):
        export_clip_retrieval(store, tmp_path / "out", **{"embedding": None, **words})
    assert not (tmp_path / "out").exists()


KILLED = """
import os, signal, sys
from datakit.store.export import export_words
from datakit.store.exports.target import Target
own, left = Target.image, int(sys.argv[1])
def image(self, path, data):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    own(self, path, data)
Target.image = image
export_words(sys.argv[2:])
"""


@pytest.mark.parametrize("format", ["coco", "imagefolder"])
def test_a_killed_export_leaves_nothing_that_looks_whole_and_the_next_has_the_same_bytes(
    store_root: Path, tmp_path: Path, format: str
) -> None:
    def words(out: str) -> list[str]:
        return [f"store={store_root}", f"format={format}", f"out={tmp_path / out}"]

    export_words(words("clean"))
    done = subprocess.run([sys.executable, "-c", KILLED, "12", *words("out")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "out.part").rglob("*.jpg"))) == 11
    export_words(words("out"))
    assert not (tmp_path / "out.part").exists()

    def files(out: str) -> dict[str, bytes]:
        found = [path for path in (tmp_path / out).rglob("*") if path.is_file()]
        return {path.relative_to(tmp_path / out).as_posix(): path.read_bytes() for path in found}

    assert files("out") == files("clean")


def test_another_export_in_the_way_is_not_touched(store_root: Path, tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "mine").write_text("x")
    for format in ("coco", "llava"):
        with pytest.raises(ConfigError, match=r"out\.part is not empty"):
            export_words([f"store={store_root}", f"format={format}", f"out={tmp_path / 'out'}"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "out.part"]
    export_words([f"store={store_root}", "format=llava", f"out={tmp_path / 'two'}"])
    with pytest.raises(ConfigError, match="choose a new folder"):  # the same store, asked otherwise
        export_words([f"store={store_root}", "format=llava", "prompt=What?", f"out={tmp_path / 'two'}"])


@pytest.mark.parametrize("format", ["coco", "llava", "datajuicer", "openood"])
def test_lists_alone_are_those_with_images(store_root: Path, tmp_path: Path, format: str) -> None:
    words = [f"store={store_root}", f"format={format}"]
    whole, _ = export_words([*words, f"out={tmp_path / 'whole'}"])
    lists, _ = export_words([*words, f"out={tmp_path / 'lists'}", "materialize=no"])
    assert lists["images"] == 0 < whole["images"]
    assert lists["lists"] == whole["lists"] and not list((tmp_path / "lists").rglob("*.jpg"))
    for path in lists["lists"]:
        assert (tmp_path / "lists" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()


def test_a_selection_and_what_it_leaves_out(
    tmp_path: Path, build_store: Callable[..., Any], toys: list[Any]
) -> None:
    keys = [row["__key__"] for toy in toys for row in toy.rows.to_pylist()][:12]
    table = pa.table({"key": keys, "split": ["train"] * 9 + ["reserve"] * 3})
    build_store(tmp_path / "s", selections={"some": table})
    value, text = export_words(
        [f"store={tmp_path / 's'}", "format=coco", "selection=some", f"out={tmp_path / 'out'}"]
    )
    assert value["images"] == 9
    assert Counter(value["skipped"]) == {"reserve": 3, "not_listed": 20, "no_caption": 2}
    assert "  not_listed: 20" in text


def test_a_word_of_another_format_is_refused(store_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompt is of format=llava; format=coco has no use"):
        export_words([f"store={store_root}", "format=coco", "prompt=x", f"out={tmp_path / 'out'}"])
    with pytest.raises(ConfigError, match="materialize is of format="):
        export_words([f"store={store_root}", "format=imagefolder", "materialize=no", f"out={tmp_path / 'o'}"])


@pytest.mark.parametrize("materialize", ["true", "false"])
@pytest.mark.parametrize("format", ["imagefolder", "coco", "llava", "datajuicer", "openood"])
def test_keys_of_a_foreign_store_are_no_way_out_of_an_export(
    copy: Path, tmp_path: Path, format: str, materialize: str
) -> None:
    """Nor of its lists: whoever reads these opens what they name."""
    words = [f"format={format}", f"store={copy}", f"out={tmp_path / 'out' / format}"]
    if format != "imagefolder":
        words.append(f"materialize={materialize}")
    mine = tmp_path / "mine.jpg"
    mine.write_bytes(b"mine")

    def outward(table: pa.Table) -> pa.Table:
        keys = ["/".join([".."] * 6) + str(mine.with_suffix("")), *table["key"].to_pylist()[1:]]
        return table.set_column(0, "key", pa.array(keys))

    rewrite_rows(copy, outward)
    reseal(copy)
    with pytest.raises(StoreError, match="is no key"):
        export_words(words)
    assert mine.read_bytes() == b"mine"
    assert not [path for path in tmp_path.glob("*") if path not in (mine, copy, tmp_path / "out")]
