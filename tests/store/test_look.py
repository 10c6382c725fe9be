"""inspect shows what is there, whatever it is called; the sheet holds every image whole, with its class."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image as pil

from datakit.cli import cli
from datakit.errors import ConfigError, StoreError
from datakit.image import Image, encode
from datakit.store import look
from datakit.store.layout import Layout, ShardPlan, StoreInfo
from datakit.store.lines import width_of
from datakit.store.look import inspect_words
from datakit.store.sheet import BOX, GAP, HEAD, Entry, _Pen, contact_sheet
from datakit.store.tree import finish_tree, write_shard


def test_columns_counts_and_the_first_rows(store_root: Path) -> None:
    found, text = inspect_words(str(store_root), ["test", "rows=2"])
    assert found["splits"] == {"train": 20, "test": 5, "near_ood": 7}
    assert found["samples"] == 32 and found["classes"] == 3 and found["selections"] == ["seed1"]
    members = {column["name"]: (column["type"], column["member"]) for column in found["columns"]}
    assert members["label"] == ("int64", "cls") and members["caption"] == ("string", "txt")
    assert members["score"] == ("float", "json") and members["tier"] == ("string", "")
    assert "offset" not in members
    assert [row["key"] for row in found["head"]] == ["bird-0020", "bird-0021"]
    assert found["head"][0]["caption"] == "ein Vögelchen, Nr. 20"
    for said in ("  train     20", "caption     string", "in the tar: txt", "bird-0021", "selections: seed1"):
        assert said in text
    assert max(map(len, text.splitlines())) < 140


def test_a_selection_has_its_own_splits_and_labels(store_root: Path) -> None:
    found, _ = inspect_words(str(store_root), ["selection=seed1", "far_ood", "columns=label"])
    assert found["splits"] == {"train": 28, "far_ood": 4}
    assert found["head"] == [{"key": row["key"], "label": -1} for row in found["head"]]


def test_one_sample_in_full(store_root: Path, toys: list[Any]) -> None:
    found, text = inspect_words(str(store_root), ["key=bird-0026"])
    assert found["row"]["boxes"] == [{"x": 26, "name": "beak"}] and found["row"]["split"] == "near_ood"
    assert found["image"] == {
        "format": "JPEG", "width": 24, "height": 20, "mode": "RGB", "bytes": found["row"]["image_size"],
    }  # fmt: skip
    assert "data/near_ood-00000-of-00002.tar, sample 1" in text and "JPEG, 24 x 20 px" in text
    listed, _ = inspect_words(str(store_root), ["key=bird-0026", "selection=seed1"])
    assert (listed["row"]["split"], listed["row"]["label"]) == ("train", 3)
    with pytest.raises(ConfigError, match=r"holds no sample bird-026; did you mean bird-0026\?"):
        inspect_words(str(store_root), ["key=bird-026"])
    with pytest.raises(ConfigError, match=r"split test of .* holds no sample bird-0026"):
        inspect_words(str(store_root), ["test", "key=bird-0026"])
    with pytest.raises(ConfigError, match="has no split tests; did you mean test"):
        inspect_words(str(store_root), ["tests"])


def odd_store(root: Path, info: StoreInfo, names: list[str], images: list[bytes]) -> Path:
    rows = pa.table(
        {
            "key": [f"k-{number:03d}" for number in range(len(names))],
            "class_name": names,
            "number": [math.nan] * len(names),
            "blob": [b"\xff\x00"] * len(names),
        }
    )
    layout = Layout(arrow=False, image_extension="png")
    entry = write_shard(root, ShardPlan(split="train", index=0, of=1), rows, images, layout=layout)
    finish_tree(root, entries=[entry], layout=layout, info=info)
    return root


def flat(height: int, width: int, colour: tuple[int, int, int]) -> bytes:
    return encode(np.full((height, width, 3), colour, np.uint8), format="PNG")


def test_what_a_terminal_would_act_on_is_not_printed(tmp_path: Path, toy_info: StoreInfo) -> None:
    root = odd_store(
        tmp_path / "s", toy_info, ["\x1b[2Jbad\r\u202e", "日本の鳥"], [flat(4, 4, (9, 9, 9))] * 2
    )
    for words in ([], ["key=k-000"], ["key=k-001"]):
        found, text = inspect_words(str(root), words)
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["row"]["blob"] == "/wA=" and found["row"]["number"] == "nan"
    lines = [
        line
        for line in inspect_words(str(root), ["columns=class_name,number"])[1].splitlines()
        if "nan" in line
    ]
    assert width_of("日本の鳥 a") == 10
    assert len({width_of(line) for line in lines}) == 1  # wide letters count as two


def cells(data: bytes, number: int) -> list[Any]:
    """The boxes of a sheet of one row, as arrays."""
    sheet = np.asarray(pil.open(io.BytesIO(data)).convert("RGB"))
    left = [GAP + at * (BOX + GAP) for at in range(number)]
    return [sheet[HEAD + GAP : HEAD + GAP + BOX, x : x + BOX] for x in left]


def test_images_keep_their_proportions_and_are_whole() -> None:
    red = (200, 10, 10)
    shapes = [(10, 300), (300, 10), (40, 40), (144, 72), (1, 900)]
    entries = [Entry(Image(flat(*shape, red)), "a", "k") for shape in shapes]
    data, broken = contact_sheet("title", entries)
    assert broken == 0
    for box, (height, width) in zip(cells(data, len(shapes)), shapes, strict=True):
        there = np.argwhere((np.abs(box.astype(int) - red) < 12).all(axis=2))
        size = there.max(axis=0) - there.min(axis=0) + 1
        scale = min(BOX / height, BOX / width, 2)
        assert abs(size - [max(1, height * scale), max(1, width * scale)]).max() <= 1
        assert abs(there.mean(axis=0) - (BOX - 1) / 2).max() <= 1  # in the middle


def test_an_image_that_does_not_decode_says_so_in_its_place() -> None:
    whole = flat(9, 9, (0, 0, 255))
    data, broken = contact_sheet(
        "t", [Entry(Image(b"\x89PNG\r\n\x1a\n and no more"), "a", "k"), Entry(Image(whole), "b", "k")]
    )
    assert broken == 1
    first, second = cells(data, 2)
    assert ((first[..., 0] > 150) & (first[..., 1] < 90)).any()  # red letters
    assert (second == (0, 0, 255)).all(axis=2).any()


def test_text_stays_in_its_cell_and_strange_letters_are_written_out() -> None:
    pen = _Pen(None)
    assert pen._drawable("日\x07\n\u202ea", 13) == "\\u65e5\\x07\\n\\u202ea"
    assert pen._drawable("Überñ – ok, Straße", 13) == "Ubern - ok, Strasse"
    for text in ("word " * 60, "w" * 500, "a-long-name-with-dashes-that-breaks", "", "i"):
        lines = list(pen._broken(text, 13))
        assert 1 <= len(lines) <= 2
        assert all(pen._length(pen._cut(line, 13, BOX), 13) <= BOX for line in lines)
    assert next(pen._broken("a-long-name-with-dashes-that-breaks", 13)).endswith("-")
    assert pen._cut("w" * 500, 13, BOX).endswith("…")


def test_the_sheet_is_drawn_by_its_seed_and_sorted_by_class(
    store_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[tuple[str, str]]] = []
    real = look.contact_sheet

    def noted(title: str, entries: list[Entry]) -> tuple[bytes, int]:
        drawn.append([(entry.name, entry.key) for entry in entries])
        return real(title, entries)

    monkeypatch.setattr(look, "contact_sheet", noted)

    def sheet(*words: str) -> bytes:
        path = tmp_path / "sheet.png"
        found, text = inspect_words(str(store_root), ["images=6", f"sheet={path}", *words])
        assert found["sheet"]["images"] == min(6, found["splits"][found["split"]]) and f"{path}: " in text
        return path.read_bytes()

    assert sheet() == sheet() != sheet("seed=1")
    sheet("seed=none")
    assert all(names == sorted(names) for names in drawn)
    assert drawn[0] == drawn[1] != drawn[2]
    assert {key for _, key in drawn[3]} == {f"bird-{number:04d}" for number in range(6)}
    sheet("test")
    assert len(drawn[4]) == 5
    with pytest.raises(ConfigError, match=r"must end in \.png"):
        inspect_words(str(store_root), ["sheet=x.jpg"])


def test_the_verb_and_what_is_no_store(store_root: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(cli, ["inspect", str(store_root), "near_ood", "--json"])
    assert done.exit_code == 0 and json.loads(done.output)["split"] == "near_ood"
    assert "images=24  int, from 1 to 600" in run(cli, ["inspect", "--help"]).output
    with pytest.raises(StoreError, match="is no store"):
        inspect_words(str(tmp_path), [])
    with pytest.raises(ConfigError, match="did you mean sheet"):
        inspect_words(str(store_root), ["shet=x.png"])
