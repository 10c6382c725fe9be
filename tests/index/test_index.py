"""Indices of every kind hold the recall they were tuned for, come out alike however made, and refuse to lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import ConfigError, StoreError
from datakit.index import codes as lists_of_codes
from datakit.index import exact, folder
from datakit.index.arrays import in_blocks, unit
from datakit.index.base import Base, base_of
from datakit.index.basis import principal_axes, train_axes
from datakit.index.build import Part, Trained, encode, merge, train
from datakit.index.coarse import list_of, means_of, nearest_lists, within
from datakit.index.make import make_index
from datakit.index.opened import Index, find_indices, open_index
from datakit.index.pack import index_files
from datakit.index.plan import Words
from datakit.index.spec import (
    VARIANTS,
    Basis,
    Coarse,
    Codes,
    Rerank,
    Space,
    Spec,
    Target,
    settled,
    variant,
)
from datakit.index.spec_json import from_json
from datakit.index.tune import tune
from datakit.manifest import write_record
from tests.index.conftest import DIM, ROWS, Cloud, recall

KINDS = ("flat", "fp16", "sq8", "pq4fs", "pq8", "rabitqfs", "panorama", "nested")


def in_parts(trained: Trained, vectors: Any, cuts: list[int]) -> list[Part]:
    return [
        encode(trained, part, first) for part, first in zip(np.split(vectors, cuts), [0, *cuts], strict=True)
    ]


def of_kind(kind: Any, **more: Any) -> Spec:
    return Spec(codes=Codes(kind=kind), rerank=Rerank(shortlist=100), **more)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_holds_the_recall_it_was_tuned_for(
    name: str, metric: Any, cloud: Cloud, built: Callable[..., Index]
) -> None:
    index = built(variant(name, rows=ROWS, metric=metric))
    assert recall(index, cloud.queries) >= 0.95 - 0.02, "on queries that tuning never saw"
    hits = index.search(cloud.vectors[:50], k=1, exact=True)
    if metric != "ip":
        assert index.keys.take(hits.rows[:, 0]).to_pylist() == cloud.meta["key"].to_pylist()[:50]


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_parts_gives_the_bytes_of_one(kind: Any, cloud: Cloud) -> None:
    trained = train(cloud.vectors, of_kind(kind), rows=ROWS)
    whole = index_files(trained, merge(trained, [encode(trained, cloud.vectors)]), cloud.meta, name="x")
    for cuts in ([1], [1500], [700, 1501, 2999], sorted(range(200, 3000, 187))):
        parts = in_parts(trained, cloud.vectors, cuts)
        again = index_files(trained, merge(trained, parts), cloud.meta, name="x")
        assert again == whole, f"{len(parts)} parts"


@pytest.mark.parametrize("name", ["flat", "adanns-ivfpq4fs", "adanns-hnsw"])
def test_built_twice_and_with_any_number_of_threads_it_is_the_same(name: str, cloud: Cloud) -> None:
    import faiss

    made = []
    before = faiss.omp_get_max_threads()
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        made.append(make_index(cloud.vectors, cloud.meta, variant(name, rows=ROWS), name="x"))
    faiss.omp_set_num_threads(before)
    assert made[0] == made[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_a_filter_keeps_recall_and_gives_as_many_as_match(
    kind: Any, share: float, cloud: Cloud, built: Callable[..., Index]
) -> None:
    index = built(of_kind(kind))
    where = f"draw < {share}"
    match = np.asarray(index.meta["draw"]) < share
    for queries in (cloud.queries, cloud.queries[:1]):
        hits = index.search(queries, k=10, where=where)
        assert ((hits.rows >= 0).sum(axis=1) == min(10, match.sum())).all()
        assert match[hits.rows[hits.rows >= 0]].all()
        assert hits.plan["matching"] == match.sum() and hits.plan["kind"] in ("lists", "subset")
        assert recall(index, queries, where=where) >= 0.95


def test_lists_scanned_for_matching_rows_alone_lose_nothing(
    cloud: Cloud, built: Callable[..., Index]
) -> None:
    index = built(of_kind("pq4fs"))
    hits = index.search(cloud.queries, k=10, where="draw < 0.3", nprobe=index.base.nlist, shortlist=200)
    truth = index.search(cloud.queries, k=10, where="draw < 0.3", exact=True)
    assert hits.plan["kind"] == "lists"
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits.rows, truth.rows, strict=True)]) > 0.99


def test_no_row_matches_or_all_are_asked_for(cloud: Cloud, built: Callable[..., Index]) -> None:
    index = built(variant("adanns-ivfpq4fs", rows=ROWS))
    assert (index.search(cloud.queries, k=5, where="draw > 2").rows == -1).all()
    every = index.search(cloud.queries[:3], k=ROWS + 10)
    assert all(sorted(row) == list(range(ROWS)) for row in every.rows.tolist())
    assert every.table(index).num_rows == 3 * ROWS


def test_rows_left_out_never_come(cloud: Cloud, built: Callable[..., Index]) -> None:
    index = built(variant("adanns-ivf", rows=ROWS))
    first = index.search(cloud.queries[:20], k=3)
    again = index.search(cloud.queries[:20], k=3, not_rows=first.rows[:, 0].tolist())
    assert not set(first.rows[:, 0].tolist()) & set(again.rows.ravel().tolist())


@pytest.mark.parametrize(
    ("queries", "said"),
    [
        (np.zeros((2, DIM - 1)), rf"must be \(N, {DIM}\)"),
        (np.zeros(DIM), r"must be \(N, "),
        (np.full((3, DIM), np.nan), "row 0 holds a number that is not finite"),
    ],
)
def test_queries_of_another_shape_are_refused(queries: Any, said: str, built: Callable[..., Index]) -> None:
    index = built(variant("flat", rows=ROWS))
    with pytest.raises(ConfigError, match=said):
        index.search(queries)
    assert index.search(np.zeros((0, DIM)), k=3).rows.shape == (0, 3)


def test_what_the_caller_gave_is_not_changed(cloud: Cloud, built: Callable[..., Index]) -> None:
    vectors, queries = cloud.vectors.copy(), cloud.queries.copy()
    index = built(variant("adanns-ivf", rows=ROWS, space=Space(center=True)))
    index.search(cloud.queries[:1], k=3)  # AdANNS's own code normalised a slice of its caller's queries
    assert (vectors == cloud.vectors).all() and (queries == cloud.queries).all()


def test_a_zero_vector_has_no_direction_and_its_key_is_named(cloud: Cloud) -> None:
    vectors = cloud.vectors.copy()
    vectors[7] = 0
    with pytest.raises(ConfigError, match="key k00007 is zero"):
        make_index(vectors, cloud.meta, variant("flat", rows=ROWS))
    make_index(vectors, cloud.meta, variant("flat", rows=ROWS, metric="l2"))


def test_a_key_that_comes_twice_or_is_missing_is_named(cloud: Cloud) -> None:
    twice = cloud.meta.set_column(0, "key", pa.array(["same"] * ROWS))
    with pytest.raises(ConfigError, match="key same is there twice"):
        make_index(cloud.vectors, twice, variant("flat", rows=ROWS))
    with pytest.raises(ConfigError, match=f"{ROWS - 1} rows of metadata came with {ROWS}"):
        make_index(cloud.vectors, cloud.meta.slice(1), variant("flat", rows=ROWS))


# — tuning


def broken(base: Base) -> Base:
    """Codes dealt to other rows: lists that answer with the wrong ones."""
    return replace(base, points=base.points[np.random.default_rng(0).permutation(len(base))])


def base(cloud: Cloud, spec: Spec) -> Base:
    trained = train(cloud.vectors, spec, rows=ROWS)
    return base_of(trained, merge(trained, [encode(trained, cloud.vectors)]))


def test_a_tuner_fed_codes_of_other_rows_falls_back_to_exact_search(cloud: Cloud) -> None:
    sound = base(cloud, of_kind("pq4fs", coarse=Coarse(nlist=32)))
    assert max(point["recall"] for point in tune(sound)["curve"] if point["kind"] == "lists") > 0.98
    found = tune(broken(sound))
    assert found["search"] == {"kind": "flat"}
    assert all(point["recall"] < 0.9 for point in found["curve"] if point["kind"] == "lists")


def test_the_curve_rises_and_flat_is_always_on_it(cloud: Cloud) -> None:
    found = tune(base(cloud, of_kind("sq8")))
    recalls, costs = ([point[name] for point in found["curve"]] for name in ("recall", "cost_us"))
    assert recalls == sorted(recalls) and costs == sorted(costs)
    assert found["curve"][-1]["kind"] == "flat" or recalls[-1] == 1.0


def test_limits_of_time_and_bytes_are_kept_or_told(cloud: Cloud) -> None:
    built = base(cloud, of_kind("pq4fs"))
    with pytest.raises(ConfigError, match="is not to be had"):
        tune(built, target=Target(recall=1.0, max_ms=1e-6))
    with pytest.raises(ConfigError, match=r"target\.max_bytes=2: codes have"):
        tune(built, target=Target(max_bytes=2))
    assert tune(built, target=Target(max_ms=10_000.0))["search"]


def test_a_margin_scans_the_nearest_lists_and_no_more_than_nprobe() -> None:
    scores = np.array([[0.9, 0.1, 0.85, 0.5], [0.2, 0.21, 0.0, 0.19]], np.float32)
    assert nearest_lists(scores, 3).tolist() == [[0, 2, 3], [1, 0, 3]]
    assert [sorted(row) for row in within(scores, 4, 0.1).tolist()] == [[-1, 0, 2], [0, 1, 3]]
    assert [sorted(row) for row in within(scores, 2, 0.1).tolist()] == [[0, 2], [0, 1]]


def test_a_margin_changes_no_answer_where_it_is_wide(cloud: Cloud, built: Callable[..., Index]) -> None:
    index = built(of_kind("sq8", coarse=Coarse(nlist=32)))
    wide = index.search(cloud.queries, k=10, nprobe=32, margin=1e9, shortlist=100)
    every = index.search(cloud.queries, k=10, nprobe=32, shortlist=100)
    assert (wide.rows == every.rows).all()


# — what faiss would not catch


def test_a_bitmap_that_is_too_short_and_lists_of_another_index_are_refused(cloud: Cloud) -> None:
    built = base(cloud, of_kind("pq4fs", coarse=Coarse(nlist=16)))
    coded = built.axes.for_codes(built.axes.points(cloud.queries))
    chosen = np.zeros((len(coded), 1), np.int64)
    scores = np.zeros((len(coded), 1), np.float32)
    with pytest.raises(ValueError, match="a bitmap of"):
        lists_of_codes.scan(built.lists, coded, chosen, scores, k=3, allowed=np.zeros(8, np.uint8))
    with pytest.raises(ValueError, match="of another index"):
        lists_of_codes.scan(built.lists, coded, chosen + 16, scores, k=3)
    with pytest.raises(ValueError, match="a row beyond"):
        exact.compare(cloud.queries, built.points, np.full((len(coded), 2), ROWS), "cosine")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"nprobe": 10_000}, "nprobe=10000: the index has"),
        ({"ef": 10}, "ef is of a graph"),
        ({"dims": 8}, "dims can be chosen only of codes=nested"),
    ],
)
def test_words_of_another_kind_of_index_are_refused(
    words: dict[str, int], said: str, cloud: Cloud, built: Callable[..., Index]
) -> None:
    index = built(of_kind("pq4fs"))
    with pytest.raises(ConfigError, match=said):
        index.search(cloud.queries, **words)


def test_panorama_merged_by_us_scans_as_exactly_as_flat_codes(cloud: Cloud) -> None:
    trained = [
        train(cloud.vectors, of_kind(kind, coarse=Coarse(nlist=16)), rows=ROWS)
        for kind in ("panorama", "flat")
    ]
    found = []
    for one in trained:
        parts = in_parts(one, cloud.vectors, [900, 2100])
        found.append(base_of(one, merge(one, parts)))
    words = Words(kind="lists", nprobe=4, shortlist=0)
    rows = [one.search(one.axes.points(cloud.queries), 10, words)[1] for one in found]
    assert (rows[0] == rows[1]).mean() > 0.999, "faiss's own merge agrees in 2 to 7 of 100"


# — nested dims


def test_nested_codes_are_scanned_on_as_many_dims_as_asked(cloud: Cloud, built: Callable[..., Index]) -> None:
    index = built(variant("adanns-d", rows=ROWS))
    found = [
        recall(index, cloud.queries, nprobe=index.base.nlist, shortlist=20, dims=dims) for dims in (2, 8, DIM)
    ]
    assert found[0] < found[1] <= found[2] == 1.0


def test_prefixes_of_principal_axes_hold_more_than_others(cloud: Cloud) -> None:
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((DIM, DIM)))[0].astype(np.float32)
    mixed = cloud.vectors @ turn
    axes = principal_axes(mixed)
    assert np.allclose(axes @ axes.T, np.eye(DIM), atol=1e-4)
    energy = ((mixed @ axes[:8].T) ** 2).sum() / (mixed**2).sum()
    assert energy > 1.5 * (mixed[:, :8] ** 2).sum() / (mixed**2).sum()


def test_a_nested_prefix_is_a_vector_of_length_one_and_a_pca_one_is_not(cloud: Cloud) -> None:
    spec = settled(Spec(basis=Basis(kind="mrl"), codes=Codes(kind="sq8", dims=16)), rows=ROWS, dim=DIM)
    axes = train_axes(cloud.vectors, spec)
    points = axes.points(cloud.vectors)
    assert np.allclose(np.linalg.norm(axes.for_codes(points), axis=1), 1, atol=1e-5)
    pca = train_axes(cloud.vectors, replace(spec, basis=Basis(kind="pca")))
    assert (np.linalg.norm(pca.for_codes(points), axis=1) < 0.9999).all()


def test_a_funnel_leaves_the_best(cloud: Cloud, built: Callable[..., Index]) -> None:
    spec = Spec(
        basis=Basis(kind="raw"),
        codes=Codes(kind="sq8"),
        rerank=Rerank(shortlist=200, funnel=((8, 100), (24, 40))),
    )
    index = built(spec)
    assert recall(index, cloud.queries, nprobe=index.base.nlist, shortlist=200) > 0.9
    with pytest.raises(ConfigError, match="needs basis raw or mrl"):
        settled(replace(spec, basis=Basis(kind="pca")), rows=ROWS, dim=DIM)


def test_lists_have_the_means_of_their_rows(cloud: Cloud) -> None:
    rows = unit(cloud.vectors)
    lists = list_of(rows, rows[:9], "cosine")
    means = means_of(rows, lists, 10)
    assert np.allclose(means[4], rows[lists == 4].mean(axis=0), atol=1e-6) and (means[9] == 0).all()


def test_a_row_comes_out_alike_wherever_it_lies(cloud: Cloud) -> None:
    turn = np.random.default_rng(0).standard_normal((DIM, DIM)).astype(np.float32)
    whole = in_blocks(lambda block: block @ turn, cloud.vectors)
    for start in (1, 777, 1025, 2999):
        assert (in_blocks(lambda block: block @ turn, cloud.vectors[start:], start) == whole[start:]).all()


# — on disk


def test_an_index_is_found_in_its_tree(cloud: Cloud, tmp_path: Path) -> None:
    files = make_index(cloud.vectors, cloud.meta, variant("flat", rows=ROWS), name="image")
    folder.write_files(tmp_path / "indices" / "image", files)
    assert list(find_indices(tmp_path)) == ["image"]
    assert len(open_index(tmp_path / "indices" / "image")) == ROWS


def test_specs_come_back_from_json_and_wrong_ones_are_named() -> None:
    spec = of_kind("pq8", target=Target(max_ms=2.0), seed=3)
    assert from_json(json.loads(json.dumps(spec.to_json()))) == spec
    for value, said in (
        ({"codes": {"knd": "sq8"}}, "unknown key spec.codes.knd; did you mean kind"),
        ({"codes": {"kind": "sq9"}}, "must be one of"),
        ({"seed": "a"}, "spec.seed='a': must be a whole number"),
    ):
        with pytest.raises(ConfigError, match=said):
            from_json(value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Spec(codes=Codes(dims=DIM + 1)), "the vectors have 48"),
        (Spec(codes=Codes(kind="pq8", dims=48, bytes=5)), "do not share 48 dims evenly"),
        (Spec(codes=Codes(kind="panorama", dims=20)), "needs dims that 8 divides"),
        (Spec(structure="hnsw", codes=Codes(kind="pq4fs")), "a graph holds vectors as"),
        (Spec(target=Target(recall=1.5)), "give a share"),
    ],
)
def test_parts_that_do_not_fit_together_are_told(spec: Spec, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settled(spec, rows=ROWS, dim=DIM)
    with pytest.raises(ConfigError, match="did you mean adanns-ivf"):
        variant("adans-ivf", rows=10)


def damages(data: bytes, rng: np.random.Generator) -> bytes:
    """One of: cut, emptied, a bit flipped, a stretch zeroed, a stretch repeated."""
    at = int(rng.integers(0, max(1, len(data))))
    flipped = bytearray(data)
    flipped[at] ^= 1 << int(rng.integers(0, 8))
    zeroed = data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :]
    return [data[:at], b"", bytes(flipped), zeroed, data[:at] + data[: len(data) - at]][
        int(rng.integers(0, 5))
    ]


def test_damaged_files_are_refused_by_name(cloud: Cloud, tmp_path: Path) -> None:
    folder.write_files(tmp_path / "sound", make_index(cloud.vectors, cloud.meta, of_kind("pq4fs"), name="x"))
    rng, names = np.random.default_rng(0), sorted(path.name for path in (tmp_path / "sound").iterdir())
    for number in range(60):
        name = names[number % len(names)]
        shutil.copytree(tmp_path / "sound", tmp_path / "bad", dirs_exist_ok=True)
        before = (tmp_path / "sound" / name).read_bytes()
        after = damages(before, rng)
        (tmp_path / "bad" / name).write_bytes(after)
        if after == before:
            continue
        with pytest.raises(StoreError, match=name.replace(".", r"\.")):
            open_index(tmp_path / "bad")


def test_whole_files_of_two_indices_do_not_pass_for_one(cloud: Cloud, tmp_path: Path) -> None:
    spec = of_kind("sq8", coarse=Coarse(nlist=16))
    folder.write_files(tmp_path / "a", make_index(cloud.vectors, cloud.meta, spec, name="x"))
    half = make_index(cloud.vectors[:1500], cloud.meta.slice(0, 1500), spec, name="x")
    about = folder.read_about(tmp_path / "a")
    (tmp_path / "a" / "lists-0.faiss").write_bytes(half["lists-0.faiss"])
    with pytest.raises(StoreError, match=r"lists-0\.faiss"):
        open_index(tmp_path / "a")
    # And with a digest to match: the counts tell.
    about["files"]["lists-0.faiss"] = folder.described({"x": half["lists-0.faiss"]})["x"]
    about.pop("xxh3", None)
    write_record(tmp_path / "a" / "index.json", about)
    with pytest.raises(StoreError, match=r"lists-0\.faiss: 1500 rows, not 3000"):
        open_index(tmp_path / "a")


def test_a_folder_without_an_index_or_of_another_format_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no index\.json"):
        open_index(tmp_path)
    write_record(tmp_path / "index.json", {"format": "datakit-index-9"})
    with pytest.raises(StoreError, match="datakit-index-9, and this version reads"):
        open_index(tmp_path)
