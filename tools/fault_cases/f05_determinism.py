"""The same build with 1, 2 and 4 workers, shuffled listings of folders and other hash seeds: one digest."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

from fault_cases import Outcome, Tell
from fault_cases.builds import attempt, small_build, tree

TITLE = "1, 2, 4 workers × 3 runs × shuffled listings × PYTHONHASHSEED"
WANTED = "one digest"
WORKERS, RUNS, SHUFFLED, HASHES = (1, 2, 4), 3, (False, True), ("0", "random")
CASES = len(WORKERS) * RUNS * len(SHUFFLED) * len(HASHES)
SUITE = 2
INJECT = Path(__file__).parent / "inject"


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    """One build a case; all ways are drawn before one comes twice."""
    words = small_build(work)
    ways = [(w, s, h) for _ in range(RUNS) for w in WORKERS for s in SHUFFLED for h in HASHES]
    random.Random(seed).shuffle(ways)
    digests: dict[str, str] = {}  # digest → the first way to it
    failures = []
    for number in range(cases):
        workers, shuffled, hashes = ways[number % len(ways)]
        way = f"{workers} workers, {'shuffled' if shuffled else 'plain'} listings, hash seed {hashes}"
        env = {
            "PYTHONHASHSEED": hashes,
            "PYTHONPATH": f"{INJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        }
        env |= {"FAULT": f"shuffle:{seed + number}"} if shuffled else {}
        out = work / f"run{number}"
        done = attempt([*words, f"run.workers={workers}"], out, env)
        digest = hashlib.sha256(json.dumps(tree(out)).encode()).hexdigest() if not done.code else ""
        first = digests.setdefault(digest, way)
        if done.code:
            failures.append(f"{way}: exit {done.code}: {done.said[-200:]}")
        elif len(digests) > 1 and first == way:
            failures.append(f"{way}: other bytes than with {next(iter(digests.values()))}")
        shutil.rmtree(out, ignore_errors=True)
        tell(f"{number + 1} of {cases}: {way}: {digest[:12]}")
    return Outcome(cases=cases, failures=failures, figures={"digests": str(len(digests))})
