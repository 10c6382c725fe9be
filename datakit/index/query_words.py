"""The words of `datakit query`, read and held against each other before anything heavy is imported."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from datakit.config import expand, parse, split_word
from datakit.errors import ConfigError

LISTS = (
    "text",
    "image",
    "key",
    "minus.text",
    "minus.image",
    "minus.key",
    "crops",
)  # a word that comes again adds
SHEET = 600  # images of a contact sheet


def option(default: Any, help: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class Minus:
    """What the answer should be unlike."""

    text: tuple[str, ...] = option((), "in words")
    image: tuple[str, ...] = option((), "pictures, by path")
    key: tuple[str, ...] = option((), "samples, by key")


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """The words of `datakit query`."""

    index: str = option("", "built tree, or folder of an index")
    name: str = option("", "which index of a tree; empty: the first that can answer")
    text: tuple[str, ...] = option((), "what to look for, in words; several: their mean")
    image: tuple[str, ...] = option((), "pictures to look for, by path")
    key: tuple[str, ...] = option((), "samples to look for more of, by key")
    vector: str = option("", "file of vectors: .npy, or a JSON list of numbers or lists")
    minus: Minus = field(default_factory=Minus)
    gamma: float | None = option(None, "weight of minus beside 1; none: a third", least=0, most=10)
    own: bool = option(False, "an example may be its own neighbour")
    k: int = option(10, "neighbours", least=1, most=10_000)
    where: str = option("", "filter, held inside the search: \"price < 50 and brand = 'x'\"")
    exact: bool = option(False, "compare every row")
    nprobe: int | None = option(None, "lists scanned; none: as tuned", least=1)
    shortlist: int | None = option(
        None, "candidates compared again, or tried for a crop; none: as tuned", least=1
    )
    as_set: bool = option(False, "each example is a crop of one photo: match them to one set")
    crops: tuple[str, ...] = option(
        (), "as_set of pictures by path, or of boxes [[x0,y0,x1,y1],…] in px of image="
    )
    set_by: str = option("", "of a set: column whose value its items should share")
    together: float | None = option(None, "of a set: score that an item may lose for it; none: 0.05", least=0)
    sets: int = option(1, "sets to give, each of another value", least=1, most=100)
    clusters: float | None = option(
        None, "score from which two are duplicates, as 0.94: in the answer, or of the whole index"
    )
    columns: tuple[str, ...] = option((), "of the table; none: as many as fit")
    sheet: str = option("", "PNG file to write the answer to, as a contact sheet")
    trusted: bool = option(False, "run an encoder that is a program (torchscript:PATH)")

    def __post_init__(self) -> None:
        """Raises ConfigError for words that contradict each other."""
        if not self.index:
            raise ConfigError("give index=DIR: a built tree, or the folder of an index")
        if self.is_set and (self.minus != Minus() or self.gamma is not None or self.clusters is not None):
            raise ConfigError("a set takes crops alone: leave minus out, and gamma and clusters")
        if not self.is_set and (self.set_by or self.together is not None or self.sets > 1):
            raise ConfigError("set_by, together and sets are of a set: give crops=, or as_set=true")
        if self.is_set and (self.exact or self.nprobe is not None):
            raise ConfigError("exact and nprobe are of one query: leave them out, or as_set and crops")
        if self.boxes and (len(self.boxes) != len(self.crops) or len(self.image) != 1):
            raise ConfigError("crops: boxes are of one image: give image=PATH, and boxes alone")
        if not (self.sheet or "x.png").lower().endswith(".png"):
            raise ConfigError(f"sheet={self.sheet}: must end in .png")
        if self.sheet and self.k > SHEET:
            raise ConfigError(f"sheet= shows {SHEET} images at most: give a smaller k than {self.k}")
        if not self.asks and (self.clusters is None or self.minus != Minus()):
            raise ConfigError(
                "ask for something: text=, image=, key= or vector=; or clusters=0.94 of the whole index"
            )

    @property
    def is_set(self) -> bool:
        return self.as_set or bool(self.crops)

    @property
    def boxes(self) -> list[str]:
        return [crop for crop in self.crops if crop.startswith("[")]

    @property
    def asks(self) -> bool:
        return bool(self.text or self.image or self.key or self.vector or self.crops)


def query_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What the words ask: (JSON, text for people). Wrong words are told before anything is loaded: ConfigError."""
    asked = parse(QueryOptions, named(words))
    from datakit.index.query_run import run_query

    return run_query(asked)


def named(words: Sequence[str]) -> Iterator[str]:
    """Words with their keys: the one without a key is the index; a key that comes again adds to its list.

    A text is one example, whatever commas are in it; several are a JSON list, or the key again.
    """
    seen = set[str]()
    for word in expand(words):
        if "=" not in word and not word.startswith("~"):
            if "index" in seen:
                raise ConfigError(f"{word!r} is not key=value: write text={word!r}, or another key")
            word = f"index={word}"
        name, operation, value = split_word(word)
        if operation == "~":
            seen.discard(name)
            yield word
            continue
        if name.rpartition(".")[2] == "text" and not _is_list(value):
            value = json.dumps([value], ensure_ascii=False)
        if name == "crops" and _is_list(value, int | float):
            value = f"[{value}]"  # one box
        yield f"{name}{'+=' if name in seen and name in LISTS else operation}{value}"
        seen.add(name)


def _is_list(text: str, of: Any = str) -> bool:
    """Whether it is a JSON list of texts, or numbers, and no text that begins with a bracket."""
    try:
        found = json.loads(text) if text.startswith("[") else None
    except (ValueError, RecursionError):
        return False
    return isinstance(found, list) and bool(found) and all(isinstance(part, of) for part in found)
