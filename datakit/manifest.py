"""One JSON a shard, written last: no manifest, no shard.

Every write here is `x.part-<pid>` → flush → fsync → rename → fsync of the folder, so that a kill at any moment
leaves the old state or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from datakit.errors import EnvironmentProblem, StoreError

_PART = re.compile(r"\.part-(\d{1,7})(-\w+)?$")  # the kernel's largest pid has seven digits
LIBRARIES = (
    "datakit",
    "numpy",
    "pyarrow",
    "pillow",
    "simplejpeg",
    "faiss-cpu",
    "onnxruntime",
    "torch",
    "pytorch-ood",
)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a shard of a step holds. `inputs` = `samples` + dropped + failed, or the build stops.

    `stages`: [name, version, code hash] of what made it; `code`: hash of theirs and of all before them;
    `files`: name → bytes.
    """

    fingerprint: str
    step: str
    shard: int
    inputs: int
    samples: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    stages: list[list[Any]] = field(default_factory=list)
    code: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    groups: list[list[Any]] = field(default_factory=list)  # repartition: [group, index, of, rows]
    seconds: float = 0.0

    def counted(self) -> Manifest:
        """Itself, if the counts add up."""
        ended = self.samples + sum(self.dropped.values()) + sum(self.failed.values())
        if ended != self.inputs:
            raise StoreError(
                f"{self.step} shard {self.shard}: {self.inputs} samples came in and {ended} were accounted for"
            )
        return self


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The last write of a shard."""
    write_json(folder / f"{manifest.shard:05d}.json", asdict(manifest.counted()))


def read_manifest(folder: Path, shard: int) -> Manifest | None:
    """The manifest, or None where the shard is not there, whole: a file missing or of another size."""
    try:
        found = Manifest(**json.loads((folder / f"{shard:05d}.json").read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return None  # written by another version: made again
    for name, size in found.files.items():
        with contextlib.suppress(FileNotFoundError):
            if (folder / name).stat().st_size == size:
                continue
        return None
    return found


def total(manifests: list[Manifest]) -> tuple[Counter[str], Counter[str]]:
    """Dropped and failed by reason, over shards."""
    dropped, failed = Counter[str](), Counter[str]()
    for manifest in manifests:
        dropped.update(manifest.dropped)
        failed.update(manifest.failed)
    return dropped, failed


def write_json(path: Path, value: Any) -> None:
    """Canonical JSON (sorted keys, one-space indent), atomically."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, text.encode() + b"\n")


def write_bytes(path: Path, data: bytes) -> None:
    with atomic(path) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A `.part` path to write; on a clean exit it is synced and renamed onto `path`."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            sync(part)
            part.replace(path)
            sync(path.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as problem:
        raise EnvironmentProblem(f"cannot write {path}: {problem.strerror or problem}") from problem


def sync(path: Path) -> None:
    """fsync of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_orphans(folder: Path, *, ours: bool) -> int:
    """Delete `.part-<pid>` files that nobody goes on writing; how many.

    ours: nobody else writes here (the caller holds the lock); else only those of dead writers.
    """
    removed = 0
    for part in folder.rglob("*.part-*"):
        found = _PART.search(part.name)
        if found and (ours or not _alive(int(found[1]))):
            part.unlink(missing_ok=True)
            removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A killed process that nobody waited for still answers; it writes no more.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


@cache
def versions() -> dict[str, str]:
    """Of Python and of the libraries whose version can change bytes."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
