"""Codes in lists: faiss's IVF of d_s dims, filled and searched with lists chosen elsewhere, by d_c dims.

One way for every kind: an empty IVF is trained; `encode` gives each row's list and code, alike whichever part of the
data it lies in; `fill` puts them into lists in a fixed order, and the fast kinds are packed last, once. So parts made
anywhere merge to what one would have made, which faiss's own merging does not promise (of Panorama it is wrong, of
FastScan on disk it fails: faiss 1.15.1, issue 5607).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datakit.errors import ConfigError, StoreError
from datakit.index.arrays import Bools, Bytes, Floats, Longs, floats, longs, pointer
from datakit.index.coarse import flat_index
from datakit.index.spec import PANORAMA_LEVELS, Spec

PACK = 32  # codes that FastScan keeps side by side
TRAIN = 16_384  # rows that a product quantizer learns from; 1,024 for each of its 16 centres
CHEAP = 12  # a product of matrices compares as many means in the time in which one is fetched for one query
FEW = 16  # queries for which a product of matrices does not pay


def empty_lists(means: Floats, spec: Spec) -> Any:
    """faiss's IVF for codes of this kind, with these means (nlist, d_s) in it; neither trained nor filled."""
    import faiss

    kind, dims, nlist = spec.codes.kind, means.shape[1], len(means)
    metric = faiss.METRIC_L2 if spec.space.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    quantizer = flat_index(means, spec.space.metric)
    if kind == "flat":
        lists = faiss.IndexIVFFlat(quantizer, dims, nlist, metric)
    elif kind in ("fp16", "sq8"):
        scalar = faiss.ScalarQuantizer.QT_fp16 if kind == "fp16" else faiss.ScalarQuantizer.QT_8bit
        lists = faiss.IndexIVFScalarQuantizer(quantizer, dims, nlist, scalar, metric)
    elif kind in ("pq4fs", "pq8"):
        parts, bits = (2 * spec.codes.bytes, 4) if kind == "pq4fs" else (spec.codes.bytes, 8)
        lists = faiss.IndexIVFPQ(quantizer, dims, nlist, parts, bits, metric)
        lists.pq.cp.min_points_per_centroid = 1
        lists.use_precomputed_table = -1  # of preassigned lists it would be that of others
    elif kind == "rabitqfs":
        lists = faiss.IndexIVFRaBitQ(quantizer, dims, nlist, metric)
    elif kind == "panorama":
        lists = faiss.IndexIVFFlatPanorama(quantizer, dims, nlist, PANORAMA_LEVELS, metric)
    else:
        raise ConfigError(f"codes.kind={kind} is no kind of list")
    quantizer.this.disown()  # the lists own it from here on
    lists.own_fields = True
    return lists


def train_lists(rows: Floats, assigned: Longs, means: Floats, spec: Spec) -> Any:
    """Empty lists whose codes were learned from rows (N, d_s) and the list of each."""
    lists = empty_lists(means, spec)
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), TRAIN)).astype(np.int64)
    sample, where = np.ascontiguousarray(rows[chosen]), longs(assigned[chosen])
    rest = np.ascontiguousarray(sample - means[where]) if lists.by_residual else sample
    lists.train_encoder(len(rest), pointer(rest), pointer(where))
    lists.is_trained = True
    return lists


def encode(lists: Any, rows: Floats, assigned: Longs) -> Bytes:
    """(N, bytes of a code) of rows (N, d_s)."""
    rows, assigned = floats(rows, lists.d), longs(assigned)
    codes = np.empty((len(rows), lists.code_size), np.uint8)
    if len(rows):
        lists.encode_vectors(len(rows), pointer(rows), pointer(assigned), pointer(codes), False)
    return codes


def fill(lists: Any, assigned: Longs, codes: Bytes, first: int = 0) -> None:
    """Put codes, sorted by list, into lists; a row's id is its place in that order, from `first` on."""
    if (np.diff(assigned) < 0).any():
        raise ValueError("codes must come list by list")
    if codes.shape[1] != lists.code_size:
        raise StoreError(f"codes of {codes.shape[1]} bytes do not fit lists of {lists.code_size}")
    if lists.ntotal != first:
        raise ValueError(f"the lists hold {lists.ntotal} rows, and these come after {first}")
    ids = np.arange(first, first + len(codes), dtype=np.int64)
    filled = np.unique(assigned)
    starts = np.searchsorted(assigned, filled)
    for number, start, end in zip(filled.tolist(), starts, [*starts[1:], len(codes)], strict=True):
        part = np.ascontiguousarray(codes[start:end])
        lists.invlists.add_entries(number, int(end - start), pointer(ids[start:end]), pointer(part))
    lists.ntotal = first + len(codes)


def packed(lists: Any, kind: str) -> Any:
    """The lists as they are searched: FastScan's layout for the kinds that have one."""
    import faiss

    if kind == "pq4fs":
        return faiss.IndexIVFPQFastScan(lists, PACK)
    if kind == "rabitqfs":
        return faiss.IndexIVFRaBitQFastScan(lists, PACK)
    return lists


def list_scores(rows: Floats, chosen: Longs, means: Floats, metric: str) -> Floats:
    """(Q, nprobe) of each query (Q, d_s) with the means of its chosen lists: what a residual's score is added to."""
    import faiss

    if metric != "l2" and len(means) <= CHEAP * chosen.shape[1] and len(rows) >= FEW:
        # Rows of `chosen` are filled up with -1, often for the most part: only what is chosen is fetched.
        products = rows @ means.T
        found = np.zeros(chosen.shape, np.float32)
        places = np.flatnonzero(chosen >= 0)
        of_query = places // chosen.shape[1] * len(means)
        found.ravel()[places] = products.ravel()[of_query + chosen.ravel()[places]]
        return found
    scores = np.empty(chosen.shape, np.float32)
    by_id = faiss.fvec_L2sqr_by_idx if metric == "l2" else faiss.fvec_inner_products_by_idx
    queries, of_each = chosen.shape
    by_id(pointer(scores), pointer(rows), pointer(means), pointer(chosen), rows.shape[1], queries, of_each)
    scores[chosen < 0] = 0  # of no list faiss gives infinity
    return scores


def scan(
    lists: Any, rows: Floats, chosen: Longs, scores: Floats, *, k: int, allowed: Bytes | None = None
) -> tuple[Floats, Longs]:
    """The best k of each query's chosen lists: scores and ids (Q, k), -1 where there are fewer.

    allowed: a bitmap of ids, little-endian, of rows that may come; all may, if None.
    """
    import faiss

    rows, chosen = floats(rows, lists.d, "queries"), longs(chosen)
    scores = floats(scores, chosen.shape[1], "scores of lists")
    if len(chosen) != len(rows) or (len(chosen) and chosen.max() >= lists.nlist):
        raise ValueError("lists were chosen for other queries, or of another index")
    found, ids = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int64)
    if not len(rows):
        return found, ids
    # Built here and nowhere else: faiss reads parameters of another kind as if they were of this one.
    words: dict[str, Any] = {"nprobe": chosen.shape[1]}
    if allowed is not None:
        if len(allowed) * 8 < lists.ntotal:
            raise ValueError(f"a bitmap of {len(allowed) * 8} bits for {lists.ntotal} rows")
        words["sel"] = faiss.IDSelectorBitmap(allowed)
    parameters = faiss.SearchParametersIVF(**words)
    lists.search_preassigned_c(
        len(rows),
        pointer(rows),
        k,
        pointer(chosen),
        pointer(scores),
        pointer(found),
        pointer(ids),
        False,
        parameters,
    )
    return found, ids


def bitmap(mask: Bools) -> Bytes:
    return np.packbits(mask, bitorder="little")
