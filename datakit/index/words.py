"""The verbs of `datakit index`: which words each has, and who does what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datakit.index.build_words import BuildOptions, build_words
from datakit.index.upkeep_words import (
    AddOptions,
    CompactOptions,
    DeleteOptions,
    SearchOptions,
    ShowOptions,
    TuneOptions,
    add_words,
    compact_words,
    delete_words,
    search_words,
    show_words,
    tune_words,
)

__all__ = [
    "AddOptions",
    "BuildOptions",
    "CompactOptions",
    "DeleteOptions",
    "SearchOptions",
    "ShowOptions",
    "TuneOptions",
    "index_words",
]

VERBS: Mapping[str, Callable[[Sequence[str]], tuple[dict[str, Any], str]]] = {
    "build": build_words,
    "search": search_words,
    "show": show_words,
    "add": add_words,
    "delete": delete_words,
    "compact": compact_words,
    "tune": tune_words,
}


def index_words(verb: str, words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What the words of a verb ask: (JSON, text for people). Raises ConfigError before anything is changed."""
    return VERBS[verb](words)
