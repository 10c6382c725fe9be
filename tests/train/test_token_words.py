"""`datakit tokens`: what its verbs say, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from datakit.cli import cli
from datakit.errors import ConfigError
from datakit.tokens.opened import open_tokens
from datakit.tokens.pack import pack
from datakit.train.token_words import token_words

pytest.importorskip("pcodec")
pytest.importorskip("safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 16 grids, whose codes are of either half."""
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 2
    tokens = (rng.integers(0, 20, (32, 8, 8)) + 20 * labels[:, None, None]).astype(np.uint16)
    files = pack(tokens, [f"k{at}" for at in range(32)], codes=40, labels=labels, class_names=["low", "high"],
                 codebook_KD=rng.standard_normal((40, 4)).astype(np.float32), about={"images": 32})  # fmt: skip
    place = tmp_path / "tokens"
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    return place


def test_show_tells_sizes_and_entropies(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["tokens", "show", str(folder), "--json"])
    value = json.loads(result.stdout)
    assert value["rows"] == 32 and value["codes"] == 40 and 5 < value["stats"]["h0"] < 5.4
    assert "ImageNet" in CliRunner().invoke(cli, ["tokens", "show", str(folder)]).stdout


@pytest.mark.parametrize("codec", ["context", "ans", "bits"])
def test_repacked_tokens_are_the_same(codec: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "other"
    token_words("repack", [str(folder), f"codec={codec}", f"out={out}", "block=10"])
    before, after = open_tokens(folder), open_tokens(out)
    assert after.codec == codec and np.array_equal(after.read(range(32)), before.read(range(32)))
    assert np.array_equal(after.rank, before.rank) and after.class_names == before.class_names
    assert np.array_equal(after.codebook, before.codebook) and after.verify() == []
    with pytest.raises(ConfigError, match="is there already"):
        token_words("repack", [str(folder), f"out={out}"])


def test_training_opens_no_pixel_and_learns(folder: Path) -> None:
    pytest.importorskip("torch")
    value, text = token_words(
        "train", [str(folder), "epochs=30", "augment=none", "batch_size=8", "seeds=0,1"]
    )
    assert np.mean(value["top1"]) > 0.8 and value["chance"] == 0.5 and "over 2 seeds" in text


def test_all_views_are_learned_from_and_the_first_is_tested(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    image = np.arange(72) // 3
    files = pack(rng.integers(0, 9, (72, 8, 8)).astype(np.uint16), [f"k{at}" for at in image], codes=9,
                 labels=np.where(image % 3 == 2, -1, image % 3), views=np.tile(np.arange(3, dtype=np.uint8), 24),
                 codebook_KD=rng.standard_normal((9, 4)).astype(np.float32))  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    every, _ = token_words("train", [str(tmp_path), "epochs=1", "batch_size=8"])
    first, _ = token_words("train", [str(tmp_path), "epochs=1", "batch_size=8", "views=first"])
    assert (every["train"], every["test"], every["grids"]) == (12, 4, 36)
    assert (first["train"], first["test"], first["grids"]) == (12, 4, 12)


def test_seits_files_out_and_in_again(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    token_words("export", [str(folder), f"out={tmp_path / 'seit'}", "split=val"])
    token_words("import", [str(tmp_path / "seit"), "split=val", f"out={tmp_path / 'back'}"])
    before, after = open_tokens(folder), open_tokens(tmp_path / "back")
    assert np.array_equal(after.originals(after.read(range(32))), before.read(range(32)))
    assert after.rows["label"].to_pylist() == before.rows["label"].to_pylist()


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("train", ["least=40"], "0 classes have 40 images"),
        ("train", ["augment=blur"], "no augmentation blur"),
        ("repack", ["out=x", "codec=zip"], "no codec zip"),
        ("show", ["colour=1"], "unknown key colour"),
    ],
)
def test_wrong_words_are_told(verb: str, words: list[str], said: str, folder: Path) -> None:
    if verb == "train":
        pytest.importorskip("torch")
    with pytest.raises(ConfigError, match=said):
        token_words(verb, [str(folder), *words])


def test_a_folder_without_labels_or_codebook_cannot_be_learned_from(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    tokens = np.zeros((4, 4, 4), np.uint16)

    def made(name: str, **how: Any) -> str:
        (tmp_path / name).mkdir()
        for file, data in pack(tokens, list("abcd"), codes=2, **how).items():
            (tmp_path / name / file).write_bytes(data)
        return str(tmp_path / name)

    with pytest.raises(ConfigError, match="has no codebook"):
        token_words("train", [made("bare")])
    with pytest.raises(ConfigError, match="has no labels"):
        token_words("train", [made("plain", codebook_KD=np.ones((2, 3), np.float32))])
