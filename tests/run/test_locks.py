"""Who may write where, and that nothing is left of a lock whose holder died."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datakit.errors import EnvironmentProblem
from datakit.run.locks import Sharing, locked, sharing

HOLD = """
import sys, time
from pathlib import Path
from datakit.run.locks import locked, sharing
with getattr(sys.modules["datakit.run.locks"], sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(kind: str, folder: Path) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", HOLD, kind, str(folder)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_one_build_in_a_folder_and_no_stale_lock_after_a_crash(tmp_path: Path) -> None:
    with holder("locked", tmp_path) as other:
        with pytest.raises(EnvironmentProblem, match="another build is running"), locked(tmp_path):
            pass
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    with locked(tmp_path):
        pass


def test_builders_share_a_cache_but_delete_in_it_alone(tmp_path: Path) -> None:
    with sharing(tmp_path) as held, held.alone():
        pass
    with holder("sharing", tmp_path) as other:
        refused = pytest.raises(EnvironmentProblem, match="another build uses the cache")
        with sharing(tmp_path) as held, refused, held.alone():
            pass
        other.kill()


def test_who_comes_during_a_deletion_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datakit.run.locks.PATIENCE", 0.2)
    with sharing(tmp_path) as first:
        with first.alone(), pytest.raises(EnvironmentProblem, match="deleting steps"), sharing(tmp_path):
            pass
        with sharing(tmp_path) as second:
            assert isinstance(second, Sharing)


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*given: Any) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(EnvironmentProblem, match=r"has no locks .*Operation not supported"), locked(tmp_path):
        pass
