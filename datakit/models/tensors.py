"""Tensors out of a PyTorch file without PyTorch, and without running what is pickled in it.

The file layout that torch 1.5 and older wrote: four pickles (magic, version, platform, object), then the
keys of the storages, then each storage as a count and its raw bytes. The unpickler below knows four
names; any other, and so any code, is refused.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from datakit.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class _View:
    """A tensor whose numbers come later in the file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """name → array, float32 or int64, of a state dict. Raises StoreError for anything else."""
    try:
        with path.open("rb") as file:
            views = _object(file)
            storages = _storages(file, {view.storage.key: view.storage for view in views.values()})
        return {name: _array(view, storages[view.storage.key]) for name, view in views.items()}
    except (pickle.UnpicklingError, EOFError, struct.error, ValueError, KeyError, TypeError) as problem:
        raise StoreError(f"{path}: no plain state dict of tensors: {problem}") from problem


class _Tensors(pickle.Unpickler):
    """Admits ordered dicts and the rebuilding of tensors."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, part = pid
        if kind != "storage" or part is not None:
            raise pickle.UnpicklingError("a storage that is a part of another")
        return _Storage(key, dtype, count)


def _rebuilt(storage: _Storage, offset: int, shape: Any, stride: Any, *_: Any) -> _View:
    return _View(storage, offset, tuple(shape), tuple(stride))


def _object(file: BinaryIO) -> dict[str, _View]:
    magic, version, _, found = (_Tensors(file).load() for _ in range(4))
    if magic != MAGIC or version != VERSION:
        raise ValueError("not in the layout of torch 1.5 and older")
    if not isinstance(found, dict) or not all(isinstance(item, _View) for item in found.values()):
        raise ValueError("it holds more than tensors by name")
    return found


def _storages(file: BinaryIO, known: dict[str, _Storage]) -> dict[str, NDArray[Any]]:
    import numpy as np

    arrays = {}
    for key in _Tensors(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        dtype = np.dtype(known[key].dtype)
        if count != known[key].count:
            raise ValueError(f"storage {key} has {count} numbers, not {known[key].count}")
        data = file.read(count * dtype.itemsize)
        arrays[key] = np.frombuffer(data, dtype, count)
    return arrays


def _array(view: _View, storage: NDArray[Any]) -> NDArray[Any]:
    """A copy in C order: the tensors converted from TensorFlow lie in the file as HWIO."""
    import numpy as np

    steps = [step * (side - 1) for step, side in zip(view.stride, view.shape, strict=True)]
    if min([view.offset, *view.stride, *view.shape], default=0) < 0 or 0 in view.shape:
        raise ValueError("a tensor with a negative offset, stride or side, or an empty one")
    if view.offset + sum(steps) >= storage.size or np.prod(view.shape) > storage.size:
        raise ValueError("a tensor that reaches beyond its storage")
    strides = [step * storage.itemsize for step in view.stride]
    looked = np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides)
    return np.ascontiguousarray(looked).reshape(view.shape)
