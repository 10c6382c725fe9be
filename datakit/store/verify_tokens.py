"""Folders of packed tokens: whole and as written by themselves, and beside a store, of its samples and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import StoreError
from datakit.store.contents import Contents
from datakit.store.verify_shard import Problem
from datakit.tokens.opened import open_tokens
from datakit.tokens.pack import ABOUT


def is_tokens(folder: Path) -> bool:
    """Whether this is a folder of packed tokens that stands alone."""
    return (folder / ABOUT).is_file()


def token_problems(folder: Path) -> tuple[int, int, int, list[Problem]]:
    """(files, bytes, grids, problems) of a folder that stands alone: every digest, every block decoded."""
    try:
        tokens = open_tokens(folder)
        found = tokens.verify()
    except StoreError as problem:
        return 0, 0, 0, [Problem(file=ABOUT, reason="tokens", detail=str(problem))]
    problems = [Problem(file=_named(text, tokens.files), reason="tokens", detail=text) for text in found]
    return len(tokens.files) + 1, sum(tokens.files.values()), len(tokens), problems


def compare_tokens(root: Path, contents: Contents, keys: Mapping[str, pa.ChunkedArray]) -> Iterator[Problem]:
    """Token folders that the store lists: every block decoded, and a first view for every sample and no other.

    keys: of each shard's metadata, by path; where some could not be read, keys are not compared.
    """
    for name in (path for path in contents.files if PurePosixPath(path).name == ABOUT):
        folder = (root / name).parent
        try:
            tokens = open_tokens(folder)
            found = tokens.verify()
        except StoreError as problem:
            yield Problem(file=name, reason="tokens", detail=str(problem))
            continue
        for text in found:
            file = _named(text, tokens.files)
            yield Problem(file=(folder / file).relative_to(root).as_posix(), reason="tokens", detail=text)
        if found or len(keys) < len(contents.entries):
            continue
        known = pa.chunked_array([chunk for column in keys.values() for chunk in column.chunks], pa.string())
        first = np.asarray(tokens.rows["view"]) == 0
        listed = tokens.rows["key"].filter(pa.array(first))
        for wanted, there, what in (
            (known, listed, "has no tokens"),
            (listed, known, "is of no sample of this store"),
        ):
            missing = wanted.filter(pc.invert(pc.is_in(wanted, value_set=there)))
            if len(missing):
                yield Problem(
                    file=name,
                    reason="pairing",
                    detail=f"{len(missing)} keys: each {what}",
                    key=str(missing[0]),
                )


def _named(text: str, files: Mapping[str, int]) -> str:
    """The file that a problem's sentence speaks of."""
    return next((file for file in files if file in text), ABOUT)
