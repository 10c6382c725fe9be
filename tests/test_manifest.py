"""Writes that a kill cannot half-finish, and what is cleared away after one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from datakit.errors import EnvironmentProblem, StoreError
from datakit.manifest import (
    Manifest,
    atomic,
    intact,
    read_manifest,
    remove_orphans,
    write_bytes,
    write_manifest,
)


def manifest(**more: object) -> Manifest:
    return Manifest(**{"fingerprint": "f", "step": "map:x", "shard": 0, "inputs": 3, "samples": 3, **more})


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic(path) as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot write"), atomic(tmp_path / "x") as part:
        part.with_name("file").joinpath("below").write_bytes(b"")


@pytest.mark.parametrize("name", ["dangling/x", "file/x", "file/below/x"])
def test_a_folder_that_cannot_be_made_is_the_machines_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "below")
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*x: "):
        write_bytes(tmp_path / name, b"")


def test_counts_that_do_not_add_up_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="3 samples came in and 2 were accounted for"):
        write_manifest(tmp_path, manifest(samples=1, dropped={"dark": 1}))
    write_manifest(tmp_path, manifest(samples=1, dropped={"dark": 1}, failed={"empty": 1}))
    assert read_manifest(tmp_path, 0) is not None


def test_a_shard_whose_file_is_gone_or_of_another_size_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "00000.arrow").write_bytes(b"12345")
    write_manifest(tmp_path, manifest(files={"00000.arrow": 5}))
    assert read_manifest(tmp_path, 0) is not None
    (tmp_path / "00000.arrow").write_bytes(b"1234")
    assert read_manifest(tmp_path, 0) is None
    (tmp_path / "00000.arrow").unlink()
    assert read_manifest(tmp_path, 0) is None
    assert read_manifest(tmp_path, 1) is None
    (tmp_path / "00002.json").write_text("{")
    assert read_manifest(tmp_path, 2) is None


def test_only_what_a_dead_process_left_is_cleared_where_others_may_write(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead_unreaped = dead.pid  # a zombie until waited for: it writes no more
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    (tmp_path / f"a.part-{dead_unreaped}").touch()
    (tmp_path / f"b.part-{os.getpid()}").touch()
    assert remove_orphans(tmp_path, ours=False) == 1
    dead.wait()
    assert remove_orphans(tmp_path, ours=True) == 1


def test_a_manifest_changed_in_any_bit_is_not_there(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest(seconds=1.25, groups=[["train", 0, 1, 3]], code="ab"))
    path = tmp_path / "00000.json"
    good = path.read_bytes()
    assert read_manifest(tmp_path, 0) is not None
    for at in range(len(good)):
        for bit in (1, 32):
            path.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
            found = read_manifest(tmp_path, 0)
            # Another blank between two words changes nothing that is said.
            assert found is None or json.loads(path.read_bytes()) == json.loads(good)
    for end in range(len(good) - 2):
        path.write_bytes(good[:end])
        assert read_manifest(tmp_path, 0) is None


def test_a_file_of_the_right_size_with_other_bytes_is_not_intact(tmp_path: Path) -> None:
    (tmp_path / "00000.arrow").write_bytes(b"12345")
    write_manifest(tmp_path, manifest(files={"00000.arrow": 5}))
    found = read_manifest(tmp_path, 0)
    assert found is not None and intact(tmp_path, found)
    (tmp_path / "00000.arrow").write_bytes(b"12340")
    found = read_manifest(tmp_path, 0)
    assert found is not None and not intact(tmp_path, found)
    (tmp_path / "00000.arrow").unlink()
    assert not intact(tmp_path, found)
