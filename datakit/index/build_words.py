"""The words of `datakit index build`: a file of vectors in, the folder of an index out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datakit.config import parse, read
from datakit.errors import ConfigError
from datakit.index import folder
from datakit.index.files_in import rows_in, rows_of
from datakit.index.make import make_index
from datakit.index.sharded import build_sharded
from datakit.index.show import described
from datakit.index.spec import (
    VARIANTS,
    Basis,
    Coarse,
    Codes,
    Graph,
    Rerank,
    Space,
    Spec,
    Target,
    variant,
)

PARTS = ("space", "basis", "coarse", "codes", "graph", "rerank", "target")  # of a spec


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The words of `datakit index build`. What is not given of a spec is the variant's, or chosen by the data."""

    vectors: tuple[str, ...] = field(
        metadata={"help": "file of vectors: .npy, .parquet or .arrow; several tables: built part by part"}
    )
    out: str = field(metadata={"help": "folder to write; new or empty"})
    column: str = field(default="features", metadata={"help": "of a table: where its vectors are"})
    meta: str = field(
        default="",
        metadata={
            "help": "table with key and what filters may ask, a row a vector; none: the table's other columns"
        },
    )
    name: str = field(default="", metadata={"help": "of the index; none: that of its folder"})
    variant: str = field(
        default="auto", metadata={"help": f"auto (by the number of rows), {', '.join(VARIANTS)}"}
    )
    workers: int = field(default=1, metadata={"help": "processes, of several tables", "least": 1})
    space: Space = field(default_factory=Space)
    basis: Basis = field(default_factory=Basis)
    coarse: Coarse = field(default_factory=Coarse)
    codes: Codes = field(default_factory=Codes)
    graph: Graph = field(default_factory=Graph)
    rerank: Rerank = field(default_factory=Rerank)
    target: Target = field(default_factory=Target)
    seed: int = field(default=0, metadata={"help": "of all that is drawn"})


def build_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Build as the words say: (JSON, text for people). Raises ConfigError before anything is written."""
    asked, given = parse(BuildOptions, words), read(BuildOptions, words)
    place = _empty(asked.out)
    name = asked.name or place.absolute().name
    if len(asked.vectors) == 1:
        vectors, meta = rows_in(asked.vectors[0], column=asked.column, meta=asked.meta)
        spec = spec_of_words(asked.variant, given, rows=len(vectors))
        folder.write_files(place, make_index(vectors, meta, spec, name=name))
    else:
        _in_parts(asked, given, place, name)
    return described(place)


def _in_parts(asked: BuildOptions, given: Mapping[str, Any], place: Path, name: str) -> None:
    if asked.meta or any(not path.endswith((".parquet", ".arrow")) for path in asked.vectors):
        raise ConfigError(
            "several files of vectors are tables, .parquet or .arrow, that hold their metadata too"
        )
    rows = sum(rows_of(Path(path)) for path in asked.vectors)
    spec = spec_of_words(asked.variant, given, rows=rows)
    build_sharded(
        list(asked.vectors), place, column=asked.column, spec=spec, name=name, workers=asked.workers
    )
    shutil.rmtree(
        f"{place}.parts"
    )  # emptied, but for what it would know itself again by: `out` is refused now


def spec_of_words(name: str, given: Mapping[str, Any], *, rows: int) -> Spec:
    """The variant of that name with the words given, by full key (`codes.kind`), in the place of its own."""
    spec = variant(name, rows=rows)
    for part in PARTS:
        own = {key.partition(".")[2]: value for key, value in given.items() if key.startswith(f"{part}.")}
        spec = replace(spec, **{part: replace(getattr(spec, part), **own)})
    return replace(spec, seed=given.get("seed", spec.seed))


def _empty(out: str) -> Path:
    place = Path(out)
    if (place / folder.ABOUT).exists():
        raise ConfigError(
            f"out={out} holds an index: datakit index add, delete and compact change it; give another"
        )
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ConfigError(f"out={out} is not empty: give a new folder")
    return place
