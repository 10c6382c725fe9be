#!/usr/bin/env python
"""Kill a build at random moments, let it finish, and compare its tree with that of a build left in peace.

    python tools/kill_build.py --kills 20 recipe=fg_ood validate=none

Prints one line a kill and the verdict; exit 1 if a byte differs or a `.part` file is left. The moments are drawn
over the time that the peaceful build took; a build that ends before its moment is started anew in a new folder, so
that every kill counts. Seeded: --seed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def tree(root: Path) -> dict[str, str]:
    """path → sha256 of every published file."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and ".datakit" not in path.parts]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def command(words: list[str], out: Path) -> list[str]:
    return [sys.executable, "-m", "datakit.cli", "build", *words, f"out={out}", "--quiet"]


def build(words: list[str], out: Path) -> float:
    """Build in peace; seconds."""
    started = time.monotonic()
    subprocess.run(command(words, out), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def kill(words: list[str], out: Path, after: float) -> bool:
    """Start a build and SIGKILL its process group after some seconds; False if it ended before."""
    process = subprocess.Popen(command(words, out), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(timeout=after)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def campaign(words: list[str], kills: int, draw: random.Random, scratch: Path) -> bool:
    """Whether every tree that came out of a killed build equals the peaceful one."""
    seconds = build(words, scratch / "peace")
    wanted = tree(scratch / "peace")
    print(f"in peace: {seconds:.1f} s, {len(wanted)} files", flush=True)
    done, rounds, same = 0, 0, True
    while done < kills:
        out = scratch / f"round{rounds}"
        rounds += 1
        # What was done stays done, so later kills of a round come sooner; a few a round hit every phase.
        for share in sorted(draw.uniform(0.02, 1.0) for _ in range(min(5, kills - done))):
            if not kill(words, out, max(0.3, share * seconds / 5)):
                break
            done += 1
            steps = len(list((out / ".datakit" / "steps").glob("*/*.json")))
            print(f"kill {done}: {steps} shards of steps stood", flush=True)
        build(words, out)
        parts = list(out.rglob("*.part-*"))
        equal = tree(out) == wanted
        same = same and equal and not parts
        print(
            f"round {rounds}: {'equal' if equal else 'DIFFERENT'}, {len(parts)} .part files left", flush=True
        )
        shutil.rmtree(out)
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("words", nargs="+", help="the build: recipe=NAME key=value ...")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="datakit-kill-") as scratch:
        same = campaign(given.words, given.kills, random.Random(given.seed), Path(scratch))
    print(f"{given.kills} kills: " + ("every tree byte-identical" if same else "TREES DIFFER"))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
