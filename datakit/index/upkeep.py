"""An index kept up to date: rows added, deleted, folded in, while others search it.

    add(place, vectors, meta)             # a delta beside the base, compared exactly
    delete(place, ["crow-003"])
    compact(place)                        # one base of all rows left, by what was learned; retrain=True: learned anew
    retune(place, Target(recall=0.99))

Each writes files under names of its own generation and then, by one rename, the `index.json` that names them. So
whoever opens the index, at any moment and however this process ends, has the one before or the one after.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import ConfigError, did_you_mean
from datakit.index import folder
from datakit.index.arrays import Longs, floats
from datakit.index.base import axes_of, base_of, learned, open_base, stores_half
from datakit.index.basis import in_space
from datakit.index.build import encode_points, held_rows, merge
from datakit.index.make import refuse_zero
from datakit.index.pack import KEY, checked_meta, index_files, keys_digest
from datakit.index.relearn import as_learned, learned_anew, unlearned
from datakit.index.rows import Rows, read_rows
from datakit.index.sound import MANY
from datakit.index.spec import Target, check
from datakit.index.tune import tune
from datakit.index.writing import commit, writing

DELTAS = 16  # files of added rows, at most: then they become one
SHOWN = 3  # keys that an error names


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What an index holds after an upkeep: rows that can be found; of these `added` lie beside the base; `deleted`
    rows are still in its files. generation: of its files; it rises with every change.
    """

    rows: int
    added: int
    deleted: int
    generation: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def add(place: str | os.PathLike[str], vectors: Any, meta: pa.Table, *, replace: bool = False) -> Kept:
    """Vectors (N, D) as the encoder gives them, with metadata of the columns that the index has; found from now on.

    Raises ConfigError: a key that is there already (replace: the new one takes its place), columns of other names or
    types, vectors of another length, not finite, or zero under cosine. EnvironmentProblem where another upkeep runs.
    """
    with writing(place) as (path, about):
        rows = read_rows(path, about)
        spec, arrays = learned(path, about)
        vectors = floats(vectors, about["dim"])
        meta = _of_schema(checked_meta(meta, len(vectors)), rows.meta.schema)
        refuse_zero(vectors, meta, spec)
        there = _rows_of(rows, meta[KEY])
        if (there >= 0).any() and not replace:
            raise ConfigError(
                f"{_named(meta[KEY], there >= 0)} in the index already; replace puts new ones there"
            )
        if not len(vectors):
            return _kept(rows, about)
        points = in_space(vectors, axes_of(spec, arrays, about), len(rows.live))
        points = points.astype(np.float16) if stores_half(spec) else points
        rows.live[there[there >= 0]] = False
        after = Rows(
            meta=pa.concat_tables([rows.meta, meta]).combine_chunks(),
            added=np.concatenate([rows.added, points]),
            live=np.concatenate([rows.live, np.ones(len(points), bool)]),
        )
        fold = len(about["deltas"]) >= DELTAS
        fresh = after.added if fold else points
        delta = after.meta.slice(len(after.live) - len(fresh)).append_column(
            folder.VECTOR, folder.vector_column(fresh)
        )
        name = f"delta-{about['generation'] + 1}.arrow"
        about["deltas"] = [*([] if fold else about["deltas"]), name]
        return _changed(path, about, after, {name: folder.table_bytes(delta)})


def delete(place: str | os.PathLike[str], keys: Sequence[str]) -> Kept:
    """Rows of these keys are found no more; `compact` takes them off the disk.

    Raises ConfigError for a key that is not there, EnvironmentProblem where another upkeep runs.
    """
    with writing(place) as (path, about):
        rows = read_rows(path, about)
        wanted = pa.array(list(keys), pa.string())
        there = _rows_of(rows, wanted)
        if (there < 0).any():
            near = did_you_mean(str(wanted[int((there < 0).argmax())]), rows.meta[KEY][:10_000].to_pylist())
            raise ConfigError(f"{_named(wanted, there < 0)} not in the index{near}")
        if not len(there):
            return _kept(rows, about)
        rows.live[there] = False
        return _changed(path, about, rows, {})


def compact(place: str | os.PathLike[str], *, retrain: bool = False) -> Kept:
    """One base of all rows that are left, encoded by what was learned, and tuned to the target of its spec.

    Exact answers stay as they are. retrain: axes, lists and codes are learned anew of these rows, and the number of
    lists chosen anew where it had been left open; the centre, which is part of the space, stays.
    Raises ConfigError where no row is left, EnvironmentProblem where another upkeep runs.
    """
    with writing(place) as (path, about):
        rows, base = read_rows(path, about), open_base(path, about)
        left = np.flatnonzero(rows.live)
        if not len(left):
            raise ConfigError(f"{path}: every row is deleted, and an index needs rows; delete the folder")
        if len(left) == len(base) and not len(rows.added) and not retrain:
            return _kept(rows, about)
        old, new = left[left < len(base)], left[left >= len(base)] - len(base)
        points = np.concatenate([base.points[old], rows.added[new]]).astype(np.float32, copy=False)
        if retrain:
            trained = learned_anew(base, points, about["learned"])
            free = held_rows(len(points), trained.spec)
        else:
            trained, free = as_learned(path, about), unlearned(path, about, left)
        merged = merge(trained, [encode_points(trained, points)])
        held = np.flatnonzero(np.isin(merged.order, free))
        files = index_files(
            trained,
            merged,
            rows.meta.take(pa.array(left)),
            name=about["name"],
            encoders=about["encoders"],
            tuned=tune(base_of(trained, merged), rows=held),
            held=held,
            learned=len(left) if retrain else about["learned"],
            generation=about["generation"] + 1,
        )
        commit(path, files)
        return Kept(rows=len(left), added=0, deleted=0, generation=about["generation"] + 1)


def retune(place: str | os.PathLike[str], target: Target | None = None, *, measure: bool = False) -> Kept:
    """The cheapest search that reaches `target`, or that of the spec, from now on; files other than index.json stay.

    measure: by the clock of this machine. Raises ConfigError where nothing reaches it, and then all stays.
    """
    with writing(place) as (path, about):
        rows, base = read_rows(path, about), open_base(path, about)
        target = target or base.spec.target
        held = unlearned(path, about, np.arange(len(base)))
        spec = dataclasses.replace(base.spec, target=target)
        check(spec, rows=MANY, dim=about["dim"])
        about["spec"] = spec.to_json()
        about |= tune(base, target=target, rows=held, measure=measure)
        about["generation"] += 1
        commit(path, {folder.ABOUT: folder.about_bytes(about)})
        return _kept(rows, about)


def _changed(path: Path, about: dict[str, Any], rows: Rows, files: Mapping[str, bytes]) -> Kept:
    """Put `rows` in the place of those there; files: new ones, beside which rows are deleted."""
    about["generation"] += 1
    gone, name = np.flatnonzero(~rows.live), f"deleted-{about['generation']}.npy"
    about["deleted"] = name if len(gone) else None
    files = {**files, **({name: folder.array_bytes(gone)} if len(gone) else {})}
    # What it was built over it holds no more, beyond its keys.
    about["pairing"] = {"keys": keys_digest(rows.meta[KEY].filter(pa.array(rows.live)))}
    noted = {**about["files"], **folder.described(files)}
    named = [*about["base"].values(), *about["deltas"], *([name] if len(gone) else [])]
    about["files"] = {one: noted[one] for one in sorted(named)}
    commit(path, {**files, folder.ABOUT: folder.about_bytes(about)})
    return _kept(rows, about)


def _kept(rows: Rows, about: Mapping[str, Any]) -> Kept:
    live = int(rows.live.sum())
    return Kept(
        rows=live,
        added=int(rows.live[about["rows"] :].sum()),
        deleted=len(rows.live) - live,
        generation=about["generation"],
    )


def _rows_of(rows: Rows, keys: pa.Array | pa.ChunkedArray) -> Longs:
    """The live row of each key; -1 where there is none."""
    live = np.flatnonzero(rows.live)
    known = rows.meta[KEY].take(pa.array(live)).combine_chunks()
    at = pc.fill_null(pc.index_in(keys, value_set=known), -1)
    places = np.asarray(at, np.int64)
    return np.where(places < 0, -1, live[places]) if len(live) else np.full(len(keys), -1)


def _named(keys: pa.Array | pa.ChunkedArray, which: Any) -> str:
    """`key a is`, `keys a, b, c and 7 more are`."""
    names = keys.filter(pa.array(which)).to_pylist()
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"key {names[0]} is" if len(names) == 1 else f"keys {', '.join(names[:SHOWN])}{more} are"


def _of_schema(meta: pa.Table, schema: pa.Schema) -> pa.Table:
    """Metadata in the index's order of columns. Raises ConfigError naming a column that differs."""
    missing = [name for name in schema.names if name not in meta.column_names]
    strange = [name for name in meta.column_names if name not in schema.names]
    if missing or strange:
        said = [f"{', '.join(missing)} missing"] if missing else []
        said += [f"{', '.join(strange)} unknown"] if strange else []
        raise ConfigError(
            f"metadata must have the index's columns, {', '.join(schema.names)}: {'; '.join(said)}"
        )
    meta = meta.select(schema.names)
    for field in schema:
        kind = meta.schema.field(field.name).type
        if kind != field.type and kind != pa.null():
            raise ConfigError(f"the column {field.name} is {kind}, and in the index {field.type}: cast it")
    return meta.cast(schema)
