"""The verbs of `datakit index`. As in `cli.py`: no logic, and nothing heavy imported before a verb needs it."""

from __future__ import annotations

import click

from datakit.shell import Verbs, flags, give, keyed

BUILD, UPKEEP = "datakit.index.build_words", "datakit.index.upkeep_words"


@click.group(cls=Verbs)
def index() -> None:
    """Indices over vectors of your own: build, search, add, delete, compact, tune, show.

    \b
      datakit index build vectors=features.npy meta=items.parquet out=indices/items recall=0.98
      datakit index search indices/items vectors=queries.npy k=20 where="price < 50"
      datakit index add indices/items vectors=new.parquet
    """


@index.command("build", cls=keyed(BUILD, "BuildOptions"))
@click.argument("words", nargs=-1)
@flags
def index_build(words: tuple[str, ...], **how: bool) -> None:
    """Build one: index build vectors=FILE out=DIR [column=features] [meta=FILE] [variant=auto] [metric=cosine].

    \b
      datakit index build vectors=features.npy meta=items.parquet out=indices/items
      datakit index build vectors=items.parquet column=clip out=indices/clip variant=adanns-ivf codes.dims=64
      datakit index build vectors=a.parquet,b.parquet out=indices/all workers=2
    """
    from datakit.index.build_words import build_words

    give(*build_words(words), how)


@index.command("add", cls=keyed(UPKEEP, "AddOptions"))
@click.argument("words", nargs=-1)
@flags
def index_add(words: tuple[str, ...], **how: bool) -> None:
    """Add rows, found at once: index add DIR vectors=FILE [column=features] [meta=FILE] [replace=true]."""
    from datakit.index.upkeep_words import add_words

    give(*add_words(words), how)


@index.command("delete", cls=keyed(UPKEEP, "DeleteOptions"))
@click.argument("words", nargs=-1)
@flags
def index_delete(words: tuple[str, ...], **how: bool) -> None:
    """Delete rows by key: index delete DIR keys=KEY,KEY | file=FILE."""
    from datakit.index.upkeep_words import delete_words

    give(*delete_words(words), how)


@index.command("compact", cls=keyed(UPKEEP, "CompactOptions"))
@click.argument("words", nargs=-1)
@flags
def index_compact(words: tuple[str, ...], **how: bool) -> None:
    """Fold in what was added, take off what was deleted, and tune: index compact DIR [retrain=true]."""
    from datakit.index.upkeep_words import compact_words

    give(*compact_words(words), how)


@index.command("tune", cls=keyed(UPKEEP, "TuneOptions"))
@click.argument("words", nargs=-1)
@flags
def index_tune(words: tuple[str, ...], **how: bool) -> None:
    """Tune for another target: index tune DIR [recall=0.99] [k=10] [max_ms=2] [measure=true]."""
    from datakit.index.upkeep_words import tune_words

    give(*tune_words(words), how)


@index.command("show", cls=keyed(UPKEEP, "ShowOptions"))
@click.argument("words", nargs=-1)
@flags
def index_show(words: tuple[str, ...], **how: bool) -> None:
    """Rows, spec, how it is searched, and what recall costs: index show DIR."""
    from datakit.index.upkeep_words import show_words

    give(*show_words(words), how)


@index.command("search", cls=keyed(UPKEEP, "SearchOptions"))
@click.argument("words", nargs=-1)
@flags
def index_search(words: tuple[str, ...], **how: bool) -> None:
    """Nearest rows of vectors: index search DIR vectors=FILE | keys=KEY,… [k=10] [where="…"] [out=FILE.parquet].

    \b
      datakit index search indices/items vectors=queries.npy k=20 out=neighbours.parquet
      datakit index search indices/items keys=crow-003 where="split = 'train'" exact=true --json

    By text and by image `datakit query` asks.
    """
    from datakit.index.upkeep_words import search_words

    give(*search_words(words), how)
