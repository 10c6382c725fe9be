"""Whether a store is, bit for bit, what its manifest says; deep: also whether its forms agree with each other."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from datakit.errors import StoreError
from datakit.store.contents import Contents, read_contents
from datakit.store.layout import MANIFEST, File
from datakit.store.metadata import KEY, read_metadata
from datakit.store.owned import OURS
from datakit.store.verify_shard import Problem, compare_shard
from datakit.store.verify_sidecars import compare_sidecars, sidecars_in
from datakit.store.verify_texts import compare_offsets, compare_texts
from datakit.store.verify_tokens import compare_tokens, is_tokens, token_problems
from datakit.store.wids import wids_index

CHUNK = 1 << 20  # bytes
SHOWN = 50  # problems in the text for people; the JSON has all
_CONFIG = ".huggingface.yaml"  # says what `datasets` reads, before the card
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


def verify(root: str | Path, *, deep: bool = False, sidecars: Sequence[str | Path] = ()) -> VerifyReport:
    """Compare a store with its manifest: every file's bytes and sha256, every count, no file missing or unlisted.

    deep: also every tar member, the digest of every sample, every image decoded; tar, metadata, Arrow and layout
    against each other; keys unique, and known where a list names them; what the card, Croissant and Arrow's JSON say
    of files, counts and types; energon's indices beside shards; sidecars, those in the tree that name their store
    and those given; every block of packed tokens, and their keys. A folder of packed tokens alone is looked at whole,
    deep or not. Problems are returned, never raised.

    A value that was changed and then given new digests is found where a second place holds it. There is none
    for the columns of a list but the key, for columns that are in the metadata alone (no Arrow files, no member
    of the tar), nor for texts for people, LICENSE and extra files.
    """
    folder = Path(root)
    if is_tokens(folder):
        files, size, count, found_all = token_problems(folder)
        return VerifyReport(
            root=str(root), deep=deep, files=files, bytes=size, samples=count, problems=tuple(found_all)
        )
    try:
        contents = read_contents(folder)
    except StoreError as problem:
        found = Problem(file=MANIFEST, reason="manifest", detail=str(problem))
        return VerifyReport(root=str(root), deep=deep, files=0, bytes=0, samples=0, problems=(found,))
    problems = [*_files(folder, contents), *_absent(contents), *_strangers(folder, contents)]
    bad = {problem.file for problem in problems}
    keys: dict[str, pa.ChunkedArray] = {}
    problems += _counts(folder, contents, bad, keys)
    if deep:
        for entry in contents.entries:
            problems += compare_shard(folder, entry, contents.layout, bad)
        problems += _keys(folder, contents, bad, keys)
        problems += compare_texts(folder, contents, bad)
        problems += compare_offsets(folder, contents, bad)
        given = dict.fromkeys([*sidecars_in(folder, contents), *map(Path, sidecars)])
        problems += compare_sidecars(folder, contents, keys, given)
        problems += compare_tokens(folder, contents, keys)
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


def _absent(contents: Contents) -> Iterator[Problem]:
    """Of the files that every tree has, those that the manifest does not list; shards and lists it must."""
    names = [
        "README.md",
        "LICENSE",
        "croissant.json",
        *(f"data/{split}.index.json" for split in contents.splits),
    ]
    if contents.layout.arrow:
        names.append("arrow/dataset_dict.json")
        for split in contents.splits:
            names += [f"arrow/{split}/state.json", f"arrow/{split}/dataset_info.json"]
    for name in names:
        if name not in contents.files:
            yield Problem(
                file=name, reason="missing", detail="every store has it, and the manifest does not list it"
            )


def _strangers(root: Path, contents: Contents) -> Iterator[Problem]:
    """Files that readers would take for part of the store, and it does not list."""
    for path in sorted(_walk(root, contents)):
        parts = path.relative_to(root).parts
        name = "/".join(parts)
        if parts[0] == OURS or name in contents.files or name == MANIFEST:
            continue
        if ".part-" in path.name:
            yield Problem(file=name, reason="unfinished", detail="left by a write that did not end")
        elif name == _CONFIG or (path.suffix and _READ_BY_OTHERS.get(parts[0]) == path.suffix):
            yield Problem(file=name, reason="unlisted", detail="no file of the manifest")


def _walk(root: Path, contents: Contents) -> Iterator[Path]:
    """All paths below; through a link only where files of the store lie behind it."""
    folders = {root / folder for name in contents.files for folder in PurePosixPath(name).parents}
    for top in (root, *(folder for folder in folders if folder != root and folder.is_symlink())):
        yield from top.rglob("*")


def _counts(
    root: Path, contents: Contents, bad: Container[str], keys: dict[str, pa.ChunkedArray]
) -> Iterator[Problem]:
    """keys: takes those of each shard whose metadata are as written and readable, by path."""
    for entry in contents.entries:
        path = entry.metadata.path
        found, problem = _listed(root, path, bad)
        if problem:
            yield problem
        if found is None:
            continue
        keys[path] = found
        if len(found) != entry.samples:
            detail = f"{len(found)} rows, {entry.samples} samples were written"
            yield Problem(file=path, reason="count", detail=detail)
    for split, shards in contents.splits.items():
        # Against the manifest's bytes and digest: whatever is not in `bad` is as they say.
        path = f"data/{split}.index.json"
        if path not in bad and contents.files[path] != _described(
            path, wids_index(contents.name, split, shards)
        ):
            yield Problem(file=path, reason="count", detail="not the index of the manifest's shards")


def _described(path: str, data: bytes) -> File:
    return File(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _keys(
    root: Path, contents: Contents, bad: Container[str], keys: Mapping[str, pa.ChunkedArray]
) -> Iterator[Problem]:
    """A key that is twice in the shards or in a list, and one that is in a list only."""
    known: set[str] = set()
    for path, found in keys.items():
        yield from _repeated(path, found.to_pylist(), known)
    for path in (f"lists/{name}.parquet" for name in contents.selections):
        listed, problem = _listed(root, path, bad, [KEY, "split"])
        if problem:
            yield problem
        seen: set[str] = set()
        yield from _repeated(path, [] if listed is None else listed.to_pylist(), seen)
        if len(keys) == len(contents.entries):  # else every key of the others would follow
            for key in sorted(seen - known):
                yield Problem(file=path, reason="count", detail="no shard holds this key", key=key)


def _repeated(path: str, keys: Iterable[str], seen: set[str]) -> Iterator[Problem]:
    for key in keys:
        if key in seen:
            yield Problem(file=path, reason="count", detail="this key was there before", key=key)
        seen.add(key)


def _listed(
    root: Path, path: str, bad: Container[str], columns: Sequence[str] = (KEY,)
) -> tuple[pa.ChunkedArray | None, Problem | None]:
    """The column `key` of a file; None for one that is not as written, and with a problem if that is new.

    columns: those that the file must have, `key` among them.
    """
    if path in bad:
        return None, None
    try:
        return read_metadata(root / path, columns)[KEY].cast(pa.string()).fill_null(""), None
    except (StoreError, pa.ArrowException) as problem:
        return None, Problem(file=path, reason="count", detail=str(problem))
