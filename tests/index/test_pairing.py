"""An index beside a store that it was not built over is refused, in each of twenty ways to get there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import datakit
from datakit.errors import ConfigError, StoreError
from datakit.image import encode
from datakit.index import folder
from datakit.index.catalogue import open_catalogue
from datakit.index.make import make_index
from datakit.index.pairing import store_pairing
from datakit.index.query import Request, answer
from datakit.index.spec import variant
from datakit.manifest import write_record

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Builds of pictures: `a`; `same`, of the keys of a over other pictures; `more`, with one more; `fewer`."""
    root, made = tmp_path_factory.mktemp("trees"), {}
    for name, count, seed in (("a", 12, 0), ("same", 12, 1), ("more", 13, 0), ("fewer", 11, 0)):
        source = root / f"{name}-in" / "kind"
        source.mkdir(parents=True)
        for at in range(count):
            pixels = np.full((40, 40, 3), (seed * 50 + at * 15) % 256, np.uint8)
            pixels[at : at + 9, 3 * at :] = (7 * at + 90 * seed) % 256
            (source / f"{at:02d}.png").write_bytes(encode(pixels, format="PNG"))
        words: dict[str, Any] = {"catalog": "imagefolder", "source": str(source.parent), "text": "none"}
        made[name] = datakit.build(
            "search", out=root / name, validate="none", progress="quiet", run={"inline": True}, **words
        ).out
    return made


def copied(trees: dict[str, Path], name: str, place: Path) -> Path:
    shutil.copytree(trees[name], place, ignore=shutil.ignore_patterns(".datakit"))
    return place


def put(tree: Path, index: Path, name: str = "image") -> None:
    shutil.rmtree(tree / "indices" / name, ignore_errors=True)
    shutil.copytree(index, tree / "indices" / name)


def ask(tree: Path, name: str = "image") -> None:
    index = open_catalogue(tree, name).indices[name]
    answer(open_catalogue(tree, name), Request(key=(str(index.keys[0]),), k=2))


def rewritten(index: Path, **changes: Any) -> None:
    about = {**folder.read_about(index), **changes}
    about.pop("xxh3", None)
    write_record(index / folder.ABOUT, about)


def foreign(tree: Path, keys: list[str], pairing: dict[str, str] | None) -> None:
    """An index made apart, put beside the tree's own."""
    vectors = np.random.default_rng(0).standard_normal((len(keys), 8)).astype(np.float32)
    files = make_index(vectors, pa.table({"key": keys}), variant("flat", rows=len(keys)), pairing=pairing)
    folder.write_files(tree / "indices" / "mine", files)


def keys_of(tree: Path) -> list[str]:
    store = datakit.open_store(tree)
    found: list[str] = store["train"].table(["key"])["key"].to_pylist()
    return found


def test_the_right_index_is_asked(trees: dict[str, Path], tmp_path: Path) -> None:
    tree = copied(trees, "a", tmp_path / "tree")
    ask(tree)
    store = datakit.open_store(tree)
    foreign(tree, keys_of(tree), store_pairing(store, whole=True))
    ask(tree, "mine")
    foreign(tree, keys_of(tree)[::-1], store_pairing(store))
    ask(tree, "mine")


@pytest.mark.parametrize("other", ["same", "more", "fewer"])
@pytest.mark.parametrize("how", ["whole", "vectors", "about", "meta"])
def test_an_index_of_another_build_is_refused(
    how: str, other: str, trees: dict[str, Path], tmp_path: Path
) -> None:
    """Its folder, or a file of it, moved into the tree: 12 of the twenty."""
    tree = copied(trees, "a", tmp_path / "tree")
    theirs = trees[other] / "indices" / "image"
    if how == "whole":
        put(tree, theirs)
    else:
        name = {"vectors": "vectors-0.arrow", "about": "index.json", "meta": "meta-0.arrow"}[how]
        shutil.copy(theirs / name, tree / "indices" / "image" / name)
    with pytest.raises(StoreError, match="image"):
        ask(tree)


@pytest.mark.parametrize(
    "pairing",
    [
        {"store": "0" * 32},
        {"keys": "0" * 32},
        {"samples": "0" * 32},
    ],
    ids=lambda pairing: next(iter(pairing)),
)
def test_a_foreign_index_with_another_pairing_is_refused(
    pairing: dict[str, str], trees: dict[str, Path], tmp_path: Path
) -> None:
    tree = copied(trees, "a", tmp_path / "tree")
    foreign(tree, keys_of(tree), pairing)
    with pytest.raises(StoreError, match="does not belong to the store"):
        ask(tree, "mine")


@pytest.mark.parametrize("change", ["one more", "one less", "one other"])
def test_a_foreign_index_of_other_keys_is_refused(
    change: str, trees: dict[str, Path], tmp_path: Path
) -> None:
    tree = copied(trees, "a", tmp_path / "tree")
    keys = keys_of(tree)
    changed = {"one more": [*keys, "zz"], "one less": keys[1:], "one other": ["zz", *keys[1:]]}[change]
    foreign(tree, changed, None)
    with pytest.raises(StoreError, match="does not belong to the store"):
        ask(tree, "mine")


def test_an_index_that_says_nothing_of_its_store_is_refused(trees: dict[str, Path], tmp_path: Path) -> None:
    tree = copied(trees, "a", tmp_path / "tree")
    foreign(tree, keys_of(tree), None)
    rewritten(tree / "indices" / "mine", pairing={})
    with pytest.raises(StoreError, match="does not say what it was built over"):
        ask(tree, "mine")


def test_an_index_made_for_another_encoder_is_refused(trees: dict[str, Path], tmp_path: Path) -> None:
    tree = copied(trees, "a", tmp_path / "tree")
    foreign(tree, keys_of(tree), None)
    rewritten(
        tree / "indices" / "mine", encoders={"image": {"name": "efficientnet-lite0", "weights": "0" * 64}}
    )
    image = encode(np.zeros((32, 32, 3), np.uint8), format="PNG")
    with pytest.raises(ConfigError, match=r"was built with efficientnet-lite0 of the weights 000000000000…"):
        answer(open_catalogue(tree, "mine"), Request(image=(image,)))


def test_an_encoder_that_is_a_program_is_not_run_unasked(trees: dict[str, Path], tmp_path: Path) -> None:
    tree = copied(trees, "a", tmp_path / "tree")
    foreign(tree, keys_of(tree), None)
    named = {"image": {"name": f"torchscript:{tmp_path}/x.pt", "weights": "0" * 64}}
    rewritten(tree / "indices" / "mine", encoders=named)
    image = encode(np.zeros((32, 32, 3), np.uint8), format="PNG")
    with pytest.raises(ConfigError, match="a program, which is run with all that you may do"):
        answer(open_catalogue(tree, "mine"), Request(image=(image,)))
