"""What a build says: lines where there is no terminal, bars on one, JSON when asked."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from datakit.run.progress import JsonSink, PlainSink, make_sink

TOY = str(Path(__file__).parent.parent / "toy_recipe.py")
START = {"step": "f", "name": "map:x", "total": 10}
DONE = {
    "step": "f",
    "name": "map:x",
    "samples": 7,
    "dropped": {"dark": 2},
    "failed": {"empty": 1},
    "seconds": 1.5,
}


def test_plain_lines_have_counts_rate_and_time_left_and_do_not_crowd() -> None:
    stream = io.StringIO()
    sink = PlainSink(stream, every=0.0)
    sink.event("start", **START)
    sink.event("advance", step="f", kept=4, dropped=1, failed=0)
    sink.event("done", **DONE)
    line, last = stream.getvalue().splitlines()
    assert line.startswith("map:x: 5/10 (4 ok, 1 dropped, 0 failed), ") and line.endswith("s left")
    assert last == "map:x: 7 samples (2 dark, 1 empty), 1.5 s"
    quiet = io.StringIO()
    sink = PlainSink(quiet, every=30.0)
    sink.event("start", **START)
    for _ in range(100):
        sink.event("advance", step="f", kept=1, dropped=0, failed=0)
    assert quiet.getvalue() == ""


def test_json_lines_are_objects_with_a_version() -> None:
    stream = io.StringIO()
    JsonSink(stream).event("start", **START)
    assert json.loads(stream.getvalue()) == {"v": 1, "event": "start", **START}


def test_continuous_integration_and_dumb_terminals_get_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for name in ("CI", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    bars = make_sink("auto")
    bars.close()
    assert not isinstance(bars, PlainSink)
    for name, value in [("TERM", "dumb"), ("CI", "true")]:
        with monkeypatch.context() as only:
            only.setenv(name, value)
            assert isinstance(make_sink("auto"), PlainSink)


def on_a_terminal(*words: str) -> str:
    """What a build says on a pseudo-terminal; it ends well."""
    command = [sys.executable, "-m", "datakit.cli", "build", f"recipe={TOY}", *words, "run.workers=1"]
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        env=environment | {"TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:
        pass  # the other end of a pseudo-terminal closes with an error on Linux
    os.close(ours)
    text = seen.decode(errors="replace")
    assert process.wait(timeout=60) == 0, text[-300:]
    return text


def test_a_terminal_gets_bars_with_counts(tmp_path: Path) -> None:
    out = f"out={tmp_path / 'out'}"
    text = on_a_terminal(out)
    assert "\x1b[" in text and "map:intake,not_dark" in text and "60 samples" in text and "report:" in text
    again = on_a_terminal(out, "margin=3")  # some steps are there already and never start
    assert "[reused]" in again and "report:" in again
