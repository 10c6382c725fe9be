"""SIGKILL of a build's process group at random moments; each is gone on with, to the tree of a build left in peace."""

from __future__ import annotations

import random
from pathlib import Path

from fault_cases import Outcome, Tell
from fault_cases.builds import kills, small_build

TITLE = "SIGKILL of a build and its workers at random moments"
WANTED = "the same bytes after going on, nothing damaged, no .part left"
CASES = 200
SUITE = 2


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    """One kill a case."""
    words = [*small_build(work), "run.workers=2"]
    found = kills(words, cases, random.Random(seed), work, tell)
    return Outcome(cases=cases, failures=found.failures, figures=found.figures)
