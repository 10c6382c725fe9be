"""Tensors without PyTorch: the same numbers as PyTorch reads, and no code run on the way."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import StoreError
from datakit.models.tensors import MAGIC, VERSION, read_tensors


def test_every_tensor_comes_out_as_torch_wrote_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    whole = torch.randn(4, 6)
    state = OrderedDict(
        plain=torch.randn(2, 3, 5),
        turned=torch.randn(3, 4, 2, 2).permute(3, 2, 0, 1),
        part=whole[1:3, ::2],
        shared=whole,
        count=torch.tensor(7),
        line=torch.arange(5),
    )
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    found = read_tensors(tmp_path / "w.pth")
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.numpy().dtype
        assert np.array_equal(found[name], tensor.numpy())


class Canary:
    """Touches a file when it is unpickled by somebody who lets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def legacy(path: Path, found: Any) -> Path:
    with path.open("wb") as file:
        for item in (MAGIC, VERSION, {}, found, []):
            pickle.dump(item, file, protocol=2)
    return path


def test_code_in_a_weights_file_is_refused_and_does_not_run(tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    bad = legacy(tmp_path / "w.pth", {"weight": Canary(fired)})
    with pytest.raises(StoreError, match=r"w\.pth: .*it asks for posix\.system, which is refused"):
        read_tensors(bad)
    assert not fired.exists()
    with bad.open("rb") as file:  # the canary does fire where it may
        for _ in range(4):
            pickle.load(file)
    assert fired.exists()


@pytest.mark.parametrize("found", [{"weight": 1}, [1], OrderedDict(a=OrderedDict())])
def test_what_is_not_tensors_by_name_is_refused(tmp_path: Path, found: Any) -> None:
    with pytest.raises(StoreError, match="more than tensors by name"):
        read_tensors(legacy(tmp_path / "w.pth", found))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 zip", pickle.dumps(1) * 4])
def test_another_kind_of_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(StoreError, match="no plain state dict"):
        read_tensors(tmp_path / "w.pth")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(100)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    assert whole[-408:-400] == struct.pack("<q", 100)
    for broken in (whole[:-1], whole[:-408] + struct.pack("<q", 99) + whole[-400:], whole[:-500]):
        path.write_bytes(broken)
        with pytest.raises(StoreError, match="no plain state dict"):
            read_tensors(path)
