#!/usr/bin/env python
"""Kill a build at random moments, let it finish, and compare its tree with that of a build left in peace.

    python tools/kill_build.py --kills 20 recipe=fg_ood validate=none

Prints one line a kill and the verdict; exit 1 if a byte differs or a `.part` file is left. The moments are drawn
over the files that the peaceful build made; a build that ends before its moment is started anew in a new folder, so
that every kill counts. Seeded: --seed. `tools/faults.py F1` does the same to a small build, 200 times.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fault_cases.builds import kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("words", nargs="+", help="the build: recipe=NAME key=value ...")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="datakit-kill-") as scratch:
        draw = random.Random(given.seed)
        found = kills(given.words, given.kills, draw, Path(scratch), lambda text: print(text, flush=True))
    print(found.figures["kills"] + (": TREES DIFFER" if found.failures else ": every tree byte-identical"))
    sys.exit(1 if found.failures else 0)


if __name__ == "__main__":
    main()
