"""Run as a process: upkeeps of the index in a folder, each killed at every one of its writes.

It forks itself for each kill, so that what is imported is imported once; JSON lines say what was left.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.index import upkeep
from datakit.index.opened import open_index
from datakit.index.spec import Target

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.truncate"}


def rows(first: int, count: int, dim: int) -> tuple[np.ndarray[Any, Any], pa.Table]:
    vectors = np.random.default_rng(first).standard_normal((count, dim)).astype(np.float32)
    keys = [f"new{at:04d}" for at in range(first, first + count)]
    return vectors, pa.table({"key": keys, "price": np.arange(count, dtype=np.float64)})


def operations(dim: int) -> dict[str, Callable[[Path], Any]]:
    return {
        "add": lambda place: upkeep.add(place, *rows(100, 9, dim)),
        "replace": lambda place: upkeep.add(place, -rows(0, 5, dim)[0], rows(0, 5, dim)[1], replace=True),
        "delete": lambda place: upkeep.delete(place, ["k00001", "new0003"]),
        "compact": upkeep.compact,
        "retune": lambda place: upkeep.retune(place, Target(recall=0.8)),
    }


def kill_at(number: int) -> None:
    """This process, before its write of that number; half of the bytes are written where it is one of bytes."""
    seen, write = 0, os.write

    def count() -> bool:
        nonlocal seen
        seen += 1
        return seen == number

    def half(file: int, data: Any) -> int:
        if count():
            write(file, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(file, data)

    def audit(event: str, words: tuple[Any, ...]) -> None:
        written = event == "open" and isinstance(words[2], int) and words[2] & (os.O_WRONLY | os.O_RDWR)
        if (written or event in WRITES) and count():
            os.kill(os.getpid(), signal.SIGKILL)

    os.write = half
    sys.addaudithook(audit)


def state(place: Path) -> tuple[Any, ...]:
    """What the index answers."""
    index = open_index(place)
    hits = index.search(np.eye(index.dim, dtype=np.float32), k=20, exact=True)
    table = hits.table(index)
    keys = sorted(np.asarray(index.keys)[index.live].tolist())
    return keys, table["key"].to_pylist(), table["score"].to_pylist(), index.about["generation"]


def killed(operation: Callable[[Path], Any], place: Path, number: int) -> bool:
    """Whether it was, and did not end before."""
    child = os.fork()
    if not child:
        kill_at(number)
        operation(place)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"the upkeep itself failed with {status}")
    return os.WIFSIGNALED(status)


def main(sound: Path, every: int) -> None:
    place = sound.with_name("killed")
    for name, operation in operations(open_index(sound).dim).items():
        shutil.rmtree(place, ignore_errors=True)
        before = state(sound)
        operation(Path(shutil.copytree(sound, place)))
        after, whole = state(place), sorted(file.name for file in place.iterdir())
        for number in range(1, 10_000, every):
            shutil.rmtree(place)
            shutil.copytree(sound, place)
            if not killed(operation, place, number):
                break
            left = state(place)
            said = "old" if left == before else "new" if left == after else "neither"
            if said == "old":
                operation(place)
            again = state(place) == after
            files = sorted(file.name for file in place.iterdir()) == whole or said == "new"
            print(
                json.dumps({"what": name, "at": number, "left": said, "again": again, "files": files}),
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
