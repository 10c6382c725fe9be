"""Whether a store is, bit for bit, what its manifest says; deep: also whether its forms agree with each other."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datakit.errors import StoreError
from datakit.store.contents import Contents, read_contents
from datakit.store.layout import MANIFEST, File
from datakit.store.metadata import KEY, read_metadata
from datakit.store.owned import OURS
from datakit.store.verify_shard import Problem, compare_shard, read_rows

CHUNK = 1 << 20  # bytes
SHOWN = 50  # problems in the text for people; the JSON has all
_READ_BY_OTHERS = {"data": ".tar", "metadata": ".parquet", "lists": ".parquet", "arrow": ".arrow"}


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was looked at, and every problem found."""

    root: str
    deep: bool
    files: int
    bytes: int
    samples: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}

    def text(self) -> str:
        how = "every digest, sample and image" if self.deep else "every digest"
        head = f"{self.root}: {self.samples} samples, {self.files} files, {self.bytes / 1e6:.1f} MB; {how} compared"
        lines = [
            f"{p.file}{f' [{p.key}]' if p.key else ''}: {p.reason}: {p.detail}" for p in self.problems[:SHOWN]
        ]
        more = len(self.problems) - len(lines)
        end = "all as written" if self.ok else f"{len(self.problems)} problems"
        return "\n".join([head, *lines, *([f"… and {more} more"] if more else []), end])


def verify(root: str | Path, *, deep: bool = False) -> VerifyReport:
    """Compare a store with its manifest: every file's bytes and sha256, every count, no shard unlisted.

    deep: also every tar member, the digest of every sample, every image decoded, and tar, metadata, Arrow,
    wids index and lists against each other. Problems are returned, never raised.
    """
    folder = Path(root)
    try:
        contents = read_contents(folder)
    except StoreError as problem:
        found = Problem(file=MANIFEST, reason="manifest", detail=str(problem))
        return VerifyReport(root=str(root), deep=deep, files=0, bytes=0, samples=0, problems=(found,))
    problems = [*_files(folder, contents), *_strangers(folder, contents), *_counts(folder, contents)]
    if deep:
        for shards in contents.splits.values():
            problems += [
                problem for entry in shards for problem in compare_shard(folder, entry, contents.layout)
            ]
        problems += _lists(folder, contents)
    return VerifyReport(
        root=str(root),
        deep=deep,
        files=len(contents.files) + 1,
        bytes=sum(file.bytes for file in contents.files.values()),
        samples=sum(contents.counts.values()),
        problems=tuple(problems),
    )


def _files(root: Path, contents: Contents) -> Iterator[Problem]:
    # Threads: hashing leaves the interpreter free.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda file: _file(root, file), contents.files.values())
        yield from (problem for problem in found if problem)


def _file(root: Path, file: File) -> Problem | None:
    try:
        size = (root / file.path).stat().st_size
        if size != file.bytes:
            detail = f"{size} bytes, {file.bytes} were written"
            return Problem(file=file.path, reason="size", detail=detail)
        digest = hashlib.sha256()
        with (root / file.path).open("rb") as data:
            while chunk := data.read(CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return Problem(file=file.path, reason="missing", detail="the manifest lists it")
    except OSError as problem:
        return Problem(file=file.path, reason="missing", detail=f"cannot be read: {problem.strerror}")
    if digest.hexdigest() != file.sha256:
        return Problem(file=file.path, reason="digest", detail="its sha256 is not the one written")
    return None


def _strangers(root: Path, contents: Contents) -> Iterator[Problem]:
    """Files that readers would take for part of the store, and it does not list."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        name = "/".join(parts)
        if parts[0] == OURS or name in contents.files or name == MANIFEST:
            continue
        if ".part-" in path.name:
            yield Problem(file=name, reason="unfinished", detail="left by a write that did not end")
        elif path.suffix and _READ_BY_OTHERS.get(parts[0]) == path.suffix:
            yield Problem(file=name, reason="unlisted", detail="no file of the manifest")


def _counts(root: Path, contents: Contents) -> Iterator[Problem]:
    for split, shards in contents.splits.items():
        for entry in shards:
            for file in entry.files:
                if contents.files.get(file.path) != file:
                    detail = "its shard and the list of files say different things"
                    yield Problem(file=MANIFEST, reason="manifest", detail=f"{file.path}: {detail}")
            rows, detail = read_rows(root, entry, [KEY])
            if rows is None or rows.num_rows != entry.samples:
                detail = (
                    detail or f"{rows.num_rows if rows else 0} rows, {entry.samples} samples were written"
                )
                yield Problem(file=entry.metadata.path, reason="count", detail=detail)
        yield from _wids(root, split, [(e.tar.path.removeprefix("data/"), e.samples) for e in shards])


def _wids(root: Path, split: str, expected: list[tuple[str, int]]) -> Iterator[Problem]:
    path = f"data/{split}.index.json"
    try:
        shards = json.loads((root / path).read_bytes())["shardlist"]
        found = [(shard["url"], shard["nsamples"]) for shard in shards]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        yield Problem(file=path, reason="count", detail=f"not a wids index: {problem}")
        return
    if found != expected:
        yield Problem(file=path, reason="count", detail="its shards or counts are not those of the manifest")


def _lists(root: Path, contents: Contents) -> Iterator[Problem]:
    keys: set[str] = set()
    for entry in (entry for shards in contents.splits.values() for entry in shards):
        rows, _ = read_rows(root, entry, [KEY])
        if rows is None:
            return  # said already; every key of that shard would follow
        keys.update(rows[KEY].to_pylist())
    for name in contents.selections:
        path = f"lists/{name}.parquet"
        try:
            unknown = set(read_metadata(root / path, [KEY])[KEY].to_pylist()) - keys
        except StoreError as problem:
            yield Problem(file=path, reason="count", detail=str(problem))
            continue
        for key in sorted(unknown):
            yield Problem(file=path, reason="count", detail="no shard holds this key", key=key)
