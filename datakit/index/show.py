"""What an index says of itself: rows, spec, how it is searched, and what recall costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datakit.index.opened import Index, open_index
from datakit.store.lines import aligned, plain

STEPS = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 1.0)  # of recall
CURVE = ("kind", "nprobe", "margin", "ef", "shortlist", "recall", "cost_us", "ms", "scanned")  # columns


def described(place: Path) -> tuple[dict[str, Any], str]:
    """(JSON, text for people) of the index in this folder. Raises StoreError for a damaged one."""
    index = open_index(place)
    about, spec = index.about, index.base.spec
    dead, added = len(index.live) - len(index), len(index.added)
    value = {
        "name": index.name,
        "rows": len(index),
        "added": added,
        "deleted": dead,
        "dim": index.dim,
        "columns": index.meta.column_names,
        "bytes": sum(noted["bytes"] for noted in about["files"].values()),
        "search": about["search"],
        **{name: about[name] for name in ("generation", "spec", "encoders", "pairing", "curve", "files")},
    }
    kind = spec.structure if spec.structure != "ivf" else f"{spec.coarse.nlist} lists of {spec.codes.kind}"
    lines = [
        f"{plain(index.name)}: {len(index):,} rows of {index.dim} dims, {spec.space.metric}, {kind}",
        f"  files   {value['bytes'] / 1e6:.1f} MB, generation {about['generation']}",
        f"  columns {', '.join(map(plain, index.meta.column_names))}",
        f"  target  recall {spec.target.recall:g} of the {spec.target.k} nearest",
        f"  search  {_tuned(about)}",
    ]
    if added or dead:
        lines.append(f"  since   {added} rows added, {dead} deleted: datakit index compact folds them in")
    return value, "\n".join([*lines, "", *_curve(about)] if about["curve"] else lines)


def _tuned(about: Mapping[str, Any]) -> str:
    words = about["search"]
    if not words:
        return "not tuned; datakit index tune does it"
    return ", ".join(f"{name} {value}" for name, value in words.items())


def _curve(about: Mapping[str, Any]) -> list[str]:
    """The cheapest point from each of STEPS on; all of them are in the JSON."""
    steps = (next((one for one in about["curve"] if one["recall"] >= step), None) for step in STEPS)
    points = list({id(one): one for one in steps if one is not None}.values())
    names = [name for name in CURVE if any(name in point for point in points)]
    rows = [[f"{point[name]}" if name in point else "" for name in names] for point in points]
    return aligned([names, *rows])


def keys_json(index: Index, hits: Any) -> list[list[dict[str, Any]]]:
    """The neighbours of each query as JSON has them."""
    keys = index.keys.to_pylist()
    return [
        [
            {"key": keys[row], "score": round(float(score), 6)}
            for row, score in zip(rows, scores, strict=True)
            if row >= 0
        ]
        for rows, scores in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True)
    ]
