"""Lists of the official layouts: text with `id value` a line, MATLAB files, and the images that they name."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datakit.errors import CatalogError, EnvironmentProblem
from datakit.sources.entry import Entry, Folder, Problem, source_folder
from datakit.texts import BoundedLines, TooLarge

MAX_MAT = 64 << 20  # bytes of a MATLAB file when unpacked; ImageNet's has 2 MB
_MAT_HEAD, _MAT_PACKED = 128, 15  # bytes before the first element; the kind of one that is compressed
_NO_MAT = (
    OSError,
    ValueError,
    LookupError,
    NotImplementedError,
    TypeError,
    zlib.error,
    RecursionError,
    MemoryError,
)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is not blank. Raises CatalogError (absent, not UTF-8)."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            rows = BoundedLines(file)
            for line in rows:
                rows.mark()
                if line.strip():
                    yield rows.number, line.strip()
    except OSError as problem:
        raise CatalogError(f"{path} cannot be read: {problem.strerror}; the layout needs it") from problem
    except UnicodeDecodeError as problem:
        raise CatalogError(f"{path} is not UTF-8 text: {problem}") from problem
    except TooLarge as problem:
        raise CatalogError(f"{path} cannot be read: {problem}") from problem


def pairs(path: Path) -> dict[str, str]:
    """`id value…` a line, cut at the first space, in the order of the file. Raises CatalogError on a second id."""
    found: dict[str, str] = {}
    for number, line in lines(path):
        key, _, value = line.partition(" ")
        if key in found:
            raise CatalogError(f"{path}: line {number} has the id {key} again")
        found[key] = value.strip()
    return found


def layout(root: Path | None, marker: str, *inner: str) -> Path:
    """The folder that holds `marker`: `root` or one of its folders `inner`. Raises CatalogError."""
    base = source_folder(root)
    for folder in (base, *(base / name for name in inner)):
        if (folder / marker).exists():
            return folder
    raise CatalogError(f"{base} has no {marker}: give source= the folder that holds it")


def entry(folder: Folder, name: str, fields: Mapping[str, object]) -> Entry | Problem:
    """The image called `name`, or what is wrong with its file."""
    found = folder.find(name)
    return found if isinstance(found, Problem) else Entry(name=name, data=found, fields=fields)


def unlabelled(name: str, detail: str) -> Problem:
    """An image that a label list leaves out or gives a class that is none."""
    return Problem(name=name, reason="bad_label", detail=detail)


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file (version 5 or 7), each as one flat array; cells and structs made plain."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as problem:
        raise EnvironmentProblem(f"{path} needs scipy: pip install scipy") from problem
    try:
        _check_unpacked(path)
        found: dict[str, Any] = loadmat(path, squeeze_me=True, appendmat=False)
    except (*_NO_MAT, MatReadError) as problem:
        raise CatalogError(f"{path} is no MATLAB file that scipy can read: {problem}") from problem
    return {name: value.reshape(-1) for name, value in found.items() if not name.startswith("__")}


def _check_unpacked(path: Path) -> None:
    """Raise TooLarge for a MATLAB file of version 5 whose elements unpack to more than MAX_MAT."""
    left = MAX_MAT
    with path.open("rb") as file:
        file.seek(_MAT_HEAD)
        while len(head := file.read(8)) == 8:
            kind, size = (int.from_bytes(part, "little") for part in (head[:4], head[4:]))
            left -= 0 if kind == _MAT_PACKED else size
            body = file.read(min(size, MAX_MAT))
            if kind == _MAT_PACKED:
                left -= len(zlib.decompressobj().decompress(body, max(left, 0) + 1))
            if left < 0:
                raise TooLarge(f"it unpacks to more than {MAX_MAT} bytes")
