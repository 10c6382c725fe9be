"""What passes between numpy and faiss: kinds of arrays, pointers to them, one thread, blocks of one size.

faiss believes what it is given: a wrong shape or type is read beyond its end. So every array goes through `floats` or
`longs`, which make what faiss takes, or refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

from datakit.errors import ConfigError

Floats: TypeAlias = NDArray[np.float32]
Longs: TypeAlias = NDArray[np.int64]
Bytes: TypeAlias = NDArray[np.uint8]
Bools: TypeAlias = NDArray[np.bool_]

BLOCK = 1024  # rows of a product of matrices


def floats(values: Any, dim: int | None = None, what: str = "vectors") -> Floats:
    """float32 (N, dim), contiguous and finite; a copy only where it must be. Raises ConfigError naming `what`."""
    found = np.ascontiguousarray(values, dtype=np.float32)
    if found.ndim != 2 or (dim is not None and found.shape[1] != dim):
        wanted = "(N, dim)" if dim is None else f"(N, {dim})"
        raise ConfigError(f"{what} must be {wanted}, and they are {found.shape}")
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise ConfigError(f"{what}: row {row} holds a number that is not finite")
    return found


def longs(values: Any) -> Longs:
    return np.ascontiguousarray(values, dtype=np.int64)


def pointer(array: NDArray[Any]) -> Any:
    """For a call of faiss that takes one. The array must outlive the call."""
    import faiss

    if not array.flags.c_contiguous:
        raise ValueError("faiss takes contiguous arrays")
    return faiss.swig_ptr(array)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the number of cores: the same input gives the same bytes."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        faiss.omp_set_num_threads(before)


def in_blocks(function: Callable[[Floats], NDArray[Any]], rows: Floats, first: int = 0) -> NDArray[Any]:
    """`function` over blocks of BLOCK rows, cut where the whole data is cut: `first` is the number of the first row.

    A product of matrices adds in another order for a matrix of another height, and for a row at another place in it. So
    blocks begin at multiples of BLOCK and are filled up with zeros at both ends: a row comes out alike in any part.
    """
    parts, lead = [], first % BLOCK
    for start in range(-lead, max(len(rows), 1), BLOCK):
        block = rows[max(start, 0) : start + BLOCK]
        if len(block) < BLOCK:
            before = max(0, -start)
            filled = np.zeros((BLOCK, rows.shape[1]), np.float32)
            filled[before : before + len(block)] = block
            parts.append(function(filled)[before : before + len(block)])
        else:
            parts.append(function(block))
    return np.concatenate(parts)


def unit(rows: Floats) -> Floats:
    """Rows of length one, as a copy; a row of zeros stays. Never in place: a slice would be its caller's."""
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    scaled: Floats = np.divide(rows, np.where(lengths > 0, lengths, np.float32(1)), dtype=np.float32)
    return scaled
