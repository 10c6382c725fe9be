"""The axes an index looks along: whole vectors as they are compared, and the prefixes that lists and codes are made of.

A prefix means something only where dims are nested: by training (MRL, Kusupati et al. 2022) or by PCA. Cut from axes
that are not, it is worse than no prefix at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datakit.index.arrays import Floats, in_blocks, unit
from datakit.index.spec import Spec
from datakit.rng import rng_for

TURNED = (
    "pq4fs",
    "pq8",
    "rabitqfs",
)  # codes with as many bits for each dim, so that each should hold as much
OPQ_ITERATIONS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Axes:
    """What was learned. `center` (D,) or empty; `coarse` (d_c, D) and `codes` (d_s, D), empty for a plain prefix."""

    metric: str
    d_c: int
    d_s: int
    nested: bool  # prefixes are vectors of their own, of length one under cosine
    center: Floats
    coarse: Floats
    codes: Floats

    def points(self, vectors: Floats) -> Floats:
        """(N, D) as they are compared: centred, of length one under cosine. A copy where anything changes."""
        found = vectors - self.center if len(self.center) else vectors
        return unit(found) if self.metric == "cosine" else found

    def for_lists(self, points: Floats) -> Floats:
        """(N, d_c), of length one under cosine: a list is a direction there."""
        found = _prefix(points, self.coarse, self.d_c)
        return unit(found) if self.metric == "cosine" else found

    def for_codes(self, points: Floats) -> Floats:
        """(N, d_s). Under cosine a nested prefix has length one; another keeps the length it has of the whole."""
        found = _prefix(points, self.codes, self.d_s)
        return unit(found) if self.nested and self.d_s < points.shape[1] else found

    def arrays(self) -> dict[str, Floats]:
        return {"center": self.center, "coarse": self.coarse, "codes": self.codes}


def _prefix(points: Floats, matrix: Floats, dims: int) -> Floats:
    if len(matrix):
        turned: Floats = points @ matrix.T
        return turned
    return points if dims == points.shape[1] else np.ascontiguousarray(points[:, :dims])


def in_space(vectors: Floats, axes: Axes, first: int = 0) -> Floats:
    """As `Axes.points`, block by block; first: see `in_blocks`."""
    return in_blocks(axes.points, vectors, first)


def train_axes(vectors: Floats, spec: Spec) -> Axes:
    """Axes for a settled spec, of a sample of vectors (N, D)."""
    dim, cosine = vectors.shape[1], spec.space.metric == "cosine"
    d_c, d_s, none = spec.coarse.dims, spec.codes.dims, np.empty((0, dim), np.float32)
    center = vectors.mean(axis=0, dtype=np.float64).astype(np.float32) if spec.space.center else none[:, 0]
    plain: dict[str, Any] = {"metric": spec.space.metric, "d_c": d_c, "d_s": d_s, "center": center}
    bare = Axes(nested=cosine, coarse=none, codes=none, **plain)
    points = bare.points(vectors)
    if spec.basis.kind in ("raw", "mrl"):
        return bare
    rng = rng_for(spec.seed, "index", "axes")
    chosen = np.sort(rng.permutation(len(points))[: spec.basis.train_rows])
    if spec.basis.kind == "opq":
        d_in = d_s if spec.basis.of == "prefix" else dim
        turn = _opq(points[chosen][:, :d_in], spec)
        codes = np.zeros((d_s, dim), np.float32)
        codes[:, :d_in] = turn
        # Lists are sorted by the prefix itself where prefixes mean something, else by energy.
        coarse = none if spec.basis.of == "prefix" or d_c == dim else principal_axes(points[chosen])[:d_c]
        return Axes(nested=cosine and spec.basis.of == "prefix", coarse=coarse, codes=codes, **plain)
    axes = principal_axes(points[chosen])
    codes = axes[:d_s]
    if spec.codes.kind in TURNED and spec.structure == "ivf":
        codes = np.linalg.qr(rng.standard_normal((d_s, d_s)))[0].astype(np.float32) @ codes
    return Axes(nested=False, coarse=axes[:d_c].copy(), codes=np.ascontiguousarray(codes), **plain)


def principal_axes(points: Floats) -> Floats:
    """(D, D) orthonormal rows, by falling energy. Not centred: so products and distances of points stay what they are.

    The sign of each is that of its largest number, so that libraries which disagree on signs agree on axes.
    """
    _, vectors = np.linalg.eigh((points.T @ points).astype(np.float64))
    axes = vectors[:, ::-1].T
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return np.ascontiguousarray(axes * signs[:, None], dtype=np.float32)


def _opq(points: Floats, spec: Spec) -> Floats:
    """(d_s, D) of faiss's OPQ (Ge et al. 2013), for as many parts as the codes have."""
    import faiss

    points = np.ascontiguousarray(points)
    parts = spec.codes.bytes * (2 if spec.codes.kind == "pq4fs" else 1)
    opq = faiss.OPQMatrix(points.shape[1], parts, spec.codes.dims)
    opq.niter = OPQ_ITERATIONS
    opq.max_train_points = len(points)
    quantizer = product_quantizer(spec.codes.dims, parts, 4 if spec.codes.kind == "pq4fs" else 8)
    opq.pq = quantizer  # looked at and not owned: it must live as long as the training
    opq.train(points)
    return faiss.vector_to_array(opq.A).reshape(opq.d_out, opq.d_in).copy()  # type: ignore[no-any-return]


def product_quantizer(dims: int, parts: int, bits: int) -> Any:
    """faiss's, with no words about few training vectors: how many there are is decided elsewhere."""
    import faiss

    found = faiss.ProductQuantizer(dims, parts, bits)
    found.cp.min_points_per_centroid = 1
    return found
