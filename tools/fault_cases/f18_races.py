"""Two builders at once, on one folder and on one cache; a builder that dies while it holds the lock."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from fault_cases import Outcome, Tell
from fault_cases.builds import PATIENCE, begun, build, damage, ends_well, small_build, started, tree

TITLE = "two builders on one folder, on one cache; a crash that holds the lock"
WANTED = "one proceeds, the other is refused; on a cache both proceed; no stale lock; the same bytes"
CASES = 50
SUITE = 3
REFUSED = "another build is running"
NO_RACE = "the first had ended when the second began"


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    """By turns: a race on one folder, one on a shared cache, a crash."""
    words, draw = [*small_build(work), "run.inline=true"], random.Random(seed)
    seconds = build(words, work / "peace")
    wanted = tree(work / "peace")
    failures: list[str] = []
    again = 0
    for number in range(cases):
        kind = (one_folder, one_cache, crash)[number % 3]
        place = work / f"race{number}"
        wrong = kind(words, place, draw.uniform(0, 0.3) * seconds, wanted)
        if wrong == NO_RACE:
            again += 1
            shutil.rmtree(place)
            wrong = kind(words, place, 0.0, wanted)
        failures += [f"{kind.__name__} {number}: {wrong}"] if wrong else []
        tell(f"{number + 1} of {cases}: {kind.__name__} {wrong}")
        shutil.rmtree(place, ignore_errors=True)
    return Outcome(cases=cases, failures=failures, figures={"raced again": str(again)})


def one_folder(words: list[str], place: Path, apart: float, wanted: dict[str, str]) -> str:
    """Exactly one proceeds. `apart`: seconds between their starts, at most a third of a build."""
    out = place / "out"
    with started(words, out) as first:
        time.sleep(apart)
        with started(words, out) as second:
            ends = [said(first), said(second)]
    codes = sorted(code for code, _ in ends)
    if codes == [0, 0] and one_after_the_other(out):
        return NO_RACE
    wrong = [] if codes == [0, 5] else [f"exits {codes}: {ends}"]
    wrong += [] if all(REFUSED in text for code, text in ends if code) else [f"said {ends}"]
    wrong += [f"damaged: {bad}"] if (bad := damage(out)) else []
    return "; ".join([*wrong, *filter(None, [ends_well(words, out, wanted)])])


def one_after_the_other(out: Path) -> bool:
    """Whether the first had ended when the second began, which is no race: a busy machine starts some late."""
    log = (out / ".datakit" / "logs" / "build.jsonl").read_text().splitlines()
    pids = [json.loads(line)["pid"] for line in log]
    return pids == sorted(pids, key=pids.index)


def one_cache(words: list[str], place: Path, apart: float, wanted: dict[str, str]) -> str:
    """Both proceed, and both trees are whole."""
    shared = [*words, f"run.cache={place / 'cache'}"]
    with started(shared, place / "a") as first:
        time.sleep(apart)
        with started(shared, place / "b") as second:
            ends = [said(first), said(second)]
    wrong = [f"exit {code}: {text}" for code, text in ends if code]
    wrong += [f"another tree in {name}" for name in "ab" if tree(place / name) != wanted]
    return "; ".join(wrong)


def crash(words: list[str], place: Path, apart: float, wanted: dict[str, str]) -> str:
    """The next builder needs no help."""
    out = place / "out"
    with started(words, out) as holder:
        if not begun(holder, out):
            return "it ended before it could be killed"
        time.sleep(apart)
        os.killpg(holder.pid, signal.SIGKILL)
    return ends_well(words, out, wanted)


def said(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and what went to stderr."""
    _, text = process.communicate(timeout=PATIENCE)
    return process.returncode, text.strip()
