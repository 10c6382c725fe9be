"""The command line: verbs, words, exit codes. No logic, and nothing heavy imported before a verb needs it.

Exit codes: 0 done; 1 internal error; 2 the words; 3 a check or a verification failed; 4 too many broken samples;
5 the machine (missing extra, disk); 130, 141, 143 on signals. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from datakit.errors import DatakitError, EnvironmentProblem, Stopped
from datakit.shell import (
    Export,
    Inspect,
    Query,
    Serve,
    Verbs,
    closed_pipe_ends,
    flags,
    give,
    index_command,
    mode,
    table,
    tokens_command,
)

WORDS = {"ignore_unknown_options": False, "help_option_names": ["--help", "-h"]}


@click.group(cls=Verbs, context_settings=WORDS)
@click.version_option(package_name="datakit")
def cli() -> None:
    """Build, curate, check and stream image data sets.

    \b
      datakit build recipe=fg_ood                          real images, embedded: nothing to download
      datakit build recipe=fg_ood catalog=imagefolder source=photos/ fraction=0.3
      datakit build recipe=fg_ood --help                   the keys of that recipe
      datakit verify builds/fg_ood --deep                  every byte against its digest
      datakit why KEY builds/fg_ood                        what became of a sample, and why
    """


@cli.command(add_help_option=False)
@click.argument("words", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option(
    "--help", "-h", "wants_help", is_flag=True, help="This, or with recipe=NAME that recipe's keys."
)
@flags
@click.pass_context
def build(
    ctx: click.Context, /, words: tuple[str, ...], dry_run: bool, wants_help: bool, **how: bool
) -> None:
    """Build a recipe: datakit build recipe=NAME [key=value ...] [out=DIR].

    \b
      datakit build recipe=fg_ood
      datakit build recipe=fg_ood catalog=imagefolder source=photos/ fraction=0.3 seeds=0,1,2
      datakit build recipe=fg_ood @recipe.yaml validate=probe run.workers=8

    Words: key=value, key+=value (add to a list), ~key (back to the default), @file.yaml. The same command again
    goes on where it was, or does nothing. `datakit build recipe=NAME --help` lists that recipe's keys.
    """
    if wants_help:
        click.echo(_build_help(ctx, words))
        return
    if dry_run:
        _plan(words, how)
        return
    from datakit.run.build import run_build
    from datakit.run.progress import make_sink
    from datakit.run.request import request

    asked = request(words)
    sink = make_sink(mode(how["as_json"], how["quiet"], how["plain"]))
    try:
        made = run_build(asked, sink)
    except (KeyboardInterrupt, SystemExit):
        click.echo("datakit: stopped; the same command goes on from here", err=True)
        raise
    finally:
        sink.close()
    if how["as_json"]:
        sink.event("finished", out=str(made.out), splits=made.splits, fresh=made.fresh)
        return
    from datakit.run.summary import build_summary

    if not how["quiet"]:
        click.echo(build_summary(made), err=True)
    click.echo(made.out)


@cli.command()
@click.argument("words", nargs=-1)
@flags
def plan(words: tuple[str, ...], **how: bool) -> None:
    """Say what a build would do: inputs, bytes, licences, steps there and to make. Writes nothing."""
    _plan(words, how)


def _plan(words: Sequence[str], how: dict[str, bool]) -> None:
    from datakit.run.summary import plan_build

    found, text = plan_build(words)
    give(found, text, how)


@cli.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Every member and its digest, every image decoded, every row.")
@click.option("--sidecar", multiple=True, help="A sidecar that lies elsewhere, with --deep; may come again.")
@flags
def verify(root: Path, deep: bool, sidecar: tuple[str, ...], **how: bool) -> None:
    """Check a built tree against its manifest; exit 3 and name shard and key where it differs."""
    from datakit.errors import ConfigError, StoreError
    from datakit.store.verify import verify as run

    if sidecar and not deep:
        raise ConfigError("--sidecar compares rows with samples, which --deep does: give both")
    report = run(root, deep=deep, sidecars=sidecar)
    give(report.to_json(), report.text(), how)
    if not report.ok:
        raise StoreError(f"{root}: {len(report.problems)} problems")


@cli.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("url")
@click.option("--takeover", is_flag=True, help="Go on where an upload of another store was not finished.")
@flags
def publish(root: Path, url: str, takeover: bool, **how: bool) -> None:
    """Publish a built tree: datakit publish builds/birds s3://bucket/birds. Again: goes on, or does nothing."""
    from datakit.store.upload import upload

    loud = not how["quiet"] and not how["as_json"]
    done = upload(
        root, url, takeover=takeover, tell=lambda text: click.echo(text, err=True) if loud else None
    )
    give(done.to_json(), done.text(), how)


@cli.group(cls=Verbs)
def cache() -> None:
    """Shards and sources of URLs kept on this machine, in DATAKIT_CACHE_DIR: cache ls, cache gc."""


@cache.command("ls")
@flags
def cache_ls(**how: bool) -> None:
    """What is kept, the last used first."""
    from datakit.store.cache import Cache, cache_list

    give(*cache_list(Cache()), how)


@cache.command("gc")
@click.argument("words", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of it, copies of sources too.")
@flags
def cache_gc(words: tuple[str, ...], everything: bool, **how: bool) -> None:
    """Remove the least used shards: datakit cache gc [bytes=20GB]. Without words, down to DATAKIT_CACHE_BYTES."""
    from datakit.store.cache import Cache, cache_collect

    give(*cache_collect(Cache(), words, everything), how)


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--show", default=20, type=click.IntRange(0), help="Samples listed of each kind; counts are exact."
)
@click.option("--exit-code", is_flag=True, help="Exit 3 where samples, lists or layout differ.")
@flags
@click.pass_context
def diff(ctx: click.Context, /, a: str, b: str, show: int, exit_code: bool, **how: bool) -> None:
    """What store B has otherwise than store A: samples added, removed, renamed, changed (and in what), moved."""
    from datakit.store.diff import diff as compare
    from datakit.store.diff import diff_text
    from datakit.store.reader import open_store

    found = compare(open_store(a), open_store(b), show=show)
    give(found.to_json(), diff_text(found), how)
    if exit_code and not found.equal:
        ctx.exit(3)


@cli.command()
@flags
def recipes(**how: bool) -> None:
    """The recipes there are."""
    from datakit.find import recipes as found

    table([{"name": name, "does": line} for name, line in found().items()], how)


@cli.command()
@flags
def catalogs(**how: bool) -> None:
    """The catalogs there are."""
    from datakit.catalog import load, names

    found = [load(name) for name in names()]
    rows = [{"name": c.name, "title": c.title, "source": "needed" if c.needs_source else "-"} for c in found]
    table(rows, how)


@cli.command()
@click.argument("word")
@flags
def show(word: str, **how: bool) -> None:
    """What a recipe, a catalog or a built tree says of itself: show recipe=NAME | catalog=NAME | DIR."""
    from datakit.run.inspect import show as found

    give(*found(word), how)


@cli.command(cls=Inspect)
@click.argument("store")
@click.argument("words", nargs=-1)
@flags
def inspect(store: str, words: tuple[str, ...], **how: bool) -> None:
    """What a store holds: inspect STORE [SPLIT] [key=KEY] [sheet=FILE.png] [key=value ...].

    \b
      datakit inspect builds/mine                              columns, counts, the first rows
      datakit inspect builds/mine near_ood sheet=near.png      a contact sheet: 24 images drawn by seed=0
      datakit inspect builds/mine key=KEY                      one sample in full
    """
    from datakit.store.look import inspect_words

    give(*inspect_words(store, words), how)


@cli.command()
@click.argument("root", type=click.Path(path_type=Path))
@flags
def report(root: Path, **how: bool) -> None:
    """Where a build's report page is."""
    path = root / "report" / "index.html"
    failed = root / ".datakit" / "failed" / "report" / "index.html"
    found = path if path.exists() else failed if failed.exists() else None
    if found is None:
        from datakit.errors import StoreError

        raise StoreError(f"{root} holds no report; build it first: datakit build recipe=... out={root}")
    give({"report": str(found)}, str(found), how)


@cli.command()
@click.argument("key")
@click.argument("root", type=click.Path(path_type=Path))
@flags
def why(key: str, root: Path, **how: bool) -> None:
    """What became of a sample, by its key or its name at the source: kept (where), dropped or failed (why)."""
    from datakit.run.inspect import why as found

    give(*found(key, root), how)


@cli.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Delete; without it, only say what would be.")
@flags
def clean(root: Path, yes: bool, **how: bool) -> None:
    """Delete the steps under DIR/.datakit; the published tree stays. The next build makes them anew."""
    from datakit.run.inspect import clean as run

    give(*run(root, yes), how)


@cli.command(cls=Export)
@click.argument("words", nargs=-1)
@flags
def export(words: tuple[str, ...], **how: bool) -> None:
    """Another tool's layout: export format=openood|coco|llava|datajuicer|imagefolder|clip-retrieval store=DIR out=DIR.

    \b
      datakit export format=openood store=builds/mine out=exports/mine selection=seed1
      datakit export format=coco store=builds/mine out=exports/captions caption=captions
      datakit export format=clip-retrieval store=builds/mine out=exports/clip embedding=COLUMN sidecar=FILE.parquet
    """
    from datakit.store.export import export_words

    give(*export_words(words), how)


@cli.command(cls=Query)
@click.argument("words", nargs=-1)
@flags
def query(words: tuple[str, ...], **how: bool) -> None:
    """Ask an index: query DIR text="…" | image=PATH | key=KEY | vector=FILE [k=10] [where="…"] [sheet=FILE.png].

    \b
      datakit query builds/search text="a slice of pizza"
      datakit query builds/search image=photo.jpg where="style = 'openmoji'" sheet=found.png
      datakit query builds/search key=KEY key=OTHER minus.text="at night" k=20 --json
      datakit query builds/search crops=sofa.jpg,lamp.jpg set_by=style      each crop's match, of one style if that fits
      datakit query builds/search image=room.jpg crops=[[0,40,300,200],[310,20,380,190]]      the same, by boxes in px
      datakit query builds/search clusters=0.94 where="split = 'train'"     near-duplicates
    """
    from datakit.index.query_words import query_words

    give(*query_words(words), how)


@cli.group(cls=Verbs)
def index() -> None:
    """An index of your own vectors: index build, search, show, add, delete, compact, tune.

    \b
      datakit index build vectors=clip.npy meta=rows.parquet out=indices/clip recall=0.95
      datakit index build vectors=a.parquet,b.parquet column=embedding out=indices/clip workers=8
      datakit index add indices/clip vectors=more.parquet column=embedding
      datakit index delete indices/clip key=crow-003,crow-004
      datakit index search indices/clip vectors=queries.npy k=20 where="price < 50" out=neighbours.parquet
    """


def _index_verb(name: str, help: str) -> None:
    @index.command(name, help=help, cls=index_command(name))
    @click.argument("words", nargs=-1)
    @flags
    def verb(words: tuple[str, ...], **how: bool) -> None:
        from datakit.index.words import index_words

        give(*index_words(name, words), how)


_index_verb("build", "An index over files of vectors, tuned to its recall.")
_index_verb(
    "search",
    "Nearest rows of vectors, or of a key: index search DIR vectors=FILE | key=KEY. See also: query.",
)
_index_verb("show", "What an index is, how it is searched, what recall costs: index show DIR.")
_index_verb("add", "More rows, found at once: index add DIR vectors=FILE.")
_index_verb("delete", "Rows that are found no more: index delete DIR key=A,B.")
_index_verb("compact", "Added and deleted rows folded in: index compact DIR [retrain=true].")
_index_verb("tune", "Another target: index tune DIR recall=0.99 [max_ms=1].")


@cli.group(cls=Verbs)
def tokens() -> None:
    """A folder of packed tokens: tokens show, train, repack, import, export.

    \b
      datakit tokens show builds/vq_tokens/tokens
      datakit tokens train builds/vq_tokens/tokens augment=eda,noise,color seeds=0,1,2      no pixel is opened
      datakit tokens repack builds/vq_tokens/tokens codec=context out=archive/tokens
      datakit tokens import seit/ split=val out=imagenet/tokens                             SeiT's own file set
    """


def _tokens_verb(name: str, help: str) -> None:
    @tokens.command(name, help=help, cls=tokens_command(name))
    @click.argument("words", nargs=-1)
    @flags
    def verb(words: tuple[str, ...], **how: bool) -> None:
        from datakit.train.token_words import token_words

        give(*token_words(name, words), how)


_tokens_verb("show", "What is packed, how small, and how small it could be: tokens show DIR.")
_tokens_verb("train", "A classifier on the tokens and labels of a folder alone: tokens train DIR.")
_tokens_verb("repack", "The same tokens by another codec: tokens repack DIR codec=context out=DIR.")
_tokens_verb("import", "SeiT's own files as a token folder: tokens import DIR split=train out=DIR.")
_tokens_verb("export", "A token folder as SeiT's own files: tokens export DIR out=DIR.")


@cli.command(cls=Serve)
@click.argument("words", nargs=-1)
@flags
def serve(words: tuple[str, ...], **how: bool) -> None:
    """Look at a tree and ask its indices in a browser: datakit serve builds/search [port=8080].

    Prints the address to open, which holds the token of this run; listens on this machine alone. Ctrl-C ends it.
    """
    from datakit.serve.server import serve_words

    serve_words(words, lambda found, text: give(found, text, how), lambda text: click.echo(text, err=True))


@cli.command()
@flags
def doctor(**how: bool) -> None:
    """This machine and installation: versions, extras, cores, memory, disk, GPU."""
    from datakit.run.doctor import doctor as run

    give(*run(), how)


def _build_help(ctx: click.Context, words: Sequence[str]) -> str:
    from datakit.config import expand
    from datakit.find import recipe_help

    name = next((word.partition("=")[2] for word in expand(words) if word.startswith("recipe=")), "")
    if not name:
        return ctx.get_help()
    return "\n".join(recipe_help(name))


def _stop(number: int, frame: Any) -> NoReturn:
    """The first signal ends what runs in order; a second one ends the process there and then."""
    for name in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(name) is _stop:
            signal.signal(name, signal.SIG_DFL)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(128 + number)


def _done() -> None:
    """What was asked for is done and said: Python still takes itself apart, some tens of milliseconds, in which it has
    put back what ends a process without a word. The exit code is to tell what was done.
    """
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)


def _open_standard() -> None:
    """Standard streams that our caller closed lead nowhere: the next file opened would take their numbers, and what is
    printed would go into it.
    """
    for number, name, how in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, how, closefd=False))


def main() -> None:
    """Entry point: runs a verb and turns errors into one line and an exit code."""
    _open_standard()
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else our caller wants us deaf to it
        signal.signal(signal.SIGINT, _stop)
    atexit.register(_done)  # the first one registered is the last one called
    with closed_pipe_ends():
        sys.exit(_exit_code())


def _exit_code() -> int:
    trace = "--trace" in sys.argv or "DATAKIT_TRACE" in os.environ
    try:
        code: int | None = cli.main(standalone_mode=False)
        return code or 0
    except click.ClickException as problem:
        problem.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        # Where Ctrl-C came in the middle of a text being run, as of a dataclass that is being made, Python keeps in
        # mind that nobody caught it, and under `python -m` ends itself by SIGINT; the next text makes it forget.
        exec("")
        return 130
    except DatakitError as problem:
        _complain(problem, trace)
        return problem.exit_code
    except OSError as problem:  # a folder that cannot be written, a full disk: the machine's, not ours
        _complain(EnvironmentProblem(str(problem)), trace)
        return EnvironmentProblem.exit_code
    except Exception as problem:
        _complain(problem, trace)
        click.echo("This is a defect of datakit; --trace shows where.", err=True)
        return 1


def _complain(problem: Exception, trace: bool) -> None:
    if trace:
        traceback.print_exception(problem)
    name = "" if isinstance(problem, DatakitError) else f"{type(problem).__name__}: "
    click.echo(f"datakit: {name}{problem}", err=True)


if __name__ == "__main__":
    main()
