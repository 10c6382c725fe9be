"""The words of `datakit index`: an index built of files of vectors, shown, added to, thinned, compacted, tuned anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datakit.config import parse
from datakit.errors import ConfigError
from datakit.index import folder, upkeep
from datakit.index.arrays import Floats, floats
from datakit.index.make import make_index
from datakit.index.opened import open_index
from datakit.index.pack import KEY
from datakit.index.sharded import build_sharded
from datakit.index.spec import Space, Spec, Target, variant


def key(default: Any, help: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Where vectors come from."""

    vectors: tuple[str, ...] = key(
        (), "files: one .npy with meta=, or Parquet and Arrow files with a column `key`"
    )
    column: str = key("features", "of Parquet and Arrow files: that of the vectors")
    meta: str = key("", "for a .npy: Parquet or Arrow file of as many rows, `key` among its columns")


@dataclass(frozen=True, kw_only=True)
class BuildOptions(Vectors):
    """The words of `datakit index build`."""

    out: str = key("", "folder of the index")
    variant: str = key(
        "auto", "flat, ivf, adanns-ivf, -opq, -ivfopq, -ivfpq4fs, -hnsw, -disk, -d; auto: by rows"
    )
    metric: Literal["cosine", "ip", "l2"] = key("cosine", "how vectors are compared")
    center: bool = key(False, "take the mean vector away first")
    recall: float = key(0.95, "of the k nearest that a search must find", least=0, most=1)
    k: int = key(10, "neighbours that the recall is of", least=1)
    name: str = key("", "of the index; empty: that of its folder")
    seed: int = key(0, "of sampling and training", least=0)
    workers: int = key(1, "processes, for several files", least=1)


@dataclass(frozen=True, kw_only=True)
class AddOptions(Vectors):
    """The words of `datakit index add`."""

    index: str = key("", "folder of the index")
    replace: bool = key(False, "a key that is there already gives way")


@dataclass(frozen=True, kw_only=True)
class DeleteOptions:
    """The words of `datakit index delete`."""

    index: str = key("", "folder of the index")
    key: tuple[str, ...] = field(default=(), metadata={"help": "rows to delete, by key"})


@dataclass(frozen=True, kw_only=True)
class CompactOptions:
    """The words of `datakit index compact`."""

    index: str = key("", "folder of the index")
    retrain: bool = key(False, "learn axes, lists and codes anew, of the rows that are left")


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """The words of `datakit index tune`."""

    index: str = key("", "folder of the index")
    recall: float | None = key(None, "of the k nearest; none: as it was", least=0, most=1)
    k: int | None = key(None, "neighbours that the recall is of; none: as it was", least=1)
    max_ms: float | None = key(None, "of one query, by this machine's clock; none: no limit", least=0)


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """The words of `datakit index show`."""

    index: str = key("", "folder of the index")


def index_words(verb: str, words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What the words ask: (JSON, text for people). Raises ConfigError for wrong words before anything is read."""
    if verb == "build":
        return _built(parse(BuildOptions, words))
    named = [f"index={word}" if at == 0 and "=" not in word else word for at, word in enumerate(words)]
    if verb == "show":
        return _shown(_place(parse(ShowOptions, named)))
    if verb == "add":
        asked = parse(AddOptions, named)
        vectors, meta = _read(asked)
        kept = upkeep.add(_place(asked), vectors, meta, replace=asked.replace)
    elif verb == "delete":
        gone = parse(DeleteOptions, named)
        kept = upkeep.delete(_place(gone), gone.key)
    elif verb == "compact":
        folded = parse(CompactOptions, named)
        kept = upkeep.compact(_place(folded), retrain=folded.retrain)
    else:
        kept = _tuned(parse(TuneOptions, named))
    value = kept.to_json()
    return value, ", ".join(f"{count:,} {name}" for name, count in value.items())


def _place(asked: Any) -> Path:
    if not asked.index:
        raise ConfigError("give the folder of the index")
    return Path(asked.index)


def _built(asked: BuildOptions) -> tuple[dict[str, Any], str]:
    if not asked.out or not asked.vectors:
        raise ConfigError("give vectors=FILE and out=DIR")
    if (Path(asked.out) / folder.ABOUT).exists():
        raise ConfigError(f"{asked.out} holds an index already; give another folder, or delete that one")
    name = asked.name or Path(asked.out).name
    if asked.vectors[0].endswith(".npy"):
        vectors, meta = _read(asked)
        files = make_index(vectors, meta, _spec(asked, len(vectors)), name=name)
        folder.write_files(Path(asked.out), files)
    else:
        rows = sum(len(_table(path)) for path in asked.vectors)
        build_sharded(
            asked.vectors,
            asked.out,
            column=asked.column,
            spec=_spec(asked, rows),
            name=name,
            workers=asked.workers,
        )
    return _shown(Path(asked.out))


def _spec(asked: BuildOptions, rows: int) -> Spec:
    space = Space(metric=asked.metric, center=asked.center)
    found = variant(asked.variant, rows=rows, space=space, target=Target(recall=asked.recall, k=asked.k))
    return replace(found, seed=asked.seed)


def _tuned(asked: TuneOptions) -> upkeep.Kept:
    place = _place(asked)
    before = open_index(place).base.spec.target
    target = replace(
        before,
        recall=asked.recall or before.recall,
        k=asked.k or before.k,
        max_ms=asked.max_ms or before.max_ms,
    )
    return upkeep.retune(place, target)


def _shown(place: Path) -> tuple[dict[str, Any], str]:
    index = open_index(place)
    about, spec = index.about, index.base.spec
    value = {
        "name": index.name,
        "rows": len(index),
        "dim": index.dim,
        "spec": spec.to_json(),
        "search": about["search"],
        "curve": about["curve"],
        "columns": index.meta.column_names,
        "bytes": sum(file["bytes"] for file in about["files"].values()),
    }
    lines = [
        f"{index.name}: {len(index):,} rows of {index.dim} dims, {spec.space.metric}, {value['bytes'] / 1e6:.1f} MB",
        f"searched by {', '.join(f'{name} {one}' for name, one in about['search'].items()) or 'what its spec says'}",
        f"for recall@{spec.target.k} of {spec.target.recall:g}; filters may ask {', '.join(index.meta.column_names)}",
        "",
        "recall   us a query  setting",
    ]
    for point in about["curve"]:
        setting = ", ".join(
            f"{one} {point[one]}" for one in ("nprobe", "margin", "ef", "shortlist") if one in point
        )
        lines.append(f"{point['recall']:.4f}  {point['cost_us']:10.1f}  {point['kind']} {setting}")
    return value, "\n".join(lines)


def _read(asked: Vectors) -> tuple[Floats, pa.Table]:
    """Vectors and their metadata, of a .npy beside a table, or of tables that hold both."""
    if not asked.vectors:
        raise ConfigError("give vectors=FILE")
    if asked.vectors[0].endswith(".npy"):
        if len(asked.vectors) > 1 or not asked.meta:
            raise ConfigError("one .npy comes with meta=FILE, whose column `key` names its rows")
        try:
            found = np.load(asked.vectors[0], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as problem:
            raise ConfigError(f"{asked.vectors[0]} is no array of numbers: {problem}") from problem
        return floats(found, what=asked.vectors[0]), _table(asked.meta)
    tables = [_table(path) for path in asked.vectors]
    whole = pa.concat_tables(tables).combine_chunks()
    if asked.column not in whole.column_names:
        raise ConfigError(f"column={asked.column}: there are {', '.join(whole.column_names)}")
    lists = whole[asked.column].combine_chunks()
    if lists.null_count or not len(lists):
        raise ConfigError(f"column={asked.column}: {lists.null_count} of {len(lists)} rows have no vector")
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    if len(flat) % len(lists):
        raise ConfigError(f"column={asked.column} holds vectors of several lengths")
    return floats(flat.reshape(len(lists), -1), what=asked.column), whole.drop_columns([asked.column])


def _table(path: str) -> pa.Table:
    try:
        table = (
            pq.read_table(path) if path.endswith(".parquet") else folder.read_mapped(Path(path), full=True)
        )
    except (OSError, pa.ArrowException) as problem:
        raise ConfigError(f"{path} is no Parquet or Arrow file: {problem}") from problem
    if KEY not in table.column_names:
        raise ConfigError(f"{path} has no column {KEY}; there are {', '.join(table.column_names)}")
    return table
