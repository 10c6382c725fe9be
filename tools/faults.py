"""Fault campaigns: what machines and strangers do to a build, a store and a loader, and what must hold all the same.

    python tools/faults.py                     every campaign at its full figure (hours)
    python tools/faults.py F1 F7 --share 0.1   these two, at a tenth

Prints one table; exit 1 if a case did not hold. Draws are seeded: the same `--seed` gives the same faults.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parent))

from fault_cases import Outcome, campaigns

SHOWN = 5  # failures named a campaign


def run(module: ModuleType, share: float, seed: int) -> tuple[Outcome, float]:
    """One campaign in a folder of its own, and its seconds."""
    cases = max(1, math.ceil(module.CASES * share))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="datakit-faults-") as work:
        outcome = module.run(
            cases, seed, Path(work), lambda text: print(f"  {text}", file=sys.stderr, flush=True)
        )
    return outcome, time.monotonic() - started


def main(words: list[str]) -> int:
    known = campaigns()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(known)}; all, if none is given")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of each campaign's cases, above 0 (default 1)"
    )
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(words)
    if unknown := [name for name in asked.names if name not in known]:
        parser.error(f"no campaign {', '.join(unknown)}; there are {', '.join(known)}")
    if asked.share <= 0:
        parser.error("--share must be above 0")
    rows, failures = [], []
    for name in asked.names or known:
        module = known[name]
        print(f"{name}: {module.TITLE}", file=sys.stderr, flush=True)
        outcome, seconds = run(module, asked.share, asked.seed)
        figures = "; ".join(f"{what} {value}" for what, value in outcome.figures.items())
        held = f"{outcome.held} of {outcome.cases}"
        rows.append(f"| {name} | {module.TITLE} | {module.WANTED} | {held} | {figures} | {seconds:.0f} |")
        failures += [f"{name}: {line}" for line in outcome.failures[:SHOWN]]
        if len(outcome.failures) > SHOWN:
            failures.append(f"{name}: … and {len(outcome.failures) - SHOWN} more")
    print(
        "| | what is done | what must hold | held | measured | s |\n|---|---|---|---|---|---|",
        *rows,
        sep="\n",
    )
    print(*failures, sep="\n", end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
