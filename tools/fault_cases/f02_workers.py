"""Workers of a Dask cluster, or the children that do their jobs, killed or stopped at random moments of builds; the
trees compared with a local build's.

Two kills a build, fewer than it may take: a job whose worker died three times ends the build by design. Each sixth
case stops one instead, at its start or later, which must be gone within the time that a sample may take and LATE more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from fault_cases import Outcome, Tell

TITLE = "SIGKILL (five of six) or SIGSTOP of a Dask worker or its child at a random moment of a build"
WANTED = (
    "the build completes, its tree a local build's byte for byte; what stalled is replaced; nothing is left"
)
CASES = 120
SUITE = 2
A_BUILD = 2  # signals
STOP_EVERY = 6
CLUSTER = 2.0  # seconds that a cluster takes to come and go
LIMIT = 120.0  # seconds of one build
TIMEOUT = 5.0  # seconds that a sample may take
LATE = 5.0  # seconds more that a stopped process may be there
TOY = Path(__file__).parents[2] / "tests" / "toy_recipe.py"
LOOP = "    for index in range(samples):\n"
WORDS = ("shards=6", "samples=60", "bad=1", "run.max_failed=0.2", f"run.timeout={TIMEOUT}", "--quiet")


@dataclass
class Round:
    """One build, what befell its processes, and seconds: how long one that was stopped was there, and the build."""

    out: Path
    sent: list[str] = field(default_factory=list)
    stalled: float = 0.0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    recipe, draw = work / "slow.py", random.Random(seed)
    # A source slow enough to be hit: 0.3 s a shard.
    text = TOY.read_text()
    recipe.write_text(text.replace(LOOP, LOOP + "        __import__('time').sleep(0.005)\n"))
    local = Round(work / "local")
    _build(local, recipe, ["run.workers=2"], [])
    wanted, failures = tree(local.out), list(local.failures)
    over = local.seconds + CLUSTER
    done, slowest, stalled = 0, 0.0, 0.0
    while done < cases:
        numbers = _numbers(done, cases)
        moments = sorted(draw.uniform(0.0, over) for _ in numbers)
        found = Round(work / f"round{done}-{draw.randrange(10**6)}")
        _build(
            found, recipe, ["run.on=dask", "run.workers=2"], list(zip(numbers, moments, strict=True)), draw
        )
        if not found.sent:
            continue  # it was over before the first moment came
        done += len(found.sent)
        slowest, stalled = max(slowest, found.seconds), max(stalled, found.stalled)
        failures += _judge(found, wanted)
        tell(f"{done} of {cases}: {', '.join(found.sent)}: {found.seconds:.1f} s")
    return Outcome(
        cases=cases,
        failures=failures,
        figures={
            "a local build": f"{local.seconds:.1f} s",
            "the slowest hit": f"{slowest:.1f} s",
            "a stopped process at most": f"{stalled:.1f} s",
        },
    )


def _numbers(done: int, cases: int) -> list[int]:
    """The signals of the next build: one stop, or kills up to the next stop."""
    if done % STOP_EVERY == STOP_EVERY - 1:
        return [signal.SIGSTOP]
    return [signal.SIGKILL] * min(A_BUILD, cases - done, STOP_EVERY - 1 - done % STOP_EVERY)


def _judge(found: Round, wanted: dict[str, str]) -> list[str]:
    """A line for each signal of a build that did not come out as it must."""
    wrong = list(found.failures)
    if not wrong and tree(found.out) != wanted:
        wrong.append("the tree differs")
    if parts := list(found.out.rglob("*.part-*")):
        wrong.append(f"{len(parts)} .part files left")
    return [f"{found.out.name}, {one}: {'; '.join(wrong)}" for one in found.sent] if wrong else []


def tree(root: Path) -> dict[str, str]:
    """path → sha256 of every published file."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and ".datakit" not in path.parts]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def _build(
    found: Round,
    recipe: Path,
    words: list[str],
    signals: list[tuple[int, float]],
    draw: random.Random | None = None,
) -> None:
    """Build into `found.out`, sending each signal at its moment to a worker drawn; what went wrong into `failures`."""
    line = [sys.executable, "-m", "datakit.cli", "build", f"recipe={recipe}", f"out={found.out}"]
    said = found.out.with_name(f"{found.out.name}.stderr")
    with said.open("wb") as stderr:
        build = subprocess.Popen(
            [*line, *WORDS, *words],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        hit: set[int] = set()
        while not _workers(build.pid) and build.poll() is None:
            time.sleep(0.02)
        started = time.monotonic()
        for number, moment in signals:
            with contextlib.suppress(subprocess.TimeoutExpired):
                build.wait(timeout=max(0.0, started + moment - time.monotonic()))
            there = {pid: who for pid, who in _victims(build.pid).items() if pid not in hit}
            if there and draw and build.poll() is None:
                pid = draw.choice(sorted(there))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                    hit.add(pid)
                    found.sent.append(f"{signal.Signals(number).name} of a {there[pid]} after {moment:.2f} s")
                    _outlast(found, build, pid, number)
        code = build.wait(timeout=LIMIT)
        found.seconds = time.monotonic() - started
        if code or said.stat().st_size:
            found.failures.append(f"exit {code}: {said.read_text()[-300:].strip()}")
        time.sleep(0.2)  # a killed child of a dead parent takes a moment to go
        if left := _session(build.pid):
            found.failures.append(f"processes left: {left}")
    except subprocess.TimeoutExpired:
        found.failures.append(f"not over after {LIMIT:.0f} s")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(build.pid, signal.SIGKILL)
        build.wait()


def _outlast(found: Round, build: subprocess.Popen[bytes], pid: int, number: int) -> None:
    """Wait until a process that was stopped is no more, or its build is over; note how long that took."""
    sent = time.monotonic()
    while number == signal.SIGSTOP and build.poll() is None and _there(pid):
        found.stalled = time.monotonic() - sent
        if found.stalled > TIMEOUT + LATE:
            found.failures.append(f"still there {TIMEOUT + LATE:.0f} s after it was stopped")
            return
        time.sleep(0.05)


def _there(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    return False


def _victims(build: int) -> dict[int, str]:
    """pid → what it is, of a build's Dask workers and of the children that do their jobs."""
    workers = _workers(build)
    children = {child: "child" for worker in workers for child in _workers(worker)}
    return dict.fromkeys(workers, "worker") | children


def _workers(parent: int) -> list[int]:
    """Pids of a process's spawned children: not of the resource tracker, which is a child too."""
    return [pid for pid, of, _, line in _processes() if of == parent and b"spawn_main" in line]


def _session(leader: int) -> list[int]:
    return [pid for pid, _, session, line in _processes() if session == leader and line]


def _processes() -> list[tuple[int, int, int, bytes]]:
    """(pid, parent, session, command line) of all; the command line of one that is only waited for is empty."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            found.append((int(folder.name), int(state[1]), int(state[3]), (folder / "cmdline").read_bytes()))
    return found
