"""One JSON a shard, written last: no manifest, no shard.

Every write is that of `disk`: a kill, or a disk that refuses, at any moment leaves the old state or the new one.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import xxhash

from datakit.disk import atomic, digest_of, digest_written, remove_orphans, sealed, sync, write_bytes
from datakit.errors import StoreError

__all__ = [
    "Manifest",
    "atomic",
    "intact",
    "read_manifest",
    "read_record",
    "remove_orphans",
    "sealed",
    "sync",
    "total",
    "versions",
    "write_bytes",
    "write_json",
    "write_manifest",
    "write_record",
]

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
    `files`: name → bytes; `digests`: name → xxh3_128 of each.
    """

    fingerprint: str
    step: str
    shard: int
    inputs: int
    samples: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
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
    """The last write of a shard, with the digests of what was written."""
    digests = {name: digest_written(folder / name) for name in manifest.files}
    write_record(folder / f"{manifest.shard:05d}.json", asdict(replace(manifest.counted(), digests=digests)))


def read_manifest(folder: Path, shard: int) -> Manifest | None:
    """The manifest, or None where the shard is not there, whole: a file missing or of another size, or the manifest
    itself damaged. Whether files of the right size hold the right bytes, `intact` says.
    """
    record = read_record(folder / f"{shard:05d}.json")
    try:
        found = Manifest(**record) if record else None
    except TypeError:
        return None  # written by another version: made again
    if found is None:
        return None
    for name, size in found.files.items():
        with contextlib.suppress(FileNotFoundError):
            if (folder / name).stat().st_size == size:
                continue
        return None
    return found


def intact(folder: Path, manifest: Manifest) -> bool:
    """Whether every file of a shard holds the bytes that were written: reads them all."""
    try:
        return all(digest_of(folder / name) == digest for name, digest in manifest.digests.items())
    except OSError:
        return False


def total(manifests: list[Manifest]) -> tuple[Counter[str], Counter[str]]:
    """Dropped and failed by reason, over shards."""
    dropped, failed = Counter[str](), Counter[str]()
    for manifest in manifests:
        dropped.update(manifest.dropped)
        failed.update(manifest.failed)
    return dropped, failed


def write_json(path: Path, value: Any) -> None:
    """Canonical JSON (sorted keys, one-space indent), atomically."""
    write_bytes(path, _canonical(value))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """JSON that vouches for itself: `xxh3` is the digest of all else in it.

    These are the ledger of a build: one record a shard, appearing last and whole. One file of lines would say no more,
    and all writers would have to share it.
    """
    write_json(path, {**value, "xxh3": xxhash.xxh3_128_hexdigest(_canonical(value))})


def read_record(path: Path) -> dict[str, Any] | None:
    """What `write_record` wrote, or None where it is not there, torn or changed in any bit that means something."""
    try:
        found = json.loads(path.read_bytes())
        digest = found.pop("xxh3")
        return found if digest == xxhash.xxh3_128_hexdigest(_canonical(found)) else None
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # written by another version, or damaged: made again


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
