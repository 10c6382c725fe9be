"""SIGINT and SIGTERM at random moments of a build, to it alone and to its process group as a terminal does it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from fault_cases import Outcome, Tell
from fault_cases.builds import begun, build, ends_well, left_of, small_build, started, tree

TITLE = "SIGINT and SIGTERM at random moments"
WANTED = "exit 130 or 143 within 10 s, one line, no process left, the same bytes after going on"
CASES = 100
SUITE = 2
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SOON = 10.0  # seconds to end in
SAID = "datakit: stopped; the same command goes on from here"


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    """One signal a case; after a few, the build is gone on with and compared."""
    words, draw = [*small_build(work), "run.workers=2"], random.Random(seed)
    seconds = build(words, work / "peace")
    wanted, out = tree(work / "peace"), work / "out"
    failures: list[str] = []
    slowest, done = 0.0, 0
    while done < cases:
        kind = (signal.SIGINT, signal.SIGTERM)[done % 2]
        took, wrong = interrupted(words, out, kind, draw.uniform(0, 0.7 * seconds), to_all=done % 4 in (0, 3))
        if took is not None:
            done += 1
            slowest = max(slowest, took)
            failures += [f"signal {done}, {kind.name}: {wrong}"] if wrong else []
            tell(f"{done} of {cases}: {kind.name}, {took:.2f} s {wrong}")
        if took is None or done % 4 == 0 or done == cases:
            wrong = ends_well(words, out, wanted)
            failures += [f"after signal {done}: {wrong}"] if wrong else []
    return Outcome(cases=cases, failures=failures, figures={"slowest end": f"{slowest:.2f} s"})


def interrupted(
    words: list[str], out: Path, kind: signal.Signals, after: float, *, to_all: bool
) -> tuple[float | None, str]:
    """Seconds that the build took to end, and what was wrong with it; None if it had ended before the signal."""
    with started(words, out) as process:
        if not begun(process, out):
            return None, ""
        time.sleep(after)
        if process.poll() is not None:
            return None, ""
        sent = time.monotonic()
        (os.killpg if to_all else os.kill)(process.pid, kind)
        try:
            _, said = process.communicate(timeout=SOON)
        except subprocess.TimeoutExpired:
            return SOON, f"still there after {SOON:g} s"
        took = time.monotonic() - sent
        while (left := left_of(process.pid)) and time.monotonic() - sent < SOON:
            time.sleep(0.01)  # what waits for the end of its parent notices it a moment later
        if process.returncode == 0:
            return None, ""  # its last line was done
        wrong = [f"exit {process.returncode}"] if process.returncode != CODES[kind] else []
        wrong += [f"{len(left)} processes left"] if left else []
        wrong += [f"said {said[-200:]!r}"] if said.strip() != SAID else []
        return took, "; ".join(wrong)
