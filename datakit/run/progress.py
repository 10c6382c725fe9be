"""What a build says while it runs: bars on a terminal, a line every 30 s elsewhere, JSON lines when asked.

Everything goes to stderr but the JSON lines; every event also goes to the build's log file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, Protocol

Mode = Literal["auto", "plain", "json", "quiet"]
PLAIN_EVERY = 30.0  # seconds between lines where there is no terminal


class Sink(Protocol):
    """Takes the events of a build: `plan`, `start`, `advance`, `committed`, `done`, `note`."""

    def event(self, kind: str, **data: Any) -> None: ...

    def close(self) -> None: ...


@dataclass
class Tally:
    """Of one step: samples done and their rate."""

    name: str
    total: int
    started: float = field(default_factory=time.monotonic)
    kept: int = 0
    dropped: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        return self.kept + self.dropped + self.failed

    def line(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = self.done / seconds
        left = (self.total - self.done) / rate if rate and self.total > self.done else 0
        counts = f"{self.kept} ok, {self.dropped} dropped, {self.failed} failed"
        return f"{self.name}: {self.done}/{self.total} ({counts}), {rate:.0f}/s, {left:.0f} s left"


class PlainSink:
    """One line a step, one every 30 s within a long one."""

    def __init__(self, stream: IO[str], every: float = PLAIN_EVERY) -> None:
        self.stream, self.every, self.last = stream, every, time.monotonic()
        self.tallies: dict[str, Tally] = {}

    def event(self, kind: str, **data: Any) -> None:
        if kind == "start":
            self.tallies[data["step"]] = Tally(data["name"], data["total"])
        elif kind == "advance":
            add(self.tallies[data["step"]], data)
            if time.monotonic() - self.last >= self.every:
                self._say(self.tallies[data["step"]].line())
        elif kind == "done":
            self._say(done_line(data))
        elif kind == "note":
            self._say(data["text"])

    def _say(self, text: str) -> None:
        self.last = time.monotonic()
        print(text, file=self.stream, flush=True)

    def close(self) -> None:
        self.stream.flush()


class RichSink:
    """A bar a running step: items, rate, time left, ok/dropped/failed."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<34.34}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console, transient=True)
        self.progress.start()
        self.tasks: dict[str, Any] = {}
        self.tallies: dict[str, Tally] = {}

    def event(self, kind: str, **data: Any) -> None:
        if kind == "start":
            self.tallies[data["step"]] = Tally(data["name"], data["total"])
            self.tasks[data["step"]] = self.progress.add_task(data["name"], total=data["total"], counts="")
        elif kind == "advance":
            tally = self.tallies[data["step"]]
            add(tally, data)
            counts = f"{tally.kept} ok {tally.dropped} dropped {tally.failed} failed"
            self.progress.update(self.tasks[data["step"]], completed=tally.done, counts=counts)
        elif kind == "done":
            if data["step"] in self.tasks:  # a step that was there already never started
                self.progress.remove_task(self.tasks.pop(data["step"]))
            self.console.print(done_line(data), markup=False, highlight=False)
        elif kind == "note":
            self.console.print(data["text"], markup=False, highlight=False)

    def close(self) -> None:
        self.progress.stop()


class JsonSink:
    """JSON lines on stdout."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def event(self, kind: str, **data: Any) -> None:
        print(json.dumps({"v": 1, "event": kind, **data}, sort_keys=True), file=self.stream, flush=True)

    def close(self) -> None:
        self.stream.flush()


class QuietSink:
    """Nothing; errors still go to stderr from the command."""

    def event(self, kind: str, **data: Any) -> None:
        del kind, data

    def close(self) -> None:
        pass


class Log:
    """A sink and, beside it, the log file: JSON lines with time and pid, kept out of the tree."""

    def __init__(self, sink: Sink, path: Path, clock: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.sink, self.clock = sink, clock
        self.file = path.open("a", encoding="utf-8")

    def event(self, kind: str, **data: Any) -> None:
        self.sink.event(kind, **data)
        if kind != "advance":
            line = {"time": round(self.clock(), 3), "pid": os.getpid(), "event": kind, **data}
            print(json.dumps(line, sort_keys=True), file=self.file, flush=True)

    def close(self) -> None:
        self.sink.close()
        self.file.close()


def add(tally: Tally, data: dict[str, Any]) -> None:
    tally.kept += data["kept"]
    tally.dropped += data["dropped"]
    tally.failed += data["failed"]


def done_line(data: dict[str, Any]) -> str:
    left = [f"{count} {reason}" for reason, count in {**data["dropped"], **data["failed"]}.items()]
    tail = f" ({', '.join(left)})" if left else ""
    reused = " [reused]" if data.get("reused") else ""
    return f"{data['name']}: {data['samples']} samples{tail}, {data['seconds']:.1f} s{reused}"


def make_sink(mode: Mode) -> Sink:
    """The sink for this terminal. TERM=dumb, CI and a redirected stderr mean plain lines."""
    if mode == "json":
        return JsonSink(sys.stdout)
    if mode == "quiet":
        return QuietSink()
    plain = mode == "plain" or os.environ.get("TERM") == "dumb" or "CI" in os.environ
    if plain or not sys.stderr.isatty():
        return PlainSink(sys.stderr)
    return RichSink()
