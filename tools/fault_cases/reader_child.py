"""The parent's side of `read_foreign`: asks, waits no longer than allowed, and survives whatever the child does."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

STARTED = 60.0  # seconds a child may take to import what it needs
_ROOT = Path(__file__).parents[2]


class Child:
    """A process that reads what it is told; started anew when it died or was killed."""

    def __init__(self, limit: float) -> None:
        self._limit, self._process = limit, None
        self.deaths = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, what: object, where: TracebackType | None) -> None:
        self._end()

    def ask(self, kind: str, path: Path) -> dict[str, Any]:
        """The child's answer; `said` is "died" or "hung" where it gave none."""
        fresh = self._process is None
        process = self._process or self._start()
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps({"kind": kind, "path": str(path)}).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], self._limit + (STARTED if fresh else 0))
        line = process.stdout.readline() if ready else b""
        if line:
            return dict(json.loads(line))
        self.deaths += 1
        self._end()
        said = "died" if ready else "hung"
        return {
            "said": said,
            "reason": f"status {process.returncode}",
            "detail": "",
            "seconds": 0,
            "grown_mib": 0,
            "peak_mib": 0,
        }

    def _start(self) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("read_foreign.py")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        }
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=pipe, stdout=pipe, stderr=nowhere, env=environment
        )
        return self._process

    def _end(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
