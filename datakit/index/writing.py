"""One writer at a time in the folder of an index, and what it leaves there: the files that `index.json` names."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datakit.disk import disk_problem
from datakit.errors import ConfigError, EnvironmentProblem
from datakit.index import folder
from datakit.index.sound import NAME, spec_of_about
from datakit.store.layout import MANIFEST

LOCK = ".lock"  # empty; the lock is the kernel's, and ends with its process
STEPS = ".datakit"  # folder of a build's own steps


@contextlib.contextmanager
def writing(place: str | os.PathLike[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder and its `index.json`, while nobody else may write there.

    Raises ConfigError for an index that is part of a build, EnvironmentProblem where another writes, StoreError.
    """
    path = Path(place)
    folder.read_about(path)  # before a lock is put where there is no index
    _refuse_built(path)
    with _locked(path):
        about = folder.read_about(path)
        spec_of_about(path / folder.ABOUT, about)
        yield path, about


def commit(path: Path, files: Mapping[str, bytes]) -> None:
    """Write these, `index.json` among them and last; then take away what it does not name any more.

    Whoever has the index open keeps what is mapped: its names go, its bytes stay until it is closed.
    """
    folder.write_files(path, files)
    about = folder.read_about(path)
    for file in path.iterdir():
        name, draft, _ = file.name.partition(".part-")
        ours = NAME.fullmatch(name) or name == folder.ABOUT
        if ours and (draft or (name not in about["files"] and name != folder.ABOUT)):
            file.unlink(missing_ok=True)


def _refuse_built(path: Path) -> None:
    """A build's manifest vouches for each byte of its tree, and a step's for those of the step."""
    for there in {path.absolute(), path.resolve()}:  # a link in a tree, or to one
        tree = there.parents[min(1, len(there.parents) - 1)]
        named = f'"{(there / folder.ABOUT).relative_to(tree).as_posix()}"'
        with contextlib.suppress(OSError):
            if named.encode() in (tree / MANIFEST).read_bytes():
                raise ConfigError(
                    f"{path} is part of the built tree {tree}, whose manifest vouches for every byte of it: copy the "
                    "folder elsewhere and keep the copy up to date, or build the tree again"
                )
        if STEPS in there.parts:
            raise ConfigError(f"{path} is a step of a build: copy the folder elsewhere and change the copy")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        file = (path / LOCK).open("a")
    except OSError as problem:
        raise disk_problem(path, problem, "write into") from problem
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentProblem(
                f"another add, delete, compact or tune is running on {path}; wait for it"
            ) from None
        except OSError as problem:
            raise disk_problem(file.name, problem, "lock") from problem
        yield
