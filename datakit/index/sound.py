"""Whether the parts of an index fit each other. Whole files can still be of two indices, or of none.

faiss believes what it is given, and numpy what it is told: a row beyond the end would be read there. So all that
numbers in the files are used for is looked at once, when the index is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError, StoreError
from datakit.index.spec import Spec, check
from datakit.index.spec_json import from_json

if TYPE_CHECKING:
    from datakit.index.base import Base

NAME = re.compile(r"[a-z]+-\d{1,18}\.(npz|npy|arrow|faiss)")  # of a file of an index, beside index.json
ALWAYS = {"axes", "vectors", "meta"}  # parts of every base
CLASSES = {
    "flat": "IndexIVFFlat",
    "fp16": "IndexIVFScalarQuantizer",
    "sq8": "IndexIVFScalarQuantizer",
    "pq4fs": "IndexIVFPQFastScan",
    "pq8": "IndexIVFPQ",
    "rabitqfs": "IndexIVFRaBitQFastScan",
    "panorama": "IndexIVFFlatPanorama",
}
KINDS: dict[str, type] = {
    "name": str,
    "nested": bool,
    **dict.fromkeys(("spec", "base", "files", "encoders", "pairing", "search"), dict),
    **dict.fromkeys(("deltas", "curve"), list),
}
DIMS = 1 << 24  # of a vector at most: Arrow and faiss count them in 32 bits
MANY = 1 << 62  # rows: how many a code learns from was asked when it learned


def spec_of_about(path: Path, about: Mapping[str, Any]) -> Spec:
    """The spec that `index.json`, at `path`, holds. Raises StoreError naming the file and what cannot be."""
    if said := next(_wrong(about), ""):
        raise StoreError(f"{path} is not as datakit writes it: {said}; build the index again")
    try:
        spec = from_json(about["spec"])
        check(spec, rows=MANY, dim=about["dim"])
    except ConfigError as problem:
        raise StoreError(f"{path} is not as datakit writes it: {problem}; build the index again") from problem
    if (wanted := ALWAYS | _parts(spec)) != set(about["base"]):
        raise StoreError(f"{path} must name {', '.join(sorted(wanted))} for a {spec.structure} index")
    if said := _contradiction(spec, about):
        raise StoreError(f"{path} is not as datakit writes it: {said}; build the index again")
    return spec


def _contradiction(spec: Spec, about: Mapping[str, Any]) -> str:
    """What `index.json` says of search that an index of this spec has not; empty if nothing is."""
    kinds = {"flat", {"ivf": "lists", "hnsw": "graph", "flat": "flat"}[spec.structure]}
    for point in [*about["curve"], *([about["search"]] if about["search"] else [])]:
        if point["kind"] not in kinds or point.get("nprobe", 0) > spec.coarse.nlist:
            return f"{point!r} is no way to search {spec.coarse.nlist} lists"
    own = spec.basis.kind in ("raw", "mrl") or (spec.basis.kind == "opq" and spec.basis.of == "prefix")
    nested = own and spec.space.metric == "cosine" and spec.structure != "flat"
    return "" if about["nested"] == nested else f"nested is {about['nested']}"


def _parts(spec: Spec) -> set[str]:
    if spec.structure == "ivf":
        return {"nested" if spec.codes.kind == "nested" else "lists"}
    return {"graph"} if spec.structure == "hnsw" else set()


def _wrong(about: Mapping[str, Any]) -> Iterator[str]:
    """What is missing or of another kind; what comes after the first is not to be relied on."""
    for name, least in (("rows", 1), ("dim", 1), ("generation", 0), ("learned", 1)):
        most = DIMS if name == "dim" else MANY
        if not _is_count(about.get(name)) or not least <= about[name] <= most:
            yield f"{name} is {about.get(name)!r}"
    for name, kind in KINDS.items():
        if not isinstance(about.get(name), kind):
            yield f"{name} is {about.get(name)!r}"
    for name in ("encoders", "pairing"):
        if not _is_text(about[name]):
            yield f"{name} is {about[name]!r}"
    deleted = [] if about.get("deleted") is None else [about["deleted"]]
    files = [*about["base"].values(), *about["deltas"], *deleted]
    for at, file in enumerate(files):
        if not isinstance(file, str) or not NAME.fullmatch(file) or file in files[:at]:
            yield f"{file!r} is no file of an index, or named twice"
    for file, noted in about["files"].items():
        if (
            not isinstance(noted, dict)
            or not _is_count(noted.get("bytes"))
            or not _is_text(noted | {"bytes": ""})
        ):
            yield f"files has no size and digest of {file}"
    for point in [*about["curve"], *([about["search"]] if about["search"] else [])]:
        if not isinstance(point, dict) or not _is_point(point):
            yield f"{point!r} is no way to search"
    for point in about["curve"]:
        if point["kind"] == "lists" and not {"nprobe", "scanned"} <= point.keys():
            yield f"{point!r} is no point of a curve"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MANY


def _is_text(value: Any) -> bool:
    """Text, or keys that lead to text."""
    return isinstance(value, dict) and all(isinstance(one, str) or _is_text(one) for one in value.values())


def _is_point(point: Mapping[str, Any]) -> bool:
    numbers = [value for name, value in point.items() if name != "kind"]
    plain = all(isinstance(one, int | float) and not isinstance(one, bool) and one >= 0 for one in numbers)
    counts = all(_is_count(point.get(name, 0)) for name in ("nprobe", "shortlist", "ef", "dims", "filtered"))
    return isinstance(point.get("kind"), str) and plain and counts


def check_learned(path: Path, arrays: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Of the arrays at `path` those that upkeep uses. Raises StoreError naming the file."""
    held, empty = arrays["held"], arrays["empty"]
    rows = held.dtype == np.int64 and held.ndim == 1 and (held >= 0).all() and (held < about["rows"]).all()
    if not rows or empty.dtype != np.uint8 or empty.ndim != 1:
        raise StoreError(
            f"{path} does not hold what was learned of {about['rows']} rows; build the index again"
        )


def check_fit(base: Base, place: Path, about: Mapping[str, Any]) -> None:
    """Raises StoreError naming the file whose counts or shapes are not those of the others."""
    names, rows = about["base"], int(about["rows"])

    def refuse(part: str, said: str) -> StoreError:
        return StoreError(f"{place / names[part]}: {said}, and its index has others; build the index again")

    for part, count in {"vectors": len(base.points), **_counts(base)}.items():
        if count != rows:
            raise refuse(part, f"{count} rows, not {rows}")
    for name, found, shape in _shapes(base):
        if found.dtype != np.float32 or found.shape != shape:
            raise refuse("axes", f"{name} of {found.dtype} {found.shape}, not {shape}")
    ends = base.ends
    fits = ends.dtype == np.int64 and ends.shape == (max(1, base.nlist),)
    if not fits or int(ends[-1]) != rows or (np.diff(ends, prepend=0) < 0).any():
        raise refuse("axes", f"lists that do not end at row {rows}")
    if base.lists is not None and (said := _lists(base)):
        raise refuse("lists", said)
    if base.graph is not None and (said := _graph(base)):
        raise refuse("graph", said)


def _counts(base: Base) -> dict[str, int]:
    parts = {"lists": base.lists, "graph": base.graph}
    counts = {part: int(found.ntotal) for part, found in parts.items() if found is not None}
    return counts | ({} if base.nested is None else {"nested": len(base.nested)})


def _shapes(base: Base) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """(name, array, the shape it must have)."""
    axes, dim, spec = base.axes, base.points.shape[1], base.spec
    yield "center", axes.center, (dim if len(axes.center) or spec.space.center else 0,)
    yield "coarse axes", axes.coarse, (axes.d_c if len(axes.coarse) else 0, dim)
    turned = spec.basis.kind in ("pca", "opq") and spec.structure != "flat"
    yield "code axes", axes.codes, (axes.d_s if turned else 0, dim)
    if spec.structure == "ivf":
        yield "centroids", base.centroids, (spec.coarse.nlist, axes.d_c)
        yield "means", base.means, (spec.coarse.nlist, axes.d_s)


def _lists(base: Base) -> str:
    """What of faiss's lists is not what was built; empty if nothing is."""
    import faiss

    lists, kind, nlist = base.lists, base.spec.codes.kind, base.nlist
    metric = faiss.METRIC_L2 if base.spec.space.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    if type(lists).__name__ != CLASSES[kind] or lists.code_size != base.spec.codes.bytes:
        return f"{type(lists).__name__} of {getattr(lists, 'code_size', 0)} bytes, not {kind}"
    if (lists.nlist, lists.d, lists.metric_type) != (nlist, base.means.shape[1], metric):
        return f"{lists.nlist} lists of {lists.d} dims"
    held = lists.invlists
    if held.nlist != nlist or [held.list_size(at) for at in range(nlist)] != base.sizes.tolist():
        return "lists of other lengths"
    # A row's id is its place: what faiss answers is used as one.
    ids = [
        faiss.rev_swig_ptr(held.get_ids(at), held.list_size(at)) for at in np.flatnonzero(base.sizes).tolist()
    ]
    return "" if (np.concatenate(ids) == np.arange(len(base))).all() else "other rows in its lists"


def _graph(base: Base) -> str:
    """As `_lists`. Links are followed without a look: they must lead to rows."""
    import faiss

    graph, rows, kind = base.graph, len(base), base.spec.codes.kind
    metric = faiss.METRIC_L2 if base.spec.space.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    if type(graph).__name__ != ("IndexHNSWFlat" if kind == "flat" else "IndexHNSWSQ"):
        return f"{type(graph).__name__}, not a graph of {kind}"
    if (graph.d, graph.metric_type) != (base.axes.d_s, metric):
        return f"a graph of {graph.d} dims"
    links = faiss.vector_to_array(graph.hnsw.neighbors)
    if len(links) and not -1 <= links.min() <= links.max() < rows:
        return "links to rows that are not there"
    return "" if 0 <= graph.hnsw.entry_point < rows else "a way in that is not there"
