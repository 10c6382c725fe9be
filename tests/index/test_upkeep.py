"""An index is kept up to date: what is added is found, what is deleted never comes, and it may die at any moment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import ConfigError, EnvironmentProblem, StoreError
from datakit.index import folder, upkeep
from datakit.index.arrays import unit
from datakit.index.build import encode, encode_points, merge, train
from datakit.index.make import make_index
from datakit.index.opened import Index, open_index
from datakit.index.pack import base_files, index_files, keys_digest
from datakit.index.spec import VARIANTS, Coarse, Codes, Rerank, Space, Spec, Target, variant
from datakit.index.writing import writing
from tests.index.conftest import DIM, Cloud

FIRST = 1500  # rows that the index is built of; of 3,000
SMALL = Spec(coarse=Coarse(nlist=8, iterations=2), codes=Codes(kind="sq8"), rerank=Rerank(shortlist=50))
Build = Callable[..., Path]


@pytest.fixture
def begun(cloud: Cloud, tmp_path: Path) -> Build:
    def build(spec: Spec = SMALL, name: str = "toy", **how: Any) -> Path:
        files = make_index(cloud.vectors[:FIRST], cloud.meta.slice(0, FIRST), spec, name=name, **how)
        folder.write_files(tmp_path / name, files)
        return tmp_path / name

    return build


def put(place: Path, cloud: Cloud, start: int, stop: int, **how: Any) -> upkeep.Kept:
    return upkeep.add(place, cloud.vectors[start:stop], cloud.meta.slice(start, stop - start), **how)


def keys_of(index: Index, hits: Any) -> Any:
    return np.where(hits.rows >= 0, np.asarray(index.keys)[hits.rows], "")


def truth(cloud: Cloud, keys: set[str], queries: Any, k: int = 10) -> Any:
    """Keys of the nearest by cosine, without anything of the layer."""
    chosen = [at for at, key in enumerate(cloud.meta["key"].to_pylist()) if key in keys]
    scores = unit(queries).astype(np.float64) @ unit(cloud.vectors[chosen]).astype(np.float64).T
    return np.asarray(cloud.meta["key"])[chosen][np.argsort(-scores, axis=1)[:, :k]]


def contents(place: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in place.iterdir() if file.name != ".lock"}


def test_what_is_added_is_found_and_what_is_deleted_never_comes(cloud: Cloud, begun: Build) -> None:
    place, gone = begun(), [f"k{at:05d}" for at in range(0, 3000, 3)]
    assert put(place, cloud, FIRST, 2000) == upkeep.Kept(rows=2000, added=500, deleted=0, generation=1)
    assert put(place, cloud, 2000, 3000).rows == 3000
    assert upkeep.delete(place, gone) == upkeep.Kept(rows=2000, added=1000, deleted=1000, generation=3)
    for _ in range(2):
        index = open_index(place)
        left = set(cloud.meta["key"].to_pylist()) - set(gone)
        assert (
            keys_of(index, index.search(cloud.queries, exact=True)) == truth(cloud, left, cloud.queries)
        ).all()
        for words in ({}, {"nprobe": 8}, {"where": "draw < 0.5"}, {"where": "draw < 0.01"}, {"k": 5000}):
            found = set(keys_of(index, index.search(cloud.queries[:50], **words)).ravel()) - {""}
            assert found <= left and len(found) > 10, words
        assert (index.search(cloud.queries[:2], k=5000).rows >= 0).sum(axis=1).tolist() == [2000, 2000]
        with pytest.raises(ConfigError, match="has no key k00003"):
            index.rows(["k00003"])
        assert upkeep.compact(place).deleted == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_folded_in_exact_answers_stay_and_recall_is_tuned_for(name: str, cloud: Cloud, begun: Build) -> None:
    metric: Any = {"ivf": "ip", "adanns-hnsw": "l2", "adanns-d": "l2"}.get(name, "cosine")
    half = replace(variant(name, rows=FIRST).rerank, store="fp16")
    space = Space(metric=metric, center=True)
    spec = variant(name, rows=FIRST, space=space, rerank=half, target=Target(queries=75))
    spec = spec if spec.coarse.nlist else replace(spec, coarse=Coarse(nlist=16))
    place = begun(spec)
    put(place, cloud, FIRST, 2500)
    put(place, cloud, 2500, 3000)
    upkeep.delete(place, [f"k{at:05d}" for at in range(0, 3000, 5)])
    index = open_index(place)
    before = index.search(cloud.queries, k=10, exact=True)
    for retrain in (False, True):
        assert upkeep.compact(place, retrain=retrain).added == 0
        folded = open_index(place)
        after = folded.search(cloud.queries, k=10, exact=True)
        assert (keys_of(folded, after) == keys_of(index, before)).mean() > 0.999, "near ties aside"
        assert np.allclose(after.scores, before.scores, rtol=1e-6, atol=1e-6)
        found = folded.search(cloud.queries, k=10)
        same = [len(set(a) & set(b)) / 10 for a, b in zip(found.rows, after.rows, strict=True)]
        assert np.mean(same) >= 0.95 - 0.03
        assert folded.meta.num_rows == 2400 and not folded.about["deltas"] and not folded.about["deleted"]


@pytest.mark.parametrize("kind", ["flat", "sq8", "pq4fs", "rabitqfs", "panorama", "nested"])
def test_a_folded_index_has_the_bytes_of_one_merged_of_the_same_rows(
    kind: Any, cloud: Cloud, begun: Build
) -> None:
    spec = replace(SMALL, codes=Codes(kind=kind))
    trained = train(cloud.vectors[:FIRST], spec)
    first = merge(trained, [encode(trained, cloud.vectors[:FIRST])])
    place = begun()
    shutil.rmtree(place)
    folder.write_files(place, index_files(trained, first, cloud.meta.slice(0, FIRST), name="toy"))
    put(place, cloud, FIRST, 3000)
    upkeep.delete(place, [f"k{at:05d}" for at in range(500)])
    upkeep.compact(place)
    # The rows in the order of the index, put together by hand.
    order = np.concatenate([first.order[first.order >= 500], np.arange(FIRST, 3000)])
    points = trained.axes.points(cloud.vectors)[order]
    cuts = [0, 1, 900, 2500]
    parts = [
        encode_points(trained, part, start)
        for part, start in zip(np.split(points, cuts[1:]), cuts, strict=True)
    ]
    merged = merge(trained, parts)
    files, named = base_files(trained, merged, cloud.meta.take(pa.array(order)), generation=3)
    made = contents(place)
    assert {name for part, name in named.items() if part != "axes"} | {named["axes"], "index.json"} == set(
        made
    )
    for part, name in named.items():
        if part != "axes":
            assert made[name] == files[name], name
    ours, theirs = (np.load(path) for path in (place / named["axes"], _at(place, files[named["axes"]])))
    assert all((ours[name] == theirs[name]).all() for name in theirs.files if name != "held")


def _at(place: Path, data: bytes) -> Path:
    path = place.with_name("other.npz")
    path.write_bytes(data)
    return path


def test_in_however_many_pieces_rows_come_the_folded_index_is_the_same(cloud: Cloud, begun: Build) -> None:
    made = []
    for cuts in ([FIRST, 3000], [FIRST, 1501, 2000, 2999, 3000], list(range(FIRST, 3001, 60))):
        place = begun(name=f"{len(cuts)}")
        for start, stop in pairwise(cuts):
            put(place, cloud, start, stop)
        assert len(open_index(place).about["deltas"]) <= upkeep.DELTAS + 1
        index = open_index(place)
        assert (
            keys_of(index, index.search(cloud.vectors[2000:2020], k=1))[:, 0]
            == [f"k{at:05d}" for at in range(2000, 2020)]
        ).all()
        upkeep.compact(place)
        base = folder.read_about(place)["base"]
        made.append({part: (place / name).read_bytes() for part, name in base.items()})
    assert made[0] == made[1] == made[2]


def test_a_new_vector_takes_the_place_of_one_of_its_key(cloud: Cloud, begun: Build) -> None:
    place = begun()
    with pytest.raises(ConfigError, match="keys k00000, k00001, k00002 and 7 more are in the index already"):
        put(place, cloud, 0, 10)
    moved = cloud.vectors[2000:2010]
    upkeep.add(place, moved, cloud.meta.slice(0, 10), replace=True)
    for _ in range(2):
        index = open_index(place)
        assert len(index) == FIRST and len(set(np.asarray(index.keys)[index.live])) == FIRST
        assert keys_of(index, index.search(moved, k=1))[:, 0].tolist() == [f"k{at:05d}" for at in range(10)]
        near = index.search(cloud.vectors[:10], k=1)
        assert not set(keys_of(index, near)[:, 0]) & {f"k{at:05d}" for at in range(10)}
        assert np.allclose(index.vectors(index.rows(["k00004"])), unit(moved[4:5]), atol=1e-6)
        upkeep.compact(place)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v, m: (v, m.set_column(0, "key", pa.array(["k00007"] * 3))), "key k00007 is there twice"),
        (lambda v, m: (v, m.drop_columns(["brand"])), "brand missing"),
        (lambda v, m: (v, m.append_column("prize", m["draw"])), "prize unknown"),
        (
            lambda v, m: (v, m.set_column(1, "draw", pa.array(["a", "b", "c"]))),
            "draw is string, and in",
        ),
        (lambda v, m: (v, m.slice(1)), "2 rows of metadata came with 3"),
        (lambda v, m: (v[:, 1:], m), rf"vectors must be \(N, {DIM}\)"),
        (lambda v, m: (v * np.float32(np.nan), m), "row 0 holds a number that is not finite"),
        (lambda v, m: (v * np.float32(0), m), "vector of key k01500 is zero"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_name_and_change_nothing(
    change: Callable[..., Any], said: str, cloud: Cloud, begun: Build
) -> None:
    place = begun()
    before = contents(place)
    with pytest.raises(ConfigError, match=said):
        upkeep.add(place, *change(cloud.vectors[FIRST : FIRST + 3], cloud.meta.slice(FIRST, 3)))
    assert contents(place) == before


def test_columns_may_come_in_another_order_and_hold_nothing(cloud: Cloud, begun: Build) -> None:
    place = begun()
    meta = pa.table({"brand": [None, None], "key": ["a", "b"], "draw": [0.5, None]})
    assert upkeep.add(place, cloud.vectors[:2], meta).rows == FIRST + 2
    index = open_index(place)
    assert index.meta.column_names == ["key", "draw", "brand"]
    found = index.search(cloud.vectors[:1], k=5, where="brand is null")
    assert set(keys_of(index, found).ravel()) == {"a", "b", ""}


def test_keys_that_are_not_there_and_an_index_of_nothing(cloud: Cloud, begun: Build) -> None:
    place = begun()
    before = contents(place)
    with pytest.raises(ConfigError, match="key k0001 is not in the index; did you mean k0"):
        upkeep.delete(place, ["k00001", "k0001"])
    assert upkeep.delete(place, []).generation == 0
    assert upkeep.add(place, cloud.vectors[:0], cloud.meta.slice(0, 0)).generation == 0
    assert upkeep.compact(place).generation == 0, "nothing to do"
    assert contents(place) == before
    assert upkeep.delete(place, cloud.meta["key"].slice(0, FIRST).to_pylist()).rows == 0
    assert (open_index(place).search(cloud.queries[:3]).rows == -1).all()
    with pytest.raises(ConfigError, match="every row is deleted"):
        upkeep.compact(place)
    assert put(place, cloud, 0, 5).rows == 5, "a deleted key may come again"
    index = open_index(place)
    assert keys_of(index, index.search(cloud.vectors[:5], k=1))[:, 0].tolist() == [
        f"k{at:05d}" for at in range(5)
    ]


def test_any_order_of_upkeeps_leaves_what_a_dictionary_would(cloud: Cloud, begun: Build) -> None:
    place, rng = begun(), np.random.default_rng(4)
    names = np.asarray(cloud.meta["key"])
    held = {key: at for at, key in enumerate(names[:FIRST])}
    for turn in range(14):
        what = ("add", "delete", "replace", "compact")[turn % 4]
        if what == "delete":
            gone = rng.choice(sorted(held), 200, replace=False).tolist()
            upkeep.delete(place, gone)
            held = {key: at for key, at in held.items() if key not in set(gone)}
        elif what == "compact":
            upkeep.compact(place, retrain=turn % 8 == 7)
        else:
            free = sorted(set(names) - set(held)) if what == "add" else sorted(held)
            keys = rng.choice(free, min(len(free), 150), replace=False)
            at = rng.integers(0, 3000, len(keys))
            rows = cloud.meta.take(pa.array(np.searchsorted(names, keys)))
            upkeep.add(place, cloud.vectors[at], rows, replace=what == "replace")
            held |= dict(zip(keys.tolist(), at.tolist(), strict=True))
        index = open_index(place)
        assert sorted(np.asarray(index.keys)[index.live]) == sorted(held)
        keys = sorted(held)
        where = index.points(index.rows(keys))
        assert np.allclose(where, unit(cloud.vectors[[held[key] for key in keys]]), atol=1e-6)
        prices = index.meta["draw"].take(pa.array(index.rows(keys))).to_pylist()
        assert prices == cloud.meta["draw"].take(pa.array(np.searchsorted(names, keys))).to_pylist()
        assert index.about["pairing"] == {"keys": keys_digest(pa.array(keys))} or turn == 0
        hits = index.search(cloud.queries[:20], k=10)
        assert set(keys_of(index, hits).ravel()) <= set(held)


def test_a_kill_at_any_write_leaves_the_index_before_or_after(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    meta = pa.table({"key": [f"k{at:05d}" for at in range(300)], "price": np.arange(300.0)})
    place = tmp_path / "sound"
    folder.write_files(place, make_index(vectors, meta, replace(SMALL, coarse=Coarse(nlist=4, iterations=1))))
    script = Path(__file__).with_name("killed_upkeep.py")
    sys.path.insert(0, str(script.parent))
    try:
        from killed_upkeep import rows
    finally:
        sys.path.pop(0)
    upkeep.add(place, *rows(0, 8, 12))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(place), "2"], env=environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) > 30
    for one in found:
        assert one["left"] in ("old", "new") and one["again"] and one["files"], one
    assert {one["what"] for one in found} == {"add", "replace", "delete", "compact", "retune"}
    assert {one["left"] for one in found if one["what"] == "compact"} == {"old", "new"}, (
        "the test itself works"
    )


def test_one_writer_at_a_time(cloud: Cloud, begun: Build) -> None:
    place = begun()
    with (
        writing(place),
        pytest.raises(EnvironmentProblem, match=r"another add, delete, compact or tune is running on .*toy"),
    ):
        upkeep.delete(place, ["k00001"])
    assert upkeep.delete(place, ["k00001"]).rows == FIRST - 1


def test_who_has_it_open_keeps_answering_and_who_opens_it_gets_one_of_the_two(
    cloud: Cloud, begun: Build
) -> None:
    place = begun()
    early = open_index(place)
    before = early.search(cloud.queries, k=10)
    stop, problems, sizes = threading.Event(), list[Exception](), set[int]()

    def read() -> None:
        while not stop.is_set():
            try:
                index = open_index(place)
                sizes.add(len(index))
                assert (index.search(cloud.queries[:5], k=10).rows >= 0).all()
            except Exception as problem:
                problems.append(problem)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for start in range(FIRST, 2100, 100):
        put(place, cloud, start, start + 100)
        upkeep.compact(place)
    stop.set()
    for reader in readers:
        reader.join()
    assert not problems and sizes <= set(range(FIRST, 2101, 100)) and len(sizes) > 1
    again = early.search(cloud.queries, k=10)
    assert (again.rows == before.rows).all() and (again.scores == before.scores).all()


@pytest.mark.parametrize("after", range(6))
def test_whose_files_are_taken_away_while_it_opens_gets_the_index_that_took_their_place(
    cloud: Cloud, begun: Build, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    place, checked, calls = begun(), folder.checked, list[str]()
    put(place, cloud, FIRST, 1600)
    upkeep.delete(place, ["k00001"])

    def meanwhile(at: Path, name: str, about: Any) -> Path:
        found = checked(at, name, about)
        calls.append(name)
        if len(calls) == after + 1:
            upkeep.compact(place)  # between a file's digest and its reading
            assert not found.exists()
        return found

    monkeypatch.setattr(folder, "checked", meanwhile)
    index = open_index(place)
    assert index.about["generation"] == 3 and len(index) == 1599
    assert set(calls[: after + 1]) < set(calls)  # it was read again, under other names


def test_an_index_in_a_built_tree_is_copied_out_first(cloud: Cloud, begun: Build, tmp_path: Path) -> None:
    place = begun()
    tree = tmp_path / "tree"
    inner = Path(shutil.copytree(place, tree / "indices" / "toy"))
    upkeep.delete(inner, ["k00001"])  # beside no manifest, or that of another tool, it is nobody's
    (tree / "manifest.json").write_text('{"name": "a web app"}')
    upkeep.delete(inner, ["k00002"])
    (tree / "manifest.json").write_text('{"files": {"indices/toy/index.json": {"bytes": 1}}}')
    for change in (
        lambda: upkeep.delete(inner, ["k00003"]),
        lambda: upkeep.compact(inner),
        lambda: upkeep.retune(inner),
        lambda: put(inner, cloud, FIRST, 1600),
    ):
        with pytest.raises(ConfigError, match=r"is part of the built tree .*tree.*copy the folder elsewhere"):
            change()
    (tmp_path / "link").symlink_to(inner)
    with pytest.raises(ConfigError, match="is part of the built tree"):
        upkeep.compact(tmp_path / "link")
    step = Path(shutil.copytree(place, tmp_path / "b" / ".datakit" / "steps" / "x"))
    with pytest.raises(ConfigError, match="is a step of a build"):
        upkeep.compact(step)


def test_only_files_of_the_index_are_taken_away(cloud: Cloud, begun: Build) -> None:
    place = begun()
    (place / "notes.txt").write_text("mine")
    (place / "other").mkdir()
    (place / "delta-7.arrow").write_text("left by a kill")
    (place / "vectors-1.arrow.part-1-abc").write_text("left by a kill")
    put(place, cloud, FIRST, 1600)
    upkeep.compact(place)
    assert (place / "notes.txt").exists() and (place / "other").is_dir()
    named = {*folder.read_about(place)["files"], "index.json"}
    assert set(contents_names(place)) == named | {"notes.txt", "other"}


def contents_names(place: Path) -> list[str]:
    return [file.name for file in place.iterdir() if file.name != ".lock"]


def test_another_recall_is_tuned_for_and_one_that_is_not_to_be_had_changes_nothing(
    cloud: Cloud, begun: Build
) -> None:
    place = begun(replace(SMALL, coarse=Coarse(nlist=30)))
    upkeep.retune(place, Target(recall=0.7))
    low = open_index(place)
    upkeep.retune(place, Target(recall=0.99))
    high = open_index(place)
    assert low.about["spec"]["target"]["recall"] == 0.7 and high.about["spec"]["target"]["recall"] == 0.99
    exact = high.search(cloud.queries, exact=True)
    shares = [
        np.mean(
            [
                len(set(a) & set(b)) / 10
                for a, b in zip(one.search(cloud.queries).rows, exact.rows, strict=True)
            ]
        )
        for one in (low, high)
    ]
    assert 0.6 < shares[0] < shares[1] and shares[1] >= 0.97
    before = contents(place)
    with pytest.raises(ConfigError, match="is not to be had"):
        upkeep.retune(place, Target(recall=1.0, max_ms=1e-9))
    assert contents(place) == before
    assert upkeep.retune(place, measure=True).generation == 3


def test_learned_anew_lists_are_as_many_as_the_rows_want_unless_they_were_asked_for(
    cloud: Cloud, begun: Build
) -> None:
    for spec, wanted in (
        (variant("adanns-ivf", rows=FIRST), 3000 // 39),
        (replace(SMALL, coarse=Coarse(nlist=5)), 5),
    ):
        place = begun(spec, name=f"{wanted}")
        put(place, cloud, FIRST, 3000)
        few = len(open_index(place).base.centroids)
        upkeep.compact(place)
        assert len(open_index(place).base.centroids) == few
        upkeep.compact(place, retrain=True)
        assert len(open_index(place).base.centroids) == wanted


def test_rows_added_since_judge_the_tuning_as_nothing_was_learned_from_them(
    cloud: Cloud, begun: Build
) -> None:
    place = begun()
    held = np.load(place / "axes-0.npz")["held"]
    assert len(held) == FIRST // 20
    keys = set(np.asarray(open_index(place).keys)[held])
    put(place, cloud, FIRST, 1600)
    upkeep.delete(place, sorted(keys)[:5])
    upkeep.compact(place)
    after = open_index(place)
    free = set(np.asarray(after.keys)[np.load(place / after.about["base"]["axes"])["held"]])
    assert free == (keys - set(sorted(keys)[:5])) | {f"k{at:05d}" for at in range(FIRST, 1600)}


def test_damage_is_named_before_anything_is_changed(cloud: Cloud, begun: Build) -> None:
    place = begun()
    put(place, cloud, FIRST, 1600)
    (place / "delta-1.arrow").write_bytes(b"ARROW1")
    before = contents(place)
    for change in (lambda: upkeep.delete(place, ["k00001"]), lambda: upkeep.compact(place)):
        with pytest.raises(StoreError, match=r"delta-1\.arrow has 6 bytes"):
            change()
    assert contents(place) == before
    (place / "index.json").write_bytes(b"{}")
    with pytest.raises(StoreError, match=r"index\.json is damaged"):
        upkeep.compact(place)
    with pytest.raises(StoreError, match="holds no index"):
        upkeep.compact(place / "nowhere")
    assert not (place / "nowhere").exists()
