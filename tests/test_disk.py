"""A disk that refuses, or lies: nothing half written is left, and it is said what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datakit.disk import ADVICE, HOST, digest_of, part_of, remove_orphans, write_bytes
from datakit.errors import EnvironmentProblem
from datakit.store.tar import TarWriter


def write_tar(path: Path, data: bytes) -> None:
    with TarWriter(path) as shard:
        shard.add("a", {"bin": data})


WRITERS = pytest.mark.parametrize("write", [write_bytes, write_tar])


def lying(real: Callable[..., int]) -> Callable[..., int]:
    """A write that says that it wrote all, and did not."""

    def write(file: int, data: Any, *where: int) -> int:
        real(file, bytes(memoryview(data)[:-1]) + b"?", *where)
        return len(data)

    return write


def stingy(real: Callable[..., int]) -> Callable[..., int]:
    """A write that takes seven bytes at a time, as it may."""
    return lambda file, data, *where: real(file, memoryview(data)[:7], *where)


@WRITERS
def test_bytes_that_the_disk_does_not_give_back_are_never_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    for name in ("write", "pwrite"):
        monkeypatch.setattr(os, name, lying(getattr(os, name)))
    with pytest.raises(EnvironmentProblem, match="gives back other bytes"):
        write(tmp_path / "x", b"data" * 100)
    assert list(tmp_path.iterdir()) == []


@WRITERS
def test_a_short_write_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    write(tmp_path / "a", b"data" * 100)
    for name in ("write", "pwrite"):
        monkeypatch.setattr(os, name, stingy(getattr(os, name)))
    write(tmp_path / "b", b"data" * 100)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@WRITERS
@pytest.mark.parametrize(
    "call", ["open", "fsync", "rename", "replace", "close", "ftruncate", "write", "pwrite"]
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_refusal_at_any_call_leaves_the_old_file_and_says_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path, bytes], None],
    call: str,
    code: int,
) -> None:
    write(tmp_path / "x", b"old")
    old = (tmp_path / "x").read_bytes()
    real, met = getattr(os, call), []

    def refuse(*given: Any, **named: Any) -> Any:
        if met:
            return real(*given, **named)
        met.append(call)
        if call == "close":
            real(*given)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    try:
        write(tmp_path / "x", b"new")
    except EnvironmentProblem as problem:
        assert ADVICE[code] in str(problem) and str(tmp_path / "x") in str(problem)
        assert (tmp_path / "x").read_bytes() == old
    else:
        assert not met
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_another_machine_is_writing_is_left_alone(tmp_path: Path) -> None:
    mine = part_of(tmp_path / "a")
    assert HOST in mine.name
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", "-4194305-"))  # above the largest pid
    theirs = dead.with_name(dead.name.replace(HOST, "0" * 8))
    for path in (mine, dead, theirs):
        path.touch()
    assert remove_orphans(tmp_path, ours=False) == 1
    assert mine.exists() and theirs.exists()
    assert remove_orphans(tmp_path, ours=True) == 2


def test_a_digest_is_of_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(3 << 20))
    (tmp_path / "b").write_bytes(bytes((3 << 20) - 1) + b"1")
    assert digest_of(tmp_path / "a") != digest_of(tmp_path / "b")
