"""What a folder may tell `datasets` to open: sound files of its own, and nothing else.

`load_dataset` obeys the folder's card, which may name any address and any file of this machine; `load_from_disk` maps
whatever `state.json` names, and believes it; neither bounds what a Parquet page unpacks to.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from datakit.errors import CatalogError, StoreError
from datakit.store.arrow_guard import sound_batches
from datakit.store.parquet_guard import check_parquet
from datakit.texts import load_json, parse_yaml

CARDS = ("README.md", ".huggingface.yaml")
OPENED = ("data_files", "data_dir")  # of a card: what it has opened
FENCE = "---"


def check_folder(root: Path) -> None:
    """Before `load_dataset`, which asks for addresses as soon as it sees them. Raises CatalogError naming the file."""
    for name in CARDS:
        for place in _opened(root / name):
            _check_place(root / name, place)
    for path in sorted(root.rglob("*.parquet")):
        try:
            check_parquet(path)
        except (OSError, ValueError) as problem:
            raise CatalogError(f"{path} is no sound Parquet file: {problem}") from problem


def check_saved(root: Path) -> None:
    """Before `load_from_disk`. Raises CatalogError naming the file that is not sound, or leads out."""
    for state in sorted(root.rglob("state.json")):
        for name in _named(state):
            if PurePosixPath(name).name != name or name in ("", "..") or "\\" in name:
                raise CatalogError(f"{state} names {name!r}, which is no file beside it")
            try:
                for _ in sound_batches(state.parent / name):
                    pass
            except (OSError, StoreError) as problem:
                raise CatalogError(f"cannot read {root} as a Hugging Face data set: {problem}") from problem


def _named(state: Path) -> list[str]:
    try:
        return [str(file["filename"]) for file in load_json(state.read_bytes())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise CatalogError(f"{state} does not say which files the data are in: {problem!r}") from problem


def _opened(card: Path) -> Iterator[str]:
    try:
        lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
        if card.suffix == ".md":  # as datasets finds them
            lines = lines[1 : lines.index(FENCE, 1)] if lines[:1] == [FENCE] and FENCE in lines[1:] else []
        told = parse_yaml("\n".join(lines)) if lines else None
    except (OSError, ValueError) as problem:
        raise CatalogError(f"{card} cannot be read: {problem}") from problem
    yield from _texts(told, within=False)


def _texts(value: Any, *, within: bool) -> Iterator[str]:
    """The texts below the keys of OPENED, however deep."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, within=within or name in OPENED)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, within=within)
    elif within and value is not None:
        yield str(value)


def _check_place(card: Path, place: str) -> None:
    path = PurePosixPath(place.replace("\\", "/"))
    # `::` chains file systems, `~` is somebody's home.
    if "://" in place or "::" in place or path.is_absolute() or ".." in path.parts or place.startswith("~"):
        raise CatalogError(
            f"{card} has {place!r} opened, which is not within the folder: take it out of the card"
        )
