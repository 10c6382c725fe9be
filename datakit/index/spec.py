"""What an index is made of, as frozen words: space, basis, lists, codes, re-rank, target. Checked before any work.

Dims are those of nested embeddings: d_c is what vectors are sorted into lists by, d_s what lists are scanned with, as
AdANNS decouples them (Rege et al. 2023). A dim of 0 and a list count of 0 mean: chosen from the data.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from datakit.errors import ConfigError, did_you_mean

Metric = Literal["cosine", "ip", "l2"]
BasisKind = Literal["raw", "pca", "mrl", "opq"]
CodeKind = Literal["flat", "fp16", "sq8", "pq4fs", "pq8", "rabitqfs", "panorama", "nested"]
Structure = Literal["flat", "ivf", "hnsw"]
PANORAMA_LEVELS = 8  # of progressive pruning, each an eighth of the dims
CENTRES = {"pq4fs": 16, "pq8": 256}  # of a product quantizer's part: it learns from as many vectors at least
SMALL = 20_000  # rows under which exact search of all of them costs less than any list does


@dataclass(frozen=True, kw_only=True)
class Space:
    """How vectors are compared. `center`: the training mean is taken off first (queries too), before normalising."""

    metric: Metric = "cosine"
    center: bool = False


@dataclass(frozen=True, kw_only=True)
class Basis:
    """The axes that prefixes are taken of. raw: as given; mrl: as given, nested by training, so that a prefix is a
    vector of its own and is normalised anew; pca: by energy, turned at random within the d_s kept so that codes of
    equal bits meet equal energy; opq: the rotation that suits a product quantizer (Ge et al. 2013), `of` the whole
    vectors or, as AdANNS-OPQ does with nested ones, of their prefix d_s alone.
    """

    kind: BasisKind = "pca"
    of: Literal["whole", "prefix"] = "whole"
    train_rows: int = 20_000


@dataclass(frozen=True, kw_only=True)
class Coarse:
    """Lists by k-means on d_c dims. `init`: of the centroids. trainer=faiss learns of a sample, `points_per_list` for
    each; distributed passes over all rows, on all workers (lloyd.py), from some drawn at random.
    """

    dims: int = 0
    nlist: int = 0
    iterations: int = 10
    points_per_list: int = 60
    init: Literal["random", "kmeans++"] = "random"
    trainer: Literal["faiss", "distributed"] = "faiss"


@dataclass(frozen=True, kw_only=True)
class Codes:
    """What lists hold of each vector: d_s dims of it, in `bytes` bytes where the kind leaves a choice."""

    kind: CodeKind = "pq4fs"
    dims: int = 0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Rerank:
    """The best `shortlist` by code, compared again by stored vectors. `funnel`: (dims, how many) on the way there,
    each step on a longer prefix; `shortlist` 0: codes have the last word.
    """

    store: Literal["fp32", "fp16"] = "fp32"
    shortlist: int = 100
    funnel: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Target:
    """What search must reach. `max_ms`: of one query alone, measured; `max_bytes`: of codes and lists, a vector."""

    recall: float = 0.95
    k: int = 10
    max_ms: float | None = None
    max_bytes: int | None = None
    queries: int = 512


@dataclass(frozen=True, kw_only=True)
class Graph:
    """HNSW over the prefix (Malkov & Yashunin 2018): links a vector, candidates while building."""

    links: int = 16
    ef_construction: int = 80


@dataclass(frozen=True, kw_only=True)
class Spec:
    """All of an index that is not data. What of it a `structure` does not use is ignored."""

    structure: Structure = "ivf"
    space: Space = field(default_factory=Space)
    basis: Basis = field(default_factory=Basis)
    coarse: Coarse = field(default_factory=Coarse)
    codes: Codes = field(default_factory=Codes)
    graph: Graph = field(default_factory=Graph)
    rerank: Rerank = field(default_factory=Rerank)
    target: Target = field(default_factory=Target)
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


VARIANTS: dict[str, Spec] = {
    "flat": Spec(structure="flat"),
    "ivf": Spec(basis=Basis(kind="raw"), codes=Codes(kind="flat"), rerank=Rerank(shortlist=0)),
    "adanns-ivf": Spec(codes=Codes(kind="sq8")),
    "adanns-opq": Spec(basis=Basis(kind="opq"), coarse=Coarse(nlist=1), codes=Codes(kind="pq8")),
    "adanns-ivfopq": Spec(basis=Basis(kind="opq"), codes=Codes(kind="pq8")),
    "adanns-ivfpq4fs": Spec(),
    "adanns-hnsw": Spec(structure="hnsw", codes=Codes(kind="sq8")),
    "adanns-disk": Spec(codes=Codes(kind="pq4fs"), rerank=Rerank(shortlist=200)),
    "adanns-d": Spec(codes=Codes(kind="nested")),
}
"""The searches of the field by name. `auto`: flat where few vectors are, else adanns-ivfpq4fs."""

LEAST: dict[str, float] = {
    "basis.train_rows": 1,
    "coarse.nlist": 1,
    "coarse.iterations": 1,
    "coarse.points_per_list": 1,
    "codes.bytes": 1,
    "graph.links": 2,  # of one link faiss takes the inverse of a logarithm
    "graph.ef_construction": 1,
    "rerank.shortlist": 0,
    "target.max_ms": 0,
    "target.max_bytes": 1,
    "target.queries": 1,
}


def variant(name: str, *, rows: int, metric: Metric = "cosine", **parts: Any) -> Spec:
    """The spec called `name` for so many rows; `parts` replace whole parts of it. Raises ConfigError."""
    if name == "auto":
        name = "flat" if rows <= SMALL else "adanns-ivfpq4fs"
    if name not in VARIANTS:
        raise ConfigError(
            f"no index {name}{did_you_mean(name, VARIANTS)}; there are auto, {', '.join(VARIANTS)}"
        )
    spec = VARIANTS[name]
    if metric != spec.space.metric and "space" not in parts:
        parts["space"] = replace(spec.space, metric=metric)
    return replace(spec, **parts)


def settled(spec: Spec, *, rows: int, dim: int) -> Spec:
    """The spec with every dim and count that was left open, for `rows` vectors of `dim`. Raises ConfigError.

    Lists: the power of two next to 2 √rows, and no more than train with 39 vectors each (faiss's least). d_c: a fourth
    of the dims; d_s: half of those that training nested, a third of PCA's; all of them where the basis is raw.
    """
    if rows < 1 or dim < 1:
        raise ConfigError(f"an index needs vectors: {rows} of {dim} dims were given")
    whole = spec.basis.kind == "raw" or dim < 32
    d_s = spec.codes.dims or (dim if whole or spec.codes.kind == "nested" else _kept_dims(spec, dim))
    step = {"pq4fs": 2, "panorama": PANORAMA_LEVELS}.get(spec.codes.kind, 1)
    d_s -= d_s % step if d_s > step and not spec.codes.dims else 0
    d_c = spec.coarse.dims or (dim if whole else max(16, dim // 4))
    lists = spec.coarse.nlist or 2 ** max(0, round(math.log2(2 * rows**0.5)))
    # Few vectors a list: k-means would only learn them by heart.
    lists = min(lists, rows // 39 or 1)
    codes = replace(spec.codes, dims=d_s, bytes=_code_bytes(spec.codes, d_s))
    found = replace(spec, coarse=replace(spec.coarse, dims=d_c, nlist=lists), codes=codes)
    check(found, rows=rows, dim=dim)
    return found


def _kept_dims(spec: Spec, dim: int) -> int:
    """Dims that codes keep: measured best at 200,000 rows of 256 and 768 dims (tools/bench_index.py)."""
    most = dim // 2 if spec.basis.kind == "mrl" else max(dim // 3, min(dim // 2, 128))
    return most // 32 * 32 if most >= 64 else most


def _code_bytes(codes: Codes, d_s: int) -> int:
    """Of one vector. Of 4-bit codes two dims share one, so that a byte holds four; of 8-bit codes eight dims do."""
    given = {"flat": 4 * d_s, "fp16": 2 * d_s, "sq8": d_s, "panorama": 4 * d_s, "nested": 4 * d_s}
    if codes.kind in given:
        return given[codes.kind]
    if codes.kind == "rabitqfs":
        return (d_s + 7) // 8 + 8
    if codes.bytes:
        return codes.bytes
    steps = range(4, d_s + 1, 2) if codes.kind == "pq4fs" else range(8, d_s + 1)  # dims of a byte
    return next((d_s // step for step in steps if d_s % step == 0), 1)


def check(spec: Spec, *, rows: int, dim: int) -> None:
    """Raises ConfigError for what does not fit together: faiss would end the process for some of it."""
    for name, dims in (("coarse.dims", spec.coarse.dims), ("codes.dims", spec.codes.dims)):
        if not 1 <= dims <= dim:
            raise ConfigError(f"{name}={dims}: the vectors have {dim}")
    for name, least in LEAST.items():
        part, _, word = name.partition(".")
        value = getattr(getattr(spec, part), word)
        if value is not None and value < least:
            raise ConfigError(f"{name}={value}: must be {least} or more")
    parts = spec.codes.bytes * (2 if spec.codes.kind == "pq4fs" else 1)
    if spec.codes.kind in ("pq4fs", "pq8") and spec.structure == "ivf" and spec.codes.dims % parts:
        raise ConfigError(
            f"codes.bytes={spec.codes.bytes}: {parts} codes do not share {spec.codes.dims} dims evenly"
        )
    learned = CENTRES.get(spec.codes.kind, 0) if spec.structure == "ivf" else 0
    if rows < learned:
        raise ConfigError(
            f"codes.kind={spec.codes.kind} learns {learned} centres and there are {rows} vectors; use flat"
        )
    if spec.basis.kind == "opq" and not learned and spec.structure != "flat":
        raise ConfigError(
            f"basis.kind=opq turns axes for the codes pq4fs and pq8, not {spec.codes.kind} of {spec.structure}; use pca"
        )
    if spec.codes.kind == "panorama" and spec.codes.dims % PANORAMA_LEVELS:
        raise ConfigError(
            f"codes.kind=panorama needs dims that {PANORAMA_LEVELS} divides, not {spec.codes.dims}"
        )
    if spec.structure == "hnsw" and spec.codes.kind not in ("flat", "fp16", "sq8"):
        raise ConfigError(f"a graph holds vectors as flat, fp16 or sq8, not {spec.codes.kind}")
    if spec.coarse.trainer == "distributed" and spec.coarse.init != "random":
        raise ConfigError(f"coarse.init={spec.coarse.init}: trainer=distributed begins at random rows")
    if not 0 < spec.target.recall <= 1 or spec.target.k < 1:
        raise ConfigError(
            f"target.recall={spec.target.recall} at k={spec.target.k}: give a share and a count"
        )
    if spec.rerank.funnel and spec.basis.kind not in ("raw", "mrl"):
        raise ConfigError(
            "rerank.funnel compares prefixes of the vectors themselves: it needs basis raw or mrl"
        )
    last = 0
    for dims, many in spec.rerank.funnel:
        if not last < dims <= dim or many < 1:
            raise ConfigError(f"rerank.funnel={spec.rerank.funnel}: prefixes must grow, up to {dim}")
        last = dims
