"""The words of `datakit index add`, `delete`, `compact`, `tune`, `show` and `search`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from datakit.config import parse, read
from datakit.errors import ConfigError
from datakit.index import upkeep
from datakit.index.files_in import TABLES, rows_in, table_in
from datakit.index.folder import ABOUT, read_about
from datakit.index.opened import Hits, Index, open_index
from datakit.index.pack import KEY
from datakit.index.query_files import vectors
from datakit.index.show import described, keys_json
from datakit.index.sound import spec_of_about
from datakit.index.spec import Target
from datakit.manifest import write_bytes
from datakit.store.lines import table_lines
from datakit.store.metadata import to_parquet

PLACE = {"help": "folder of an index; may stand first, without its key"}
SHOWN = 200  # lines of neighbours for people


@dataclass(frozen=True, kw_only=True)
class AddOptions:
    """The words of `datakit index add`."""

    index: str = field(metadata=PLACE)
    vectors: str = field(metadata={"help": "file of vectors: .npy, .parquet or .arrow"})
    column: str = field(default="features", metadata={"help": "of a table: where its vectors are"})
    meta: str = field(default="", metadata={"help": "table of metadata; none: the table's other columns"})
    replace: bool = field(
        default=False, metadata={"help": "new vectors take the place of those of their keys"}
    )


@dataclass(frozen=True, kw_only=True)
class DeleteOptions:
    """The words of `datakit index delete`."""

    index: str = field(metadata=PLACE)
    key: tuple[str, ...] = field(default=(), metadata={"help": "which rows"})
    file: str = field(
        default="", metadata={"help": "more of them: a key a line, or a table with a column key"}
    )


@dataclass(frozen=True, kw_only=True)
class CompactOptions:
    """The words of `datakit index compact`."""

    index: str = field(metadata=PLACE)
    retrain: bool = field(default=False, metadata={"help": "learn axes, lists and codes anew"})


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """The words of `datakit index tune`. What is not given is as it was tuned for."""

    index: str = field(metadata=PLACE)
    target: Target = field(default_factory=Target)
    measure: bool = field(
        default=False, metadata={"help": "by the clock of this machine, not by the cost model"}
    )


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """The words of `datakit index show`."""

    index: str = field(metadata=PLACE)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The words of `datakit index search`."""

    index: str = field(metadata=PLACE)
    vectors: str = field(
        default="", metadata={"help": "file of queries: .npy, or a JSON list of numbers or lists"}
    )
    key: tuple[str, ...] = field(default=(), metadata={"help": "rows whose own vectors are the queries"})
    k: int = field(default=10, metadata={"help": "neighbours", "least": 1, "most": 1_000_000})
    where: str = field(default="", metadata={"help": 'filter, held inside the search: "price < 50"'})
    exact: bool = field(default=False, metadata={"help": "compare every row"})
    nprobe: int | None = field(default=None, metadata={"help": "lists scanned; none: as tuned", "least": 1})
    margin: float = field(default=0.0, metadata={"help": "with nprobe: only lists as near", "least": 0})
    shortlist: int | None = field(default=None, metadata={"help": "compared again by vectors", "least": 1})
    ef: int | None = field(default=None, metadata={"help": "of a graph: candidates kept", "least": 1})
    dims: int | None = field(
        default=None, metadata={"help": "of nested codes: how many are scanned", "least": 1}
    )
    device: str = field(default="cpu", metadata={"help": "auto, cpu, cuda or cuda:N"})
    out: str = field(default="", metadata={"help": "Parquet file to write the neighbours to"})


def add_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Each of these does as its words say: (JSON, text for people). Raises ConfigError, StoreError."""
    asked = parse(AddOptions, placed(words))
    found, meta = rows_in(asked.vectors, column=asked.column, meta=asked.meta)
    return _said(asked.index, upkeep.add(asked.index, found, meta, replace=asked.replace))


def delete_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    asked = parse(DeleteOptions, placed(words))
    keys = [*asked.key, *(_keys_in(Path(asked.file)) if asked.file else [])]
    if not keys:
        raise ConfigError("give key=KEY,… or file=FILE: which rows to delete")
    return _said(asked.index, upkeep.delete(asked.index, keys))


def compact_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    asked = parse(CompactOptions, placed(words))
    return _said(asked.index, upkeep.compact(asked.index, retrain=asked.retrain))


def tune_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    words = placed(words)
    asked, given = parse(TuneOptions, words), read(TuneOptions, words)
    own = {name.partition(".")[2]: value for name, value in given.items() if name.startswith("target.")}
    place = Path(asked.index)
    target = replace(spec_of_about(place / ABOUT, read_about(place)).target, **own)
    upkeep.retune(asked.index, target, measure=asked.measure)
    return described(place)


def show_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    return described(Path(parse(ShowOptions, placed(words)).index))


def search_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    asked = parse(SearchOptions, placed(words))
    if bool(asked.vectors) == bool(asked.key):
        raise ConfigError("give vectors=FILE or key=KEY,…: what to look for")
    index = open_index(asked.index, device=asked.device)
    queries = np.stack(vectors(asked.vectors)) if asked.vectors else index.vectors(index.rows(asked.key))
    names = ("where", "exact", "nprobe", "margin", "shortlist", "ef", "dims")
    hits = index.search(queries, k=asked.k, **{name: getattr(asked, name) for name in names})
    value: dict[str, Any] = {"plan": dict(hits.plan), "hits": keys_json(index, hits)}
    lines = _lines(index, hits)
    if asked.out:
        write_bytes(Path(asked.out), to_parquet(hits.table(index)))
        value["out"] = asked.out
        lines += ["", f"{asked.out}: {int((hits.rows >= 0).sum())} neighbours"]
    return value, "\n".join(lines)


def placed(words: Sequence[str]) -> list[str]:
    """The first word, if it has no key, is the index."""
    first = bool(words) and "=" not in words[0] and not words[0].startswith(("~", "@"))
    return [f"index={words[0]}", *words[1:]] if first else list(words)


def _said(place: str, kept: upkeep.Kept) -> tuple[dict[str, Any], str]:
    parts = [f"{getattr(kept, item.name)} {item.name}" for item in fields(kept) if item.name != "generation"]
    return kept.to_json(), f"{place}: {', '.join(parts)}, generation {kept.generation}"


def _keys_in(path: Path) -> list[str]:
    if path.suffix in TABLES:
        found: list[str] = table_in(path)[KEY].to_pylist()
        return found
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"file={path} cannot be read: {problem}") from problem


def _lines(index: Index, hits: Hits) -> list[str]:
    rows = hits.table(index).slice(0, SHOWN).to_pylist()
    said = ", ".join(f"{name} {value}" for name, value in hits.plan.items())
    left = int((hits.rows >= 0).sum()) - len(rows)
    more = [f"… and {left} more; out=FILE.parquet holds all"] if left > 0 else []
    return [
        said,
        "",
        *(table_lines(rows, ["query", "rank", "key", "score"]) if rows else ["nothing matches"]),
        *more,
    ]
