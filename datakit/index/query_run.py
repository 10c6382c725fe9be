"""What the words of `datakit query` ask, done: a table, a JSON object, a contact sheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.errors import ConfigError
from datakit.index.catalogue import Catalogue, open_catalogue
from datakit.index.clusters import THRESHOLD, clusters
from datakit.index.examples import GAMMA, metric_of
from datakit.index.opened import Index
from datakit.index.pack import KEY
from datakit.index.query import Answer, Request, answer
from datakit.index.query_files import cut_out, picture, vectors
from datakit.index.query_words import SHEET, QueryOptions
from datakit.index.sets import SHORTLIST, TOGETHER, SetRequest, answer_set
from datakit.index.where import matches
from datakit.manifest import write_bytes
from datakit.store.lines import table_lines
from datakit.store.sheet import Entry, contact_sheet

FIRST = (
    "set",
    "crop",
    "rank",
    "cluster",
    "score",
    "key",
    "shared",
    "class_name",
    "caption",
)  # columns, from the left


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """value: for JSON. head: a line over the table of `rows`, of which the sheet shows pictures."""

    value: dict[str, Any]
    head: str
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)


def run_query(asked: QueryOptions) -> tuple[dict[str, Any], str]:
    """(JSON, text for people). Raises ConfigError, MissingExtra, StoreError for a damaged or foreign index."""
    request = _request(asked) if asked.asks else None
    catalogue = open_catalogue(asked.index, trusted=asked.trusted)
    if asked.sheet and not catalogue.has_store:
        raise ConfigError(f"sheet=: {asked.index} is an index without a store, and its images are not here")
    if request is not None:
        shown = _answered(catalogue, request, asked)
    else:
        shown = _duplicates(catalogue, asked, THRESHOLD if asked.clusters is None else asked.clusters)
    value, lines = shown.value, [shown.head, *_table(shown.rows, asked.columns)]
    if asked.sheet:
        value["sheet"] = asked.sheet
        lines += ["", _sheet(catalogue, shown.rows, Path(asked.sheet), _title(asked))]
    return value, "\n".join(lines)


def _request(asked: QueryOptions) -> Request | SetRequest:
    boxes = asked.boxes
    paths = [] if boxes else [*asked.image, *asked.crops]
    images = cut_out(asked.image[0], boxes) if boxes else tuple(picture(path) for path in paths)
    examples: dict[str, Any] = {
        "text": asked.text, "image": images, "key": asked.key, "vector": vectors(asked.vector),
        "where": asked.where, "index": asked.name, "own": asked.own,
    }  # fmt: skip
    if asked.is_set:
        return SetRequest(
            **examples,
            set_by=asked.set_by,
            together=TOGETHER if asked.together is None else asked.together,
            sets=asked.sets,
            shortlist=asked.shortlist or SHORTLIST,
        )
    return Request(
        **examples,
        minus_text=asked.minus.text,
        minus_image=tuple(picture(path) for path in asked.minus.image),
        minus_key=asked.minus.key,
        gamma=GAMMA if asked.gamma is None else asked.gamma,
        k=asked.k,
        exact=asked.exact,
        nprobe=asked.nprobe,
        shortlist=asked.shortlist,
    )


def _answered(catalogue: Catalogue, request: Request | SetRequest, asked: QueryOptions) -> _Shown:
    if isinstance(request, SetRequest):
        found = answer_set(catalogue, request)
    else:
        found = answer(catalogue, request)
        if asked.clusters is not None:
            index = catalogue.index_for(request.kinds, request.index)
            found = replace(found, table=_with_clusters(index, found, asked.clusters))
    value = found.to_json()
    head = f"{len(value['hits'])} of the index {found.index}, {_plan(found.plan)}"
    return _Shown(value=value, head=head, rows=value["hits"])


def _with_clusters(index: Index, found: Answer, threshold: float) -> pa.Table:
    """The answer with the column `cluster`: near-duplicates share a number, the best of them comes first."""
    labels = clusters(index, threshold, rows=found.rows)["cluster"].to_pylist()
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    column = pa.array([numbers[label] for label in labels], pa.int64())
    name = "meta.cluster" if "cluster" in found.table.column_names else ""
    names = [name if one == "cluster" else one for one in found.table.column_names]
    return found.table.rename_columns(names).add_column(1, "cluster", column)


def _duplicates(catalogue: Catalogue, asked: QueryOptions, threshold: float) -> _Shown:
    """Of the whole index, or of what matches: clusters of two and more, the `k` largest of them as rows."""
    index = catalogue.index_for("key", asked.name)
    rows = np.flatnonzero(index.live & matches(index.meta, asked.where))
    found = clusters(index, threshold, rows=rows)
    groups = dict[int, list[str]]()
    several = found.filter(pa.array(np.asarray(found["size"]) > 1))
    for key, number in zip(several[KEY].to_pylist(), several["cluster"].to_pylist(), strict=True):
        groups.setdefault(number, []).append(key)
    numbers = sorted(groups)
    shown = [(number, key) for number in numbers[: asked.k] for key in groups[number]]
    value = {
        "index": index.name,
        "metric": metric_of(index),
        "threshold": threshold,
        "rows": len(rows),
        "clusters": [groups[number] for number in numbers],
    }
    head = f"{len(groups)} clusters of two or more among {len(rows)} of the index {index.name}, from {threshold:g}"
    return _Shown(value=value, head=head, rows=_described(index, shown))


def _described(index: Index, members: Iterable[tuple[int, str]]) -> list[dict[str, Any]]:
    numbers, keys = zip(*members, strict=True) if (members := list(members)) else ((), ())
    meta = index.meta.take(pa.array(index.rows(keys)))
    return [{**row, "cluster": number} for number, row in zip(numbers, meta.to_pylist(), strict=True)]


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    if not rows:
        yield "nothing matches"
        return
    if unknown := next((name for name in columns if name not in rows[0]), None):
        raise ConfigError(f"columns={unknown}: there are {', '.join(rows[0])}")
    first = [name for name in FIRST if name in rows[0]]
    yield ""
    yield from table_lines(rows, list(columns) or list(dict.fromkeys([*first, *rows[0]])))


def _plan(plan: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in plan.items() if not isinstance(value, list | dict))


def _title(asked: QueryOptions) -> str:
    said = [*asked.text, *asked.image, *asked.key, *filter(None, [asked.vector])]
    said += [] if asked.boxes else asked.crops
    what = ", ".join(said) or f"near-duplicates from {asked.clusters}"
    return f"{what}{f' where {asked.where}' if asked.where else ''}"


def _sheet(catalogue: Catalogue, rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> str:
    from datakit.image import Image

    entries = [Entry(Image(catalogue.image(row[KEY])), _said(row), row[KEY]) for row in rows[:SHEET]]
    data, broken = contact_sheet(title, entries)
    write_bytes(path, data)
    return f"{path}: {len(entries)} images" + (f", {broken} of them undecodable" if broken else "")


def _said(row: Mapping[str, Any]) -> str:
    """Under a picture: its score, or the cluster that it is of, and what it is."""
    number = f"{row['score']:.3f}" if "score" in row else f"#{row['cluster']}"
    return f"{number} {row.get('class_name') or row.get('caption') or ''}".rstrip()
