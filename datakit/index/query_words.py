"""The words of `datakit query`: examples and a filter in, a table, a JSON object or a contact sheet out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datakit.config import parse
from datakit.errors import ConfigError
from datakit.index.catalogue import Catalogue, open_catalogue
from datakit.index.query import Answer, Request, answer
from datakit.index.sets import SetRequest, answer_set
from datakit.manifest import write_bytes
from datakit.store.lines import table_lines
from datakit.store.sheet import Entry, contact_sheet

MAX_IMAGE = 64 << 20  # bytes of a picture to ask with
MAX_VECTORS = 64 << 20  # bytes of a file of vectors
FIRST = ("rank", "score", "key", "class_name", "caption")  # columns that a table starts with


def key(default: Any, help: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class Minus:
    text: tuple[str, ...] = key((), "texts")
    image: tuple[str, ...] = key((), "pictures, by path")
    key: tuple[str, ...] = field(default=(), metadata={"help": "samples, by key"})


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """The words of `datakit query`."""

    index: str = field(default="", metadata={"help": "built tree, or folder of an index"})
    name: str = field(
        default="", metadata={"help": "which index of a tree; empty: the first that can answer"}
    )
    text: tuple[str, ...] = field(
        default=(), metadata={"help": "what to look for, in words; several: their mean"}
    )
    image: tuple[str, ...] = field(default=(), metadata={"help": "pictures to look for, by path"})
    key: tuple[str, ...] = field(default=(), metadata={"help": "samples to look for more of, by key"})
    vector: str = field(
        default="", metadata={"help": "file of vectors: .npy, or a JSON list of numbers or lists"}
    )
    minus: Minus = field(default_factory=Minus)
    k: int = field(default=10, metadata={"help": "neighbours", "least": 1, "most": 10_000})
    where: str = field(
        default="", metadata={"help": "filter, held inside the search: \"price < 50 and brand = 'x'\""}
    )
    exact: bool = field(default=False, metadata={"help": "compare every row"})
    nprobe: int | None = field(default=None, metadata={"help": "lists scanned; none: as tuned", "least": 1})
    as_set: bool = field(
        default=False, metadata={"help": "each example is a crop of one photo: match them to one set"}
    )
    set_by: str = field(default="", metadata={"help": "for as_set: column whose value the set should share"})
    columns: tuple[str, ...] = field(default=(), metadata={"help": "of the table; none: as many as fit"})
    sheet: str = field(default="", metadata={"help": "PNG file to write the answer to, as a contact sheet"})
    trusted: bool = field(
        default=False, metadata={"help": "run an encoder that is a program (torchscript:PATH)"}
    )


def query_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What the words ask: (JSON, text for people). Wrong words are told before anything is loaded: ConfigError."""
    asked = parse(QueryOptions, named(words))
    if not asked.index:
        raise ConfigError("give index=DIR: a built tree, or the folder of an index")
    examples: dict[str, Any] = {
        "text": asked.text,
        "image": tuple(picture(path) for path in asked.image),
        "key": asked.key,
        "vector": vectors(asked.vector),
    }
    minus: dict[str, Any] = {
        "minus_text": asked.minus.text,
        "minus_image": tuple(picture(path) for path in asked.minus.image),
        "minus_key": asked.minus.key,
    }
    if asked.as_set and any(minus.values()):
        raise ConfigError("as_set takes crops alone: leave minus out")
    request = (
        SetRequest(**examples, set_by=asked.set_by, where=asked.where, index=asked.name)
        if asked.as_set
        else Request(
            **examples,
            **minus,
            k=asked.k,
            where=asked.where,
            index=asked.name,
            exact=asked.exact,
            nprobe=asked.nprobe,
        )
    )
    catalogue = open_catalogue(asked.index, trusted=asked.trusted)
    found = answer_set(catalogue, request) if isinstance(request, SetRequest) else answer(catalogue, request)
    value = found.to_json()
    lines = list(_lines(found, asked.columns))
    if asked.sheet:
        value["sheet"] = asked.sheet
        lines += ["", _sheet(catalogue, found, Path(asked.sheet), _title(asked))]
    return value, "\n".join(lines)


def named(words: Sequence[str]) -> list[str]:
    """Words with their keys: the first one without a key is the index; a key that comes again adds to its list."""
    found, seen = list[str](), set[str]()
    for at, word in enumerate(words):
        if at == 0 and "=" not in word and not word.startswith(("~", "@")):
            found.append(f"index={word}")
            continue
        name, equals, value = word.partition("=")
        many = name in ("text", "image", "key", "minus.text", "minus.image", "minus.key")
        if equals and many and not name.endswith("+"):
            # A text is one example, whatever commas are in it; of the others, commas part.
            one = name.endswith("text") and not value.startswith("[")
            listed = json.dumps([value], ensure_ascii=False) if one else value
            found.append(f"{name}{'+=' if name in seen else '='}{listed}")
            seen.add(name)
        else:
            found.append(word)
    return found


def picture(path: str) -> bytes:
    """The bytes of a file, bounded. Raises ConfigError naming it."""
    return _bounded(path, MAX_IMAGE)


def vectors(path: str) -> tuple[Any, ...]:
    """Each vector of a .npy (N, dim) or (dim,), or of a JSON list. Raises ConfigError naming the file."""
    if not path:
        return ()
    data = _bounded(path, MAX_VECTORS)
    try:
        if path.endswith(".npy"):
            import io

            found = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            found = np.asarray(json.loads(data), np.float32)
        found = np.atleast_2d(np.asarray(found, np.float32))
    except (ValueError, TypeError, EOFError, RecursionError, MemoryError) as problem:
        raise ConfigError(f"vector={path}: no vectors in it: {problem}") from problem
    if found.ndim != 2:
        raise ConfigError(f"vector={path}: it holds an array of {found.ndim} axes; give (N, dim)")
    return tuple(found)


def _bounded(path: str, most: int) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(most + 1)
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}") from problem
    if len(data) > most:
        raise ConfigError(f"{path} is larger than the {most >> 20} MiB that a query takes")
    return data


def _lines(found: Answer, columns: Sequence[str]) -> list[str]:
    rows = found.to_json()["hits"]
    head = [f"{len(rows)} of the index {found.index}, {_plan(found.plan)}", ""]
    if not rows:
        return [*head[:1], "nothing matches"]
    unknown = [name for name in columns if name not in rows[0]]
    if unknown:
        raise ConfigError(f"columns={unknown[0]}: there are {', '.join(rows[0])}")
    first = [name for name in FIRST if name in rows[0]]
    names = list(columns) or list(dict.fromkeys([*first, *rows[0]]))
    return head + table_lines(rows, names)


def _plan(plan: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in plan.items() if not isinstance(value, list | dict))


def _title(asked: QueryOptions) -> str:
    said = [*asked.text, *asked.image, *asked.key, *([asked.vector] if asked.vector else [])]
    return f"{', '.join(said)}{f' where {asked.where}' if asked.where else ''}"


def _sheet(catalogue: Catalogue, found: Answer, path: Path, title: str) -> str:
    from datakit.image import Image

    rows = found.table.to_pylist()
    entries = [
        Entry(Image(catalogue.image(row["key"])), f"{row['score']:.3f} {_said(row)}", row["key"])
        for row in rows
    ]
    data, broken = contact_sheet(title, entries)
    write_bytes(path, data)
    return f"{path}: {len(entries)} images" + (f", {broken} of them undecodable" if broken else "")


def _said(row: Mapping[str, Any]) -> str:
    return str(row.get("class_name") or row.get("caption") or "")
