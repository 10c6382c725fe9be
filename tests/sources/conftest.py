"""Source folders made in the test. Readers never decode, so an image is a few bytes that say where they belong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from datakit.blob import Blob
from datakit.sources.entry import Entry, Problem

Found = tuple[dict[str, Entry], list[Problem]]


def told_apart(items: Iterable[Entry | Problem]) -> Found:
    """Entries by name, which must be unique, and problems."""
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    for item in items:
        if isinstance(item, Problem):
            problems.append(item)
        else:
            assert item.name not in entries
            entries[item.name] = item
    return entries, problems


@pytest.fixture
def read() -> Callable[[Iterable[Entry | Problem]], Found]:
    return told_apart


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Writes files under a folder; bytes that are not given are the file's own name."""

    def write(files: dict[str, str | bytes] | Iterable[str], folder: str = "source") -> Path:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        for name in files:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = files[name] if isinstance(files, dict) else name
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return root

    return write


@pytest.fixture
def bytes_of() -> Callable[[Entry], bytes]:
    return lambda entry: entry.data.read() if isinstance(entry.data, Blob) else entry.data
