"""How verbs meet the shell: their names, flags and keys, what they print, and a reader that goes away."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from datakit.errors import did_you_mean

F = TypeVar("F", bound=Callable[..., Any])


@contextlib.contextmanager
def closed_pipe_ends() -> Iterator[None]:
    """Where the reader of our output has gone (`datakit ... | head`), end as by SIGPIPE: at once, without a word.

    SIGPIPE itself stays ignored, as Python has it: a pipe to a dead worker must not end the build.
    """
    try:
        yield
    except BrokenPipeError:
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # Python flushes them once more when it ends
            os.dup2(null, stream.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


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

    # click itself would take a closed pipe for an error of the command and exit 1.
    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with closed_pipe_ends():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with closed_pipe_ends():
            return super().invoke(ctx)


class Export(click.Command):
    """A verb whose help ends with its keys."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from datakit.store.export import ExportOptions

        _write_keys(formatter, ExportOptions)


class Inspect(click.Command):
    """As `Export`."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from datakit.store.look import InspectOptions

        _write_keys(formatter, InspectOptions)


class Query(click.Command):
    """As `Export`."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from datakit.index.query_words import QueryOptions

        _write_keys(formatter, QueryOptions)


def index_command(verb: str) -> type[click.Command]:
    """As `Export`, for a verb of `datakit index`."""

    class Command(click.Command):
        def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            from datakit.index import words

            _write_keys(formatter, getattr(words, f"{verb.capitalize()}Options"))

    return Command


def tokens_command(verb: str) -> type[click.Command]:
    """As `Export`, for a verb of `datakit tokens`."""

    class Command(click.Command):
        def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            from datakit.train import token_words

            _write_keys(formatter, getattr(token_words, f"{verb.capitalize()}Options"))

    return Command


class Serve(click.Command):
    """As `Export`."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from datakit.serve.server import ServeOptions

        _write_keys(formatter, ServeOptions)


def _write_keys(formatter: click.HelpFormatter, schema: type[Any]) -> None:
    from datakit.config import key_lines

    formatter.write("\n".join(["", "Keys (key=default  type  meaning):", *key_lines(schema)]) + "\n")


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


def give(value: Any, text: str, how: dict[str, bool]) -> None:
    """Data to stdout, as JSON or for people."""
    if how["as_json"]:
        click.echo(json.dumps({"v": 1, **value}, sort_keys=True, ensure_ascii=False))
    elif not how["quiet"]:
        click.echo(text)


def table(rows: list[dict[str, str]], how: dict[str, bool]) -> None:
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [f"{row['name']:<{width}}  {'  '.join(list(row.values())[1:])}" for row in rows]
    give({"rows": rows}, "\n".join(lines), how)
