"""A process that does jobs in one child: kept between the jobs of a build, gone with whoever has no more use for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest

from datakit.errors import EnvironmentProblem, StageError
from datakit.run import supervise
from datakit.run.job import Job, open_steps
from datakit.run.progress import QuietSink
from datakit.run.supervise import Task, supervised
from datakit.run.watch import Limits

TOY = Path(__file__).parent.parent / "toy_recipe.py"
LOOP = "    for index in range(samples):\n"
HANG = """    import ctypes, os, pathlib
    pathlib.Path({!r}).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(3600)
"""
LEAVES = """
import pathlib, threading, time
from datakit.run.progress import QuietSink
from datakit.run.supervise import Task, supervised
from datakit.run.watch import Limits
from datakit.run.job import Job
task = Task(build="one", job=Job({job}), limits=Limits(), sink=QuietSink())
threading.Thread(target=supervised, args=(task,), daemon=True).start()
while not pathlib.Path({mark!r}).exists():
    time.sleep(0.05)
"""


def task(root: Path, *, build: str = "one", shard: int = 0, step: str = "") -> Task:
    steps = open_steps(str(TOY), ("samples=2",), (), str(root))
    job = Job(
        recipe=str(TOY),
        words=("samples=2",),
        listings=(),
        root=str(root),
        step=step or next(iter(steps.plan.steps)),
        shard=shard,
        lineage=steps.plan.lineage(next(iter(steps.plan.steps.values()))),
    )
    return Task(build=build, job=job, limits=Limits(), sink=QuietSink())


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Here a child leaves soon after its last job."""
    monkeypatch.setattr(supervise, "IDLE", 1.0)
    yield
    assert gone(*(child.pid or 0 for child in active_children()))


def gone(*pids: int) -> bool:
    """Whether these end within ten seconds."""
    until = time.monotonic() + 10
    while alive := [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and running(pid)]:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return not alive


def running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    return False


def children() -> set[int | None]:
    return {child.pid for child in active_children()}


def test_a_build_has_one_child_and_another_build_another(idle: None, tmp_path: Path) -> None:
    assert supervised(task(tmp_path)).samples == 2
    first = children()
    supervised(task(tmp_path, shard=1))
    assert len(first) == 1 and children() == first
    supervised(task(tmp_path, build="two", shard=2))
    assert len(children()) == 1 and not children() & first


def test_after_an_error_the_next_job_is_done(idle: None, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="has another one"):
        supervised(task(tmp_path, step="0123"))
    assert supervised(task(tmp_path)).samples == 2


def test_files_that_changed_since_are_not_run(
    idle: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "digest", lambda: "other")
    with pytest.raises(EnvironmentProblem, match="have changed since this worker started"):
        supervised(task(tmp_path))


@pytest.mark.parametrize("how", ["leaves", "killed"])
def test_a_child_in_c_code_ends_with_its_parent(tmp_path: Path, how: str) -> None:
    recipe, mark = tmp_path / "hangs.py", tmp_path / "mark"
    recipe.write_text(TOY.read_text().replace(LOOP, HANG.format(str(mark)) + LOOP))
    plan = open_steps(str(recipe), (), (), str(tmp_path)).plan
    step, lineage = next((fingerprint, plan.lineage(step)) for fingerprint, step in plan.steps.items())
    job = f"recipe={str(recipe)!r}, words=(), listings=(), root={str(tmp_path)!r}, step={step!r}, shard=0"
    job += f", lineage={lineage!r}"
    code = LEAVES.format(job=job, mark=str(mark)) + ("time.sleep(3600)\n" if how == "killed" else "")
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as parent:
        try:
            while not mark.exists() or not mark.read_text():
                assert parent.poll() is None
                time.sleep(0.05)
            if how == "killed":
                os.kill(parent.pid, signal.SIGKILL)
            _, said = parent.communicate(timeout=10)
            assert parent.returncode == (-signal.SIGKILL if how == "killed" else 0) and not said
            assert gone(int(mark.read_text()))
        finally:
            parent.kill()
