"""A disk that fills up, and one that fails, lies or writes by halves at the n-th call; then space and health return.

Fullness is that of a real file system: a tmpfs of so many bytes, mounted in a namespace of our own; where that is
not allowed, a limit on the size of files. Failures are put into the calls of Python (see `inject`).
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from fault_cases import Outcome, Tell
from fault_cases.builds import PATIENCE, Ended, attempt, build, command, ends_well, small_build, tree

TITLE = "disk full at 20 points; EIO, ENOSPC, EDQUOT, short and lost writes at 500"
WANTED = (
    "exit 5 and what to do, nothing damaged, the same bytes once it is mended; short writes are gone on with"
)
FULL = 20
CASES = FULL + 500
SUITE = 4
INJECT = Path(__file__).parent / "inject"
ERRORS = {errno.EIO: "mend it", errno.ENOSPC: "free some space", errno.EDQUOT: "your quota"}
LOST = "gives back other bytes"
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    """A 26th of the cases, at least one, fill the disk; the others fail a call."""
    words, draw = [*small_build(work), "run.inline=true"], random.Random(seed)
    build(words, work / "peace")
    wanted = tree(work / "peace")
    full = max(1, cases * FULL // CASES)
    failures, seen = [], Counter[str]()
    for number in range(full):
        wrong, how = fill(words, work, (number + 0.5) / full, wanted)
        seen[how] += 1
        failures += [f"{how} at {number + 1}/{full}: {wrong}"] if wrong else []
        tell(f"{number + 1} of {full}: {how} {wrong}")
    calls = counted(words, work)
    for number in range(cases - full):
        what, wrong = fail_one(words, work, calls, draw, wanted)
        seen[what.partition(" ")[2].partition(" ")[0]] += 1
        failures += [f"{what}: {wrong}"] if wrong else []
        tell(f"{number + 1} of {cases - full}: {what} {wrong}")
    figures = {name: str(count) for name, count in sorted(seen.items())}
    return Outcome(cases=cases, failures=failures, figures=figures)


def fill(words: list[str], work: Path, share: float, wanted: dict[str, str]) -> tuple[str, str]:
    """Build where there is room for this share of it; what was wrong, and how the room was kept small."""
    used = sum(path.stat().st_blocks * 512 for path in (work / "peace").rglob("*") if path.is_file())
    disk = work / "disk"
    disk.mkdir(exist_ok=True)
    if can_mount(disk):
        how, said = "full", on_small_disk(words, disk, work / "full", int(used * share))
    else:
        how, said = "limited", with_small_files(words, work / "full", share)
    wrong = [] if said.code == 5 else [f"exit {said.code}"]
    wrong += [] if "goes on where it was" in said.said else [f"said {said.said[-200:]!r}"]
    return "; ".join([*wrong, *filter(None, [ends_well(words, work / "full", wanted)])]), how


def can_mount(disk: Path) -> bool:
    line = ["unshare", "-rm", "sh", "-c", MOUNT, "sh", "65536", str(disk), "true"]
    return bool(shutil.which("unshare")) and not subprocess.run(line, capture_output=True).returncode


def on_small_disk(words: list[str], disk: Path, out: Path, size: int) -> Ended:
    """Build on a tmpfs of so many bytes, and copy what stands there to `out` before it is unmounted."""
    then = 'code=0; "$@" || code=$?; cp -a "$COPY_FROM/." "$COPY_TO" && exit $code'
    line = [
        "sh",
        "-c",
        MOUNT,
        "sh",
        str(size),
        str(disk),
        "sh",
        "-c",
        then,
        "sh",
        *command(words, disk / "out"),
    ]
    out.mkdir()
    done = subprocess.run(
        ["unshare", "-rm", *line],
        env={**os.environ, "COPY_FROM": str(disk / "out"), "COPY_TO": str(out)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return Ended(done.returncode, done.stderr.strip())


def with_small_files(words: list[str], out: Path, share: float) -> Ended:
    """Build where no file may be larger than this share of the largest."""
    limit = int(share * 60_000)  # bytes; the tars of the small build are near this
    done = subprocess.run(
        command(words, out),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return Ended(done.returncode, done.stderr.strip())


def faulty(fault: str) -> dict[str, str]:
    return {"FAULT": fault, "PYTHONPATH": f"{INJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def counted(words: list[str], work: Path) -> Counter[str]:
    """How often a build in one process makes each call."""
    mark = work / "calls"
    attempt(words, work / "counted", faulty(f"count:::{mark}"))
    shutil.rmtree(work / "counted")
    return Counter(mark.read_text().split())


def fail_one(
    words: list[str], work: Path, calls: Counter[str], draw: random.Random, wanted: dict[str, str]
) -> tuple[str, str]:
    """One call of a build fails; what it was, and what was wrong with how the build took it."""
    out, mark = work / "out", work / "mark"
    call = draw.choice(sorted(calls))
    at = draw.randint(1, calls[call])
    written = call in ("write", "pwrite")
    what = draw.choice([*map(str, ERRORS), *(["short", "lie"] if written else [])])
    mark.unlink(missing_ok=True)
    # In workers too, each of which counts its own calls: a second in that many there is nearer their beginning.
    alone = draw.random() < 0.7
    at, how = (at, []) if alone else (max(1, at // 4), ["run.inline=false", "run.workers=2"])
    done = attempt([*words, *how], out, faulty(f"{call}:{at}:{what}:{mark}"))
    name = errno.errorcode[int(what)] if what.isdigit() else what
    told = f"{call} {name} {at} {'' if alone else 'in workers'}".strip()
    if not mark.exists():
        shutil.rmtree(out, ignore_errors=True)
        return (
            f"{call} never {at}",
            "" if not done.code else f"exit {done.code} of itself: {done.said[-200:]}",
        )
    # Harmless: no folder made where there is one; zeros lost off the end of a tar, which is then cut to its length.
    # What was not, `ends_well` finds: each record holds the digest of what should have been written.
    fine = what == "short" or (not done.code and (call == "mkdir" or (call, what) == ("pwrite", "lie")))
    expected = 0 if fine else 5
    hint = "" if fine else LOST if what == "lie" else ERRORS[int(what)]
    wrong = [] if done.code == expected else [f"exit {done.code}: {done.said[-200:]}"]
    wrong += [] if hint in done.said else [f"said {done.said[-200:]!r}"]
    return told, "; ".join([*wrong, *filter(None, [ends_well(words, out, wanted)])])
