"""The command line: verbs, words, exit codes. No logic, and nothing heavy imported before a verb needs it.

Exit codes: 0 done; 1 internal error; 2 the words; 3 a check or a verification failed; 4 too many broken samples;
5 the machine (missing extra, disk); 130, 143 on signals. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from datakit.errors import DatakitError, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])
WORDS = {"ignore_unknown_options": False, "help_option_names": ["--help", "-h"]}


class Verbs(click.Group):
    """A group that says which verb was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands:
            hint = did_you_mean(name, self.commands) or f"; verbs: {', '.join(self.commands)}"
            ctx.fail(f"no verb {name}{hint}")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


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


def flags(function: F) -> F:
    """The flags every verb has."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One stable JSON object (or lines of events)."),
        click.option("--quiet", is_flag=True, help="Only errors."),
        click.option("--plain", is_flag=True, help="Lines, no bars."),
        click.option("--trace", is_flag=True, help="The whole traceback of an error."),
    ):
        function = option(function)
    return function


def mode(as_json: bool, quiet: bool, plain: bool) -> Any:
    return "json" if as_json else "quiet" if quiet else "plain" if plain else "auto"


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
    from datakit.run.build import request, run_build
    from datakit.run.progress import make_sink

    asked = request(words)
    sink = make_sink(mode(how["as_json"], how["quiet"], how["plain"]))
    try:
        made = run_build(asked, sink)
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
    _give(found, text, how)


@cli.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Every member and its digest, every image decoded, every row.")
@flags
def verify(root: Path, deep: bool, **how: bool) -> None:
    """Check a built tree against its manifest; exit 3 and name shard and key where it differs."""
    from datakit.errors import StoreError
    from datakit.store.verify import verify as run

    report = run(root, deep=deep)
    _give(report.to_json(), report.text(), how)
    if not report.ok:
        raise StoreError(f"{root}: {len(report.problems)} problems")


@cli.command()
@flags
def recipes(**how: bool) -> None:
    """The recipes there are."""
    from datakit.find import recipes as found

    _table([{"name": name, "does": line} for name, line in found().items()], how)


@cli.command()
@flags
def catalogs(**how: bool) -> None:
    """The catalogs there are."""
    from datakit.catalog import load, names

    found = [load(name) for name in names()]
    rows = [{"name": c.name, "title": c.title, "source": "needed" if c.needs_source else "-"} for c in found]
    _table(rows, how)


@cli.command()
@click.argument("word")
@flags
def show(word: str, **how: bool) -> None:
    """What a recipe, a catalog or a built tree says of itself: show recipe=NAME | catalog=NAME | DIR."""
    from datakit.run.inspect import show as found

    _give(*found(word), how)


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
    _give({"report": str(found)}, str(found), how)


@cli.command()
@click.argument("key")
@click.argument("root", type=click.Path(path_type=Path))
@flags
def why(key: str, root: Path, **how: bool) -> None:
    """What became of a sample, by its key or its name at the source: kept (where), dropped or failed (why)."""
    from datakit.run.inspect import why as found

    _give(*found(key, root), how)


@cli.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Delete; without it, only say what would be.")
@flags
def clean(root: Path, yes: bool, **how: bool) -> None:
    """Delete the steps under DIR/.datakit; the published tree stays. The next build makes them anew."""
    from datakit.run.inspect import clean as run

    _give(*run(root, yes), how)


@cli.command()
@click.argument("words", nargs=-1)
@flags
def export(words: tuple[str, ...], **how: bool) -> None:
    """Another tool's layout: export format=openood store=DIR out=DIR [selection=seed1]."""
    from datakit.store.export import export_words

    _give(*export_words(words), how)


@cli.command()
@flags
def doctor(**how: bool) -> None:
    """This machine and installation: versions, extras, cores, memory, disk, GPU."""
    from datakit.run.doctor import doctor as run

    _give(*run(), how)


def _give(value: Any, text: str, how: dict[str, bool]) -> None:
    """Data to stdout, as JSON or for people."""
    if how["as_json"]:
        click.echo(json.dumps({"v": 1, **value}, sort_keys=True, ensure_ascii=False))
    elif not how["quiet"]:
        click.echo(text)


def _table(rows: list[dict[str, str]], how: dict[str, bool]) -> None:
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [f"{row['name']:<{width}}  {'  '.join(list(row.values())[1:])}" for row in rows]
    _give({"rows": rows}, "\n".join(lines), how)


def _build_help(ctx: click.Context, words: Sequence[str]) -> str:
    name = next((word.partition("=")[2] for word in words if word.startswith("recipe=")), "")
    if not name:
        return ctx.get_help()
    from datakit.find import recipe_help

    return "\n".join(recipe_help(name))


def _stop(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> None:
    """Entry point: runs a verb and turns errors into one line and an exit code."""
    signal.signal(signal.SIGTERM, _stop)
    trace = "--trace" in sys.argv or "DATAKIT_TRACE" in os.environ
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as problem:
        sys.exit(problem.exit_code)
    except click.ClickException as problem:
        problem.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone; nothing more to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except DatakitError as problem:
        _complain(problem, trace)
        sys.exit(problem.exit_code)
    except Exception as problem:
        _complain(problem, trace)
        click.echo("This is a defect of datakit; --trace shows where.", err=True)
        sys.exit(1)


def _complain(problem: Exception, trace: bool) -> None:
    if trace:
        traceback.print_exception(problem)
    name = "" if isinstance(problem, DatakitError) else f"{type(problem).__name__}: "
    click.echo(f"datakit: {name}{problem}", err=True)


if __name__ == "__main__":
    main()
