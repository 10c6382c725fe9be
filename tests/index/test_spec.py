"""A spec is settled for any data, or refused by the name of the word that does not fit, before faiss sees anything."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import ConfigError
from datakit.index import folder
from datakit.index.base import base_of
from datakit.index.build import encode, merge, train
from datakit.index.make import make_index
from datakit.index.opened import open_index
from datakit.index.plan import Words
from datakit.index.spec import LEAST, VARIANTS, Basis, Coarse, CodeKind, Codes, Spec, settled, variant
from datakit.index.spec_json import from_json

METRICS = ("cosine", "ip", "l2")


def noise(rows: int, dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(rows + dim).standard_normal((rows, dim)).astype(np.float32)


@pytest.mark.parametrize("name", VARIANTS)
def test_any_number_of_rows_and_dims_is_indexed_or_refused(name: str, tmp_path: Path) -> None:
    made = 0
    for number, (rows, dim) in enumerate(product((1, 2, 15, 300), (1, 7, 31, 40))):
        vectors, place = noise(rows, dim), tmp_path / f"{number}"
        meta = pa.table({"key": [f"{at}" for at in range(rows)]})
        try:
            files = make_index(vectors, meta, variant(name, rows=rows, metric="l2"))
        except ConfigError as problem:
            assert "codes." in str(problem)
            continue
        made += 1
        folder.write_files(place, files)
        index = open_index(place)
        hits = index.search(vectors[:3], k=rows)
        assert sorted(hits.rows[0].tolist()) == list(range(rows))
        assert index.keys[int(hits.rows[0, 0])].as_py() == "0"
    assert made >= 3


@pytest.mark.parametrize("kind", get_args(CodeKind))
def test_every_pair_of_dims_metrics_and_bases_finds_its_own_rows(kind: Any) -> None:
    """d_c may be less or more than d_s: AdANNS's own code needs d_c >= d_s."""
    vectors = noise(400, 24) * (1 / np.sqrt(np.arange(1, 25))).astype(np.float32)
    bases = [Basis(kind="raw"), Basis(kind="pca"), Basis(kind="mrl")]
    bases += [Basis(kind="opq"), Basis(kind="opq", of="prefix")] if kind in ("pq4fs", "pq8") else []
    for number, (basis, dims) in enumerate(product(bases, ((4, 16), (16, 8), (24, 24)))):
        metric: Any = METRICS[number % 3]
        coarse = Coarse(dims=dims[0], nlist=8, iterations=2)
        spec = variant("ivf", rows=400, metric=metric, basis=basis, coarse=coarse)
        spec = replace(spec, codes=Codes(kind=kind, dims=dims[1]))
        trained = train(vectors, spec)
        merged = merge(trained, [encode(trained, vectors)])
        base = base_of(trained, merged)
        _, rows = base.search(base.axes.points(vectors[:50]), 1, Words(kind="lists", nprobe=8, shortlist=300))
        if metric != "ip":
            assert (merged.order[rows[:, 0]] == np.arange(50)).mean() > 0.95, (basis, dims, metric)
        assert (rows >= 0).all()


@pytest.mark.parametrize("word", LEAST)
def test_a_word_below_its_least_is_refused_by_name(word: str) -> None:
    part, _, name = word.partition(".")
    spec = variant("adanns-ivf", rows=1000)
    low = replace(spec, **{part: replace(getattr(spec, part), **{name: -1})})
    if word != "codes.bytes":  # of sq8 there is no choice
        with pytest.raises(ConfigError, match=f"{word}=-1: must be"):
            settled(low, rows=1000, dim=32)
    bytes_of_pq = replace(low, codes=Codes(kind="pq4fs", bytes=-1))
    with pytest.raises(ConfigError):
        settled(bytes_of_pq, rows=1000, dim=32)


@pytest.mark.parametrize(
    ("spec", "rows", "said"),
    [
        (Spec(codes=Codes(kind="pq4fs")), 15, "codes.kind=pq4fs learns 16 centres and there are 15"),
        (Spec(codes=Codes(kind="pq8")), 255, "codes.kind=pq8 learns 256 centres and there are 255"),
        (Spec(basis=Basis(kind="opq"), codes=Codes(kind="sq8")), 999, "basis.kind=opq turns axes for"),
        (Spec(structure="hnsw", basis=Basis(kind="opq"), codes=Codes(kind="flat")), 999, "of hnsw; use pca"),
        (Spec(), 0, "an index needs vectors: 0 of 32"),
    ],
)
def test_what_faiss_would_end_the_process_for_is_told(spec: Spec, rows: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settled(spec, rows=rows, dim=32)


def test_settled_again_it_stays_and_leaves_nothing_open() -> None:
    for name, dim in product(VARIANTS, (8, 31, 64, 768)):
        once = settled(variant(name, rows=50_000), rows=50_000, dim=dim)
        assert settled(once, rows=50_000, dim=dim) == once
        assert once.coarse.dims and once.codes.dims and once.coarse.nlist and once.codes.bytes


def test_every_part_of_every_variant_comes_back_from_json() -> None:
    for name in VARIANTS:
        spec = settled(variant(name, rows=1000), rows=1000, dim=64)
        assert from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("value", [None, "x", True, 1.5, [], {}, [[1]], -1.5])
def test_json_of_another_type_is_refused_by_name_for_every_key(value: Any) -> None:
    plain = Spec().to_json()
    for part, words in plain.items():
        for word in words if isinstance(words, dict) else [""]:
            broken = json.loads(json.dumps(plain))
            if word:
                broken[part][word] = value
            else:
                broken[part] = value
            allowed = (
                (value is None and word in ("max_ms", "max_bytes"))
                or (value is True and word == "center")
                or (value in (1.5, -1.5) and value is not True and word in ("recall", "max_ms"))
                or (value == [] and word == "funnel")
                or (value == {} and word == "funnel")
                or (value == {} and not word and dataclasses.is_dataclass(getattr(Spec(), part)))
            )
            if not allowed:
                with pytest.raises(ConfigError, match=word or part):
                    from_json(broken)
